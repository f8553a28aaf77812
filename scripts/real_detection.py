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

"""Who is found in annotated pictures, and how well their keypoints fit: the counting rules of `real_pictures.py`.

A person is found where the box that was found and the annotated one have an IoU of 0.4. People who are lower than a set
is asked for, unsure, or a crowd are ignored: to find them is no success, to miss them no mistake, and what is found on
them, or lies mostly inside their boxes, is no false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import boxes_to_corners, parse_file, read_json
from multihmr2_ros.metrics.boxes import area, box_iou, intersection
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.keypoints import ImageKeypoints, object_keypoint_similarity
from multihmr2_ros.metrics.matching import assign
from multihmr2_ros.training.readers.common import compute_hash_share

MIN_IOU = 0.4
IGNORED_SHARE = 0.5  # of what was found, inside an ignored box
AREA_OF_BOX = 0.53  # of a person's silhouette, where the annotation does not tell it
MAX_DISAGREEMENT = 0.05  # of the teachers of keypoints, in boxes


@dataclass(frozen=True)
class Found:
    """The n people found in a picture: score (n,), box (n, 4) px inside the picture, keypoints (n, 17, 2) px in COCO's
    order."""

    score: NDArray[np.float64]
    box: NDArray[np.float64]
    keypoints: NDArray[np.float64]

    def above(self, threshold: float) -> Found:
        rows = self.score > threshold
        return Found(self.score[rows], self.box[rows], self.keypoints[rows])


class Finder(Protocol):
    def find(self, image: NDArray[np.uint8]) -> Found:
        """Everybody in an RGB picture (H, W, 3), also those of low score."""


@dataclass(frozen=True)
class Picture:
    """An annotated picture: of its t people box (t, 4) px, whether they are ignored (t,), keypoints (t, 17, 3) px and
    COCO's visibility, all 0 where they are not known, and area (t,) px² of their silhouette."""

    path: Path
    box: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    keypoints: NDArray[np.float64]
    area: NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Counts of people at one score threshold, and the OKS of those who were found and have keypoints. Scores of
    several pictures are added."""

    counts: DetectionCounts = field(default_factory=DetectionCounts)
    similarity: tuple[float, ...] = ()

    def __add__(self, other: Score) -> Score:
        return Score(self.counts + other.counts, self.similarity + other.similarity)

    @property
    def people(self) -> int:
        return self.counts.true_positives + self.counts.false_negatives

    @property
    def mean_similarity(self) -> float:
        """NaN where nobody with keypoints was found."""
        return float(np.mean(self.similarity)) if self.similarity else float("nan")


def score_image(found: Found, picture: Picture) -> Score:
    """Those who count are matched first: as many as possible, and then by the best overlap."""
    required = np.flatnonzero(~picture.ignored)
    overlap = box_iou(found.box, picture.box[required])
    pairs = assign(-overlap, overlap >= MIN_IOU)
    rows, columns = pairs[:, 0], required[pairs[:, 1]]
    unmatched = np.setdiff1d(np.arange(len(found.box)), rows)
    false_positives = int((~_on_ignored(found.box[unmatched], picture.box[picture.ignored])).sum())
    counts = DetectionCounts(len(rows), false_positives, len(required) - len(rows))
    return Score(counts, _similarity(found.keypoints[rows], picture, columns))


def _on_ignored(box: NDArray[np.float64], ignored: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) which of the boxes (n, 4) show somebody who does not count, or lie mostly inside such a box."""
    inside = intersection(box, ignored) > IGNORED_SHARE * area(box)[:, None]
    return np.asarray((inside | (box_iou(box, ignored) >= MIN_IOU)).any(axis=1))


def _similarity(keypoints: NDArray[np.float64], picture: Picture, rows: NDArray[np.int64]) -> tuple[float, ...]:
    """OKS of keypoints (m, 17, 2) with those of the picture's people in rows (m,), where these are known."""
    true = picture.keypoints[rows]
    seen = np.where(np.isnan(keypoints), np.inf, keypoints)  # behind the camera: as wrong as can be
    image = ImageKeypoints(
        seen, np.zeros(len(rows)), true, picture.area[rows], picture.box[rows], np.zeros(len(rows), bool)
    )
    known = (true[..., 2] > 0).any(axis=1)
    return tuple(np.diagonal(object_keypoint_similarity(image))[known].tolist())


def read_pictures(
    labels: Path,
    images: Path,
    *,
    least_height_px: float,
    hash_below: float = 1.0,
    agreed: bool = False,
    silhouettes: bool = True,
) -> list[Picture]:
    """The pictures of a file in COCO's keypoint format, of which the hash of the name lies below hash_below. agreed:
    only keypoints count on which two teachers agree (`agreement`). silhouettes: whether `area`, where it is there, is
    that of the person's silhouette, as in COCO, and not the box's, which would make OKS too high."""
    document = read_json(labels)

    def read() -> list[Picture]:
        people: dict[Any, list[Any]] = {image["id"]: [] for image in document["images"]}
        for person in document["annotations"]:
            people[person["image_id"]].append(person)
        return [
            _image(images / image["file_name"], people[image["id"]], least_height_px, agreed, silhouettes)
            for image in document["images"]
            if compute_hash_share(image["file_name"]) < hash_below
        ]

    pictures = parse_file(labels, read)
    if not pictures:
        raise UserError(f"{labels} names no picture to measure with; check the folder")
    return pictures


def _image(path: Path, people: Sequence[Any], least_height_px: float, agreed: bool, silhouettes: bool) -> Picture:
    box = boxes_to_corners([person["bbox"] for person in people])
    keypoints = np.array([person["keypoints"] for person in people], np.float64).reshape(-1, 17, 3)
    if agreed:
        agreement = [person.get("agreement") for person in people]
        keypoints[[value is None or not value < MAX_DISAGREEMENT for value in agreement]] = 0
    ignored = np.array([bool(person["iscrowd"]) for person in people], bool)
    ignored |= box[:, 3] - box[:, 1] < least_height_px
    silhouette = AREA_OF_BOX * area(box)
    if silhouettes:
        known = [person.get("area") or 0.0 for person in people]
        silhouette = np.where(np.array(known, np.float64) > 0, known, silhouette)
    return Picture(path, box, ignored, keypoints, silhouette)
