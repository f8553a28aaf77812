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

"""What a track tells about its person beyond the identity: velocity, smoothed place, running body shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .config import OneEuroConfig, TrackerConfig, VelocityConfig
from .detections import Detections, TrackedFrame
from .modes import ModalEstimate, measure_modes
from .smoothing import smooth_rotations, smooth_vectors
from .track import Track
from .velocity import MotionEstimate, measure, measurement_noise

Array = NDArray[np.float64]
_LEAST_DEPTH_M = 0.01  # keeps the logarithm finite for a pelvis in the camera's plane


def estimate(
    detections: Detections,
    rows: NDArray[np.bool_],
    tracks: Sequence[Track],
    fixed_from_camera: Array | None,
    stamp_s: float,
    config: TrackerConfig,
) -> TrackedFrame:
    """Take the measurements of the masked rows (n,) into their tracks, and answer with the tracks' estimates."""
    answer = TrackedFrame.untracked(detections, "camera" if fixed_from_camera is None else "fixed")
    if not tracks:
        return answer
    answer.track_id[rows] = [track.track_id for track in tracks]
    answer.state[rows] = [track.state for track in tracks]
    answer.age_s[rows] = [stamp_s - track.first_stamp_s for track in tracks]
    if config.rotation_smoothing:
        answer.rotation[rows] = _smooth_rotation(tracks, answer.rotation[rows], stamp_s, config.rotation_smoothing)
    if answer.pelvis is not None:
        pelvis = answer.pelvis[rows]
        sigma_m = None if detections.distance_sigma_m is None else detections.distance_sigma_m[rows]
        noise = _noise(pelvis, sigma_m, config.velocity)
        motions = _measure_velocity(tracks, pelvis, noise, fixed_from_camera, stamp_s, config.velocity)
        answer.velocity[rows] = [motion.velocity for motion in motions]
        answer.velocity_covariance[rows] = [motion.velocity_covariance for motion in motions]
        if config.depth_smoothing:
            answer.pelvis[rows] = _smooth_depth(tracks, answer.pelvis[rows], stamp_s, config.depth_smoothing)
    if answer.shape is not None:
        score = np.ones(len(detections)) if detections.score is None else detections.score
        measured = zip(tracks, answer.shape[rows], score[rows].tolist(), strict=True)
        answer.shape[rows] = [track.running_shape.update(shape, weight, stamp_s) for track, shape, weight in measured]
    return answer


def _noise(pelvis: Array, distance_sigma_m: Array | None, config: VelocityConfig) -> Array:
    """(n, 3, 3) m², of pelvises (n, 3) m from image to image: that of the configuration, or less where a depth image
    says so. More would be an error that stays the same from image to image, and is no motion."""
    if distance_sigma_m is None:
        return measurement_noise(pelvis, config)
    usual_m = config.depth_sigma_ratio * np.linalg.norm(pelvis, axis=1)
    return measurement_noise(pelvis, config, np.fmin(distance_sigma_m, usual_m))


def _measure_velocity(
    tracks: Sequence[Track],
    pelvis: Array,
    noise: Array,
    fixed_from_camera: Array | None,
    stamp_s: float,
    config: VelocityConfig,
) -> Sequence[MotionEstimate] | Sequence[ModalEstimate]:
    """Take pelvises (n, 3) m of covariance noise (n, 3, 3), camera frame, into the tracks' motion, in the fixed frame
    where there is one.

    Only there it means something that a person stands or walks on: a camera that turns lets all of them swing about.
    """
    if fixed_from_camera is None:
        relative = measure([track.motion for track in tracks], pelvis, noise, stamp_s, config)
        for track, motion in zip(tracks, relative, strict=True):
            track.motion = motion
        return relative
    rotation, translation = fixed_from_camera[:3, :3], fixed_from_camera[:3, 3]
    position, noise = pelvis @ rotation.T + translation, rotation @ noise @ rotation.T
    over_ground = measure_modes([track.ground_motion for track in tracks], position, noise, stamp_s, config)
    for track, modal in zip(tracks, over_ground, strict=True):
        track.ground_motion = modal
    return over_ground


def _smooth_depth(tracks: Sequence[Track], pelvis: Array, stamp_s: float, config: OneEuroConfig) -> Array:
    """Pelvises (n, 3) m, camera frame, on the same viewing rays, at the smoothed depths."""
    log_depth = np.log(np.maximum(pelvis[:, 2:], _LEAST_DEPTH_M))
    smoothed = smooth_vectors([track.log_depth for track in tracks], log_depth, stamp_s, config)
    for track, state in zip(tracks, smoothed, strict=True):
        track.log_depth = state
    return pelvis * np.exp(np.stack([state.value for state in smoothed]) - log_depth)


def _smooth_rotation(tracks: Sequence[Track], rotation: Array, stamp_s: float, config: OneEuroConfig) -> Array:
    """Rotations (n, 3, 3), camera frame, smoothed."""
    smoothed = smooth_rotations([track.rotation for track in tracks], rotation, stamp_s, config)
    for track, state in zip(tracks, smoothed, strict=True):
        track.rotation = state
    return np.stack([state.value for state in smoothed])
