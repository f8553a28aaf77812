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

"""EMDB, in a small folder of its documented format; the estimator returns the ground truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from test.helpers.dataset_factory import save_regressor
from test.helpers.smpl_datasets import (
    FRAMES,
    make_displaced_estimator,
    make_emdb_points,
    save_mesh_regressor,
    write_emdb,
)


def test_emdb(tmp_path: Path) -> None:
    points = make_emdb_points()
    write_emdb(tmp_path, points)
    write_emdb(tmp_path, points, part="emdb2", name="20_outdoor_run")
    job = DatasetJob("emdb", tmp_path, tmp_path / "out", regressor=save_mesh_regressor(tmp_path / "weights.npz"))
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[index][None], [0, 0, 0.1]))
    assert (result.name, result.problems) == ("P0-09_outdoor_walk", ())
    values = result.totals.compute_metrics()
    assert values["recall"] == (100.0, FRAMES - 1), "who is out of view is ignored"
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    assert values["Abs-PVE"][0] == pytest.approx(100, abs=0.01)
    assert values["MPJPE"][0] == pytest.approx(0, abs=0.01)
    assert values["PVE"][0] == pytest.approx(0, abs=0.01)
    assert values["FOV error"][0] == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("lacking", ["bodies", "regressor"])
def test_emdb_without_bodies_evaluates_the_field_of_view(tmp_path: Path, lacking: str) -> None:
    points = make_emdb_points()
    sequence = write_emdb(tmp_path, points)
    regressor = save_regressor(tmp_path / "j.npy")
    if lacking == "bodies":
        (sequence / "P0_09_outdoor_walk_bodies.npz").unlink()
    job = DatasetJob("emdb", tmp_path, tmp_path / "out", regressor=None if lacking == "regressor" else regressor)
    (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: points[index][None], [0, 0, 0.1]))
    (problem,) = result.problems
    assert lacking in problem
    assert "\n" not in problem
    assert result.totals.compute_metrics() == {"FOV error": (pytest.approx(2, abs=1e-4), FRAMES)}


def test_emdb_bodies_of_another_unit_are_refused(tmp_path: Path) -> None:
    sequence = write_emdb(tmp_path, make_emdb_points())
    path = sequence / "P0_09_outdoor_walk_bodies.npz"
    content = dict(np.load(path))
    job = DatasetJob("emdb", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    for joints, message in (
        (1000 * content["joints"], "must project to the dataset's kp2d"),
        (content["joints"][:, :22], "expected (3, 24, 3)"),
    ):
        np.savez(path, joints=joints)
        (result,) = evaluate_dataset(job, make_displaced_estimator(lambda index: np.zeros((0, 24, 3)), [0, 0, 0]))
        (problem,) = result.problems
        assert str(path) in problem
        assert message in problem
    with pytest.raises(UserError, match="expected sequences of"):
        evaluate_dataset(
            dataclasses.replace(job, split="emdb2"),
            make_displaced_estimator(lambda index: np.zeros((0, 24, 3)), [0] * 3),
        )
