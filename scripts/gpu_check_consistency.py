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

"""Steps of `scripts/gpu_check.sh` with several estimators, or with many frames: equal results, constant memory."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from gpu_check_step import Image, Step, compute_difference, make_estimator, make_image
from numpy.typing import NDArray

from multihmr2_ros.body import Mesh
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.network.inference import MAX_GRAPHS
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.shared_inference import SharedInference
from multihmr2_ros.people import People


def threads(step: Step) -> None:
    """Compare two estimators, each created and used in its own thread, with estimators in one thread."""
    network, size = step.nano(), step.count((640, 480), (192, 144))
    for precision in ("bf16", "fp16"):
        alone = [_frames(step, network, size, seed, precision) for seed in (1, 2)]
        found: dict[int, list[People]] = {}

        def work(seed: int, precision: str = precision, found: dict[int, list[People]] = found) -> None:
            found[seed] = _frames(step, network, size, seed, precision)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        apart = [
            max(compute_difference(one, other) for one, other in zip(alone[seed - 1], found[seed], strict=True))
            if seed in found else float("inf")
            for seed in (1, 2)
        ]  # fmt: skip
        step.write(precision=precision, greatest_difference=apart, ok=max(apart) <= 1e-5)
    if len(found) < 2:
        raise SystemExit("a thread raised an error")


def cameras(step: Step) -> None:
    """Compare the latency of 1, 2 and 4 cameras whose images arrive at the same time, and their people with single
    estimators'. Goal: 4 cameras take at most 1.3 times as long as one."""
    size, least = step.count((768, 432), (96, 64)), float("nan")
    for count in (1, 2, 4):
        shared = SharedInference(step.large(), step.runtime("bf16", "graph"), batch_wait_s=0.003)
        config = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=10)
        estimators = [Estimator(shared.network, config, shared=shared) for _ in range(count)]
        images = [make_image(size, seed) for seed in range(count)]
        times, found = _step_together(estimators, images, step.count(60, 3))
        alone = [make_estimator(step, step.large(), "bf16", "graph", 10, "full").step(each) for each in images]
        p50 = float(np.median(times[len(times) // 3 :]))
        least = p50 if count == 1 else least
        # Descending scores, because low precision changes the order of people with similar scores.
        apart = max(float(np.abs(one.score - other.score).max()) for one, other in zip(alone, found, strict=True))
        step.write(cameras=count, p50_ms=p50, ratio=p50 / least, score_difference_from_alone=apart, ok=apart <= 0.02)


def _step_together(
    estimators: list[Estimator], images: list[Image], frames: int
) -> tuple[NDArray[np.float64], list[People]]:
    """Step all estimators at the same time, each in its thread. Return ms (frames, cameras) and the last people."""
    times = np.zeros((frames, len(estimators)))
    found: dict[int, People] = {}
    barrier = threading.Barrier(len(estimators), timeout=120)

    def work(row: int) -> None:
        try:
            for index in range(frames):
                barrier.wait()
                begin = time.perf_counter()
                found[row] = estimators[row].step(images[row], stamp=index / 30)
                times[index, row] = 1e3 * (time.perf_counter() - begin)
        except Exception:
            barrier.abort()
            raise

    workers = [threading.Thread(target=work, args=(row,)) for row in range(len(estimators))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return times, [found[row] for row in range(len(estimators))]


def _frames(step: Step, network: MultiHMR2, size: tuple[int, int], seed: int, precision: str) -> list[People]:
    """Return people for images of three sizes in turn, so that graphs are captured while the other thread replays."""
    estimator = make_estimator(step, network, precision, "graph", 5)
    sizes = [size, (size[0], size[0]), (size[1], size[0])]
    images = [make_image(size, 10 * seed + index) for index, size in enumerate(sizes)]
    first, count = step.count((20, 90), (1, 4))
    return [estimator.step(images[index % 3 if index > first else 0], stamp=index / 30) for index in range(count)]


def soak(step: Step) -> None:
    """Measure the growth of memory over many frames, five image sizes, and changes of max_people and mesh."""
    network, size = step.nano(), step.count((640, 480), (192, 144))
    estimator = make_estimator(step, network, "bf16", "graph", 5)
    image, frames = make_image(size), step.count(2000, 6)
    before = _memory(step)
    begin = time.monotonic()
    for index in range(frames):
        estimator.step(image, stamp=index / 30)
        if index == frames // 3:
            before = _memory(step)
    after = _memory(step)
    growth = {name: after[name] - before[name] for name in after}
    step.write(frames=frames, frames_per_s=frames / (time.monotonic() - begin), growth_mib=growth, memory_mib=after,
               ok=max(growth.values()) < 20)  # fmt: skip
    _pass_sizes(step, estimator)
    _reconfigure(step, network, image)


def _pass_sizes(step: Step, estimator: Estimator) -> None:
    """Process images of five sizes in turn, one more than the number of graphs that are kept."""
    side = step.count(384, 96)
    images = [make_image((side, side * share // 12)) for share in (12, 10, 8, 6, 4)]
    first = [estimator.step(image, stamp=1000.0 + index) for index, image in enumerate(images)]
    memory = []
    for turn in range(1, step.count(6, 2)):
        again = [estimator.step(image, stamp=1000.0 + 5 * turn + index) for index, image in enumerate(images)]
        memory.append(_memory(step))
        apart = max(compute_difference(one, other) for one, other in zip(first, again, strict=True))
        kept = len(estimator.inference._graphs)
        growth = {name: memory[-1][name] - memory[0][name] for name in memory[0]}
    step.write(sizes=len(images), graphs=kept, greatest_difference=apart, growth_mib=growth, memory_mib=memory[-1],
               ok=apart <= 1e-5 and kept <= MAX_GRAPHS and max(growth.values()) < 50)  # fmt: skip


def _reconfigure(step: Step, network: MultiHMR2, image: Image) -> None:
    """Compare a reconfigured estimator in graph mode with new estimators in eager mode."""
    estimator = make_estimator(step, network, "bf16", "graph", 5)
    estimator.step(image)
    for people, mesh in ((2, "low"), (2, "full"), (7, "full"), (5, "low")):
        chosen = dataclasses.replace(estimator.config, max_people=people, mesh=cast(Mesh, mesh))
        estimator.reconfigure(chosen)
        found = [estimator.step(image) for _ in range(2)][-1]
        expected = make_estimator(step, network, "bf16", "eager", people, cast(Mesh, mesh)).step(image)
        apart = compute_difference(found, expected)
        step.write(max_people=people, mesh=mesh, found=len(found.score), difference_from_eager=apart,
                   ok=len(found.score) == people and apart <= 1e-3)  # fmt: skip


def _memory(step: Step) -> dict[str, float]:
    """Return the memory in use in MiB, of this process and of the GPU."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    used = {"host": pages * 4096 / 2**20}
    if not step.dry:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used |= {"gpu": (total - free) / 2**20, "allocated": torch.cuda.memory_allocated() / 2**20}
    return used
