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

"""Input and output of the tracker."""

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

    feature           (n, F) appearance feature, of any length
    location          (n, 3) pelvis as (u/side, v/side, log(1/z)): pixels of the padded square network input divided by
                      its side, and the log nearness, z in meters
    rotation          (n, 3, 3) pelvis rotation, camera frame
    pelvis            (n, 3) m, camera frame; None: velocities are not estimated
    shape             (n, S) body shape; None: no running shape
    score             (n,) detection score; None: equal weights in the running shape and stature
    distance_sigma_m  (n,) m, standard deviation of the pelvis's distance, measured with a depth image or the ground
                      plane; NaN (or None for all): use VelocityConfig.depth_sigma_ratio
    is_weak           (n,) bool, detections too uncertain to start a track: they only continue a confirmed one, and are
                      not tracked otherwise; None: no detection is weak
    stature           (n,) m; None: no running stature
    bone_rotations    (n, B, 3, 3) of each bone relative to its parent; row 0 of each person is the root's in the camera
                      frame, as in `rotation`; None: poses are not smoothed
    """

    feature: NDArray[Any]
    location: NDArray[Any]
    rotation: NDArray[Any]
    pelvis: NDArray[Any] | None = None
    shape: NDArray[Any] | None = None
    score: NDArray[Any] | None = None
    distance_sigma_m: NDArray[Any] | None = None
    is_weak: NDArray[np.bool_] | None = None
    stature: NDArray[Any] | None = None
    bone_rotations: NDArray[Any] | None = None

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
            "is_weak": (n,),
            "stature": (n,),
            "bone_rotations": (n, None, 3, 3),
        }
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is None and name not in ("feature", "location", "rotation"):
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

    def find_usable(self) -> NDArray[np.bool_]:
        """Return a mask (n,) of the rows that are finite and have valid rotations (positive determinants)."""
        usable = np.ones(len(self), bool)
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None and field.name != "distance_sigma_m":
                usable &= np.isfinite(array.reshape(len(self), int(np.prod(array.shape[1:])))).all(axis=1)
        usable[usable] = np.linalg.det(self.rotation[usable]) > 0
        if self.bone_rotations is not None:
            usable[usable] = (np.linalg.det(self.bone_rotations[usable]) > 0).all(axis=1)
        return usable

    def select(self, rows: NDArray[np.bool_]) -> Detections:
        """Return the rows that a mask (n,) selects."""
        if rows.all():
            return self
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        selected: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
        return Detections(**selected)


@dataclass(frozen=True)
class TrackingResult:
    """Output of the tracker for one image; row i of each array belongs to detection i.

    track_id             (n,) int64, never reused by one tracker; -1: the row was not usable, or weak without a track
    state                (n,) int64, a TrackState: tentative, confirmed, or untracked for rows that were not usable
    age_s                (n,) s since the track's first detection
    velocity             (n, 3) m/s in velocity_frame; NaN until measured at two stamps
    velocity_covariance  (n, 3, 3) (m/s)²; NaN where the velocity is NaN
    velocity_frame       "fixed" if a fixed frame was given for this image, else "camera" (relative to the camera)
    shape                (n, S) running shape of the track; None if the detections have no shape
    stature              (n,) m, running stature of the track; None if the detections have no stature
    pelvis               (n, 3) m, camera frame, of the detections, at the distances of the motion filters unless the
                         distance was measured; None without smoothing
    bone_rotations       (n, B, 3, 3) smoothed; None without smoothing
    """

    track_id: NDArray[np.int64]
    state: NDArray[np.int64]
    age_s: NDArray[np.float64]
    velocity: NDArray[np.float64]
    velocity_covariance: NDArray[np.float64]
    velocity_frame: str
    shape: NDArray[np.float64] | None
    stature: NDArray[np.float64] | None
    pelvis: NDArray[np.float64] | None = None
    bone_rotations: NDArray[np.float64] | None = None

    @classmethod
    def from_untracked(cls, detections: Detections, velocity_frame: str, *, is_smoothed: bool) -> TrackingResult:
        """Return the output without identities and velocities; the other fields are copies of the detections'."""
        n = len(detections)
        return cls(
            track_id=np.full(n, -1, np.int64),
            state=np.full(n, TrackState.UNTRACKED, np.int64),
            age_s=np.zeros(n),
            velocity=np.full((n, 3), np.nan),
            velocity_covariance=np.full((n, 3, 3), np.nan),
            velocity_frame=velocity_frame,
            shape=_copy(detections.shape),
            stature=_copy(detections.stature),
            pelvis=_copy(detections.pelvis) if is_smoothed else None,
            bone_rotations=_copy(detections.bone_rotations) if is_smoothed else None,
        )


def _copy(values: NDArray[Any] | None) -> NDArray[np.float64] | None:
    return None if values is None else np.array(values, np.float64)


@dataclass(frozen=True)
class TrackSnapshot:
    """One live track, as of the last update.

    track_id, state  as in TrackingResult; the state may be lost
    age_s            s from its first detection to the last update
    unseen_s         s from its last detection to the last update (0 unless lost)
    hits             number of detections so far
    """

    track_id: int
    state: TrackState
    age_s: float
    unseen_s: float
    hits: int
