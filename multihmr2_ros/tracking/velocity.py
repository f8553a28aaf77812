"""Velocity of a pelvis, with its uncertainty: a constant-velocity Kalman filter with white acceleration.

Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and Navigation, 2001, section 6.2.2. The filters
of all people of an image are worked on at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import VelocityConfig

Array = NDArray[np.float64]
_LEAST_DISTANCE_M = 0.1  # keeps the noise positive for a pelvis in the camera's centre


@dataclass(frozen=True)
class MotionEstimate:
    """Position and velocity of one pelvis as of its last measurement, in the frame of reference of its measurements.

    mean (6,) m and m/s; covariance (6, 6); stamp_s of the measurement; has_moved_on: whether there were measurements at
    two different stamps, before which the velocity is only assumed.
    """

    mean: Array
    covariance: Array
    stamp_s: float
    has_moved_on: bool = False

    @property
    def velocity(self) -> Array:
        """(3,) m/s; NaN until measured at two stamps."""
        return self.mean[3:] if self.has_moved_on else np.full(3, np.nan)

    @property
    def velocity_covariance(self) -> Array:
        """(3, 3) (m/s)²; NaN where the velocity is."""
        return self.covariance[3:, 3:] if self.has_moved_on else np.full((3, 3), np.nan)


def measurement_noise(pelvis: Array, config: VelocityConfig) -> Array:
    """(n, 3, 3) m², covariance of pelvises (n, 3) m that one camera measured, camera frame.

    A wrong body size scales the whole position, so that the error is largest along the viewing ray and grows with
    the distance; across the ray it is a fixed angle.
    """
    distance = np.maximum(np.linalg.norm(pelvis, axis=1), _LEAST_DISTANCE_M)
    ray = pelvis / distance[:, None]
    along = ray[:, :, None] * ray[:, None, :]
    depth_variance = (config.depth_sigma_ratio * distance) ** 2
    lateral_variance = (config.lateral_sigma_ratio * distance) ** 2
    return depth_variance[:, None, None] * along + lateral_variance[:, None, None] * (np.eye(3) - along)


def measure(
    estimates: Sequence[MotionEstimate | None], position: Array, noise: Array, stamp_s: float, config: VelocityConfig
) -> list[MotionEstimate]:
    """The n estimates after measuring positions (n, 3) m with covariances (n, 3, 3) m² at a stamp.

    None starts an estimate, at rest within the assumed speed. The stamp is no earlier than those of the estimates.
    """
    if not estimates:
        return []
    started = [
        estimate or _start(measured, covariance, stamp_s, config)
        for estimate, measured, covariance in zip(estimates, position, noise, strict=True)
    ]
    elapsed_s = np.array([stamp_s - estimate.stamp_s for estimate in started])
    mean = np.stack([estimate.mean for estimate in started])
    covariance = np.stack([estimate.covariance for estimate in started])
    mean, covariance = _correct(*_predict(mean, covariance, elapsed_s, config), position, noise)
    return [
        started[row]
        if estimates[row] is None
        else MotionEstimate(mean[row], covariance[row], stamp_s, started[row].has_moved_on or bool(elapsed_s[row] > 0))
        for row in range(len(started))
    ]


def _start(position: Array, noise: Array, stamp_s: float, config: VelocityConfig) -> MotionEstimate:
    """What one position (3,) tells."""
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = noise
    covariance[3:, 3:] = config.initial_speed_sigma_m_s**2 * np.eye(3)
    return MotionEstimate(np.concatenate([position, np.zeros(3)]), covariance, stamp_s)


def _predict(mean: Array, covariance: Array, elapsed_s: Array, config: VelocityConfig) -> tuple[Array, Array]:
    """Means (n, 6) and covariances (n, 6, 6) after (n,) seconds of constant velocity with white acceleration."""
    position, velocity = slice(0, 3), slice(3, 6)
    time = elapsed_s[:, None, None]
    transition = np.tile(np.eye(6), (len(mean), 1, 1))
    transition[:, position, velocity] = time * np.eye(3)
    process_noise = np.empty_like(covariance)
    process_noise[:, position, position] = time**3 / 3 * np.eye(3)
    process_noise[:, position, velocity] = process_noise[:, velocity, position] = time**2 / 2 * np.eye(3)
    process_noise[:, velocity, velocity] = time * np.eye(3)
    predicted_mean = (transition @ mean[:, :, None])[:, :, 0]
    predicted_covariance = transition @ covariance @ transition.swapaxes(1, 2)
    return predicted_mean, predicted_covariance + config.acceleration_density * process_noise


def _correct(mean: Array, covariance: Array, position: Array, noise: Array) -> tuple[Array, Array]:
    """Means and covariances after the Kalman update with positions (n, 3) of covariances (n, 3, 3)."""
    gain = np.linalg.solve(covariance[:, :3, :3] + noise, covariance[:, :3, :]).swapaxes(1, 2)
    innovation = position - mean[:, :3]
    # Joseph form: stays symmetric and positive for any number of updates.
    kept = np.tile(np.eye(6), (len(mean), 1, 1))
    kept[:, :, :3] -= gain
    corrected = kept @ covariance @ kept.swapaxes(1, 2) + gain @ noise @ gain.swapaxes(1, 2)
    return mean + (gain @ innovation[:, :, None])[:, :, 0], corrected
