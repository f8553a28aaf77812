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

"""COCO's keypoint scores against pycocotools."""

from __future__ import annotations

import contextlib
import dataclasses
import io

import numpy as np
import pytest

from multihmr2_ros.metrics.keypoints import ImageKeypoints, compute_coco_scores, object_keypoint_similarity

coco = pytest.importorskip("pycocotools.coco", reason="install the test extra: pycocotools is the peer of this test")
cocoeval = pytest.importorskip("pycocotools.cocoeval")


def make_random_image(generator: np.random.Generator, people: int, extra: int) -> ImageKeypoints:
    """Return people of all sizes, some crowds, some without keypoints, and inexact and false detections."""
    side = generator.uniform(10, 250, (people, 1))
    origin = generator.uniform(0, 400, (people, 2))
    points = origin[:, None] + generator.random((people, 17, 2)) * side[:, None]
    visible = generator.integers(0, 3, (people, 17)) * (generator.random((people, 1)) < 0.85)
    found = generator.random(people) < 0.85
    error = generator.normal(0, 0.06, (int(found.sum()), 17, 2)) * side[found, None]
    invented = generator.uniform(0, 400, (extra, 1, 2)) + generator.random((extra, 17, 2)) * 80
    predicted = np.concatenate([points[found] + error, invented])
    return ImageKeypoints(
        predicted=predicted,
        score=generator.permutation(len(predicted)) / 100 + generator.random() / 1000,
        true=np.concatenate([points, visible[..., None]], axis=2),
        area=(side[:, 0] ** 2) * 0.6,
        box=np.hstack([origin, np.broadcast_to(side, (people, 2))]),
        crowd=generator.random(people) < 0.1,
    )


def compute_by_pycocotools(images: list[ImageKeypoints]) -> np.ndarray:
    truth, found = [], []
    for number, image in enumerate(images, start=1):
        for row in range(len(image.true)):
            truth.append({
                "id": len(truth) + 1, "image_id": number, "category_id": 1, "iscrowd": int(image.crowd[row]),
                "area": float(image.area[row]), "bbox": image.box[row].tolist(),
                "keypoints": image.true[row].flatten().tolist(),
                "num_keypoints": int((image.true[row, :, 2] > 0).sum()),
            })  # fmt: skip
        for points, score in zip(image.predicted, image.score, strict=True):
            flat = np.hstack([points, np.ones((17, 1))]).flatten().tolist()
            found.append({"image_id": number, "category_id": 1, "keypoints": flat, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        api = coco.COCO()
        api.dataset = {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": truth,
            "categories": [{"id": 1, "name": "person"}],
        }
        api.createIndex()
        evaluation = cocoeval.COCOeval(api, api.loadRes(found), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(10))
def test_scores_equal_pycocotools(seed: int) -> None:
    generator = np.random.default_rng(seed)
    images = [
        make_random_image(generator, int(generator.integers(0, 6)), int(generator.integers(1, 4))) for _ in range(15)
    ]
    assert list(compute_coco_scores(images).values()) == pytest.approx(compute_by_pycocotools(images), abs=1e-12)


def test_more_detections_than_count() -> None:
    generator = np.random.default_rng(3)
    images = [make_random_image(generator, 8, 30)]
    assert list(compute_coco_scores(images).values()) == pytest.approx(compute_by_pycocotools(images), abs=1e-12)


def one(offset: float, *, detections: int = 1, people: int = 1) -> ImageKeypoints:
    points = np.random.default_rng(0).uniform(0, 100, (17, 2))
    return ImageKeypoints(
        predicted=np.tile(points + offset, (detections, 1, 1)),
        score=np.linspace(0.9, 0.8, detections),
        true=np.tile(np.hstack([points, np.full((17, 1), 2.0)]), (people, 1, 1)),
        area=np.full(people, 9000.0),
        box=np.tile([0.0, 0, 100, 100], (people, 1)),
        crowd=np.zeros(people, bool),
    )


@pytest.mark.parametrize(
    ("images", "precision", "recall"),
    [
        ([one(0)], 1.0, 1.0),
        ([one(1e4)], 0.0, 0.0),
        ([one(0, detections=0)], 0.0, 0.0),  # all missed
        ([one(0, detections=2)], 1.0, 1.0),  # the duplicate has the lower score
        ([one(0), one(0, detections=0)], 51 / 101, 0.5),
        ([one(0, people=0)], -1.0, -1.0),  # no people in the image
        ([], -1.0, -1.0),
    ],
)
def test_hand_made(images: list[ImageKeypoints], precision: float, recall: float) -> None:
    scores = compute_coco_scores(images)
    assert (scores["AP"], scores["AR"]) == (pytest.approx(precision), pytest.approx(recall))


def test_similarity_of_a_known_offset() -> None:
    """Every keypoint off by d: the mean of exp(−d² / (2 · area · (2σ)²))."""
    image = one(0)
    moved = dataclasses.replace(image, predicted=image.predicted + np.array([3.0, 4.0]))
    sigma = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    expected = np.exp(-25 / (2 * 9000.0 * (2 * sigma) ** 2)).mean()
    assert object_keypoint_similarity(moved)[0, 0] == pytest.approx(expected)


def test_keypoints_behind_the_camera() -> None:
    """A detection with NaN counts as one with that keypoint far away: a false positive if it matches no one."""
    generator = np.random.default_rng(3)
    images = [make_random_image(generator, 4, 2) for _ in range(20)]
    missing = [generator.random(image.predicted.shape[:2]) < 0.02 for image in images]

    def score(value: float) -> list[float]:
        changed = [
            dataclasses.replace(image, predicted=np.where(rows[..., None], value, image.predicted))
            for rows, image in zip(missing, images, strict=True)
        ]
        scores = compute_coco_scores(changed)
        return [scores[key] for key in ("AP", "AP50", "AR")]

    assert score(np.nan) == pytest.approx(score(3e4))  # px; the box has an area below 1e10 px²
