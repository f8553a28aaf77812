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

"""The steps of `scripts/gpu_check.sh`: `python gpu_check_steps.py STEP WORK RESULTS [--dry]`.

Each writes its results to RESULTS as soon as they are known, one JSON object per line. With --dry, the networks are
small, the device is the CPU, and eager mode replaces the modes that need a GPU.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gpu_check_consistency import cameras, soak, threads
from gpu_check_golden import golden
from gpu_check_speed import compiled, large, nano, profile
from gpu_check_step import Step, device_ms
from gpu_check_training import training

from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.released_weights import convert_released
from test.helpers.golden_weights import released_state
from test.helpers.small_network import save_small_network


def environment(step: Step) -> None:
    """Write the GPU's name, versions, and the GPU's speed in matrix products and copies."""
    step.write(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__, cuda=torch.version.cuda)
    if not step.dry:
        card = torch.cuda.get_device_properties(0)
        step.write(card=card.name, memory_gib=card.total_memory / 2**30, multiprocessors=card.multi_processor_count)
        driver = Path("/proc/driver/nvidia/version")  # missing in some containers
        step.write(driver=driver.read_text().splitlines()[0] if driver.exists() else "unknown")
    step.write(matmul_tf32=torch.backends.cuda.matmul.allow_tf32, cudnn_tf32=torch.backends.cudnn.allow_tf32)
    size = step.count(8192, 128)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        matrix = torch.randn(size, size, device=step.device).to(dtype)
        product = torch.empty_like(matrix)
        milliseconds = device_ms(step, lambda m=matrix, p=product: torch.mm(m, m, out=p), 5)
        step.write(matrix_product=str(dtype), tflops=2e-9 * size**3 / milliseconds)
    for megabytes in (1, 64):
        host = torch.empty(megabytes << 20, dtype=torch.uint8, pin_memory=not step.dry)
        there = host.to(step.device)
        up = device_ms(step, lambda h=host, t=there: t.copy_(h, non_blocking=True), 10)
        down = device_ms(step, lambda h=host, t=there: h.copy_(t, non_blocking=True), 10)
        step.write(
            copied_mib=megabytes, upload_gb_per_s=host.nbytes / up / 1e6, download_gb_per_s=host.nbytes / down / 1e6
        )


def make_weights(step: Step) -> None:
    """Write the large network's deterministic weights to a file for the other steps."""
    target = step.work / "large.safetensors"
    begin = time.monotonic()
    if step.dry:
        save_small_network(target)
    else:
        state = convert_released(released_state())
        checkpoint.save_network(checkpoint.make_network(NetworkConfig(), state, target), target)
    step.write(weights_mib=target.stat().st_size / 2**20, made_in_s=time.monotonic() - begin)


STEPS: dict[str, Callable[[Step], None]] = {
    "environment": environment,
    "weights": make_weights,
    "golden": golden,
    "large": large,
    "profile": profile,
    "nano": nano,
    "threads": threads,
    "cameras": cameras,
    "soak": soak,
    "training": training,
    "compiled": compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("work", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    STEPS[args.step](Step(args.work, args.results, args.dry))


if __name__ == "__main__":
    main()
