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

"""Poses as orientations of body segments in the heading frame of the person, independent of any rig.

Heading frame: x in the direction of travel, y to the left, z up. A segment's orientation is the rotation from neutral
standing: legs parallel, arms hanging straight with the palms to the thighs. All identities mean neutral standing.
Joint angles are anatomical, in radians, and mean the same on both sides: flexion forward (knees: backward),
abduction away from the body, external rotation outward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

SEGMENTS = (
    "pelvis",
    "chest",
    "left_upper_arm",
    "left_forearm",
    "left_thigh",
    "left_shin",
    "right_upper_arm",
    "right_forearm",
    "right_thigh",
    "right_shin",
)
SIDES = {"left": 1.0, "right": -1.0}


@dataclass(frozen=True, eq=False)
class Pose:
    """Orientations of the body segments.

    orientation (10, 3, 3): SEGMENTS in the heading frame. clearance_m: of the lowest point above the ground.
    """

    orientation: Matrix
    clearance_m: float = 0.0

    def __getitem__(self, segment: str) -> Matrix:
        return self.orientation[SEGMENTS.index(segment)]


class Arm(NamedTuple):
    """Shoulder and elbow angles in rad; internal rotation moves the bent forearm in front of the belly."""

    flexion: float = 0.0
    abduction: float = 0.1
    internal: float = 0.2
    elbow: float = 0.25


class Leg(NamedTuple):
    """Hip and knee angles in rad."""

    flexion: float = 0.0
    abduction: float = 0.0
    external: float = 0.0
    knee: float = 0.0


class Trunk(NamedTuple):
    """Pelvis in the heading frame, chest on the pelvis, rad: yaw to the left, pitch forward, roll to the right."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    chest_yaw: float = 0.0
    chest_pitch: float = 0.0
    chest_roll: float = 0.0


def rotate_about(axis: int, angle: float) -> Matrix:
    """Return the rotation (3, 3) about x (0), y (1) or z (2) by an angle in rad."""
    rotation = np.eye(3)
    one, other = (axis + 1) % 3, (axis + 2) % 3
    rotation[one, one] = rotation[other, other] = math.cos(angle)
    rotation[other, one] = math.sin(angle)
    rotation[one, other] = -rotation[other, one]
    return rotation


def rotate_yaw_pitch_roll(yaw: float, pitch: float, roll: float) -> Matrix:
    """Return the rotation (3, 3): first roll about x, then pitch about y, then yaw about z."""
    return rotate_about(2, yaw) @ rotate_about(1, pitch) @ rotate_about(0, roll)


def pose_from_angles(trunk: Trunk, arms: Sequence[Arm], legs: Sequence[Leg], clearance_m: float = 0.0) -> Pose:
    """Return the pose with the given joint angles; arms and legs are in the order left, right."""
    pelvis = rotate_yaw_pitch_roll(*trunk[:3])
    chest = pelvis @ rotate_yaw_pitch_roll(*trunk[3:])
    segments = [pelvis, chest]
    for sign, arm, leg in zip(SIDES.values(), arms, legs, strict=True):
        upper_arm = chest @ _orient_limb(arm.flexion, sign * arm.abduction, -sign * arm.internal)
        thigh = pelvis @ _orient_limb(leg.flexion, sign * leg.abduction, sign * leg.external)
        segments += [upper_arm, upper_arm @ rotate_about(1, -arm.elbow), thigh, thigh @ rotate_about(1, leg.knee)]
    return Pose(np.stack(segments), clearance_m)


def _orient_limb(flexion: float, sideways: float, twist: float) -> Matrix:
    return rotate_about(1, -flexion) @ rotate_about(0, sideways) @ rotate_about(2, twist)
