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

"""Reads 2D annotations of people in COCO's keypoint format: boxes, keypoints, and optional 3D landmarks.

In addition to COCO's fields an annotation may have:

keypoint_score       17 numbers from 0 to 1, the confidence of each keypoint
landmarks_3d_mm      33 x 3 numbers, BlazePose's landmarks (`labeling.landmarks`)
landmark_visibility  33 numbers from 0 to 1
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.labeling.landmarks import LANDMARK_COUNT
from multihmr2_ros.labeling.observations import Observations

logger = logging.getLogger(__name__)

MAX_BYTES = 2**31
MAX_PIXELS = 1e6  # absolute value of a coordinate
OCCLUDED_WEIGHT = 0.5  # of an annotated, but occluded keypoint (v = 1)


@dataclass(frozen=True)
class Annotations:
    """P images and the n annotated people in them, ordered by image.

    image_names  paths relative to the folder of images
    sizes        (P, 2) px: width, height
    image_index  (n,) row of each person's image in `image_names`
    unsure       (n,) bool: a crowd, or neither a person nor background, such as a box outside the image
    people       the annotations
    """

    image_names: tuple[str, ...]
    sizes: NDArray[np.int64]
    image_index: NDArray[np.int64]
    unsure: NDArray[np.bool_]
    people: Observations

    def __len__(self) -> int:
        return len(self.image_index)


@dataclass(frozen=True)
class PersonAnnotation:
    """One annotated person: a row of `Annotations` and `Observations`, without the camera."""

    image_index: int
    unsure: bool
    box: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    weights: NDArray[np.float32]
    trusted: NDArray[np.bool_]
    landmarks: NDArray[np.float32] | None = None
    visibility: NDArray[np.float32] | None = None


def collect_annotations(
    names: list[str], sizes: list[tuple[int, int]], persons: list[PersonAnnotation], vertical_fov_rad: float
) -> Annotations:
    """Collect persons into arrays. Every image is assumed to have the given vertical field of view."""
    n = len(persons)
    cameras = np.array([intrinsics_from_fov(vertical_fov_rad, *size) for size in sizes]).reshape(-1, 3, 3)
    image_index = np.array([person.image_index for person in persons], np.int64)
    landmarks = np.full((n, LANDMARK_COUNT, 3), np.nan, np.float32)
    visibility = np.zeros((n, LANDMARK_COUNT), np.float32)
    for row, person in enumerate(persons):
        if person.landmarks is not None:
            landmarks[row] = person.landmarks
            visibility[row] = 1.0 if person.visibility is None else person.visibility
    people = Observations(
        keypoints=np.array([person.keypoints for person in persons], np.float32).reshape(n, 17, 2),
        weights=np.array([person.weights for person in persons], np.float32).reshape(n, 17),
        trusted=np.array([person.trusted for person in persons], np.bool_).reshape(n, 17),
        box=np.array([person.box for person in persons], np.float32).reshape(n, 4),
        k=cameras[image_index] if n else np.zeros((0, 3, 3)),
        landmarks=landmarks,
        visibility=visibility,
    )
    unsure = np.array([person.unsure for person in persons], np.bool_)
    return Annotations(tuple(names), np.array(sizes, np.int64).reshape(-1, 2), image_index, unsure, people)


def read_coco(path: Path, vertical_fov_rad: float) -> Annotations:
    """Read the people of a COCO keypoint file. Raises UserError if it cannot be read or has another format.

    Annotations of images that the file does not list are skipped, and counted in one warning.
    """
    content = _load(path)
    try:
        listed = {int(entry["id"]): entry for entry in content["images"]}
        person_ids = {int(entry["id"]) for entry in content.get("categories", []) if entry.get("name") == "person"}
        annotations = list(content["annotations"])
        rows = {key: row for row, key in enumerate(sorted(listed, key=lambda key: str(listed[key]["file_name"])))}
        names = [_read_name(listed[key]) for key in rows]
        sizes = [_read_size(listed[key]) for key in rows]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is not a COCO keypoint file ({type(error).__name__}: {error}); give person_keypoints_*.json, "
            "whose images have id, file_name, width and height"
        ) from None
    persons, unlisted = [], 0
    for number, entry in enumerate(annotations):
        try:
            if person_ids and int(entry["category_id"]) not in person_ids:
                continue
            row = rows.get(int(entry["image_id"]))
            if row is None:
                unlisted += 1
            else:
                persons.append(_read_person(entry, row, sizes[row]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path}: annotation {number} is invalid ({type(error).__name__}: {error}); expected image_id, "
                "bbox and 17 keypoints, as COCO has them"
            ) from None
    if unlisted:
        logger.warning("%s: skipped %d annotations of images that the file does not list", path, unlisted)
    persons.sort(key=lambda person: person.image_index)
    return collect_annotations(names, sizes, persons, vertical_fov_rad)


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path}: expected a COCO file of at most {MAX_BYTES // 2**30} GiB, got a larger file; split it"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give a COCO keypoint file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a COCO keypoint file ({error}); give person_keypoints_*.json") from None


def _read_name(entry: dict[str, Any]) -> str:
    name = entry["file_name"]
    if not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the file name {name!r:.80} must be a path inside the folder of images")
    return name


def _read_size(entry: dict[str, Any]) -> tuple[int, int]:
    width, height = int(entry["width"]), int(entry["height"])
    if not (0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS):
        raise ValueError(f"an image of {width} x {height} px")
    return width, height


def _read_person(entry: dict[str, Any], image_index: int, image_size: tuple[int, int]) -> PersonAnnotation:
    x, y, width, height = _read_numbers(entry["bbox"], 4)
    points = _read_numbers(entry.get("keypoints") or [0] * 51, 51).reshape(17, 3)
    box = np.array([x, y, x + width, y + height], np.float32)
    inside = np.clip(box, 0, [*image_size, *image_size])
    has_area = inside[2] > inside[0] and inside[3] > inside[1]  # after rounding to float32
    unsure = bool(entry.get("iscrowd", 0)) or not has_area
    trusted = points[:, 2] > 0
    weights = np.where(points[:, 2] == 1, OCCLUDED_WEIGHT, trusted)
    if "keypoint_score" in entry:
        weights = weights * np.clip(_read_numbers(entry["keypoint_score"], 17), 0.0, 1.0)
    landmarks = visibility = None
    if "landmarks_3d_mm" in entry:
        landmarks = _read_numbers(entry["landmarks_3d_mm"], LANDMARK_COUNT * 3).reshape(LANDMARK_COUNT, 3)
        if "landmark_visibility" in entry:
            visibility = np.clip(_read_numbers(entry["landmark_visibility"], LANDMARK_COUNT), 0.0, 1.0)
    keypoints = np.where(trusted[:, None], points[:, :2], 0.0).astype(np.float32)
    return PersonAnnotation(
        image_index, unsure, box, keypoints, weights.astype(np.float32), trusted, landmarks, visibility
    )


def _read_numbers(values: Any, count: int) -> NDArray[np.float32]:
    numbers = np.array(values, np.float64)
    if numbers.shape != (count,) or not (np.abs(numbers) <= MAX_PIXELS).all():
        raise ValueError(f"expected {count} finite numbers")
    return numbers.astype(np.float32)
