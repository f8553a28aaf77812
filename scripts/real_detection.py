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

"""Detection and keypoint metrics on annotated images, for `real_pictures.py`.

A person counts as detected if the detected and the annotated box have an IoU of at least 0.4. People below a minimum
height, uncertain annotations and crowds are ignored: they count neither as true positives nor as misses, and detections
that match them, or are mostly inside their boxes, are not false positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.body import AREA_OF_BOX
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import boxes_to_corners, parse_file, read_json
from multihmr2_ros.metrics.boxes import box_area, box_intersection, box_iou
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.keypoints import ImageKeypoints, object_keypoint_similarity
from multihmr2_ros.metrics.matching import assign
from multihmr2_ros.training.readers.common import compute_hash_share

MIN_IOU = 0.4
IGNORED_SHARE = 0.5  # of a detection's box, inside an ignored box
MAX_DISAGREEMENT = 0.05  # between the teachers of keypoints, relative to the box


@dataclass(frozen=True)
class Found:
    """The n detections in an image.

    score      (n,)
    box        (n, 4) px, inside the image
    keypoints  (n, 17, 2) px, in COCO's order
    """

    score: NDArray[np.float64]
    box: NDArray[np.float64]
    keypoints: NDArray[np.float64]

    def above(self, threshold: float) -> Found:
        rows = self.score > threshold
        return Found(self.score[rows], self.box[rows], self.keypoints[rows])


class Finder(Protocol):
    def find(self, image: NDArray[np.uint8]) -> Found:
        """Return all detections in an image (H, W, 3) RGB, including those of low score."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An annotated image of t people.

    box        (t, 4) px
    ignored    (t,) bool
    keypoints  (t, 17, 3) px and COCO's visibility; all 0 if unknown
    area       (t,) px² of the silhouettes
    """

    path: Path
    box: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    keypoints: NDArray[np.float64]
    area: NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Counts of people at one score threshold, and the OKS of detected people with annotated keypoints.

    Scores of several images can be added.
    """

    counts: DetectionCounts = field(default_factory=DetectionCounts)
    similarity: tuple[float, ...] = ()

    def __add__(self, other: Score) -> Score:
        return Score(self.counts + other.counts, self.similarity + other.similarity)

    @property
    def people(self) -> int:
        return self.counts.true_positives + self.counts.false_negatives

    @property
    def mean_similarity(self) -> float:
        """Mean OKS; NaN if no person with keypoints was detected."""
        return float(np.mean(self.similarity)) if self.similarity else float("nan")


def score_image(found: Found, annotated: AnnotatedImage) -> Score:
    """Match detections to annotated people and count.

    People who are not ignored are matched first: as many as possible, with the best overlap.
    """
    required = np.flatnonzero(~annotated.ignored)
    overlap = box_iou(found.box, annotated.box[required])
    pairs = assign(-overlap, overlap >= MIN_IOU)
    rows, columns = pairs[:, 0], required[pairs[:, 1]]
    unmatched = np.setdiff1d(np.arange(len(found.box)), rows)
    false_positives = int((~_on_ignored(found.box[unmatched], annotated.box[annotated.ignored])).sum())
    counts = DetectionCounts(len(rows), false_positives, len(required) - len(rows))
    return Score(counts, _similarity(found.keypoints[rows], annotated, columns))


def _on_ignored(box: NDArray[np.float64], ignored: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n,) bool: whether each box (n, 4) matches an ignored box, or is mostly inside one."""
    inside = box_intersection(box, ignored) > IGNORED_SHARE * box_area(box)[:, None]
    return np.asarray((inside | (box_iou(box, ignored) >= MIN_IOU)).any(axis=1))


def _similarity(
    keypoints: NDArray[np.float64], annotated: AnnotatedImage, rows: NDArray[np.int64]
) -> tuple[float, ...]:
    """Return the OKS of keypoints (m, 17, 2) with the annotated ones of rows (m,), if these are known."""
    true = annotated.keypoints[rows]
    image = ImageKeypoints(
        keypoints, np.zeros(len(rows)), true, annotated.area[rows], annotated.box[rows], np.zeros(len(rows), bool)
    )
    known = (true[..., 2] > 0).any(axis=1)
    return tuple(np.diagonal(object_keypoint_similarity(image))[known].tolist())


def read_annotated_images(
    labels: Path,
    images: Path,
    *,
    least_height_px: float,
    hash_below: float = 1.0,
    agreed: bool = False,
    silhouettes: bool = True,
) -> list[AnnotatedImage]:
    """Read the annotated images of a file in COCO's keypoint format.

    labels           the file
    images           folder of the images
    least_height_px  people of a smaller height are ignored
    hash_below       only images are read whose hash of the name is below this
    agreed           only keypoints are used on which two teachers agree (`agreement`)
    silhouettes      whether `area`, if present, is the area of the silhouette, as in COCO, not of the box, which would
                     make OKS too high
    """
    document = read_json(labels)

    def read() -> list[AnnotatedImage]:
        people: dict[Any, list[Any]] = {image["id"]: [] for image in document["images"]}
        for person in document["annotations"]:
            people[person["image_id"]].append(person)
        return [
            _image(images / image["file_name"], people[image["id"]], least_height_px, agreed, silhouettes)
            for image in document["images"]
            if compute_hash_share(image["file_name"]) < hash_below
        ]

    annotated_images = parse_file(labels, read)
    if not annotated_images:
        raise UserError(f"expected images to evaluate in {labels}, found none; check the folder")
    return annotated_images


def _image(
    path: Path, people: Sequence[Any], least_height_px: float, agreed: bool, silhouettes: bool
) -> AnnotatedImage:
    box = boxes_to_corners([person["bbox"] for person in people])
    keypoints = np.array([person["keypoints"] for person in people], np.float64).reshape(-1, 17, 3)
    if agreed:
        agreement = [person.get("agreement") for person in people]
        keypoints[[value is None or not value < MAX_DISAGREEMENT for value in agreement]] = 0
    ignored = np.array([bool(person["iscrowd"]) for person in people], bool)
    ignored |= box[:, 3] - box[:, 1] < least_height_px
    silhouette = AREA_OF_BOX * box_area(box)
    if silhouettes:
        known = [person.get("area") or 0.0 for person in people]
        silhouette = np.where(np.array(known, np.float64) > 0, known, silhouette)
    return AnnotatedImage(path, box, ignored, keypoints, silhouette)
