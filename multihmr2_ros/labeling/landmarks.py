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

"""BlazePose's 33 landmarks in 3D: their indices, and their conversion to joints and segments of a body.

The landmarks are in millimeters from the middle of the hips, x right, y down, z away, as if the person were at the
image's center. Proportions, heading and depth order are approximately correct, positions are not: only directions
between landmarks are used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.labeling.posed_keypoints import CAMERA_FROM_LEVEL
from multihmr2_ros.simulation.motion.retarget import compute_segment_orientations

LANDMARK_COUNT = 33
# COCO keypoint → landmark.
LANDMARK_OF = {5: 11, 6: 12, 7: 13, 8: 14, 9: 15, 10: 16, 11: 23, 12: 24, 13: 25, 14: 26, 15: 27, 16: 28}
JOINTS = {
    "shoulder": 5,
    "elbow": 7,
    "wrist": 9,
    "hip": 11,
    "knee": 13,
    "ankle": 15,
}  # of the left side; the right one follows

# BlazePose tilts the legs of upright people away from the camera, in any heading: by these lengths per unit
# downward (thighs, shins); mean of 472 people facing the camera and 136 seen from behind.
AWAY_BIAS = (0.1, 0.3)

# Directions from the mean of one group of COCO keypoints to the mean of another.
DIRECTIONS = (
    ((5,), (7,)), ((7,), (9,)), ((6,), (8,)), ((8,), (10,)),
    ((11,), (13,)), ((13,), (15,)), ((12,), (14,)), ((14,), (16,)),
    ((5,), (6,)), ((11,), (12,)), ((11, 12), (5, 6)),
)  # fmt: skip


def convert_landmarks(landmarks: NDArray[np.floating], rays: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (n, 17, 3) mm: landmarks (n, 33, 3) in COCO's order, rotated to the camera's axes; the face is left at 0.

    rays (n, 3): unit vectors from the camera to the people.
    """
    joints = np.zeros((len(landmarks), 17, 3))
    for keypoint, landmark in LANDMARK_OF.items():
        joints[:, keypoint] = landmarks[:, landmark]
    for hip, knee, ankle in ((11, 13, 15), (12, 14, 16)):
        thigh, shin = (np.maximum(joints[:, b, 1] - joints[:, a, 1], 0.0) for a, b in ((hip, knee), (knee, ankle)))
        joints[:, knee, 2] -= AWAY_BIAS[0] * thigh
        joints[:, ankle, 2] -= AWAY_BIAS[0] * thigh + AWAY_BIAS[1] * shin
    axis = np.cross([0.0, 0.0, 1.0], rays)
    cosine = rays[:, 2, None, None]
    x, y, z = axis.T
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    turn = np.eye(3) + skew + skew @ skew / (1.0 + cosine)
    return np.einsum("nij,nkj->nki", turn, joints)


def compute_segments(joints: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return segment orientations (n, 10, 3, 3) in the level frame, of joints (n, 17, 3) in the camera's axes."""
    level = joints @ CAMERA_FROM_LEVEL
    named = {f"left_{name}": level[:, index] for name, index in JOINTS.items()}
    named |= {f"right_{name}": level[:, index + 1] for name, index in JOINTS.items()}
    return compute_segment_orientations(named)
