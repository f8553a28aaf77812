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

"""Evaluation of ten thousand frames: memory stays constant, and the estimator takes most of the time."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from multihmr2_ros.evaluation.bags import BagJob, run_job
from multihmr2_ros.frame import Frame
from multihmr2_ros.people import People
from test.helpers.evaluation_bags import TruthfulEstimator, write_scene

FRAMES, STEP_S = 10_000, 0.05
PAGE_BYTES = resource.getpagesize()
GROWTH_BYTES = 40e6  # from frame 1,000 on: boxes and times are kept, some hundred bytes per frame


class SlowEstimator(TruthfulEstimator):
    """Estimator that takes STEP_S per image without using the CPU, like a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[int] = []
        self.busy_s = 0.0

    def step(self, frame: Frame, /) -> People:
        begin_s = time.perf_counter()
        people = super().step(frame)
        time.sleep(max(0.0, STEP_S - (time.perf_counter() - begin_s)))
        self.busy_s += time.perf_counter() - begin_s
        self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES)
        return people


@pytest.mark.slow
def test_ten_thousand_frames(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "long.mcap", FRAMES, compressed=True)
    estimator = SlowEstimator()
    begin_s = time.perf_counter()
    result = run_job(BagJob(path=path, out=tmp_path / "out"), estimator)
    wall_s = time.perf_counter() - begin_s
    assert result.problems == ()
    assert result.totals.frames == result.totals.with_truth == FRAMES
    assert result.totals.compute_metrics()["IDF1"] == (100.0, 3 * FRAMES)
    growth = estimator.memory[-1] - estimator.memory[1000]
    print(f"\n{estimator.busy_s / wall_s:.3f} of the estimator's rate; memory grew by {growth / 1e6:.1f} MB")
    assert growth < GROWTH_BYTES
    assert estimator.busy_s / wall_s > 0.9
