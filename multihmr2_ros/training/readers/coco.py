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
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import read_image
from multihmr2_ros.training.readers.common import center_from_keypoints, check_folder
from multihmr2_ros.training.samples import Sample, make_blank_people


class CocoReader:
    """The images with annotated people. 2D keypoints and scores are supervised; bodies, positions and cameras are not.

    The file is COCO's: `images` (id, file_name) and `annotations` (image_id, iscrowd, bbox x y width height, keypoints
    17 × x y v with v = 0 if not labeled). Crowds, people without keypoints, and people whose keypoints do not determine
    the head's position are ignored: neither positive nor negative. Annotations of unlisted images are skipped. The EXIF
    orientation of images is applied unless `width` and `height` contradict it.
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        check_folder(images)
        try:
            content = json.loads(annotations.read_text(encoding="utf-8"))
            entries = {entry["id"]: entry for entry in content["images"]}
            people: dict[int, list[dict[str, Any]]] = {}
            for annotation in content["annotations"]:
                if annotation["image_id"] in entries and len(annotation.get("keypoints", [0] * 51)) == 51:
                    people.setdefault(annotation["image_id"], []).append(annotation)
            self._images = [
                (images / entries[key]["file_name"], _read_labeled_size(entries[key]), people[key])
                for key in sorted(people)
            ]
        except OSError as error:
            raise UserError(f"cannot read {annotations}: {error.strerror}; check the path") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{annotations} is not a COCO keypoint file ({type(error).__name__}: {error}); give "
                "person_keypoints_*.json"
            ) from None

    def __len__(self) -> int:
        return len(self._images)

    def get_name(self, index: int) -> str:
        """Return the file name of image number `index`, without folder."""
        return self._images[index][0].name

    def sample(self, index: int) -> Sample:
        """Return image number `index`, ordered by COCO's image ids."""
        path, size, annotations = self._images[index]
        arrays = make_blank_people(len(annotations))
        for row, annotation in enumerate(annotations):
            x, y, width, height = annotation["bbox"]
            arrays["box"][row] = x, y, x + width, y + height
            keypoints = np.array(annotation.get("keypoints", [0] * 51), np.float32).reshape(17, 3)
            arrays["keypoints"][row] = keypoints[:, :2]
            arrays["keypoint_visible"][row] = keypoints[:, 2] > 0
            arrays["ignore"][row] = bool(annotation.get("iscrowd"))
        arrays["keypoint_visible"] &= ~arrays["ignore"][:, None]
        arrays["location"], known = center_from_keypoints(arrays["keypoints"], arrays["keypoint_visible"])
        arrays["ignore"] |= ~known
        arrays["visible_fraction"][:] = 1.0
        return Sample(read_image(path, size), None, True, path.name, **arrays)


def _read_labeled_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Return width and height (px) of the annotated image; None if the file lacks them."""
    return (int(entry["width"]), int(entry["height"])) if {"width", "height"} <= entry.keys() else None
