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

"""`multihmr2 bench`: every row and stage is measured; errors are reported before slow work begins."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.cli.main import main


@pytest.mark.parametrize("weights", ["small_checkpoint", "multi_hmr_checkpoint"])
def test_rows_and_stages(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    report_file = tmp_path / "report.json"
    checkpoint = str(request.getfixturevalue(weights))
    command = ["bench", "--checkpoint", checkpoint, "--device", "cpu", "--size", "160x96", "--mesh", "low"]
    command += ["--precision", "fp32,bf16", "--people", "1,3", "--repeats", "2", "--json", str(report_file)]
    assert main(command) == 0
    printed = capsys.readouterr()
    report = json.loads(report_file.read_text())
    rows = [(row["precision"], row["mode"], row["people"]) for row in report["frames"]]
    assert rows == [("fp32", "eager", 1), ("fp32", "eager", 3), ("bf16", "eager", 1), ("bf16", "eager", 3)]
    assert all(0 < row["least_ms"] <= row["p50_ms"] <= row["p95_ms"] for row in report["frames"] + report["stages"])
    stages = [stage["stage"] for stage in report["stages"] if stage["precision"] == "fp32"]
    assert stages == ["upload, resize, pad", "encoder", "decoder", "heads", "body", "download", "tracking"]
    assert report["size"] == [160, 96]
    assert report["peak_host_mib"] > 0
    for text in ("160 x 96 px", "frames/s", "encoder", report["machine"]):
        assert text in printed.out
    assert printed.err == ""


def test_the_report_is_checked_before_the_work_and_replaces_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_file = tmp_path / "report.json"
    report_file.write_text("mine")
    for path, said in ((report_file, "already exists"), (tmp_path / "no" / "report.json", "cannot write")):
        assert main(["bench", "--json", str(path)]) == 2
        printed = capsys.readouterr()
        assert said in printed.err
        assert str(path) in printed.err
        assert printed.out == ""
    assert report_file.read_text() == "mine"


def test_ros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
    from multihmr2_ros.ros import benchmark

    monkeypatch.setattr(benchmark, "PEOPLE", 1)  # ten people as Python objects take ten seconds
    report_file = tmp_path / "report.json"
    assert main(["bench", "--ros", "--repeats", "3", "--json", str(report_file)]) == 0
    report = json.loads(report_file.read_text())
    goals = {row["work"]: row["goal_ms"] for row in report["ros"]}
    assert goals == {
        "markers, 1 people, full mesh": 15.0,
        "markers, 1 people, full mesh, as Python objects": None,
        "markers, 1 people, low mesh": 2.0,
        "HumanArray, 1 people": None,
        "node, image in to markers out, 5 people, low mesh": 8.0,
    }
    assert all(0 < row["least_ms"] <= row["p50_ms"] <= row["p95_ms"] for row in report["ros"])
    by_numpy, by_python = (row["least_ms"] for row in report["ros"][:2])
    assert by_numpy < 0.1 * by_python
    printed = capsys.readouterr().out
    for text in ("≤ 15", "node, image in", report["machine"], report["middleware"]):
        assert text in printed


def test_the_people_of_the_benchmark_stand_in_front_of_the_camera() -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    from multihmr2_ros.body import Body
    from multihmr2_ros.ros.standing_people import make_standing_people

    body = Body("low")
    people = make_standing_people(body, 3)
    np.testing.assert_allclose(people.pelvis, [[-2.0, 0.0, 5.0], [0.0, 0.0, 5.0], [2.0, 0.0, 5.0]], atol=1e-6)
    np.testing.assert_allclose(people.joints_2d[1, 0], [320.0, 240.0], atol=1e-3)
    head, foot = (people.joints[1, body.bone_labels.index(name)] for name in ("head", "foot.L"))
    assert head[1] < -0.3  # up
    assert foot[1] > 0.5
    assert np.ptp(people.vertices[1, :, 1]) == pytest.approx(people.stature[1], rel=0.05)


def test_ros_where_it_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "multihmr2_ros.ros.benchmark", raising=False)
    monkeypatch.setitem(sys.modules, "rclpy", None)  # Python's behavior for a module that must not be imported
    assert main(["bench", "--ros"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "rclpy" in error
    assert "source" in error


def test_ros_without_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
    assert main(["bench", "--ros", "--repeats", "0"]) == 2
    assert "repeats" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--size 768", "WIDTHxHEIGHT"),
        ("--people one", "whole numbers"),
        ("--people 3,0", "--people must be from 1 to"),
        ("--people 1,500", "--people must be from 1 to"),
        ("--precision int8", "int8"),
        ("--precision fp16", "GPU"),
        ("--mode graph", "GPU"),
        ("--repeats 0", "repeats"),
    ],
)
def test_mistakes(small_checkpoint: Path, capsys: pytest.CaptureFixture[str], options: str, word: str) -> None:
    assert main(["bench", "--checkpoint", str(small_checkpoint), "--device", "cpu", *options.split()]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert word in error
