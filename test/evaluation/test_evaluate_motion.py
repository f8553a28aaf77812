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

"""Velocities, their calibration, and distances by placement cue, in complete evaluations of bags."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.evaluation import report_page
from multihmr2_ros.evaluation import results as result_files
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from multihmr2_ros.evaluation.comparison import compare, format_comparison, judge_difference
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.metric_definitions import MOTION_ERRORS
from multihmr2_ros.evaluation.report import format_table
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.true_velocities import add_true_velocities
from multihmr2_ros.metrics.uncertainty import normalized_error_bounds
from multihmr2_ros.people import People, PlacementCue
from test.helpers.evaluation_bags import TruthfulEstimator, at, scene, write_scene

FRAMES, PEOPLE = 30, 3
SIGMA_M, SPEED_SIGMA = np.array([0.02, 0.03, 0.1]), np.array([0.1, 0.05, 0.3])
TRUE_VELOCITY = np.array([0.1, 0.0, 0.0])  # of `scene`: 1 cm in 0.1 s


def make_true_people(index: int) -> People:
    return dataclasses.replace(scene(index), velocity=np.tile(TRUE_VELOCITY, (PEOPLE, 1)))


def add_noise(factor: float = 1.0, cue: PlacementCue | None = PlacementCue.DEPTH) -> Callable[[int, People], People]:
    """Return the true people with noise of SIGMA_M and SPEED_SIGMA and covariances `factor`² times as large."""
    rng = np.random.default_rng(7)

    def change(index: int, people: People) -> People:
        distance = np.linalg.norm(people.pelvis, axis=1, keepdims=True)
        along = people.pelvis / distance
        error_m = SIGMA_M[2] * rng.normal(size=(PEOPLE, 1))
        changed = at(people, people.pelvis + SIGMA_M * rng.normal(size=(PEOPLE, 3)))
        if cue is not None:
            changed = at(people, people.pelvis + error_m * along)
        return dataclasses.replace(
            changed,
            score=people.score,
            velocity=TRUE_VELOCITY + SPEED_SIGMA * rng.normal(size=(PEOPLE, 3)),
            velocity_covariance=np.tile(factor**2 * np.diag(SPEED_SIGMA**2), (PEOPLE, 1, 1)),
            pelvis_covariance=np.tile(factor**2 * np.diag(SIGMA_M**2), (PEOPLE, 1, 1)),
            placement_cue=None if cue is None else np.array([cue, cue, PlacementCue.PRIOR], np.int64),
            distance_sigma_m=None if cue is None else np.full(PEOPLE, factor * SIGMA_M[2]),
        )

    return change


@pytest.fixture(scope="module")
def noisy_result(bag: Path) -> tuple[SequenceResult, Path]:
    """Return the result and its folder for an evaluation of `noisy()`."""
    return evaluate(bag, bag.parent / "noisy", add_noise()), bag.parent / "noisy"


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("motion") / "walk.mcap", FRAMES, truth=make_true_people)


def evaluate(bag: Path, out: Path, change: Callable[[int, People], People]) -> SequenceResult:
    result = run_job(
        BagJob(path=bag, out=out, outputs=BagOutputs(video=False, bag=False, highlights=False)),
        TruthfulEstimator(change),
    )
    assert result.problems == ()
    result_files.write_results(out, [result], {}, {}, [])
    return result


def test_known_noise_is_calibrated(bag: Path, tmp_path: Path) -> None:
    totals = evaluate(bag, tmp_path / "out", add_noise(cue=None)).totals
    values = {key: value for key, (value, _) in totals.compute_metrics().items()}
    least, most = normalized_error_bounds(FRAMES * PEOPLE, 0.999)
    assert least < values["velocity NEES"] < most
    assert least < values["pelvis NEES"] < most
    low, high = normalized_error_bounds(FRAMES * PEOPLE)
    assert values["velocity coverage"] == pytest.approx(95, abs=7)  # three standard deviations
    assert values["pelvis coverage"] == pytest.approx(95, abs=7)
    assert totals.compute_calibration()["velocity"] == pytest.approx(
        {"nees": values["velocity NEES"], "low": low, "high": high, "inside_95": values["velocity coverage"],
         "count": FRAMES * PEOPLE}
    )  # fmt: skip
    small = evaluate(bag, tmp_path / "small", add_noise(0.5, cue=None)).totals.compute_metrics()
    assert small["velocity NEES"][0] == pytest.approx(4 * values["velocity NEES"])


def test_velocity_errors_are_those_of_the_table(noisy_result: tuple[SequenceResult, Path]) -> None:
    result, out = noisy_result
    totals = result.totals
    with open(out / "people.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    speeds = np.array([float(row["velocity_error_m_per_s"]) for row in rows])
    metrics = totals.compute_metrics()
    assert metrics["velocity error"] == (pytest.approx(speeds.mean(), rel=1e-6), FRAMES * PEOPLE)
    assert metrics["velocity error p50"][0] == pytest.approx(np.percentile(speeds, 50), rel=1e-6)
    assert metrics["velocity error p95"][0] == pytest.approx(np.percentile(speeds, 95), rel=1e-6)
    written = json.loads((out / "results.json").read_text())["results"]["given"]
    assert written["metrics"]["velocity error p95"]["unit"] == "m/s"
    assert set(written["calibration"]) == {"velocity", "pelvis"}


def test_distances_by_cue(noisy_result: tuple[SequenceResult, Path]) -> None:
    """Two of three people are placed by depth; all errors have a standard deviation of 10 cm, as stated."""
    result, out = noisy_result
    found = result.totals.summarize_distances()
    assert set(found) == {"prediction only", "depth"}
    with open(out / "people.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["placement_cue"] == "depth"]
    errors, z = (np.array([float(row[name]) for row in rows]) for name in ("distance_error_mm", "distance_z_score"))
    assert (found["depth"]["count"], len(rows)) == (2 * FRAMES, 2 * FRAMES)
    assert found["depth"]["median_mm"] == pytest.approx(np.median(errors), rel=1e-5)
    assert found["depth"]["mean_mm"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["depth"]["z_mean"] == pytest.approx(z.mean(), abs=1e-5)
    assert found["depth"]["z_rms"] == pytest.approx(1.0, abs=0.28)  # three standard deviations
    assert found["prediction only"]["count"] == FRAMES
    assert list(rows[0])[-4:] == ["posture", "placement_cue", "distance_error_mm", "distance_z_score"]
    text = format_table({"given": result.totals})
    assert "distance" in text
    assert "prediction only" in text
    assert "95 % bounds" in text
    html = report_page.write_report(out, [result], {}, {}, []).read_text()
    assert "Distance error by placement cue" in html
    assert "Calibration of velocities and positions" in html


def test_without_cues_all_people_keep_the_predicted_distance(bag: Path, tmp_path: Path) -> None:
    found = evaluate(bag, tmp_path / "out", add_noise(cue=None)).totals.summarize_distances()
    assert set(found) == {"prediction only"}
    assert (found["prediction only"]["count"], found["prediction only"]["z_count"]) == (FRAMES * PEOPLE, 0)


def test_unknown_velocities_have_no_rows(tmp_path: Path) -> None:
    def unknown(index: int) -> People:
        return dataclasses.replace(scene(index), velocity=np.full((PEOPLE, 3), np.nan))

    path = write_scene(tmp_path / "walk.mcap", 5, truth=unknown)
    totals = evaluate(path, tmp_path / "out", add_noise()).totals
    assert not {"velocity error", "velocity error p50", "velocity NEES"} & set(totals.compute_metrics())
    assert set(totals.compute_calibration()) == {"pelvis"}


def write_former_result(folder: Path) -> None:
    """Reduce the tables and results to those of the version before these metrics."""
    for name in ("frames.csv", "people.csv"):
        with open(folder / name, newline="") as file:
            rows = list(csv.DictReader(file))
        new = ("velocity_error_m_per_s", "velocity_nees", "velocity_coverage", "pelvis_nees", "pelvis_coverage")
        drop = new if name == "frames.csv" else ("placement_cue", "distance_error_mm", "distance_z_score")
        kept = [column for column in rows[0] if not column.startswith(drop)]
        with open(folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, kept, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    document = json.loads((folder / "results.json").read_text())
    for part in (document["results"]["given"], *document["sequences"]):
        part.pop("calibration"), part.pop("distance_by_cue")
        for key in [key for key in part["metrics"] if key.startswith(("velocity", "pelvis"))]:
            del part["metrics"][key]
    for metric in MOTION_ERRORS:
        del document["sequences"][0]["sums"]["errors"][metric.key]
    (folder / "results.json").write_text(json.dumps(document))


def test_results_of_the_version_before_are_compared(noisy_result: tuple[SequenceResult, Path], tmp_path: Path) -> None:
    for name in ("old", "new"):
        shutil.copytree(noisy_result[1], tmp_path / name)
    write_former_result(tmp_path / "old")
    comparisons = compare(tmp_path / "old", tmp_path / "new")
    keys = {found.key for found in comparisons[0].differences}
    assert "distance error" in keys
    assert not keys & {metric.key for metric in MOTION_ERRORS}
    (tmp_path / "cmp").mkdir()
    assert report_page.write_comparison(tmp_path / "cmp", tmp_path / "old", tmp_path / "new", comparisons).is_file()


def test_the_better_calibration_is_the_one_near_one(bag: Path, tmp_path: Path) -> None:
    for name, factor in (("tight", 0.5), ("right", 1.0), ("wide", 3.0)):
        evaluate(bag, tmp_path / name, add_noise(factor))
    for worse in ("tight", "wide"):
        comparisons = compare(tmp_path / worse, tmp_path / "right")
        (found,) = [each for each in comparisons[0].differences if each.key == "velocity NEES"]
        assert judge_difference(found) == "better"
        assert "velocity coverage" in format_comparison(tmp_path / worse, tmp_path / "right", comparisons)


def make_driving_camera(count: int, *, poses: bool = True, velocity: float = np.nan) -> Iterator[EvaluationFrame]:
    """Return a camera that drives along x at 1 m/s and turns, and people who accelerate along y of the fixed frame."""
    for index in range(count):
        time, angle = 0.1 * index, 0.3 * index
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[0, 3] = time
        place = np.array([[5.0, 0.5 * time**2, 0.0], [4.0, -time, 1.0], [3.0, 0.0, 0.0]])
        people = at(scene(0), (place - pose[:3, 3]) @ pose[:3, :3])
        truth: Any = dataclasses.replace(
            people, track_id=np.array([1, 2, -1]), velocity=np.full((3, 3), velocity), velocity_frame="camera"
        )
        frame: Any = SimpleNamespace(fixed_from_camera=pose if poses else None)
        yield EvaluationFrame(round(time * 1e9), frame=frame, truth=truth)


@pytest.mark.parametrize("velocity", [np.nan, 9.0])
def test_true_velocities_from_a_moving_camera(velocity: float) -> None:
    """Velocities in camera axes are replaced if the camera pose is known."""
    eval_frames = list(add_true_velocities(make_driving_camera(6, velocity=velocity)))
    assert [eval_frame.stamp_ns for eval_frame in eval_frames] == [
        eval_frame.stamp_ns for eval_frame in make_driving_camera(6)
    ]
    for index, eval_frame in enumerate(eval_frames):
        assert eval_frame.truth is not None
        assert eval_frame.truth.velocity_frame == "fixed"
        ends = index in (0, 5)
        expected = np.full((2, 3), np.nan) if ends else [[0, 0.1 * index, 0], [0, -1, 0]]
        np.testing.assert_allclose(eval_frame.truth.velocity[:2], expected, atol=1e-5)
        assert np.isnan(eval_frame.truth.velocity[2]).all(), "without an identity"


def test_people_with_one_track_id_have_no_true_velocity() -> None:
    eval_frames = [
        dataclasses.replace(each, truth=dataclasses.replace(each.truth, track_id=np.array([1, 1, 2])))
        for each in make_driving_camera(3)
        if each.truth is not None
    ]
    truth = list(add_true_velocities(eval_frames))[1].truth
    assert truth is not None
    np.testing.assert_allclose(truth.velocity, [[np.nan] * 3, [np.nan] * 3, [0, 0, 0]], atol=1e-5)


def test_true_velocities_stay_as_they_are() -> None:
    plain = list(add_true_velocities(make_driving_camera(3, poses=False, velocity=0.25)))
    assert all(eval_frame.truth is not None and eval_frame.truth.velocity_frame == "camera" for eval_frame in plain)
    fixed = [
        dataclasses.replace(eval_frame, truth=dataclasses.replace(eval_frame.truth, velocity_frame="fixed"))
        for eval_frame in make_driving_camera(3, velocity=0.25)
        if eval_frame.truth is not None
    ]
    assert [eval_frame.truth for eval_frame in add_true_velocities(fixed)] == [eval_frame.truth for eval_frame in fixed]
    assert list(add_true_velocities([])) == []
