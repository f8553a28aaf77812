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

"""Measure the time of one tracker update: `python -m test.benchmarks.tracking --people 15`.

Uses one thread unless the environment sets another number: a robot's other cores are busy.
"""

from __future__ import annotations

import argparse
import json
import os
import time

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read once, when NumPy is imported

import numpy as np
from scipy.spatial.transform import Rotation

from multihmr2_ros.tracking import Detections, Tracker, TrackerConfig

RATE_HZ = 30.0
WARM_UP_UPDATES = 100  # fills the feature bank
CONFIGURATIONS = {
    "default": TrackerConfig(),
    "reference": TrackerConfig.reference(RATE_HZ),
}


def walking_people(people: int, feature_length: int, frames: int) -> list[Detections]:
    """Return frames of people side by side, each with nearly the same feature in all frames."""
    generator = np.random.default_rng(0)
    looks = generator.normal(size=(people, feature_length)).astype(np.float32)
    turned = Rotation.from_quat(generator.normal(size=(people, 4)))
    side = np.linspace(0.05, 0.95, people)
    result = []
    for _ in range(frames):
        noise = generator.normal(size=(people, 3))
        depth = 4 * np.exp(0.03 * noise[:, 2])
        u, v = side + 0.003 * noise[:, 0], 0.5 + 0.003 * noise[:, 1]
        result.append(
            Detections(
                feature=looks + 0.4 * generator.normal(size=looks.shape).astype(np.float32),
                location=np.column_stack([u, v, -np.log(depth)]),
                rotation=(turned * Rotation.from_rotvec(0.1 * generator.normal(size=(people, 3)))).as_matrix(),
                pelvis=np.column_stack([(u - 0.5) * depth, (v - 0.5) * depth, depth]),
                shape=generator.random((people, 6)),
                score=generator.random(people),
            )
        )
    return result


def benchmark(config: TrackerConfig, people: int, feature_length: int, updates: int) -> dict[str, float]:
    """Return milliseconds per update with a full feature bank: wall time, and CPU time of the thread."""
    frames = walking_people(people, feature_length, min(updates, 200))
    tracker = Tracker(config)
    wall_ms, processor_ms = [], []
    for step in range(WARM_UP_UPDATES + updates):
        processor, wall = time.thread_time(), time.perf_counter()
        tracker.update(frames[step % len(frames)], step / RATE_HZ, np.eye(4))
        wall_ms.append(1e3 * (time.perf_counter() - wall))
        processor_ms.append(1e3 * (time.thread_time() - processor))
    assert len(tracker.list_tracks()) == people, "the people of the benchmark were not tracked"
    wall_p50, wall_p99 = np.percentile(wall_ms[WARM_UP_UPDATES:], [50, 99])
    processor_p50, processor_p99 = np.percentile(processor_ms[WARM_UP_UPDATES:], [50, 99])
    return {
        "wall_p50_ms": float(wall_p50),
        "wall_p99_ms": float(wall_p99),
        "processor_p50_ms": float(processor_p50),
        "processor_p99_ms": float(processor_p99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=15)
    parser.add_argument("--feature-length", type=int, default=4096)
    parser.add_argument("--updates", type=int, default=3000)
    arguments = parser.parse_args()
    result = {
        name: benchmark(config, arguments.people, arguments.feature_length, arguments.updates)
        for name, config in CONFIGURATIONS.items()
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
