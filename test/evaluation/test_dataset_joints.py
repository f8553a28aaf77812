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

"""Parts of the readers of data sets with bodies: lenses, annotated people, joint regressors, damaged files."""

from __future__ import annotations

import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import sparse

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.joints import AnnotatedPeople, CalibratedLens, make_point_regressor
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from test.helpers.dataset_factory import HEIGHT, WIDTH, K, save_regressor
from test.helpers.smpl_datasets import (
    FISHEYE,
    make_displaced_estimator,
    make_emdb_points,
    make_pair_points,
    write_emdb,
    write_hi4d,
)


@pytest.mark.parametrize(("distortion", "is_fisheye"), [(FISHEYE, True), (np.array([-0.2, 0.05, 1e-3, 0]), False)])
@pytest.mark.parametrize("skew", [0.0, -30.0])
def test_lenses_are_straightened(distortion: np.ndarray, is_fisheye: bool, skew: float) -> None:
    """After undistortion, a point seen through the lens is at its pinhole projection."""
    k = K + np.array([[0, skew, 0], [0, 0, 0], [0, 0, 0]])
    point = np.array([[[0.7, -0.5, 2.0]]])
    project_points = cv2.fisheye.projectPoints if is_fisheye else cv2.projectPoints
    bent = project_points(point, np.zeros(3), np.zeros(3), np.eye(3), distortion)[0].ravel()
    seen = k[:2, :2] @ bent + k[:2, 2]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    cv2.circle(image, tuple(round(each) for each in seen), 4, (255, 255, 255), -1)
    lens = CalibratedLens(k, distortion, is_fisheye).distortion_of(image)
    assert lens is not None
    straight = lens.undistort_image(image)[..., 0] > 100
    place = np.argwhere(straight).mean(axis=0)[::-1]
    expected = project(point[0], k)[0]
    assert np.linalg.norm(expected - seen) > 5
    np.testing.assert_allclose(place, expected, atol=1)


@pytest.mark.parametrize("distortion", [np.zeros(3), np.array([np.nan, 0, 0, 0]), np.full(4, 1e150), np.zeros((4, 1))])
def test_impossible_distortion_coefficients_are_refused(distortion: np.ndarray) -> None:
    with pytest.raises(ValueError, match="coefficients"):
        CalibratedLens(K, distortion)


@pytest.mark.parametrize("change", ["identity", "known", "vertices"])
def test_fields_of_different_numbers_of_people_are_refused(change: str) -> None:
    rows: dict[str, Any] = {"identity": np.arange(2), "joints": np.zeros((2, 24, 3)), "known": np.ones(2, bool)}
    rows["vertices"] = np.zeros((2, 6890, 3))
    AnnotatedPeople(**rows)
    with pytest.raises(ValueError, match="of the same people"):
        AnnotatedPeople(**{**rows, change: rows[change][:1]})


def test_ground_truth_of_different_lengths_is_refused(tmp_path: Path) -> None:
    """One mask for two people, vertices of one of two, and fewer valid frames than frames."""
    sequence = write_hi4d(tmp_path / "hi4d", make_pair_points())
    path = sequence / "smpl" / "000012.npz"
    content = dict(np.load(path))
    np.savez(path, **{**content, "verts": content["verts"][:1]})
    nobody = make_displaced_estimator(lambda index: np.zeros((0, 24, 3)), [0, 0, 0])
    job = DatasetJob("hi4d", tmp_path / "hi4d", tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, nobody)
    assert result.totals.frames == 1, "what came before it stays"
    assert "000012.npz does not have the documented format of its dataset" in result.problems[0]

    sequence = write_emdb(tmp_path / "emdb", make_emdb_points())
    path = sequence / "P0_09_outdoor_walk_data.pkl"
    data = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**data, "good_frames_mask": data["good_frames_mask"][:1]}))
    (result,) = evaluate_dataset(dataclasses.replace(job, name="emdb", folder=tmp_path / "emdb"), nobody)
    assert "P0_09_outdoor_walk_data.pkl does not have the documented format of its dataset" in result.problems[0]


def test_every_kind_of_damage_is_reported_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((24, 4)))
    array = (tmp_path / "a.npy").read_bytes()
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (24, 10**13)})
    np.savez_compressed(tmp_path / "a.npz", np.zeros((24, 4)))
    archive = (tmp_path / "a.npz").read_bytes()
    entry = archive.index(b"PK\x01\x02")  # of the directory: flags at 8, compression at 10
    damaged = {
        "TokenError": array.replace(b"(24, 4)", b"(24, 4 "),
        "MemoryError": huge.getvalue(),
        "NotImplementedError": archive[: entry + 10] + b"\x63" + archive[entry + 11 :],
        "RuntimeError": archive[: entry + 8] + b"\x01" + archive[entry + 9 :],
    }
    for kind, content in damaged.items():
        path = tmp_path / f"{kind}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="does not have the documented format of its dataset") as caught:
            make_point_regressor(path, 24)
        assert f"({kind}" in str(caught.value) or f"_Array{kind}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_regressors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = sparse.random_array((24, 19158), density=1e-3, rng=rng)
    np.save(tmp_path / "dense.npy", weights.toarray())
    np.savez(tmp_path / "dense.npz", weights.toarray())
    sparse.save_npz(tmp_path / "sparse.npz", weights.tocsr())
    for people in (0, 1, 3):
        mesh = rng.normal(size=(people, 19158, 3)).astype(np.float32)
        expected = np.einsum("jv,nvd->njd", weights.toarray(), mesh.astype(np.float64))
        for name in ("dense.npy", "dense.npz", "sparse.npz"):
            np.testing.assert_allclose(make_point_regressor(tmp_path / name, 24, 6890)(mesh), expected, atol=1e-12)
    with pytest.raises(UserError, match=r"\(14, 19158\) or \(6904, 19158\)"):
        make_point_regressor(tmp_path / "dense.npy", 14, 6890)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "sparse.npz").read_bytes()[:-40])
    with pytest.raises(UserError, match="does not have the documented format of its dataset"):
        make_point_regressor(tmp_path / "damaged.npz", 24)
    for name, place, value in (("indices", 0, 2**30), ("indptr", 12, 2**30), ("indptr", -1, 0)):
        beyond = weights.tocsr().copy()
        getattr(beyond, name)[place] = value
        sparse.save_npz(tmp_path / "beyond.npz", beyond)
        with pytest.raises(UserError, match="does not have the documented format of its dataset"):
            make_point_regressor(tmp_path / "beyond.npz", 24)
