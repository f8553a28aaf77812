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

"""An hour of people coming and going: memory stays constant and every update stays fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.tracking import Detections, Tracker
from test.paths import ROOT

RATE_HZ = 30
MINUTE = 60 * RATE_HZ
STATUS = Path("/proc/self/statm")


def hour_of_people(generator: np.random.Generator, feature_length: int = 256) -> Iterator[Detections]:
    """Yield 108,000 frames of 1 to 15 people; every few seconds a person leaves or enters; some false positives."""

    def newcomer() -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=feature_length), np.append(
            generator.uniform(0.1, 0.9, 2), -generator.uniform(1, 2)
        )

    people = [newcomer()]
    for _ in range(60 * MINUTE):
        chance = generator.random()
        if chance < 0.01 and len(people) < 15:
            people.append(newcomer())
        elif chance > 0.99 and len(people) > 1:
            people.pop(int(generator.integers(len(people))))
        seen = [person for person in people if generator.random() > 0.05]
        seen += [newcomer()] if generator.random() < 0.02 else []
        n = len(seen)
        for _, place in people:
            place += 0.003 * generator.normal(size=3)
        feature = np.array([look for look, _ in seen]).reshape(n, feature_length)
        location = np.array([place for _, place in seen]).reshape(n, 3)
        depth = np.exp(-location[:, 2:])
        yield Detections(
            feature=(feature + 0.3 * generator.normal(size=feature.shape)).astype(np.float32),
            location=location,
            rotation=np.tile(np.eye(3), (n, 1, 1)),
            pelvis=np.concatenate([(location[:, :2] - 0.5) * depth, depth], axis=1),
            shape=generator.random((n, 6)),
            score=generator.random(n),
        )


def resident_bytes() -> int:
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads the resident memory from /proc, which this system lacks")
def test_an_hour_at_thirty_frames_per_second_leaves_memory_flat() -> None:
    tracker = Tracker()
    update_ms, resident = np.ones(60 * MINUTE), np.ones(60 * 60)  # filled, so that writing to them allocates no memory
    most_live = 0
    for step, detections in enumerate(hour_of_people(np.random.default_rng(0))):
        start = time.perf_counter()
        tracker.update(detections, step / RATE_HZ)
        update_ms[step] = 1e3 * (time.perf_counter() - start)
        most_live = max(most_live, len(tracker.list_tracks()))
        if step % RATE_HZ == 0:
            resident[step // RATE_HZ] = resident_bytes()
    highest_id = max(snapshot.track_id for snapshot in tracker.list_tracks())
    warm = 2 * 60  # two minutes in which allocators and caches fill
    first, last = np.mean(resident[warm : warm + 600]), np.mean(resident[-600:])
    first_ms, last_ms = np.median(update_ms[2 * MINUTE : 12 * MINUTE]), np.median(update_ms[-10 * MINUTE :])
    print(
        f"\n{len(update_ms)} updates, {highest_id + 1} ids, at most {most_live} live tracks; resident memory "
        f"{first / 2**20:.2f} → {last / 2**20:.2f} MiB ({100 * (last / first - 1):+.2f} %); "
        f"median update {first_ms:.2f} → {last_ms:.2f} ms, p99 {np.percentile(update_ms, 99):.2f} ms"
    )
    assert step == len(update_ms) - 1 == 107_999
    assert highest_id > 1000  # many have come and gone
    assert most_live < 100
    assert abs(last / first - 1) < 0.02


@pytest.mark.slow
def test_update_takes_under_five_milliseconds_for_fifteen_people() -> None:
    """Measures the stated limit on one core, with features of the released length, in a separate process.

    The minimum of three runs counts, because other programs can only increase it. The limit applies to the robot's
    settings; the others are shown.
    """
    command = [sys.executable, "-m", "test.benchmarks.tracking"]
    wall_p99_ms = []
    for _ in range(3):
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        print(answer.stdout)
        wall_p99_ms.append(json.loads(answer.stdout)["default"]["wall_p99_ms"])
    assert min(wall_p99_ms) < 5
