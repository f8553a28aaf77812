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

"""The keypoints and landmarks that bodies are fitted to, and quantities derived from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.labeling.landmarks import DIRECTIONS, LANDMARK_OF, convert_landmarks


@dataclass(frozen=True)
class Observations:
    """Annotations of n people; pixels are those of their images.

    keypoints   (n, 17, 2) px, COCO's order
    weights     (n, 17): 0 unknown, 1 certain
    trusted     (n, 17) bool
    box         (n, 4) px: x0 y0 x1 y1
    k           (n, 3, 3) px, assumed intrinsics
    landmarks   (n, 33, 3) mm, BlazePose's axes (`labeling.landmarks`); NaN for people without
    visibility  (n, 33) of the landmarks, 0 to 1
    """

    keypoints: NDArray[np.float32]
    weights: NDArray[np.float32]
    trusted: NDArray[np.bool_]
    box: NDArray[np.float32]
    k: NDArray[np.float64]
    landmarks: NDArray[np.float32]
    visibility: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.box)

    def select(self, rows: NDArray[np.int64] | slice) -> Observations:
        return Observations(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def size(self) -> NDArray[np.float32]:
        """The longer side of each box, (n,) px."""
        return np.maximum(self.box[:, 2] - self.box[:, 0], self.box[:, 3] - self.box[:, 1])


def ideal_points(people: Observations) -> tuple[Tensor, Tensor]:
    """Return the keypoints (n, 17, 2) on the plane z = 1, and their weights (n, 17)."""
    k = people.k
    plane = (people.keypoints - k[:, None, :2, 2]) / np.stack([k[:, 0, 0], k[:, 1, 1]], axis=-1)[:, None]
    return torch.from_numpy(plane).float(), torch.from_numpy(people.weights)


def box_rays(people: Observations) -> NDArray[np.float64]:
    """Return (n, 3) unit vectors through the centers of the boxes, camera frame."""
    middle = 0.5 * (people.box[:, :2] + people.box[:, 2:])
    plane = (middle - people.k[:, :2, 2]) / np.stack([people.k[:, 0, 0], people.k[:, 1, 1]], axis=-1)
    rays = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def landmark_directions(people: Observations) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the landmarks' DIRECTIONS (n, 11, 3), unit vectors in the camera's axes, and weights (n, 11), 0 to 1."""
    known = np.atleast_1d(np.isfinite(people.landmarks).all(axis=(1, 2)))
    joints = convert_landmarks(np.nan_to_num(people.landmarks), box_rays(people))
    visible = np.zeros((len(people), 17))
    for keypoint, landmark in LANDMARK_OF.items():
        visible[:, keypoint] = people.visibility[:, landmark]
    vectors, trust = [], []
    for first, last in DIRECTIONS:
        vectors.append(joints[:, list(last)].mean(axis=1) - joints[:, list(first)].mean(axis=1))
        trust.append(visible[:, list(first + last)].min(axis=1))
    directions = np.stack(vectors, axis=1)
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    trusted = np.stack(trust, axis=1) * np.asarray(known)[:, None] * (length[..., 0] > 20.0)
    return directions / np.maximum(length, 1e-6), trusted
