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

"""Assigns identities to people from frame to frame.

The association is the published one (Multi-HMR 2, section "Tracking in videos"): a bank of appearance features whose
nearest neighbors vote for their tracks, a ridge regression that extrapolates each pelvis, and the Hungarian
algorithm on the weighted sum of the two similarities. `TrackerConfig.reference()` gives the published ids exactly.

Differences from the published method, and their reasons:

- Feature distances: Euclidean on L2-normalized features, as in the released settings. The paper's text says L1.
- Time: (stamp − start) × nominal rate, from message stamps, because cameras drop frames and change their rate. With one
  frame per update this equals the published frame index.
- Forgetting: features older than the memory are removed at the start of an update, by their age at that time, not at
  the end of the update before. Without gaps, both give the same result. After a pause, a track older than the memory
  does not continue.
- Slow updates: at intervals above a third of the memory, the memory lasts for three of the last interval. Otherwise,
  one image every two seconds would give new ids in each image.
- Motion models: one is removed with the last feature of its track. The published method keeps every motion model while
  people are in view and so grows without limit. Only ids with a feature in the bank can be assigned, so the removal
  changes no id.
- Feature interval: by default each track stores a feature every 0.1 s, not every frame. Features of neighboring frames
  are nearly equal, and the distances to all stored features take most of the time of an update.
- Capacity: the bank is bounded, so that a crowd or a long memory cannot use up memory or time.
- A stamp that jumps back (a looping bag, simulated time set back) resets all tracks; ids continue to count up.
- Detections with NaN or infinity are marked untracked and are not stored.
- Tracks have states, a velocity with covariance and a running body shape; these do not affect the association.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from multihmr2_ros.errors import UserError

from .appearance import AppearanceBank, normalize
from .config import TrackerConfig, compute_frame_number
from .detections import Detections, TrackingResult, TrackSnapshot
from .motion import compute_motion_similarity, extrapolate, make_pelvis_state
from .track import Track, update_tracks

_MAX_STAMP_S = 1e12
_MAX_GAP_S = 1.0  # after a longer gap the fixed frame may be another one: odometry may have restarted
_MIN_MEMORY_UPDATES = 3  # intervals between updates: at slow, regular rates, the memory lasts longer than configured
_REJECTED_MARGIN = 1e-5  # added to the maximum accepted cost for rejected pairs
_PADDING_COST = 1e6
logger = logging.getLogger(__name__)


class Tracker:
    """Tracker of the people in one camera's images.

    The configuration bounds memory and time per update, however long the tracker runs. Use one instance per camera;
    calls must not overlap.
    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._bank = AppearanceBank(
            self.config.bank_capacity, self.config.nearest_neighbours, self.config.appearance_temperature
        )
        self._tracks: dict[int, Track] = {}
        self._next_id = 0
        self._has_fixed_frame = False
        self._fixed_frame = ""
        self._fixed_frame_stamp_s = 0.0
        self._is_running = False
        self._start_s = 0.0
        self._stamp_s = 0.0
        self._interval_frames = 0.0  # between the last two updates

    def update(
        self,
        detections: Detections,
        stamp_s: float,
        fixed_from_camera: NDArray[Any] | None = None,
        fixed_frame: str = "",
    ) -> TrackingResult:
        """Associate the people of one image with the tracks of earlier images.

        Call it for every image, also without people.

        detections         people of this image
        stamp_s            s, stamp of the image. Equal to the last stamp: a second image of the same time, associated
                           as usual. Earlier than the last stamp: all tracks are reset.
        fixed_from_camera  (4, 4) pose of the camera, at the stamp, in a frame that does not move or jump (odometry);
                           None: velocities are relative to the camera
        fixed_frame        name of that frame; when it changes, velocities are reset

        Raises UserError, and changes nothing, for a stamp that is not finite, a transform that is not rigid, and
        features of another length than before.
        """
        self._check(detections, stamp_s, fixed_from_camera)
        last_frame = self._advance_clock(stamp_s)
        frame = self._count_frames(stamp_s)
        self._remove_forgotten(frame)
        self._interval_frames = frame - last_frame
        self._select_velocity_frame(fixed_frame, is_known=fixed_from_camera is not None)
        tracked = _select_usable(detections)
        observed = detections.select(tracked)
        feature, state = normalize(observed.feature), make_pelvis_state(observed.location, observed.rotation)
        is_weak = np.zeros(len(observed), bool) if observed.is_weak is None else observed.is_weak
        track_ids = self._associate(feature, state, is_weak, frame)
        found = track_ids >= 0
        tracked[tracked] = found
        tracks = self._record_detections(track_ids[found], state[found], frame)
        self._store_features(feature[found], tracks, frame)
        self._mark_lost(track_ids)
        return update_tracks(detections, tracked, tracks, fixed_from_camera, stamp_s, self.config)

    def reset(self) -> None:
        """Remove all tracks and the time. Ids continue to count up."""
        self._tracks = {}
        self._bank.clear()
        self._is_running = False

    def restart_velocities(self) -> None:
        """Forget all velocities, because all positions are about to jump. Ids stay."""
        for track in self._tracks.values():
            track.motion = track.ground_motion = None

    def list_tracks(self) -> list[TrackSnapshot]:
        """Return the live tracks, lost ones included, in ascending order of id, as of the last update."""
        return [self._tracks[track_id].make_snapshot(self._stamp_s) for track_id in sorted(self._tracks)]

    def _check(self, detections: Detections, stamp_s: float, fixed_from_camera: NDArray[Any] | None) -> None:
        """Raise UserError for unusable input, before any state is changed."""
        if not abs(stamp_s) < _MAX_STAMP_S:  # NaN compares false
            raise UserError(
                f"stamp_s: expected finite seconds under {_MAX_STAMP_S:.0e}, got {stamp_s!r}; "
                "use stamp.sec + stamp.nanosec * 1e-9"
            )
        if fixed_from_camera is not None and not _is_rigid(fixed_from_camera):
            raise UserError(
                "fixed_from_camera: expected a (4, 4) rotation and translation, "
                f"got {np.asarray(fixed_from_camera).tolist()}; give the camera's pose in the fixed frame, or None"
            )
        if len(detections):
            self._bank.check_length(detections.feature.shape[1])

    def _advance_clock(self, stamp_s: float) -> float:
        """Set the time, and return the frame number of the last update. Reset the tracker if the time jumped back."""
        if self._is_running and stamp_s < self._stamp_s:
            logger.warning(
                "time jumped back from %.6f s to %.6f s; %d tracks were reset",
                self._stamp_s,
                stamp_s,
                len(self._tracks),
            )
            self.reset()
        if not self._is_running:
            self._is_running = True
            self._start_s = self._stamp_s = stamp_s
            self._interval_frames = 0.0
        last_frame = self._count_frames(self._stamp_s)
        self._stamp_s = stamp_s
        return last_frame

    def _count_frames(self, stamp_s: float) -> float:
        return compute_frame_number(stamp_s - self._start_s, self.config.nominal_rate_hz)

    def _remove_forgotten(self, frame: float) -> None:
        """Remove the features older than the memory, and the tracks without remaining features."""
        self._bank.remove_old(frame - max(self.config.memory_frames, _MIN_MEMORY_UPDATES * self._interval_frames))
        for track_id in self._tracks.keys() - set(self._bank.list_track_ids().tolist()):
            del self._tracks[track_id]

    def _select_velocity_frame(self, fixed_frame: str, *, is_known: bool) -> None:
        """Reset the velocities and poses that do not continue in this update's frame.

        Velocities relative to the camera restart after each use of the fixed frame. Velocities in the fixed frame
        continue after gaps of up to _MAX_GAP_S without camera pose.
        """
        if is_known != self._has_fixed_frame or (is_known and fixed_frame != self._fixed_frame):
            for track in self._tracks.values():
                track.pose = None
        if is_known:
            gap_s = 0.0 if self._has_fixed_frame else self._stamp_s - self._fixed_frame_stamp_s
            continues = fixed_frame == self._fixed_frame and gap_s <= _MAX_GAP_S
            for track in self._tracks.values():
                track.motion = None
                track.ground_motion = track.ground_motion if continues else None
            self._fixed_frame, self._fixed_frame_stamp_s = fixed_frame, self._stamp_s
        self._has_fixed_frame = is_known

    def _associate(
        self, feature: NDArray[Any], state: NDArray[np.float64], is_weak: NDArray[np.bool_], frame: float
    ) -> NDArray[np.int64]:
        """Return the track id (n,) of each detection: a known one, or a new one in the order of the detections.

        Weak detections are associated after the others, with the confirmed tracks that remain, as in ByteTrack (Zhang
        et al. 2022); -1 if there is none.
        """
        known_ids, appearance = self._bank.compute_similarity(feature)
        histories = [self._tracks[track_id].history for track_id in known_ids.tolist()]
        predicted = extrapolate(histories, frame, self.config.slope_penalty)
        motion = compute_motion_similarity(state, predicted, self.config)
        weights = (self.config.appearance_weight, self.config.motion_weight)
        score = (weights[0] * appearance + weights[1] * motion) / sum(weights)
        column = np.full(len(score), -1, np.int64)
        column[~is_weak] = assign_tracks(score[~is_weak], self.config.score_threshold)
        free = np.array([self._tracks[track_id].is_confirmed for track_id in known_ids.tolist()], bool)
        free[column[column >= 0]] = False
        weak_score = np.where(free, score[is_weak], -np.inf)
        column[is_weak] = assign_tracks(weak_score, self.config.weak_score_threshold)
        is_new = (column < 0) & ~is_weak
        track_ids = np.where(column < 0, -1, known_ids[column]) if len(known_ids) else column
        track_ids[is_new] = self._next_id + np.arange(is_new.sum())
        self._next_id += int(is_new.sum())
        return track_ids

    def _record_detections(self, track_ids: NDArray[np.int64], state: NDArray[np.float64], frame: float) -> list[Track]:
        """Record the detections in their tracks, created for new ids, and return these n tracks."""
        for track_id in track_ids.tolist():
            if track_id not in self._tracks:
                self._tracks[track_id] = Track(track_id, self._stamp_s, self.config)
        tracks = [self._tracks[track_id] for track_id in track_ids.tolist()]
        for track, observation in zip(tracks, state, strict=True):
            track.add_hit(frame, observation, self._stamp_s)
        return tracks

    def _store_features(self, feature: NDArray[np.float32], tracks: list[Track], frame: float) -> None:
        """Store the features (n, F) of the tracks whose last stored one is old enough."""
        due = [frame - track.last_feature_frame >= self.config.feature_interval_frames for track in tracks]
        kept = [track for track, is_due in zip(tracks, due, strict=True) if is_due]
        for track in kept:
            track.last_feature_frame = frame
        self._bank.add(feature[due], np.array([track.track_id for track in kept], np.int64), frame)

    def _mark_lost(self, track_ids: NDArray[np.int64]) -> None:
        """Mark the tracks without a detection in this update as lost."""
        for track_id in self._tracks.keys() - set(track_ids.tolist()):
            self._tracks[track_id].is_detected = False


