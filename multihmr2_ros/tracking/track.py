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

"""The state of one track, and the estimates made from it: velocity and running body shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.people import TrackState

from .config import SmoothingConfig, TrackerConfig, VelocityConfig
from .detections import Detections, TrackingResult, TrackSnapshot
from .motion import MotionHistory
from .smoothing import PoseEstimate, update_poses
from .velocity import (
    ModalEstimate,
    MotionEstimate,
    compute_measurement_noise,
    update_estimates,
    update_modal_estimates,
    widen_modes,
    widen_position,
)

Array = NDArray[np.float64]
_MIN_SCORE = 1e-3  # a detection of score 0 still has some weight, so that the weights never sum to zero
_MIN_DISTANCE_M = 1e-6  # keeps ratios of distances finite
_MIN_STATURE_M = 0.1  # keeps ratios of statures finite
_OTHER_CUE = 2.0  # ratio of two standard deviations of the distance: more means that it was measured in another way


class RunningMean:
    """Mean of a track's body shapes or statures, weighted with the detection score and with exponential forgetting.

    Over times much shorter than the window it equals the weighted mean; a person's size does not change between frames.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._stamp_s = math.inf
        self._weight = 0.0
        self._mean: NDArray[np.float64] | None = None

    def update(self, value: NDArray[np.float64], score: float, stamp_s: float) -> NDArray[np.float64]:
        """Add a value (S,) at a stamp no earlier than the last one and return the mean (S,)."""
        weight = max(score, _MIN_SCORE)
        elapsed_s = max(0.0, stamp_s - self._stamp_s)
        self._weight = self._weight * math.exp(-elapsed_s / self._window_s) + weight
        self._stamp_s = stamp_s
        self._mean = value if self._mean is None else self._mean + weight / self._weight * (value - self._mean)
        return self._mean


class Track:
    """The state of one track. Its size does not grow with time.

    motion: relative to the camera, ground_motion: in a fixed frame; both None until measured.
    pose: root in the fixed frame if there is one, else in the camera frame; None until measured, and without smoothing.
    distance_sigma_m: standard deviation of the last distance, m.
    """

    def __init__(self, track_id: int, stamp_s: float, config: TrackerConfig) -> None:
        self.track_id = track_id
        self.first_stamp_s = stamp_s
        self.last_stamp_s = stamp_s
        self.hits = 0
        self.is_detected = True
        self.last_feature_frame = -math.inf
        self.history = MotionHistory(config.motion_history)
        self.running_shape = RunningMean(config.shape_window_s)
        self.running_stature = RunningMean(config.shape_window_s)
        self.motion: MotionEstimate | None = None
        self.ground_motion: ModalEstimate | None = None
        self.pose: PoseEstimate | None = None
        self.distance_sigma_m: float | None = None
        self._confirm_hits = config.confirm_hits

    @property
    def state(self) -> TrackState:
        """Tentative until detected `confirm_hits` times, then confirmed; lost while not detected."""
        if not self.is_detected:
            return TrackState.LOST
        return TrackState.CONFIRMED if self.is_confirmed else TrackState.TENTATIVE

    @property
    def is_confirmed(self) -> bool:
        """Whether it was detected often enough to be confirmed; also true while it is lost."""
        return self.hits >= self._confirm_hits

    def add_hit(self, frame: float, state: NDArray[np.float64], stamp_s: float) -> None:
        """Record a detection: its frame number and its pelvis state (7,)."""
        self.history.add(frame, state)
        self.last_stamp_s = stamp_s
        self.hits += 1
        self.is_detected = True

    def make_snapshot(self, stamp_s: float) -> TrackSnapshot:
        """Return a read-only summary of the track at a stamp."""
        return TrackSnapshot(
            track_id=self.track_id,
            state=self.state,
            age_s=stamp_s - self.first_stamp_s,
            unseen_s=stamp_s - self.last_stamp_s,
            hits=self.hits,
        )


