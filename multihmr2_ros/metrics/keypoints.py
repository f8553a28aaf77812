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

"""COCO's average precision and recall of keypoints, as computed by COCO's own evaluation (cocodataset.org)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.body import COCO_SIGMAS
from multihmr2_ros.metrics.boxes import box_area, points_to_boxes

SIGMAS = np.array(COCO_SIGMAS)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 20
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


@dataclass(frozen=True)
class ImageKeypoints:
    """The keypoints of one image.

    predicted  (n, 17, 2) px; NaN (behind the camera) is an infinite error
    score      (n,)
    true       (t, 17, 3) with COCO's visibility 0, 1, 2
    area       (t,) px²
    box        (t, 4) as (x, y, width, height)
    crowd      (t,) bool
    """

    predicted: NDArray[np.float64]
    score: NDArray[np.float64]
    true: NDArray[np.float64]
    area: NDArray[np.float64]
    box: NDArray[np.float64]
    crowd: NDArray[np.bool_]


def compute_coco_scores(images: Sequence[ImageKeypoints]) -> dict[str, float]:
    """Return AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]; −1 without people of that size."""
    tables = {name: _compute_precision_recall(images, limits) for name, limits in AREAS.items()}
    precision, recall = tables["all"]
    return {
        "AP": _compute_mean(precision), "AP50": _compute_mean(precision[0]), "AP75": _compute_mean(precision[5]),
        "APM": _compute_mean(tables["medium"][0]), "APL": _compute_mean(tables["large"][0]),
        "AR": _compute_mean(recall), "AR50": _compute_mean(recall[0]), "AR75": _compute_mean(recall[5]),
        "ARM": _compute_mean(tables["medium"][1]), "ARL": _compute_mean(tables["large"][1]),
    }  # fmt: skip


def object_keypoint_similarity(image: ImageKeypoints) -> NDArray[np.float64]:
    """Return the OKS (n, t) in [0, 1]: mean over the labeled keypoints of exp(−d² / (2 · area · (2σ)²)).

    For a person without labeled keypoints, d is the distance to the box, enlarged to twice its size about its center.
    """
    variance = (2 * SIGMAS) ** 2
    similarity = np.zeros((len(image.predicted), len(image.true)))
    for column, (true, size, box) in enumerate(zip(image.true, image.area, image.box, strict=True)):
        labeled = true[:, 2] > 0
        if labeled.any():
            offset = image.predicted - true[:, :2]
        else:
            low, high = box[:2] - box[2:], box[:2] + 2 * box[2:]
            offset = np.maximum(0, low - image.predicted) + np.maximum(0, image.predicted - high)
            labeled = np.ones_like(labeled)
        exponent = (offset**2).sum(axis=-1) / variance / (size + np.spacing(1)) / 2
        exponent[np.isnan(exponent)] = np.inf
        similarity[:, column] = np.exp(-exponent[:, labeled]).mean(axis=1)
    return similarity


def _compute_precision_recall(
    images: Sequence[ImageKeypoints], limits: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (10 thresholds, 101 recall levels) and greatest recall (10,); all −1 without people."""
    results = [_match_image(image, limits) for image in images]
    people = sum(count for *_, count in results)
    if people == 0:
        return np.full((len(THRESHOLDS), len(RECALL_LEVELS)), -1.0), np.full(len(THRESHOLDS), -1.0)
    score = np.concatenate([scores for scores, *_ in results])
    order = np.argsort(-score, kind="mergesort")
    hit = np.concatenate([hits for _, hits, *_ in results], axis=1)[:, order]
    ignored = np.concatenate([ignores for _, _, ignores, _ in results], axis=1)[:, order]
    precision, recall = np.zeros((len(THRESHOLDS), len(RECALL_LEVELS))), np.zeros(len(THRESHOLDS))
    for row in range(len(THRESHOLDS)):
        true_positives = np.cumsum(hit[row] & ~ignored[row]).astype(float)
        false_positives = np.cumsum(~hit[row] & ~ignored[row]).astype(float)
        if len(true_positives) == 0:
            continue
        reached = true_positives / people
        ratio = true_positives / (true_positives + false_positives + np.spacing(1))
        ratio = np.maximum.accumulate(ratio[::-1])[::-1]  # the best precision at this or a higher recall
        index = np.searchsorted(reached, RECALL_LEVELS, side="left")
        precision[row, index < len(ratio)] = ratio[index[index < len(ratio)]]
        recall[row] = reached[-1]
    return precision, recall


def _match_image(
    image: ImageKeypoints, limits: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], int]:
    """Match the detections of an image with the highest scores to its people.

    Returns scores (n,), whether each detection hit a person (10, n), whether it is ignored (10, n), and the number of
    people that are scored.
    """
    best = np.argsort(-image.score, kind="mergesort")[:MAX_DETECTIONS]
    left_out = image.crowd | ~(image.true[..., 2] > 0).any(axis=1)
    left_out = left_out | (image.area < limits[0]) | (image.area > limits[1])
    people = np.argsort(left_out, kind="mergesort")  # scored people first
    similarity = object_keypoint_similarity(image)[best][:, people]
    left_out, crowd = left_out[people], image.crowd[people]
    size = box_area(points_to_boxes(image.predicted[best]))
    shape = (len(THRESHOLDS), len(best))
    hit, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(people), bool)
        for detection in range(len(best)):
            person = _find_best_person(similarity[detection], threshold, taken, left_out, crowd)
            if person is None:
                ignored[row, detection] = not limits[0] <= size[detection] <= limits[1]
            else:
                taken[person] = hit[row, detection] = True
                ignored[row, detection] = left_out[person]
    return image.score[best], hit, ignored, int((~left_out).sum())


def _find_best_person(
    similarity: NDArray[np.float64],
    threshold: float,
    taken: NDArray[np.bool_],
    left_out: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
) -> int | None:
    """Return the most similar free person that is scored, else the most similar one that is not.

    similarity  (t,) of one detection to each person
    threshold   minimum similarity of a match
    taken       (t,) people that are already matched
    left_out    (t,) people that are not scored
    crowd       (t,) people that can be matched repeatedly
    """
    min_similarity, best = min(threshold, 1 - 1e-10), None
    for person in range(len(similarity)):
        if taken[person] and not crowd[person]:
            continue
        if best is not None and not left_out[best] and left_out[person]:
            break
        if similarity[person] >= min_similarity:
            min_similarity, best = similarity[person], person
    return best


def _compute_mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values without −1, which marks missing people; −1 if no value is left."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
