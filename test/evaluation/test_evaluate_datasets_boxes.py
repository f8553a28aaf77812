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

"""Data sets with tracked boxes: MOT17 and PoseTrack21."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.people import People
from test.helpers.dataset_factory import WIDTH, Estimator
from test.helpers.dataset_files import REGION, make_flat_people, write_mot17, write_posetrack


def test_mot17(tmp_path: Path) -> None:
    """Two pedestrians and a static person, who counts neither as a miss nor, if detected, as a false positive."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120], [300, 100, 50, 120], [500, 100, 50, 120]]
    sequence = write_mot17(tmp_path, boxes)

    def found(index: int) -> People:
        ids = [7, 8, 9] if index < 5 else [8, 7, 9]
        return make_flat_people(boxes, ids) if index else make_flat_people(boxes[1:], ids[1:])

    (result,) = evaluate_dataset(DatasetJob("mot17", tmp_path, tmp_path), Estimator(found))
    identity = result.totals.identity
    assert identity is not None
    assert (identity.truth, identity.predicted, identity.misses, identity.false_positives) == (20, 19, 1, 0)
    assert identity.switches == 2
    assert result.totals.compute_metrics()["MOTA"][0] == pytest.approx(100 * (1 - 3 / 20))
    assert result.totals.compute_metrics()["IDF1"][0] == pytest.approx(100 * 2 * 10 / 39)

    damaged = shutil.copytree(sequence, tmp_path / "train" / "MOT17-98-FRCNN")
    for file, text in (
        ("seqinfo.ini", "frameRate=10\n"),
        ("seqinfo.ini", "[Sequence]\nframeRate=0\n"),
        ("gt/gt.txt", "a"),
    ):
        before = (damaged / file).read_text()
        (damaged / file).write_text(text)
        first, second = evaluate_dataset(DatasetJob("mot17", tmp_path, tmp_path), Estimator(found))
        assert "MOT17-98-FRCNN/gt/gt.txt" in first.problems[0]
        why = (
            "expected the 9 columns of MOT17"
            if file == "gt/gt.txt"
            else "does not have the documented format of its dataset"
        )
        assert why in first.problems[0]
        assert (second.name, second.problems, second.totals.frames) == ("MOT17-99-FRCNN", (), 10)
        (damaged / file).write_text(before)


def test_a_folder_of_links_to_sequences(tmp_path: Path) -> None:
    """Also with a link back to the folder itself."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120]]
    sequence, links = write_mot17(tmp_path / "whole", boxes), tmp_path / "links"
    links.mkdir()
    (links / "MOT17-02-FRCNN").symlink_to(sequence)
    (links / "back").symlink_to(links)
    found = Estimator(lambda index: make_flat_people(boxes, [1]))
    (result,) = evaluate_dataset(DatasetJob("mot17", links, tmp_path), found)
    assert (result.name, result.problems, result.totals.with_truth) == ("MOT17-02-FRCNN", (), 10)


def test_mot17_people_at_the_border_of_the_image(tmp_path: Path) -> None:
    """Their true boxes continue beyond the image: here, a third of each is inside."""
    boxes: list[list[float]] = [[-80.0, 100, 120, 240], [WIDTH - 40.0, 100, 120, 240]]
    write_mot17(tmp_path, boxes)
    (result,) = evaluate_dataset(
        DatasetJob("mot17", tmp_path, tmp_path), Estimator(lambda index: make_flat_people(boxes, [1, 2]))
    )
    assert result.totals.compute_metrics()["MOTA"][0] == pytest.approx(100)


def test_mot17_without_tracking(tmp_path: Path) -> None:
    """People without an identity are not the same in two frames; with --no-track, identities are not scored."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120], [300, 100, 50, 120]]
    write_mot17(tmp_path, boxes)
    job = DatasetJob("mot17", tmp_path, tmp_path)
    untracked = Estimator(lambda index: make_flat_people(boxes if index else boxes[:1], [-1, -1] if index else [-1]))
    (result,) = evaluate_dataset(job, untracked)
    identity = result.totals.identity
    assert identity is not None
    assert (identity.switches, identity.id_true_positives) == (17, 2)
    untracked = Estimator(lambda index: make_flat_people(boxes if index else boxes[:1], [-1, -1] if index else [-1]))
    job = dataclasses.replace(job, scoring=dataclasses.replace(job.scoring, identities=False))
    (result,) = evaluate_dataset(job, untracked)
    values = result.totals.compute_metrics()
    assert (values["recall"][0], values["precision"][0]) == (pytest.approx(95), 100)
    assert not {"IDF1", "MOTA", "HOTA", "id switches"} & values.keys()


@pytest.mark.parametrize("regions", [([REGION[0]], [REGION[1]]), REGION])  # one polygon is also stored without a list
def test_posetrack21(tmp_path: Path, regions: Any) -> None:
    """An ignored region, and a frame without ground truth, which is processed but not scored."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120], [300, 100, 50, 120]]
    write_posetrack(tmp_path, boxes, regions)
    everyone = [*boxes, [520.0, 100, 50, 120], [200, 300, 40, 100]]  # in the region, and NaN

    (result,) = evaluate_dataset(
        DatasetJob("posetrack21", tmp_path, tmp_path), Estimator(lambda index: make_flat_people(everyone, [1, 2, 3, 4]))
    )
    assert (result.totals.frames, result.totals.with_truth) == (4, 3)
    assert result.totals.identity is not None
    assert (result.totals.identity.misses, result.totals.identity.false_positives) == (0, 3)
    assert result.totals.compute_metrics()["MOTA"][0] == pytest.approx(50)


@pytest.mark.parametrize("regions", [([[0, 9, float("nan")]], [[0, 9, 9]]), ([[0, 9, 9]], [[0, 9]]), ([[0, 9, 9]], [])])
def test_damaged_regions_of_posetrack21_are_a_problem(tmp_path: Path, regions: Any) -> None:
    write_posetrack(tmp_path, [[100.0, 100, 50, 120]], regions)
    (result,) = evaluate_dataset(
        DatasetJob("posetrack21", tmp_path, tmp_path), Estimator(lambda index: make_flat_people([], []))
    )
    assert "does not have the documented format" in result.problems[0]
