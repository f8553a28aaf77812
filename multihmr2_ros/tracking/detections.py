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

"""What goes into the tracker and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.people import TrackState


@dataclass(frozen=True)
class Detections:
    """The n people that were detected in one image. n may be 0.

    feature   (n, F) appearance feature, of any length
    location  (n, 3) pelvis as (u/side, v/side, log(1/z)): pixels of the padded square network input over its side, and
              the nearness, z in metres
    rotation  (n, 3, 3) pelvis rotation, camera frame
    pelvis    (n, 3) m, camera frame; None: no velocity
    shape     (n, S) body shape; None: no running shape
    score     (n,) detection score; None: all weigh the same in the running shape
    distance_sigma_m (n,) standard deviation of the pelvis's distance where more than the network's picture is known
              (NaN: no more is); None: that of the configuration for all
    """

    feature: NDArray[Any]
    location: NDArray[Any]
    rotation: NDArray[Any]
    pelvis: NDArray[Any] | None = None
    shape: NDArray[Any] | None = None
    score: NDArray[Any] | None = None
    distance_sigma_m: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        n = len(self.feature)
        wanted: dict[str, tuple[int | None, ...]] = {
            "feature": (n, None),
            "location": (n, 3),
            "rotation": (n, 3, 3),
            "pelvis": (n, 3),
            "shape": (n, None),
            "score": (n,),
            "distance_sigma_m": (n,),
        }
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is None and name in ("pelvis", "shape", "score", "distance_sigma_m"):
                continue
            matches = len(array.shape) == len(shape) and all(
                expected in (None, size) for expected, size in zip(shape, array.shape, strict=True)
            )
            if not matches:
                expected = " × ".join("any" if size is None else str(size) for size in shape)
                raise UserError(
                    f"Detections.{name}: expected an array of shape {expected}, got {array.shape}; "
                    "give every array one row per detection"
                )

    def __len__(self) -> int:
        return len(self.feature)

    def usable(self) -> NDArray[np.bool_]:
        """(n,) whether every number of the row is finite and its rotation is one."""
        usable = np.ones(len(self), bool)
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None and field.name != "distance_sigma_m":
                usable &= np.isfinite(array.reshape(len(self), int(np.prod(array.shape[1:])))).all(axis=1)
        usable[usable] = np.linalg.det(self.rotation[usable]) > 0
        return usable

    def select(self, rows: NDArray[np.bool_]) -> Detections:
        """Only the rows that a mask (n,) names."""
        if rows.all():
            return self
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        selected: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
        return Detections(**selected)


@dataclass(frozen=True)
class TrackedFrame:
    """The tracker's answer for one image; arrays have the rows of the detections.

    track_id             (n,) int64, never reused while the tracker lives; -1: the row held NaN and was not tracked
    state                (n,) int64, a TrackState: tentative, confirmed, or untracked for rows that held NaN
    age_s                (n,) s since the track's first detection
    velocity             (n, 3) m/s in velocity_frame; NaN until seen at two stamps
    velocity_covariance  (n, 3, 3) (m/s)²; NaN where the velocity is
    velocity_frame       "fixed" where a fixed frame was given for this image, else "camera" (relative to the camera)
    pelvis               (n, 3) m, camera frame, smoothed where that is on, else as given; None as given
    rotation             (n, 3, 3) camera frame, likewise
    shape                (n, S) the track's running shape; None as given
    lost_ids             tracks that were seen in the last update and are not in this one
    ended_ids            tracks that ended since the last update: they never come back
    jumped_back          whether the stamp was earlier than the last one, so that the tracker started afresh
    """

    track_id: NDArray[np.int64]
    state: NDArray[np.int64]
    age_s: NDArray[np.float64]
    velocity: NDArray[np.float64]
    velocity_covariance: NDArray[np.float64]
    velocity_frame: str
    pelvis: NDArray[np.float64] | None
    rotation: NDArray[np.float64]
    shape: NDArray[np.float64] | None
    lost_ids: tuple[int, ...] = ()
    ended_ids: tuple[int, ...] = ()
    jumped_back: bool = False

    @classmethod
    def untracked(cls, detections: Detections, velocity_frame: str) -> TrackedFrame:
        """The detections as they are, without identity; arrays are copies."""
        n = len(detections)
        return cls(
            track_id=np.full(n, -1, np.int64),
            state=np.full(n, TrackState.UNTRACKED, np.int64),
            age_s=np.zeros(n),
            velocity=np.full((n, 3), np.nan),
            velocity_covariance=np.full((n, 3, 3), np.nan),
            velocity_frame=velocity_frame,
            pelvis=None if detections.pelvis is None else np.array(detections.pelvis, np.float64),
            rotation=np.array(detections.rotation, np.float64),
            shape=None if detections.shape is None else np.array(detections.shape, np.float64),
        )


@dataclass(frozen=True)
class TrackSnapshot:
    """One live track, as it is after the last update.

    age_s: s since its first detection, at the last update. unseen_s: s since its last detection (0 unless lost).
    hits: detections so far.
    """

    track_id: int
    state: TrackState
    age_s: float
    unseen_s: float
    hits: int
