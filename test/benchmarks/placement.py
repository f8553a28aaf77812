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

"""Measure the accuracy and the speed of placement: `python -m test.benchmarks.placement --scenes 100`.

Uses one thread unless the environment sets another number: a robot's other cores are busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read once, when NumPy is imported

import numpy as np

from multihmr2_ros.placement import place_people
from test.helpers.rgbd_scenes import (
    INDEPENDENT,
    OPTIONS,
    OVERLAID,
    RgbdFrame,
    make_predicted,
    make_rgbd_frames,
    make_surface,
    measure,
    summary,
)

PEOPLE = 10


def cost_ms(frame: RgbdFrame, mesh: str, calls: int) -> dict[str, tuple[float, float]]:
    """Return the median time of a call, as wall time and CPU time of the thread, for PEOPLE people at 640 x 480 px."""
    few = make_predicted(frame, OVERLAID, np.random.default_rng(0), mesh)
    doubled = np.diag([2.0, 2.0, 1.0]) @ few.k
    people = dataclasses.replace(few.select(np.arange(PEOPLE) % len(few)), k=doubled, image_size=(480, 640))
    depth = np.ascontiguousarray(frame.depth.repeat(2, axis=0).repeat(2, axis=1))
    surface = make_surface(mesh)
    result = {}
    for name, cues in (("depth", (depth, None)), ("ground", (None, frame.ground)), ("both", (depth, frame.ground))):
        wall, processor = [], []
        for _ in range(calls):
            clock, own = time.perf_counter(), time.thread_time()
            place_people(people, surface, *cues)
            wall.append(1e3 * (time.perf_counter() - clock))
            processor.append(1e3 * (time.thread_time() - own))
        result[name] = (float(np.median(wall)), float(np.median(processor)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--calls", type=int, default=300)
    arguments = parser.parse_args()
    frames = [frame for seed in range(arguments.scenes) for frame in make_rgbd_frames(seed, OPTIONS, (0.5, 1.5))]
    for title, errors in (("errors as of an overlaid network", OVERLAID), ("independent errors", INDEPENDENT)):
        print(f"{title}: {errors}\n{summary(measure(frames, errors))}\n")
    crowded = max(frames, key=lambda frame: len(frame.posed.shape))
    for mesh in ("low", "full"):
        for name, (wall, processor) in cost_ms(crowded, mesh, arguments.calls).items():
            print(f"{PEOPLE} people, {mesh} mesh, {name}: {wall:.2f} ms, of the processor {processor:.2f} ms")


if __name__ == "__main__":
    main()
