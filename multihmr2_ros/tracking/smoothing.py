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

"""Smoothing of poses over time, with the One-Euro filter (Casiez, Roussel, Vogel: 1€ Filter, CHI 2012) of rotations.

The difference of two rotations is a rotation vector. All functions process the people of an image together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .config import SmoothingConfig

Array = NDArray[np.float64]
_MIN_S = 1e-6  # keeps the filter of the velocity finite, if it has no time constant


@dataclass(frozen=True)
class PoseEstimate:
    """Smoothed rotations of the B bones of one body.

    quaternion  (B, 4), x, y, z, w
    velocity    (B, 3) rad/s, angular velocity after its low-pass filter, in the frame of the rotated bone
    stamp_s     s, of the last detection
    """

    quaternion: Array
    velocity: Array
    stamp_s: float

    @property
    def rotation(self) -> Array:
        """(B, 3, 3)."""
        return Rotation.from_quat(self.quaternion).as_matrix()


def update_poses(
    estimates: Sequence[PoseEstimate | None], rotations: Array, stamp_s: float, config: SmoothingConfig
) -> list[PoseEstimate]:
    """Return n estimates after detections with bone rotations (n, B, 3, 3).

    estimates: None starts one, with the detected rotations
    stamp_s: of the detections, no earlier than the stamps of the estimates
    """
    n, bones = rotations.shape[:2]
    if n == 0:
        return []
    detected = Rotation.from_matrix(rotations.reshape(-1, 3, 3))
    quaternion, still = detected.as_quat().reshape(n, bones, 4), np.zeros((bones, 3))
    previous = [
        estimate or PoseEstimate(first, still, stamp_s) for estimate, first in zip(estimates, quaternion, strict=True)
    ]
    elapsed_s = np.array([stamp_s - estimate.stamp_s for estimate in previous])[:, None, None]
    before = Rotation.from_quat(np.concatenate([estimate.quaternion for estimate in previous]))
    difference = (before.inv() * detected).as_rotvec().reshape(n, bones, 3)
    velocity = np.stack([estimate.velocity for estimate in previous])
    window_s = np.maximum(elapsed_s + config.speed_time_constant_s, _MIN_S)
    velocity = velocity + (difference - velocity * elapsed_s) / window_s
    speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
    rate = 1 / config.time_constant_s + config.gain_per_rad * speed
    share = elapsed_s * rate / (1 + elapsed_s * rate)
    smoothed = before * Rotation.from_rotvec((share * difference).reshape(-1, 3))
    quaternion = smoothed.as_quat().reshape(n, bones, 4)
    return [PoseEstimate(quaternion[row], velocity[row], stamp_s) for row in range(n)]