def update_tracks(
    detections: Detections,
    rows: NDArray[np.bool_],
    tracks: Sequence[Track],
    fixed_from_camera: Array | None,
    stamp_s: float,
    config: TrackerConfig,
) -> TrackingResult:
    """Update the estimates of tracks with their detections, selected by a mask (n,), and return them.

    tracks: one per selected row, in the same order. fixed_from_camera (4, 4): see `Tracker.update`.
    """
    velocity_frame = "camera" if fixed_from_camera is None else "fixed"
    result = TrackingResult.from_untracked(detections, velocity_frame, is_smoothed=config.smoothing is not None)
    if not tracks:
        return result
    result.track_id[rows] = [track.track_id for track in tracks]
    result.state[rows] = [track.state for track in tracks]
    result.age_s[rows] = [stamp_s - track.first_stamp_s for track in tracks]
    _average_bodies(detections, rows, tracks, stamp_s, result)
    if detections.pelvis is not None:
        _update_motions(detections, rows, tracks, fixed_from_camera, stamp_s, config.velocity, result)
    if result.bone_rotations is not None and config.smoothing is not None:
        rotations = result.bone_rotations[rows]
        result.bone_rotations[rows] = _smooth_poses(tracks, rotations, fixed_from_camera, stamp_s, config.smoothing)
    return result


def _average_bodies(
    detections: Detections, rows: NDArray[np.bool_], tracks: Sequence[Track], stamp_s: float, result: TrackingResult
) -> None:
    """Update the running shapes and statures of the tracks, and write them to the result."""
    score = np.ones(len(detections)) if detections.score is None else detections.score
    for values, means in (
        (result.shape, [track.running_shape for track in tracks]),
        (result.stature, [track.running_stature for track in tracks]),
    ):
        if values is not None:
            measured = zip(means, values[rows], score[rows].tolist(), strict=True)
            values[rows] = [mean.update(value, weight, stamp_s) for mean, value, weight in measured]


def _update_motions(
    detections: Detections,
    rows: NDArray[np.bool_],
    tracks: Sequence[Track],
    fixed_from_camera: Array | None,
    stamp_s: float,
    config: VelocityConfig,
    result: TrackingResult,
) -> None:
    """Update the motions of the tracks, and write velocities and filtered distances to the result."""
    assert detections.pelvis is not None
    pelvis = np.asarray(detections.pelvis[rows], np.float64)
    sigma_m = None if detections.distance_sigma_m is None else detections.distance_sigma_m[rows]
    if detections.stature is not None and result.stature is not None:
        pelvis = _correct_distances(pelvis, sigma_m, detections.stature[rows], result.stature[rows], config)
    noise = _compute_noise(pelvis, sigma_m, config)
    _allow_jumps(tracks, pelvis, sigma_m, fixed_from_camera, config)
    motions = _measure_velocity(tracks, pelvis, noise, fixed_from_camera, stamp_s, config)
    result.velocity[rows] = [motion.velocity for motion in motions]
    result.velocity_covariance[rows] = [motion.velocity_covariance for motion in motions]
    if result.pelvis is not None:
        position = np.stack([motion.position for motion in motions])
        result.pelvis[rows] = _move_along_rays(result.pelvis[rows], sigma_m, position, fixed_from_camera)


def _correct_distances(
    pelvis: Array, distance_sigma_m: Array | None, stature: Array, mean_stature: Array, config: VelocityConfig
) -> Array:
    """Return pelvises (n, 3) m, moved along their viewing rays to where a body of the track's mean stature would be.

    A body that is predicted too tall is also predicted too far away, because both look the same in the image. A
    person's stature (n,) m is constant, so its changes from image to image are a measure of the error of the distance.
    """
    ratio = np.maximum(mean_stature, _MIN_STATURE_M) / np.maximum(stature, _MIN_STATURE_M)
    return _scale_unmeasured(pelvis, distance_sigma_m, ratio**config.stature_share)


def _scale_unmeasured(pelvis: Array, distance_sigma_m: Array | None, factor: Array) -> Array:
    """Return pelvises (n, 3) m times factors (n,); those of measured distances (a sigma that is not NaN) unchanged."""
    if distance_sigma_m is not None:
        factor = np.where(np.isnan(distance_sigma_m), factor, 1.0)
    return pelvis * factor[:, None]


def _compute_noise(pelvis: Array, distance_sigma_m: Array | None, config: VelocityConfig) -> Array:
    """Return the covariance (n, 3, 3) m² of the frame-to-frame error of pelvises (n, 3) m.

    The configured one, or less if distance_sigma_m (n,) is smaller. A larger distance_sigma_m is not used: the excess
    is an error that stays constant from image to image while the distance is measured in the same way (otherwise, see
    `_allow_jumps`), and does not look like motion.
    """
    if distance_sigma_m is None:
        return compute_measurement_noise(pelvis, config)
    usual_m = config.depth_sigma_ratio * np.linalg.norm(pelvis, axis=1)
    return compute_measurement_noise(pelvis, config, np.fmin(distance_sigma_m, usual_m))


