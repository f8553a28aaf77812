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

"""Postures of true people, from the joints of Anny's rig, to group errors by posture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.people import BENT_THIGHS, BENT_TRUNK, BONE_COUNT, LYING_TRUNK

STANDING, BENT, LOW, LYING = "standing", "bent down", "sitting or crouching", "lying"
POSTURES = (STANDING, BENT, LOW, LYING)
# Rows of people.joints: the pelvis (root bone), the neck, and hips and knees, left and right.
PELVIS, NECK, HIPS, KNEES = 0, 100, (2, 22), (4, 24)
UP = np.array([0.0, -1.0, 0.0])


def classify_postures(joints: NDArray[np.floating]) -> list[str]:
    """Return the posture of each person, one of POSTURES, from joints (n, 163, 3) m in the camera's optical frame.

    The camera is assumed to be level: the vertical is its y axis. For other joint sets the postures are "".
    """
    if joints.shape[1] != BONE_COUNT:
        return [""] * len(joints)
    trunk = _compute_uprightness(joints[:, NECK] - joints[:, PELVIS])
    thighs = np.mean(
        [_compute_uprightness(joints[:, hip] - joints[:, knee]) for hip, knee in zip(HIPS, KNEES, strict=True)], axis=0
    )
    chosen = np.select([trunk < LYING_TRUNK, thighs < BENT_THIGHS, trunk < BENT_TRUNK], [3, 2, 1], 0)
    return [POSTURES[index] for index in chosen]


def _compute_uprightness(segment: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine (n,) between segments (n, 3) and the vertical."""
    length = np.maximum(np.linalg.norm(segment, axis=1), 1e-9)
    return np.asarray(segment @ UP / length, np.float64)
