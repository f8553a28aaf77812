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

"""Positions of all people of an image, refined with depth and ground. `solver.py` contains the derivation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.depth import RelativeDepthMap, check_depth
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import GroundPlane
from multihmr2_ros.people import People, PlacementCue

from .config import PlacementConfig
from .solver import PlacementSolver
from .surface import NEAREST_DEPTH_M, BodySurface

Array = NDArray[np.float64]
POINTS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Placement:
    """n people with refined positions.

    people               the given people with new pelvis, joints, joints_2d, vertices, bone_poses and stature; the
                         shape is unchanged
    distance_sigma_m     (n,) m, standard deviation of the pelvis's distance to the camera; NaN if unknown
    cue                  (n,) int64, a PlacementCue
    distance_covariance  (n, n) m², of the distances: an uncertain scale of the map moves all people together
    map_probability      probability that a relative map shows these people; NaN without a relative map
    """

    people: People
    distance_sigma_m: Array
    cue: NDArray[np.int64]
    distance_covariance: Array
    map_probability: float = math.nan


def place_people(
    people: People,
    surface: BodySurface,
    depth: NDArray[np.generic] | RelativeDepthMap | None = None,
    ground: GroundPlane | None = None,
    config: PlacementConfig | None = None,
) -> Placement:
    """Move the people of one image to the maximum of the posterior.

    people   with the mesh of `surface`; people who are not in front of the camera stay unchanged
    depth    (H, W) uint16 mm or float m, registered to the image (same size and K), where 0, NaN and infinity are
             holes; or a relative map
    ground   in the camera frame
    config   None: the defaults

    Raises UserError for an invalid depth image, one of another size, and people without that mesh.
    """
    check_depth(depth, people.image_size)
    n = len(people)
    if n and people.vertices.shape[1] != surface.vertex_count:
        raise UserError(
            f"placement: expected people with {surface.vertex_count} vertices, as the surface, got "
            f"{people.vertices.shape[1]}; use the same mesh for both"
        )
    covariance, cue = np.full((n, n), np.nan), np.full(n, int(PlacementCue.PRIOR))
    rows = np.flatnonzero((people.pelvis[:, 2] > NEAREST_DEPTH_M) & np.isfinite(people.pelvis).all(axis=1))
    if not len(rows):
        return Placement(people, np.full(n, np.nan), cue, covariance)
    is_whole = len(rows) == n
    solver = PlacementSolver(
        people if is_whole else people.select(rows), surface, depth, ground, config or PlacementConfig()
    )
    maxima = solver.solve()
    distance = np.exp(maxima.x) * np.linalg.norm(people.pelvis[rows], axis=1)
    covariance[np.ix_(rows, rows)] = maxima.covariance * np.outer(distance, distance)
    cue[rows] = maxima.cue
    along, scale = np.ones(n, np.float32), np.ones(n, np.float32)
    along[rows], scale[rows] = np.exp(maxima.x), np.exp(maxima.y)
    sigma_m = np.sqrt(np.diag(covariance))
    return Placement(_move_people(people, along, scale), sigma_m, cue, covariance, maxima.map_probability)


def _move_people(people: People, along: NDArray[np.float32], scale: NDArray[np.float32]) -> People:
    """Multiply the pelvises' distances by along (n,) and the bodies' sizes by scale (n,)."""
    # along · p + scale · (v − p) = scale · (v + (along / scale − 1) · p)
    shifts = np.tile(people.pelvis * (along / scale - 1)[:, None], POINTS_AT_ONCE)
    joints, vertices = (_shift_and_scale(points, shifts, scale) for points in (people.joints, people.vertices))
    bone_poses = people.bone_poses.copy()
    for axis in range(3):
        bone_poses[:, :, axis, 3] *= scale[:, None]
    return dataclasses.replace(
        people,
        joints=joints,
        joints_2d=project(joints.astype(np.float64), people.k).astype(np.float32),
        pelvis=joints[:, 0],
        vertices=vertices,
        bone_poses=bone_poses,
        stature=people.stature * scale,
    )


def _shift_and_scale(
    points: NDArray[np.float32], shifts: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return scale (n,) · (points (n, P, 3) + shift (n, 3)); shifts: repeated, because NumPy is slow along 3."""
    rows = points.reshape(len(points), -1)
    n, length = shifts.shape
    whole = rows.shape[1] - rows.shape[1] % length
    result = np.empty(rows.shape, np.float32)
    np.add(rows[:, :whole].reshape(n, -1, length), shifts[:, None], out=result[:, :whole].reshape(n, -1, length))
    np.add(rows[:, whole:], shifts[:, : rows.shape[1] - whole], out=result[:, whole:])
    result *= scale[:, None]
    return result.reshape(points.shape)
