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

"""COCO person keypoints (https://cocodataset.org, "Keypoint Detection"; `person_keypoints_*.json`)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import read_image
from multihmr2_ros.training.readers.common import (
    MAX_COORDINATE_PX,
    center_from_keypoints,
    check_folder,
    make_image_path,
)
from multihmr2_ros.training.samples import Sample, make_blank_people

logger = logging.getLogger(__name__)

NO_KEYPOINTS = [0] * 51


class CocoReader:
    """The images with annotated people. 2D keypoints and scores are supervised; bodies, positions and cameras are not.

    The file is COCO's: `images` (id, file_name) and `annotations` (image_id, iscrowd, bbox x y width height, keypoints
    17 × x y v with v = 0 if not labeled). Crowds, people without keypoints, and people whose keypoints do not determine
    the head's position are ignored: neither positive nor negative. Annotations of unlisted images are skipped, and
    counted in one warning. The EXIF orientation of images is applied unless `width` and `height` contradict it.
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        check_folder(images)
        try:
            content = json.loads(annotations.read_text(encoding="utf-8"))
            entries = {entry["id"]: entry for entry in content["images"]}
            people: dict[int, list[tuple[NDArray[np.float32], NDArray[np.float32], bool]]] = {}
            unlisted = 0
            for annotation in content["annotations"]:
                if annotation["image_id"] not in entries:
                    unlisted += 1
                elif len(annotation.get("keypoints") or NO_KEYPOINTS) == 51:
                    people.setdefault(annotation["image_id"], []).append(_read_person(annotation))
            self._images = [
                (make_image_path(images, entries[key]["file_name"]), _read_labeled_size(entries[key]), people[key])
                for key in sorted(people)
            ]
        except OSError as error:
            raise UserError(f"cannot read {annotations}: {error.strerror}; check the path") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{annotations} is not a COCO keypoint file ({type(error).__name__}: {error}); give "
                "person_keypoints_*.json"
            ) from None
        if unlisted:
            logger.warning("%s: skipped %d annotations of images that the file does not list", annotations, unlisted)

    def __len__(self) -> int:
        return len(self._images)

    def get_name(self, index: int) -> str:
        """Return the file name of image number `index`, without folder."""
        return self._images[index][0].name

    def sample(self, index: int) -> Sample:
        """Return image number `index`, ordered by COCO's image ids."""
        path, size, people = self._images[index]
        arrays = make_blank_people(len(people))
        for row, (box, keypoints, is_crowd) in enumerate(people):
            arrays["box"][row] = box
            arrays["keypoints"][row] = keypoints[:, :2]
            arrays["keypoint_visible"][row] = keypoints[:, 2] > 0
            arrays["ignore"][row] = is_crowd
        arrays["keypoint_visible"] &= ~arrays["ignore"][:, None]
        arrays["location"], known = center_from_keypoints(arrays["keypoints"], arrays["keypoint_visible"])
        arrays["ignore"] |= ~known
        arrays["visible_fraction"][:] = 1.0
        return Sample(read_image(path, size), None, True, path.name, **arrays)


def _read_person(annotation: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """Return the box (4,) px x0 y0 x1 y1, the keypoints (17, 3) px and v, and whether it is a crowd."""
    try:
        x, y, width, height = _read_numbers(annotation["bbox"], 4)
        keypoints = _read_numbers(annotation.get("keypoints") or NO_KEYPOINTS, 51).reshape(17, 3)
    except (ValueError, TypeError) as error:
        raise ValueError(f"annotation {annotation.get('id')!r:.80}: {error}") from None
    return np.array([x, y, x + width, y + height], np.float32), keypoints, bool(annotation.get("iscrowd"))


def _read_numbers(values: Any, count: int) -> NDArray[np.float32]:
    numbers = np.array(values, np.float64)
    if numbers.shape != (count,) or not (np.abs(numbers) <= MAX_COORDINATE_PX).all():
        raise ValueError(f"expected {count} finite numbers of at most {MAX_COORDINATE_PX:.0e}")
    return numbers.astype(np.float32)


def _read_labeled_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Return width and height (px) of the annotated image; None if the file lacks them."""
    return (int(entry["width"]), int(entry["height"])) if {"width", "height"} <= entry.keys() else None
