# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The step of `scripts/gpu_check.sh` that trains on random batches."""

from __future__ import annotations

import time

import numpy as np
import torch
from gpu_check_step import Step

from multihmr2_ros.body import Body
from multihmr2_ros.network.config import NANO, NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import Batch, BatchConfig
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.trainer import Trainer
from test.helpers.nano_network import TINY, make_random_targets


def training(step: Step) -> None:
    """Run the trainer on random batches: compare a float32 step with the CPU's, then measure images per second."""
    config = TINY if step.dry else NANO
    size = (192, 256) if step.dry else (288, 384)
    losses = []
    for device in ("cpu", step.device):
        trainer = _trainer(step, config, device, "fp32")
        losses.append(trainer.step(_batch(4, size))[0])
    apart = {name: abs(value - losses[1][name]) / max(abs(value), 1e-3) for name, value in losses[0].items()}
    most = max(apart, key=apart.__getitem__)
    step.write(loss=losses[1]["loss"], greatest_ratio_from_cpu=apart[most], of=most, ok=apart[most] < 1e-2)
    for precision, images in (("fp32", 128), ("auto", 128), ("auto", 256)):
        trainer = _trainer(step, config, step.device, precision)
        batch = _batch(step.count(images), size)
        count = step.count(20, 2)
        for index in range(count):
            if index == count // 4:
                step.wait()
                begin = time.monotonic()
            terms, norm = trainer.step(batch)
        step.wait()
        rate = len(batch.origins) * (count - count // 4) / (time.monotonic() - begin)
        memory = {} if step.dry else {"peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20}
        step.write(precision=precision, batch=len(batch.origins), steps=count, images_per_s=rate, loss=terms["loss"],
                   gradient_norm=norm, ok=bool(np.isfinite(norm)), **memory)  # fmt: skip


def _trainer(step: Step, config: NetworkConfig, device: str, precision: str) -> Trainer:
    torch.manual_seed(0)
    network = MultiHMR2(config) if step.dry else step.nano()
    folder = step.work / "training"
    folder.mkdir(exist_ok=True)
    chosen = TrainingConfig(
        steps=1000, precision=precision, loader_workers=0,  # type: ignore[arg-type]
        batch=BatchConfig(), optimisation=OptimizerConfig(),
    )  # fmt: skip
    return Trainer(network, Body("low"), chosen, folder, torch.device(device))


def _batch(images: int, size: tuple[int, int]) -> Batch:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8)
    targets = make_random_targets(images, 4, size, 0)
    return Batch(pixels, targets, torch.arange(images) % 2 == 0, tuple(f"random {index}" for index in range(images)))
