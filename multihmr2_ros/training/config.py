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

"""Configuration of a training run, and the named networks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from multihmr2_ros.errors import UserError
from multihmr2_ros.network.config import MULTI_HMR, MULTI_HMR_CAMERA, NANO, SCRATCH, NetworkConfig
from multihmr2_ros.training.data import BatchConfig
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.optimizer import OptimizerConfig

MAX_SEED = 2**63 - 1  # of PyTorch
NETWORKS = {
    "nano": NANO,
    "scratch": SCRATCH,
    "large": NetworkConfig(),
    "multi-hmr": MULTI_HMR,
    "multi-hmr-camera": MULTI_HMR_CAMERA,
}
"""nano: a pretrained encoder. scratch: as fast, without pretrained parts. large: the size of the released model.
multi-hmr, multi-hmr-camera: Multi-HMR with nano's encoder, without and with camera embedding. Other networks are given
as a JSON file of sizes."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training run; saved in every checkpoint.

    steps             length of the run, at which the learning rate reaches 0
    ema_decay         decay of the moving average of the weights, 0 to below 1
    precision         bf16 runs the network (never the bodies and losses) in bfloat16; auto: if the hardware supports it
    seed              seed of the batches and of the initial weights
    start_images      minimum number of images in the render cache before the first step
    most_views        mean number of uses of an image above which training waits for renderers; 0: unlimited
    log_steps         interval of log lines, in steps
    validate_steps    interval of validation, in steps
    checkpoint_steps  interval of checkpoints, in steps
    loader_workers    processes that make batches; 0: the training process makes them
    threads           threads of the training process; 0: OMP_NUM_THREADS, else the cores not used by other workers
    """

    steps: int = 100_000
    ema_decay: float = 0.999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0
    start_images: int = 500
    most_views: float = 0.0
    log_steps: int = 50
    validate_steps: int = 1000
    checkpoint_steps: int = 500
    loader_workers: int = 1
    threads: int = 0
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "log_steps", "validate_steps", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("loader_workers", "threads", "start_images", "most_views", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.seed > MAX_SEED:
            raise UserError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must be from 0 to below 1, got {self.ema_decay}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"precision must be auto, fp32 or bf16, got {self.precision!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return dataclasses.asdict(self)
