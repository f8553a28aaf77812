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

"""`scripts/real_detection.py`: which people of real images count, and which are found."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.training.readers.common import compute_hash_share
from test import paths
from test.helpers.annotated_images import CHILD, MAN, NOBODY, WOMAN, make_annotation, make_keypoints, write_labels


@pytest.fixture
def detection(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(paths.ROOT / "scripts"))
    import real_detection

    return real_detection


def score_boxes(detection: ModuleType, found: Any, people: Any, ignored: Any = NOBODY) -> Any:
    """Return the score of detected boxes for people who are counted and others who are ignored."""
    found, people, ignored = (np.array(boxes, float).reshape(-1, 4) for boxes in (found, people, ignored))
    box = np.vstack([people, ignored])
    keypoints = np.dstack([make_keypoints(box), np.full((len(box), 17), 2.0)])
    is_ignored = np.arange(len(box)) >= len(people)
    area = 0.53 * (box[:, 2:] - box[:, :2]).prod(axis=1)
    annotated = detection.AnnotatedImage(Path("image.jpg"), box, is_ignored, keypoints, area)
    return detection.score_image(detection.Found(np.full(len(found), 0.9), found, make_keypoints(found)), annotated)


def get_counts(result: Any) -> tuple[int, int, int]:
    """Return the numbers of detections, false alarms and misses."""
    return result.counts.true_positives, result.counts.false_positives, result.counts.false_negatives


def test_perfect_predictions_score_one(detection: ModuleType) -> None:
    result = score_boxes(detection, [CHILD, WOMAN, MAN], [MAN, WOMAN], [CHILD])
    assert get_counts(result) == (2, 0, 0)
    assert result.counts.recall == result.counts.precision == result.mean_similarity == 1.0


def test_images_without_detections_or_without_people(detection: ModuleType) -> None:
    assert get_counts(score_boxes(detection, NOBODY, [MAN])) == (0, 0, 1)
    assert get_counts(score_boxes(detection, [MAN], NOBODY)) == (0, 1, 0)
    assert get_counts(score_boxes(detection, NOBODY, NOBODY)) == (0, 0, 0)
    assert np.isnan(score_boxes(detection, NOBODY, [MAN]).mean_similarity)


@pytest.mark.parametrize(("height", "expected"), [(40, (1, 0, 0)), (39, (0, 1, 1))])
def test_a_detection_matches_from_an_overlap_of_two_fifths(
    detection: ModuleType, height: int, expected: tuple[int, int, int]
) -> None:
    assert get_counts(score_boxes(detection, [(0, 0, 50, height)], [(0, 0, 50, 100)])) == expected


def test_the_second_detection_of_a_person_is_a_false_alarm(detection: ModuleType) -> None:
    assert get_counts(score_boxes(detection, [MAN, MAN], [MAN])) == (1, 1, 0)


def test_ignored_people_do_not_change_the_score(detection: ModuleType) -> None:
    assert get_counts(score_boxes(detection, [CHILD], NOBODY, [CHILD])) == (0, 0, 0)
    assert get_counts(score_boxes(detection, NOBODY, NOBODY, [CHILD])) == (0, 0, 0)
    larger = (150, 100, 160, 170)  # an IoU of 0.43, but less than half of it is inside
    assert get_counts(score_boxes(detection, [larger], NOBODY, [CHILD])) == (0, 0, 0)


def test_detections_mostly_inside_a_crowd_are_not_false_alarms(detection: ModuleType) -> None:
    crowd = (0, 0, 200, 100)
    inside, mostly, hardly = (10, 10, 30, 60), (50, 60, 70, 130), (90, 60, 110, 150)
    assert get_counts(score_boxes(detection, [inside, inside, mostly], NOBODY, [crowd])) == (0, 0, 0)
    assert get_counts(score_boxes(detection, [inside, hardly], NOBODY, [crowd])) == (0, 1, 0)
    assert get_counts(score_boxes(detection, [MAN], [MAN], [crowd])) == (1, 0, 0)


def test_people_who_count_are_matched_before_ignored_people(detection: ModuleType) -> None:
    beside = (12, 10, 52, 110)
    assert get_counts(score_boxes(detection, [beside], [MAN], [beside])) == (1, 0, 0)


def test_overlapping_boxes_are_assigned_to_the_most_people(detection: ModuleType) -> None:
    """By largest overlap alone, the first detection would match the first person and the second would match none."""
    people = [(0, 0, 100, 100), (40, 0, 140, 100)]
    assert get_counts(score_boxes(detection, [(20, 0, 110, 100), (0, 0, 60, 100)], people)) == (2, 0, 0)


def test_only_scores_above_the_threshold_count(detection: ModuleType) -> None:
    box = np.array([MAN, WOMAN], float)
    found = detection.Found(np.array([0.9, 0.4]), box, make_keypoints(box))
    assert len(found.above(0.4).box) == 1
    assert len(found.above(0.39).box) == 2


def test_small_and_crowd_annotations_are_ignored(detection: ModuleType, tmp_path: Path) -> None:
    people = [
        make_annotation((0, 0, 20, 60)),
        make_annotation((0, 0, 20, 59.9)),
        make_annotation((0, 0, 20, 80), iscrowd=1),
    ]
    labels = write_labels(tmp_path / "labels.json", ["a.jpg"], people)
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60)
    assert annotated.ignored.tolist() == [False, True, True]
    assert annotated.path == tmp_path / "a.jpg"


def test_the_area_is_the_annotations_or_a_share_of_the_box(detection: ModuleType, tmp_path: Path) -> None:
    people = [make_annotation((0, 0, 20, 60), area=500), make_annotation((0, 0, 20, 60))]
    labels = write_labels(tmp_path / "labels.json", ["a.jpg"], people)
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60)
    assert annotated.area == pytest.approx([500, 0.53 * 1200])
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60, silhouettes=False)
    assert annotated.area == pytest.approx([0.53 * 1200] * 2)


def test_keypoints_count_where_teachers_agree(detection: ModuleType, tmp_path: Path) -> None:
    people = [make_annotation(MAN, agreement=0.049), make_annotation(WOMAN, agreement=0.05), make_annotation(WOMAN)]
    labels = write_labels(tmp_path / "labels.json", ["a.jpg"], people)
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60, agreed=True)
    assert (annotated.keypoints[..., 2] > 0).any(axis=1).tolist() == [True, False, False]
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60)
    assert (annotated.keypoints[..., 2] > 0).all()


def test_a_tenth_is_held_out_by_file_name(detection: ModuleType, tmp_path: Path) -> None:
    names = [f"some/folder/{number:04d}.jpg" for number in range(300)]
    labels = write_labels(tmp_path / "labels.json", names, [])
    held_out = {annotated.path.name for annotated in detection.read_annotated_images(
        labels, tmp_path, least_height_px=40, hash_below=0.1
    )}  # fmt: skip
    assert held_out == {Path(name).name for name in names if compute_hash_share(Path(name).name) < 0.1}
    assert 15 < len(held_out) < 50
    assert compute_hash_share("a.jpg") == compute_hash_share("images/a.jpg") == pytest.approx(0.31487, abs=1e-5)
