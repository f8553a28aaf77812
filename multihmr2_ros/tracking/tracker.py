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

"""People keep their identity from frame to frame.

The association is the published one (Multi-HMR 2, section "Tracking in videos"): a bank of appearance features whose
nearest neighbours vote for their tracks, a ridge regression that extrapolates each pelvis, and the Hungarian
algorithm on the weighted sum of the two similarities. `TrackerConfig.reference()` gives the published ids exactly.

What differs from the published method, and why:

- The paper's text has L1 distances between features; the released settings, followed here, are Euclidean on
  L2-normalised features.
- Time comes from message stamps, as (stamp − start) × nominal rate: cameras drop frames and change their rate. At
  one frame per update this is the published frame index.
- What is older than the memory is forgotten at the start of an update, by its age then, and not at the end of the
  update before. With a frame at every index both are the same; after a pause this one does not wake tracks that are
  too old.
- A track's motion model goes with the last of its features. The published method keeps every motion model while
  people are in view, so that it grows without end; as only ids with a feature in the bank can be assigned, dropping
  the others changes no id.
- By default each track keeps a feature every 0.1 s, not every frame: neighbouring ones say the same, and the time of
  an update is mostly that of the distances to all of them.
- The bank also has a capacity, so that a crowd or a long memory cannot take all of the machine.
- A stamp that jumps backwards (a bag looping, simulated time set back) starts afresh; ids go on counting.
- Detections with a number that is not finite are marked untracked and leave no trace in the memory.
- Tracks have states, a velocity with covariance, a running body shape and optional smoothing; none of these has a part
  in the association.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError

from .appearance import AppearanceBank, normalised
from .association import assign
from .config import TrackerConfig, frame_number
from .detections import Detections, TrackedFrame, TrackSnapshot
from .estimates import estimate
from .motion import extrapolate, motion_similarity, pelvis_state
from .track import Track

_LATEST_STAMP_S = 1e12
_LONGEST_GAP_S = 1.0  # a fixed frame that was unknown for longer may be another one: odometry was started again
logger = logging.getLogger(__name__)


class Tracker:
    """Gives the people of one camera their ids, frame by frame.

    Memory and time per update are bounded by the configuration, however long it runs. One instance per camera; calls
    must not overlap.
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
        self._ended_by_reset: list[int] = []

    def update(
        self,
        detections: Detections,
        stamp_s: float,
        fixed_from_camera: NDArray[Any] | None = None,
        fixed_frame: str = "",
    ) -> TrackedFrame:
        """Associate the people of one image with those of the images before.

        detections         people of this image, none included: call it for every image
        stamp_s            s, stamp of the image. Equal to the last: a second look at one instant, associated as usual;
                           it adds nothing to the velocity's time. Earlier than the last: starts afresh.
        fixed_from_camera  (4, 4) pose of the camera in a frame that does not move (odometry: it must not jump either),
                           at the stamp; None: velocities are relative to the camera
        fixed_frame        its name, if there are several: with another one, velocities start afresh

        Raises UserError, with nothing changed, for a stamp that is not finite, a transform that is not rigid, and
        features of another length than before.
        """
        self._check(detections, stamp_s, fixed_from_camera)
        jumped_back = self._advance_clock(stamp_s)
        frame = frame_number(stamp_s - self._start_s, self.config.nominal_rate_hz)
        ended_ids = self._end_forgotten(frame)
        self._select_velocity_frame(fixed_frame, is_known=fixed_from_camera is not None)
        usable = _usable(detections)
        observed = detections.select(usable)
        feature, state = normalised(observed.feature), pelvis_state(observed.location, observed.rotation)
        track_ids = self._associate(feature, state, frame)
        tracks = self._observe(track_ids, state, frame)
        self._keep(feature, tracks, frame)
        lost_ids = self._lose_unseen(track_ids)
        answer = estimate(detections, usable, tracks, fixed_from_camera, stamp_s, self.config)
        return replace(answer, lost_ids=lost_ids, ended_ids=ended_ids, jumped_back=jumped_back)

    def reset(self) -> None:
        """Forget everyone and the clock. Ids keep counting up; the next update reports the tracks as ended."""
        self._ended_by_reset += self._tracks
        self._tracks = {}
        self._bank.clear()
        self._is_running = False

    def tracks(self) -> list[TrackSnapshot]:
        """The live tracks, lost ones included, in ascending id, as they were after the last update."""
        return [self._tracks[track_id].snapshot(self._stamp_s) for track_id in sorted(self._tracks)]

    def _check(self, detections: Detections, stamp_s: float, fixed_from_camera: NDArray[Any] | None) -> None:
        """Raise UserError for what cannot be used, before anything is changed."""
        if not abs(stamp_s) < _LATEST_STAMP_S:  # NaN compares false
            raise UserError(
                f"stamp_s: expected finite seconds under {_LATEST_STAMP_S:.0e}, got {stamp_s!r}; "
                "use stamp.sec + stamp.nanosec * 1e-9"
            )
        if fixed_from_camera is not None and not _is_rigid(fixed_from_camera):
            raise UserError(
                "fixed_from_camera: expected a (4, 4) rotation and translation, "
                f"got {np.asarray(fixed_from_camera).tolist()}; give the camera's pose in the fixed frame, or None"
            )
        if len(detections):
            self._bank.check_length(detections.feature.shape[1])

    def _advance_clock(self, stamp_s: float) -> bool:
        """Set the time; whether it jumped backwards, so that everything was forgotten."""
        jumped_back = self._is_running and stamp_s < self._stamp_s
        if jumped_back:
            logger.warning(
                "stamp went back from %.6f s to %.6f s: tracker starts afresh, %d tracks end",
                self._stamp_s,
                stamp_s,
                len(self._tracks),
            )
            self.reset()
        if not self._is_running:
            self._is_running = True
            self._start_s = stamp_s
        self._stamp_s = stamp_s
        return jumped_back

    def _end_forgotten(self, frame: float) -> tuple[int, ...]:
        """Forget what is older than the memory; ids of the tracks of which nothing is left, or that a reset ended."""
        self._bank.forget(frame - self.config.memory_frames)
        ended = self._tracks.keys() - set(self._bank.track_ids().tolist())
        for track_id in ended:
            del self._tracks[track_id]
        ended_ids = tuple(sorted(ended | set(self._ended_by_reset)))
        self._ended_by_reset = []
        return ended_ids

    def _select_velocity_frame(self, fixed_frame: str, *, is_known: bool) -> None:
        """Restart the velocities relative to the camera whenever they are wanted again; those in the fixed frame live
        on while it is unknown for a moment."""
        if is_known:
            gap_s = 0.0 if self._has_fixed_frame else self._stamp_s - self._fixed_frame_stamp_s
            lives_on = fixed_frame == self._fixed_frame and gap_s <= _LONGEST_GAP_S
            for track in self._tracks.values():
                track.motion = None
                track.ground_motion = track.ground_motion if lives_on else None
            self._fixed_frame, self._fixed_frame_stamp_s = fixed_frame, self._stamp_s
        self._has_fixed_frame = is_known

    def _associate(self, feature: NDArray[Any], state: NDArray[np.float64], frame: float) -> NDArray[np.int64]:
        """(n,) the track that each detection continues, or a new id, in the order of the detections."""
        known_ids, appearance = self._bank.similarity(feature)
        histories = [self._tracks[track_id].history for track_id in known_ids.tolist()]
        predicted = extrapolate(histories, frame, self.config.slope_penalty)
        motion = motion_similarity(state, predicted, self.config)
        weights = (self.config.appearance_weight, self.config.motion_weight)
        score = (weights[0] * appearance + weights[1] * motion) / sum(weights)
        column = assign(score, self.config.score_threshold)
        is_new = column < 0
        track_ids = np.empty(len(column), np.int64)
        track_ids[~is_new] = known_ids[column[~is_new]]
        track_ids[is_new] = self._next_id + np.arange(is_new.sum())
        self._next_id += int(is_new.sum())
        return track_ids

    def _observe(self, track_ids: NDArray[np.int64], state: NDArray[np.float64], frame: float) -> list[Track]:
        """The tracks (n) of these ids, begun where they are new, after they took note of the detections."""
        for track_id in track_ids.tolist():
            if track_id not in self._tracks:
                self._tracks[track_id] = Track(track_id, self._stamp_s, self.config)
        tracks = [self._tracks[track_id] for track_id in track_ids.tolist()]
        for track, observation in zip(tracks, state, strict=True):
            track.hit(frame, observation, self._stamp_s)
        return tracks

    def _keep(self, feature: NDArray[np.float32], tracks: list[Track], frame: float) -> None:
        """Put the features (n, F) of the tracks whose last one is old enough into the bank."""
        due = [frame - track.feature_frame >= self.config.feature_interval_frames for track in tracks]
        kept = [track for track, is_due in zip(tracks, due, strict=True) if is_due]
        for track in kept:
            track.feature_frame = frame
        self._bank.add(feature[due], np.array([track.track_id for track in kept], np.int64), frame)

    def _lose_unseen(self, track_ids: NDArray[np.int64]) -> tuple[int, ...]:
        """Mark the tracks that were seen before and are not now; their ids."""
        lost_ids = {track_id for track_id, track in self._tracks.items() if track.seen} - set(track_ids.tolist())
        for track_id in lost_ids:
            self._tracks[track_id].seen = False
        return tuple(sorted(lost_ids))


def _usable(detections: Detections) -> NDArray[np.bool_]:
    """(n,) the detections that can be tracked; says when there are others."""
    usable = detections.usable()
    if not usable.all():
        logger.warning(
            "%d of %d detections hold NaN, infinity or a matrix that is no rotation: not tracked",
            (~usable).sum(),
            len(usable),
        )
    return usable


def _is_rigid(transform: NDArray[Any]) -> bool:
    """Whether it is a finite (4, 4) rotation and translation, to the rounding of float32."""
    matrix = np.asarray(transform, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3]
    is_rotation = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-4 and np.linalg.det(rotation) > 0
    return bool(is_rotation and np.abs(matrix[3] - (0, 0, 0, 1)).max() < 1e-6)
