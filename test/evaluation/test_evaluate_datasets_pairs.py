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

"""Hi4D and Harmony4D, in small folders of their documented formats; the estimator returns the ground truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.harmony4d import list_harmony4d_sequences, remove_scale
from multihmr2_ros.evaluation.datasets.hi4d import list_hi4d_sequences
from multihmr2_ros.evaluation.datasets.job import DatasetJob, resolve_job
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.frame import IntrinsicsChoice
from test.helpers.dataset_factory import K, make_joints, open_sequences, save_regressor
from test.helpers.smpl_datasets import (
    FRAMES,
    MONOCULAR_CAMERA,
    OTHER_CAMERA,
    POINTS,
    make_displaced_estimator,
    make_pair_points,
    make_transform,
    save_mesh_regressor,
    write_harmony4d,
    write_hi4d,
)


@pytest.mark.parametrize("key", ["intrinsics", "intirnsics"])
def test_hi4d(tmp_path: Path, key: str) -> None:
    points = make_pair_points()
    write_hi4d(tmp_path, points, key=key)
    job = DatasetJob("hi4d", tmp_path, tmp_path / "out", regressor=save_mesh_regressor(tmp_path / "weights.npz"))
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[index], [0, 0, 0.1]))
    assert (result.name, result.problems) == ("pair00-dance00", ())
    values = result.totals.compute_metrics()
    assert values["F1"] == (100.0, 2 * FRAMES)
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    for key in ("MPJPE", "PVE", "TA-PVE", "Pair-PA-MPJPE"):
        assert values[key][0] == pytest.approx(0, abs=0.01), key
    assert values["Pair-PA-MPJPE"][1] == FRAMES
    assert values["IDF1"][0] == 100


def test_hi4d_is_evaluated_by_joints_only_with_a_regressor_of_joints_only(tmp_path: Path) -> None:
    points = make_pair_points()
    write_hi4d(tmp_path, points)
    job = DatasetJob("hi4d", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[index], [0, 0, 0]))
    values = result.totals.compute_metrics()
    assert values["MPJPE"][0] == pytest.approx(0, abs=0.01)
    assert "PVE" not in values


def test_hi4d_cameras(tmp_path: Path) -> None:
    """Images are undistorted (whatever dist_coeffs contain); another camera can be selected."""
    write_hi4d(tmp_path, make_pair_points())
    (sequence,) = open_sequences(list_hi4d_sequences(tmp_path))
    first = next(iter(sequence))
    assert first.frame is not None
    assert first.frame.image.min() > 30, "an undistorted plain image would have black margins"
    assert first.stamp_s == pytest.approx(11 / 30)
    (other,) = open_sequences(list_hi4d_sequences(tmp_path, str(OTHER_CAMERA)))
    assert other.frames[0].lens.k[0, 0] == 2 * K[0, 0]
    with pytest.raises(UserError, match=r"one of the cameras 4, 28 of .*, got 5"):
        open_sequences(list_hi4d_sequences(tmp_path, "5"))


def test_inverted_hi4d_extrinsics_are_refused(tmp_path: Path) -> None:
    points = make_pair_points()
    pose = make_transform([0, 180, 0], [0, 0, -4])
    write_hi4d(tmp_path, points, extrinsics=pose)
    path = tmp_path / "pair00" / "dance00" / "cameras" / "rgb_cameras.npz"
    content = dict(np.load(path))
    content["extrinsics"][1] = make_transform([0, 0, 0], [0, 0, -20])[:3]
    np.savez(path, **content)
    (sequence,) = open_sequences(list_hi4d_sequences(tmp_path))
    with pytest.raises(UserError, match="all people are behind the camera"):
        next(iter(sequence))


@pytest.mark.parametrize("glasses", [False, True])
def test_harmony4d(tmp_path: Path, glasses: bool) -> None:
    points = make_pair_points()
    write_harmony4d(tmp_path, points, glasses=glasses)
    regressor = save_mesh_regressor(tmp_path / "weights.npz")
    job = DatasetJob("harmony4d", tmp_path, tmp_path / "out", "cam02", regressor, IntrinsicsChoice("given"))
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[index], [0, 0, 0.1]))
    assert (result.name, result.problems) == ("05_sword-001_sword", ())
    values = result.totals.compute_metrics()
    assert values["recall"] == (100.0, 2 * FRAMES)
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    for key in ("MPJPE", "PVE", "TA-PVE", "Pair-PA-MPJPE"):
        assert values[key][0] == pytest.approx(0, abs=0.01), key
    assert values["IDF1"][0] == 100
    (result,) = evaluate_dataset(
        dataclasses.replace(job, split=None), make_displaced_estimator(lambda index: points[index], [0, 0, 0])
    )
    assert "has no image of cam01" in result.problems[0]


def test_harmony4d_pickles_that_hold_code_are_refused(tmp_path: Path) -> None:
    sequence = write_harmony4d(tmp_path, make_pair_points(), glasses=False)
    np.save(sequence / "processed_data" / "smpl" / "00001.npy", np.array({"aria01": print}, dtype=object))
    (read,) = open_sequences(list_harmony4d_sequences(tmp_path, "cam02"))
    with pytest.raises(UserError, match=r"00001\.npy .*must not contain builtins\.print"):
        next(iter(read))


def test_reflections_are_refused_as_metric_transformations() -> None:
    similarity = make_transform([30, -20, 70], [2.0, 4.0, 6.0])
    similarity[:3, :3] *= 2
    np.testing.assert_allclose(remove_scale(similarity), make_transform([30, -20, 70], [1.0, 2.0, 3.0]), atol=1e-12)
    with pytest.raises(ValueError, match="scale above 0"):
        remove_scale(np.diag([1.0, 1.0, -1.0, 1.0]))


def test_impossible_intrinsics_are_reported_with_their_file(tmp_path: Path) -> None:
    sequence = write_hi4d(tmp_path, make_pair_points())
    path = sequence / "cameras" / "rgb_cameras.npz"
    content = dict(np.load(path))
    np.savez(path, **{**content, "intrinsics": -content["intrinsics"]})
    ((_, read),) = list_hi4d_sequences(tmp_path)
    with pytest.raises(UserError, match=r"rgb_cameras\.npz .*K must be"):
        read()


def test_a_damaged_image_is_skipped(tmp_path: Path) -> None:
    points = make_pair_points()
    sequence = write_hi4d(tmp_path, points)
    (sequence / "images" / str(MONOCULAR_CAMERA) / "000012.jpg").write_bytes(b"not an image")
    job = DatasetJob("hi4d", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[2 * index], [0, 0, 0]))
    assert result.totals.frames == FRAMES - 1
    (problem,) = result.problems
    assert problem.startswith(f"pair00-dance00: 1 of {FRAMES} images are skipped: ")
    assert "000012.jpg" in problem


@pytest.mark.parametrize("name", ["hi4d", "harmony4d"])
def test_every_pair_counts_in_data_sets_whose_paper_aligns_every_pair(tmp_path: Path, name: str) -> None:
    pair = make_joints(2, POINTS)
    pair[1, :, 0] += 2 - (pair[1, 0, 0] - pair[0, 0, 0])  # 2 m beside the first
    points = np.stack([pair] * FRAMES)
    if name == "hi4d":
        write_hi4d(tmp_path, points)
    else:
        write_harmony4d(tmp_path, points, glasses=True)
    split = "cam02" if name == "harmony4d" else None
    job = DatasetJob(name, tmp_path, tmp_path / "out", split, save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[index], [0, 0, 0]))
    assert result.totals.compute_metrics()["Pair-PA-MPJPE"] == (pytest.approx(0, abs=0.01), FRAMES)
    assert resolve_job(job).scoring.pair_distance_m == np.inf
