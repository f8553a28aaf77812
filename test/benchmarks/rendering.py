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

"""Measure the images per second that the simulation renders on CPUs, and the time of each stage.

    python -m test.benchmarks.rendering [--processes 1 2] [--images 40] [--size 320x240] [--people 3]

Every image is a new scene, as in training: drawn, posed (full mesh), rendered and labeled. Wall time is the time until
the images are ready; CPU time depends less on other programs on the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.synchronize import Barrier

import numpy as np
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.cli.options import parse_size
from multihmr2_ros.simulation.labels import make_labels
from multihmr2_ros.simulation.rendering.renderer import Renderer
from multihmr2_ros.simulation.scene import SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.posing import pose_scene
from multihmr2_ros.simulation.sequence import limit_to_one_thread

PARTS = ("draw", "pose", "render", "label")
WARM_UP = 3


def work(process: int, arguments: argparse.Namespace, start: Barrier, results: multiprocessing.Queue[tuple]) -> None:
    width, height = parse_size(arguments.size)
    options = SceneOptions(width=width, height=height, people=(arguments.people, arguments.people))
    body = Body("full")
    renderer = Renderer(body)

    def image(seed: int) -> list[tuple[float, float]]:
        moments = [(time.perf_counter(), time.process_time())]

        def done() -> None:
            moments.append((time.perf_counter(), time.process_time()))

        generator = np.random.default_rng(seed)
        scene = sample_scene(generator, options)
        done()
        posed = pose_scene(scene, 0.0, body)
        done()
        rendered = renderer.render(scene, posed, generator)
        done()
        make_labels(scene, posed, rendered)
        done()
        return moments

    with limit_to_one_thread(), torch.no_grad():
        for seed in range(WARM_UP):
            image(seed)
        start.wait()
        first = 1000 * process
        eval_frames = np.array([image(seed) for seed in range(first, first + arguments.images)])
    results.put((eval_frames[0, 0, 0], eval_frames[-1, -1, 0], np.diff(eval_frames, axis=1).mean(axis=0)))


def measure(processes: int, arguments: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=work, args=(row, arguments, start, results)) for row in range(processes)]
    for worker in workers:
        worker.start()
    rows = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    wall_s = max(end for _, end, _ in rows) - min(begin for begin, _, _ in rows)
    parts_ms = 1e3 * np.mean([parts for *_, parts in rows], axis=0)
    cpu_ms = parts_ms[:, 1].sum()
    print(
        f"{processes} process{'es' if processes > 1 else ''}: {processes * arguments.images / wall_s:.1f} images/s; "
        f"{cpu_ms:.0f} ms of CPU an image, so {processes * 1e3 / cpu_ms:.1f} images/s on {processes} free core(s)"
    )
    for name, (wall_ms, part_cpu_ms) in zip(PARTS, parts_ms, strict=True):
        print(f"    {name:8s}{wall_ms:7.1f} ms wall{part_cpu_ms:7.1f} ms CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--people", type=int, default=3)
    arguments = parser.parse_args()
    for processes in arguments.processes:
        measure(processes, arguments)


if __name__ == "__main__":
    main()
