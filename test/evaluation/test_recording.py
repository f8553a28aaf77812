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

"""`evaluate --rrd`: predictions beside the truth in a Rerun recording, read back by Rerun's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.cli.main import main
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.media.rerun_people import TRUTH_COLOR
from test.helpers.evaluation_bags import TruthfulEstimator, at, body, scene, write_scene
from test.helpers.rerun_reading import Read

FRAMES = 4
OFFSET = np.array([0.0, 0.0, 0.3])  # m, of the predictions


def test_truth_beside_predictions(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    bag = write_scene(tmp_path / "walk.mcap", FRAMES)
    estimator = TruthfulEstimator(lambda index, people: at(people, people.pelvis + OFFSET).select(np.arange(2)))
    result = run_job(
        BagJob(bag, tmp_path / "out", outputs=BagOutputs(video=False, bag=False, highlights=False, rrd=True)), estimator
    )
    assert result.problems == ()
    read = Read(tmp_path / "out" / "recording.rrd")
    used = np.unique(body().faces)
    for people, count, shift in (("people", 2, OFFSET), ("truth", 3, 0 * OFFSET)):
        labels = read.values(f"/world/camera/{people}/names", "labels")
        assert [len(each) for each in labels] == [count] * FRAMES
        for index in range(FRAMES):
            true = scene(index)
            name = f"/world/camera/{people}/meshes/{true.track_id[0]}"
            mesh = read.values(name, "vertex_positions")[index]
            assert np.array(mesh) == pytest.approx(true.vertices[0, used] + shift, abs=1e-5)
    for people, color in (("people", get_track_color(int(scene(0).track_id[0]))), ("truth", TRUTH_COLOR)):
        (value,) = read.values(f"/world/camera/{people}/meshes/{scene(0).track_id[0]}", "albedo_factor")
        assert tuple(value[0] >> shift & 255 for shift in (24, 16, 8)) == color


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)  # as without an installation: importing raises ImportError
    bag = write_scene(tmp_path / "walk.mcap", 1)
    assert main(["evaluate", str(bag), "--out", str(tmp_path / "out"), "--rrd", "--no-plots"]) == 2
    assert capsys.readouterr().err == "multihmr2 evaluate: rerun is not installed: pip install 'multihmr2_ros[view]'\n"
    assert not (tmp_path / "out").exists()
