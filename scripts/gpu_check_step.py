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

"""The environment of a step of `scripts/gpu_check.sh`: device, sizes and results; and functions for several steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros.body import Mesh
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.inference import Mode, Precision, Runtime
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.people import People
from multihmr2_ros.weights import resolve_checkpoint
from test.golden import weights

Image = NDArray[np.uint8]


class Step:
    """Device, sizes and results file of a step."""

    def __init__(self, work: Path, results: Path, dry: bool) -> None:
        self.work, self.results, self.dry = work, results, dry
        self.device = "cpu" if dry else "cuda"
        self.begin = time.monotonic()

    def write(self, **result: Any) -> None:
        with self.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{time.monotonic() - self.begin:.1f} s", result, flush=True)

    def runtime(self, precision: str, mode: str) -> Runtime:
        if self.dry:
            mode = mode.replace("compiled-graph", "compiled").replace("graph", "eager")
            precision = "fp32"  # emulated bf16 takes minutes
        return Runtime(self.device, cast(Precision, precision), cast(Mode, mode))

    def count(self, count: Any, dry: Any = 2) -> Any:
        """Return the first number or size on a GPU, the second in a dry run."""
        return dry if self.dry else count

    def large(self) -> MultiHMR2:
        return checkpoint.load_network(self.work / "large.safetensors")

    def nano(self) -> MultiHMR2:
        return checkpoint.load_network(resolve_checkpoint("nano"))

    def wait(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()


def device_ms(step: Step, run: Callable[[], object], repeats: int) -> float:
    """Return the mean time of a call in ms, between two events on the GPU's stream (on the CPU: by the clock)."""
    repeats = step.count(repeats, 1)
    run()
    if step.dry:
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        return 1e3 * (time.perf_counter() - begin) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(repeats):
        run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / repeats


def make_estimator(
    step: Step, network: MultiHMR2, precision: str, mode: str, people: int, mesh: Mesh = "low"
) -> Estimator:
    config = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=people, mesh=mesh)
    return Estimator(network, config, step.runtime(precision, mode))


def make_image(size: tuple[int, int], seed: int = 0) -> Image:
    return weights.image(size[1], size[0], seed)


def compute_difference(one: People, other: People) -> float:
    """Return the maximum difference of scores, positions and vertices."""
    if len(one.score) != len(other.score):
        return float("inf")
    return max(
        float(np.abs(getattr(one, name) - getattr(other, name)).max()) for name in ("score", "joints", "vertices")
    )
