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

"""Predicts each track's pelvis and compares detections with it (paper, "Tracking in videos")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .config import TrackerConfig

STATE_SIZE = 7


def make_pelvis_state(location: NDArray[Any], rotation: NDArray[Any]) -> NDArray[np.float64]:
    """Return states (n, 7) of the motion model: location (n, 3), then the rotation (n, 3, 3) as xyzw with w ≥ 0."""
    quaternion = np.empty((0, 4))
    if len(rotation):
        quaternion = Rotation.from_matrix(rotation).as_quat()
    quaternion = np.where(quaternion[:, 3:] < 0, -quaternion, quaternion)
    return np.concatenate([location, quaternion], axis=1, dtype=np.float64)


class MotionHistory:
    """The last H observations of one track: frame numbers (H,) and states (H, 7), in no particular order."""

    def __init__(self, length: int) -> None:
        self.frame = np.zeros(length)
        self.state = np.zeros((length, STATE_SIZE))
        self.count = 0
        self._next = 0

    def add(self, frame: float, state: NDArray[np.float64]) -> None:
        """Store an observation in place of the oldest one."""
        self.frame[self._next] = frame
        self.state[self._next] = state
        self._next = (self._next + 1) % len(self.frame)
        self.count = min(self.count + 1, len(self.frame))


def extrapolate(histories: Sequence[MotionHistory], frame: float, slope_penalty: float) -> NDArray[np.float64]:
    """Predict states (m, 7) at a frame number, by ridge regression against time with an unpenalized intercept.

    With δt and δx relative to the means of the observations, slope = Σ δt δx / (Σ δt² + penalty). A penalty above zero
    keeps it finite for a single observation, and for several observations at one time.
    """
    if not histories:
        return np.empty((0, STATE_SIZE))
    times = np.stack([history.frame for history in histories])
    states = np.stack([history.state for history in histories])
    count = np.array([history.count for history in histories])
    filled = np.arange(times.shape[1]) < count[:, None]
    mean_time = times.sum(axis=1) / count
    mean_state = states.sum(axis=1) / count[:, None]
    delta_time = (times - mean_time[:, None]) * filled
    spread = np.maximum((delta_time**2).sum(axis=1) + slope_penalty, np.finfo(float).tiny)
    slope = np.einsum("mh,mhs->ms", delta_time, states) / spread[:, None]
    return mean_state + slope * (frame - mean_time)[:, None]


def compute_motion_similarity(
    observed: NDArray[np.float64], predicted: NDArray[np.float64], config: TrackerConfig
) -> NDArray[np.float64]:
    """Return the similarity (n, m), in [0, 1], of observed states (n, 7) and predicted states (m, 7).

    exp(−‖Δ(u, v)‖ / t_p) · exp(−|Δ log(1/z)| / t_n) · exp(−angle / t_θ), with the temperatures of `config`.
    """
    pixels = np.linalg.norm(observed[:, None, :2] - predicted[None, :, :2], axis=2)
    nearness = np.abs(observed[:, None, 2] - predicted[None, :, 2])
    cosine = np.abs(_normalize(observed[:, 3:]) @ _normalize(predicted[:, 3:]).T)
    angle = 2 * np.arccos(np.minimum(cosine, 1))
    return np.exp(
        -pixels / config.pixel_temperature
        - nearness / config.nearness_temperature
        - angle / config.angle_temperature_rad
    )


def _normalize(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalize quaternions (n, 4). Extrapolation can give zeros: such a row stays zero, 180° from every rotation."""
    return quaternion / np.maximum(np.linalg.norm(quaternion, axis=1, keepdims=True), 1e-12)
