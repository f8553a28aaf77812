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

"""MSCOCO keypoints: the 17 keypoints of the predicted mesh, projected by the predicted camera and scored by COCO's AP.

An annotation file may list only some of the images: annotations of other images are ignored. An image's width and
height may be missing (the image is then read with its EXIF orientation applied), and so may iscrowd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import list_files, parse_file, read_json

PERSON = 1


@dataclass(frozen=True)
class CocoImage:
    """An image with its labels.

    size   (width, height) px of the labeled image; None if the file does not contain it
    truth  true keypoints (t, 17, 3) px and visibility, area (t,) px², box (t, 4) as x, y, width, height, crowd (t,)
    """

    path: Path
    size: tuple[int, int] | None
    truth: dict[str, NDArray[Any]]


def list_coco_images(folder: Path, split: str = "val2017") -> Iterator[CocoImage]:
    """Yield every image of annotations/person_keypoints_SPLIT.json. Images are in SPLIT/ or images/SPLIT/."""
    (path,) = list_files(folder, f"annotations/person_keypoints_{split}.json", "annotations")
    document = read_json(path)
    images = parse_file(path, lambda: _group_by_image(document))
    folders = [path for path in (folder / split, folder / "images" / split) if path.is_dir()]
    if not folders:
        raise UserError(
            f"expected images of {split} in {folder}, in the folder {split} or images/{split}, found none; unpack them"
        )
    for name, size, truth in images:
        yield CocoImage(folders[0] / name, size, truth)


def _group_by_image(document: Any) -> list[tuple[Path, tuple[int, int] | None, dict[str, NDArray[Any]]]]:
    people: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
    for each in document["annotations"]:
        if each["category_id"] == PERSON and each["image_id"] in people:
            people[each["image_id"]].append(each)
    return [
        (Path(image["file_name"]), read_labeled_size(image), _make_truth(people[image["id"]]))
        for image in document["images"]
    ]


def read_labeled_size(image: Any) -> tuple[int, int] | None:
    """Read width and height (px) from an entry of COCO's `images`; None if they are missing."""
    if "width" not in image or "height" not in image:
        return None
    return int(image["width"]), int(image["height"])


def _make_truth(people: list[Any]) -> dict[str, NDArray[Any]]:
    return {
        "true": np.array([each["keypoints"] for each in people], np.float64).reshape(len(people), 17, 3),
        "area": np.array([each["area"] for each in people], np.float64),
        "box": np.array([each["bbox"] for each in people], np.float64).reshape(len(people), 4),
        "crowd": np.array([bool(each.get("iscrowd")) for each in people], bool),
    }
