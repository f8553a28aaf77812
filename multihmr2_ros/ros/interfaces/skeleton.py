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

"""Computes the 18 points of hri_msgs/Skeleton2D from a posed body."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.people import People

POINT_COUNT = 18
NECK, RIGHT_SHOULDER, LEFT_SHOULDER = 1, 2, 5

# Point of Skeleton2D → bone whose head is used, within 3.5 cm of the COCO keypoint of the same name.
BONES = {
    RIGHT_SHOULDER: "upperarm01.R", 3: "lowerarm01.R", 4: "wrist.R",
    LEFT_SHOULDER: "upperarm01.L", 6: "lowerarm01.L", 7: "wrist.L",
    8: "upperleg01.R", 9: "lowerleg01.R", 10: "foot.R",
    11: "upperleg01.L", 12: "lowerleg01.L", 13: "foot.L",
}  # fmt: skip
HEAD = "head"

# Nose, left and right eye, left and right ear: their points of Skeleton2D, and for each mesh (number of vertices) the
# vertex nearest to the COCO keypoint (within 2 cm, at every age).
FACE = (0, 14, 15, 16, 17)
FACE_VERTICES = {615: (9, 369, 66, 587, 292), 19158: (201, 7774, 1082, 12131, 5532)}


def compute_skeletons_2d(people: People, bone_labels: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, 18, 3): x and y as fractions of the image's width and height, and the confidence, each in [0, 1].

    The confidence is the person's score; it is 0 for points outside the image and unknown points. The neck is the
    middle of the shoulders, as in OpenPose. bone_labels: of people.joints.
    """
    rows = _find_rows(tuple(bone_labels))
    points = np.full((len(people), POINT_COUNT, 2), np.nan)
    points[:, list(BONES)] = people.joints_2d[:, [rows[label] for label in BONES.values()]]
    points[:, NECK] = points[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].mean(axis=1)
    points[:, FACE] = _project_faces(people, rows[HEAD])
    points /= people.image_size[::-1]
    is_inside = np.all((points >= 0) & (points <= 1), axis=2)  # false for NaN
    confidence = np.where(is_inside, people.score[:, None], 0.0)
    return np.dstack([np.nan_to_num(points).clip(0.0, 1.0), confidence])


def _project_faces(people: People, head: int) -> NDArray[np.float64]:
    """Return the face points (n, 5, 2) px of the source image; NaN without a mesh or for an unknown mesh."""
    vertices = FACE_VERTICES.get(people.vertices.shape[1])
    if vertices is None:
        return np.full((len(people), len(FACE), 2), np.nan)
    # joints_2d are distorted by the lens; the distortion at the head is applied to the whole face.
    distortion = people.joints_2d[:, [head]] - project(people.joints[:, [head]], people.k)
    return np.asarray(project(people.vertices[:, vertices], people.k) + distortion, np.float64)


@functools.lru_cache(maxsize=2)
def _find_rows(bone_labels: tuple[str, ...]) -> dict[str, int]:
    return {label: row for row, label in enumerate(bone_labels)}