def _select_usable(detections: Detections) -> NDArray[np.bool_]:
    """Return a mask (n,) of the detections that can be tracked; log a warning if there are others."""
    usable = detections.find_usable()
    if not usable.all():
        logger.warning(
            "%d of %d detections are not tracked: they have NaN, infinity or an invalid rotation matrix",
            (~usable).sum(),
            len(usable),
        )
    return usable


def _is_rigid(transform: NDArray[Any]) -> bool:
    """Return whether the matrix is a finite (4, 4) rotation and translation, within float32 rounding."""
    matrix = np.asarray(transform, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3]
    is_rotation = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-4 and np.linalg.det(rotation) > 0
    return bool(is_rotation and np.abs(matrix[3] - (0, 0, 0, 1)).max() < 1e-6)


def assign_tracks(score: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Return one column per row of a score matrix (n, m) that maximizes the total score: (n,) int64, -1 for none.

    As published: the Hungarian algorithm on costs 1 − score; pairs below the threshold get equal costs, the matrix is
    padded to a square with a huge cost, and only pairs at or above the threshold are accepted.
    """
    n, m = score.shape
    column_of_row = np.full(n, -1, np.int64)
    if n == 0 or m == 0:
        return column_of_row
    max_cost = 1 - threshold
    cost = 1 - score
    padded = np.full((max(n, m), max(n, m)), _PADDING_COST)
    padded[:n, :m] = np.where(cost > max_cost, max_cost + _REJECTED_MARGIN, cost)
    rows, columns = linear_sum_assignment(padded)
    accepted = padded[rows, columns] <= max_cost
    column_of_row[rows[accepted]] = columns[accepted]
    return column_of_row
