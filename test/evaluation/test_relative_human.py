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

"""Relative Human's format, generated here, and its scores against relations counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.relative_human import (
    compute_relation_scores,
    compute_relations,
    list_relative_human_images,
)
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.metrics.placement import ordinal_order, select_pairs_with
from test.helpers.dataset_factory import Estimator, make_joints, make_people_with_vertices, save_image

BOXES = [[0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10], [60.0, 0, 70, 10]]


def make_person(row: int, layer: int, age: int, **more: Any) -> dict[str, Any]:
    return {"bbox": BOXES[row], "depth_id": layer, "age": age, "gender": -1, "kp2d": None, **more}


def save(folder: Path, content: Any, split: str = "test") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{split}_annots.npz", annots=content)
    for name in content if isinstance(content, dict) else ():
        save_image(folder / "images" / name)
    return folder


def test_relations_computed_by_hand(tmp_path: Path) -> None:
    """An adult, a kid and a baby in layers 0, 0, 2, and a person of unknown layer; depths 2.0, 2.1, 1.9 and 5 m."""
    content = {"a.jpg": [make_person(0, 0, 0), make_person(1, 0, 2), make_person(2, 2, 3), make_person(3, -1, -1)]}
    (image,) = list_relative_human_images(save(tmp_path, content), "test")
    found = compute_relations(image, np.array(BOXES)[::-1], np.array([5.0, 1.9, 2.1, 2.0]))
    scores = compute_relation_scores([found])
    assert found.found == found.people == 4
    assert scores["pairs"] == 3
    assert scores["PCDR@0.2m"] == pytest.approx(100 / 3), "the two of one layer are within 0.2 m; so are two others"
    assert scores["ordinal pairs"] == 0, "the baby is behind, and was found before both"
    assert scores["PCDR babies"] == 0
    assert scores["PCDR kids"] == 50
    assert np.isnan(scores["PCDR teenagers"])
    behind = compute_relation_scores([compute_relations(image, np.array(BOXES), np.array([2.0, 2.1, 2.6, 5.0]))])
    assert behind["PCDR@0.2m"] == behind["ordinal pairs"] == behind["recall"] == 100


def test_missed_people_count_in_the_recall(tmp_path: Path) -> None:
    content = {"a.jpg": [make_person(0, 0, 0), make_person(1, 1, 0, bbox_wb=[20, 0, 40, 20])]}
    (image,) = list_relative_human_images(save(tmp_path, content), "test")
    scores = compute_relation_scores([compute_relations(image, np.array([[20.0, 0, 40, 20]]), np.array([3.0]))])
    assert scores["recall"] == 50
    assert scores["pairs"] == 0
    empty = compute_relation_scores([compute_relations(image, np.zeros((0, 4)), np.zeros(0))])
    assert empty["recall"] == 0


def test_the_data_set_is_evaluated(tmp_path: Path, small_checkpoint: Path) -> None:
    folder = save(tmp_path / "data", {"a.jpg": [make_person(0, 0, 0)], "b.jpg": []})
    (result,) = evaluate_dataset(
        DatasetJob("relative-human", folder, tmp_path),
        Estimator(lambda index: make_people_with_vertices(make_joints(1, 17, 0))),
    )
    assert result.totals.frames == 2
    assert result.scores["people"] == 1
    out = tmp_path / "out"
    options = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--score-threshold", "0", "--max-people", "2"]
    options += ["--vertical-fov", "50"]
    assert main(["evaluate", str(folder), "--dataset", "relative-human", "--out", str(out), *options]) == 0
    document = json.loads((out / "results.json").read_text())
    assert document["sequences"][0]["scores"]["people"] == 1
    assert document["configuration"]["intrinsics"] == document["sequences"][0]["intrinsics"] == "given"


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"a.jpg": [{"bbox": [0, 0, 1, 1]}]}, {"../a.jpg": [make_person(0, 0, 0)]}, {"a.jpg": Harmful()}],
    ids=["list", "fields", "outside", "harmful"],
)
def test_files_of_another_format_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any) -> None:
    (tmp_path / "images").mkdir()
    np.savez(tmp_path / "test_annots.npz", annots=np.array(content, dtype=object) if content != [1, 2] else content)
    with pytest.raises(UserError, match=r"test_annots\.npz does not have the documented format of its dataset"):
        list(list_relative_human_images(tmp_path, "test"))
    assert "executed" not in capsys.readouterr().out


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no annotations"):
        list(list_relative_human_images(tmp_path, "test"))
    np.savez(tmp_path / "test_annots.npz", annots={})
    with pytest.raises(UserError, match="expected the folder images in"):
        list(list_relative_human_images(tmp_path, "test"))


def test_ordinal_order_and_pairs_with_somebody() -> None:
    true, found = np.array([1.0, 2.0, 3.0]), np.array([1.5, 1.4, 9.0])
    assert ordinal_order(found, true).tolist() == [False, True, True]
    assert select_pairs_with(np.array([True, False, False])).tolist() == [True, True, False]
