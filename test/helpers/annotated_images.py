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

"""Annotations of people in images, in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

# Boxes (x0, y0, x1, y1) px.
MAN, WOMAN, CHILD = (10, 10, 50, 110), (100, 20, 140, 140), (150, 100, 160, 130)
NOBODY = np.zeros((0, 4))


def make_keypoints(box: np.ndarray) -> np.ndarray:
    """Return keypoints (n, 17, 2) px, spread over the boxes (n, 4)."""
    share = np.random.default_rng(0).uniform(0.1, 0.9, (17, 2))
    return box[:, None, :2] + share * (box[:, None, 2:] - box[:, None, :2])


def make_annotation(box: Any, image_id: int = 1, **changes: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    keypoints = np.hstack([make_keypoints(np.array([box], float))[0], np.full((17, 1), 2.0)])
    return {
        "image_id": image_id, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
        "keypoints": keypoints.ravel().tolist(), **changes,
    }  # fmt: skip


def write_labels(path: Path, names: list[str], people: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [{"id": 1}]}))
    return path
