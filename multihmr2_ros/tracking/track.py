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

"""One track: everything that is kept about one person."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.people import TrackState

from .config import TrackerConfig
from .detections import TrackSnapshot
from .modes import ModalEstimate
from .motion import MotionHistory
from .smoothing import Smoothed
from .velocity import MotionEstimate

_LEAST_SCORE = 1e-3  # a detection of score 0 still counts a little, so that the weights never sum to zero


class RunningShape:
    """Mean of a track's body shapes, weighted with the detection score, forgetting with a time constant.

    Over spans shorter than the window it is the plain weighted mean; a person does not change size between frames.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._stamp_s = 0.0
        self._weight = 0.0
        self._mean: NDArray[np.float64] | None = None

    def update(self, shape: NDArray[np.float64], score: float, stamp_s: float) -> NDArray[np.float64]:
        """The mean (S,) after a shape (S,) at a stamp no earlier than the last."""
        weight = max(score, _LEAST_SCORE)
        self._weight = self._weight * math.exp((self._stamp_s - stamp_s) / self._window_s) + weight
        self._stamp_s = stamp_s
        self._mean = shape if self._mean is None else self._mean + weight / self._weight * (shape - self._mean)
        return self._mean


class Track:
    """The state of one track; of bounded size however long it lives.

    motion: relative to the camera; ground_motion: in a fixed frame. log_depth, rotation: only where they are smoothed.
    All None at first.
    """

    def __init__(self, track_id: int, stamp_s: float, config: TrackerConfig) -> None:
        self.track_id = track_id
        self.first_stamp_s = stamp_s
        self.last_stamp_s = stamp_s
        self.hits = 0
        self.seen = True
        self.feature_frame = -math.inf
        self.history = MotionHistory(config.motion_history)
        self.running_shape = RunningShape(config.shape_window_s)
        self.motion: MotionEstimate | None = None
        self.ground_motion: ModalEstimate | None = None
        self.log_depth: Smoothed | None = None
        self.rotation: Smoothed | None = None
        self._confirm_hits = config.confirm_hits

    @property
    def state(self) -> TrackState:
        """Tentative until it has been detected often enough; lost while it is not."""
        if not self.seen:
            return TrackState.LOST
        return TrackState.CONFIRMED if self.hits >= self._confirm_hits else TrackState.TENTATIVE

    def hit(self, frame: float, state: NDArray[np.float64], stamp_s: float) -> None:
        """Take note of a detection: its frame number and its pelvis state (7,)."""
        self.history.add(frame, state)
        self.last_stamp_s = stamp_s
        self.hits += 1
        self.seen = True

    def snapshot(self, stamp_s: float) -> TrackSnapshot:
        """What others may know about the track at a stamp."""
        return TrackSnapshot(
            track_id=self.track_id,
            state=self.state,
            age_s=stamp_s - self.first_stamp_s,
            unseen_s=stamp_s - self.last_stamp_s,
            hits=self.hits,
        )