def _allow_jumps(
    tracks: Sequence[Track],
    pelvis: Array,
    distance_sigma_m: Array | None,
    fixed_from_camera: Array | None,
    config: VelocityConfig,
) -> None:
    """Widen the position's covariance along the ray where the distance is measured in another way than before.

    When a depth image comes or goes, the distance jumps by the constant error of the less precise one of both. Without
    this, the filter would take the jump for motion. pelvis (n, 3) m, distance_sigma_m (n,) m.
    """
    distance = np.linalg.norm(pelvis, axis=1)
    unmeasured_m = config.unmeasured_sigma_ratio * distance
    sigma_m = unmeasured_m if distance_sigma_m is None else np.fmin(distance_sigma_m, unmeasured_m)
    rotation = np.eye(3) if fixed_from_camera is None else fixed_from_camera[:3, :3]
    for track, sigma, position in zip(tracks, sigma_m.tolist(), pelvis @ rotation.T, strict=True):
        before, track.distance_sigma_m = track.distance_sigma_m, sigma
        if before is None or max(before, sigma) <= _OTHER_CUE * min(before, sigma):
            continue
        ray = position / max(float(np.linalg.norm(position)), 1e-6)
        added = max(before, sigma) ** 2 * np.outer(ray, ray)
        track.motion = track.motion and widen_position(track.motion, added)
        track.ground_motion = track.ground_motion and widen_modes(track.ground_motion, added)


def _measure_velocity(
    tracks: Sequence[Track],
    pelvis: Array,
    noise: Array,
    fixed_from_camera: Array | None,
    stamp_s: float,
    config: VelocityConfig,
) -> Sequence[MotionEstimate] | Sequence[ModalEstimate]:
    """Update the tracks' motion with pelvises (n, 3) m of covariance noise (n, 3, 3) m², camera frame.

    With a camera pose, motion is estimated in the fixed frame and with the modes of motion. Relative to the camera
    they would be wrong: when the camera turns, standing people move.
    """
    if fixed_from_camera is None:
        relative = update_estimates([track.motion for track in tracks], pelvis, noise, stamp_s, config)
        for track, motion in zip(tracks, relative, strict=True):
            track.motion = motion
        return relative
    rotation, translation = fixed_from_camera[:3, :3], fixed_from_camera[:3, 3]
    position, noise = pelvis @ rotation.T + translation, rotation @ noise @ rotation.T
    over_ground = update_modal_estimates([track.ground_motion for track in tracks], position, noise, stamp_s, config)
    for track, modal in zip(tracks, over_ground, strict=True):
        track.ground_motion = modal
    return over_ground


def _move_along_rays(
    pelvis: Array, distance_sigma_m: Array | None, position: Array, fixed_from_camera: Array | None
) -> Array:
    """Return pelvises (n, 3) m, moved along their viewing rays to the distances of filtered positions (n, 3) m.

    The filter hardly changes the direction, and the image shows it precisely. position: in the frame of the filter.
    """
    if fixed_from_camera is not None:
        position = (position - fixed_from_camera[:3, 3]) @ fixed_from_camera[:3, :3]
    distance, filtered = np.linalg.norm(pelvis, axis=1), np.linalg.norm(position, axis=1)
    return _scale_unmeasured(pelvis, distance_sigma_m, filtered / np.maximum(distance, _MIN_DISTANCE_M))


def _smooth_poses(
    tracks: Sequence[Track], rotations: Array, fixed_from_camera: Array | None, stamp_s: float, config: SmoothingConfig
) -> Array:
    """Update the tracks' poses with bone rotations (n, B, 3, 3), and return them smoothed.

    With a camera pose, the root is smoothed in the fixed frame: relative to a camera that turns, standing people turn.
    """
    to_fixed = np.eye(3) if fixed_from_camera is None else fixed_from_camera[:3, :3]
    rotations = rotations.copy()
    rotations[:, 0] = to_fixed @ rotations[:, 0]
    poses = update_poses([track.pose for track in tracks], rotations, stamp_s, config)
    for track, pose in zip(tracks, poses, strict=True):
        track.pose = pose
    smoothed = np.stack([pose.rotation for pose in poses])
    smoothed[:, 0] = to_fixed.T @ smoothed[:, 0]
    return smoothed
