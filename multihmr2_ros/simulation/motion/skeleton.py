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

"""Converts poses to rotations of Anny's 163 bones, for bodies of any shape.

Anny's rest pose differs between bodies (an A-pose with bones leaning up to 25° more in infants), so the same rotations
would be another pose. Here every segment is rotated from its rest orientation in the given body to the pose's
orientation, and the bones' relative rotations follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.simulation.motion.pose import SIDES, Matrix, Pose, rotate_about

# Anny's rest frame has x left, y to the back and z up; the heading frame x front, y left, z up.
HEADING_FROM_REST = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
SHOULDER_SHARE = 0.3  # part of a raised arm's elevation beyond SHOULDER_FREE_RAD done by the collar bone
SHOULDER_FREE_RAD = 0.6


def compute_bone_rotations(
    poses: Sequence[Pose], rest_bone_poses: NDArray[np.floating], labels: Sequence[str], parents: Sequence[int]
) -> NDArray[np.float64]:
    """Return rotations (n, 163, 3, 3) relative to the parent's; row 0 is the root's in the heading frame.

    rest_bone_poses (n, 163, 4, 4): Body.compute_rest_bone_poses. labels, parents: of the 163 bones.
    """
    row = {label: index for index, label in enumerate(labels)}
    rotations = np.broadcast_to(np.eye(3), (len(poses), len(labels), 3, 3)).copy()
    for person, (pose, rest) in enumerate(zip(poses, rest_bone_poses, strict=True)):
        heads = {label: rest[index, :3, 3].astype(np.float64) for label, index in row.items()}
        turns = _compute_turns(pose, heads)
        placed: dict[int, Matrix] = {}
        for index, parent in enumerate(parents):
            inherited = placed[parent] if parent >= 0 else None
            turn = turns.get(labels[index])
            placed[index] = turn if turn is not None else inherited  # type: ignore[assignment]
            if turn is None:
                continue
            if inherited is None:
                rotations[person, index] = turn @ rest[index, :3, :3]
            else:
                axes = rest[index, :3, :3]
                rotations[person, index] = axes.T @ inherited.T @ turn @ axes
    return rotations


def _compute_turns(pose: Pose, heads: dict[str, NDArray[np.float64]]) -> dict[str, Matrix]:
    """Return for each bone the rotation from its rest orientation in the rest frame to the heading frame."""
    pelvis, chest = pose["pelvis"], pose["chest"]
    turns = {"root": pelvis @ HEADING_FROM_REST}
    bend = Rotation.from_matrix(pelvis.T @ chest).as_rotvec()
    for step, label in enumerate(SPINE, start=1):
        share = Rotation.from_rotvec(bend * step / len(SPINE)).as_matrix()
        turns[label] = pelvis @ share @ HEADING_FROM_REST
    for side, sign in SIDES.items():
        letter = side[0].upper()
        upright = _straighten_leg(heads, letter)
        turns[f"upperleg01.{letter}"] = pose[f"{side}_thigh"] @ upright
        turns[f"lowerleg01.{letter}"] = pose[f"{side}_shin"] @ upright
        upper_rest, lower_rest = _straighten_arm(heads, letter)
        upper = pose[f"{side}_upper_arm"]
        turns[f"clavicle.{letter}"] = chest @ _rotate_collar_bone(chest.T @ upper, sign) @ HEADING_FROM_REST
        turns[f"upperarm01.{letter}"] = upper @ upper_rest
        turns[f"lowerarm01.{letter}"] = pose[f"{side}_forearm"] @ lower_rest
    return turns


def _straighten_leg(heads: dict[str, NDArray[np.float64]], letter: str) -> Matrix:
    """Rotate a resting leg so that hip and ankle are in one sagittal plane; knee and ankle keep their rest angles.

    The feet are flat then, because Anny's ankles are never posed.
    """
    down = HEADING_FROM_REST @ (heads[f"foot.{letter}"] - heads[f"upperleg01.{letter}"])
    return rotate_about(0, -np.arctan2(down[1], -down[2])) @ HEADING_FROM_REST


def _straighten_arm(heads: dict[str, NDArray[np.float64]], letter: str) -> tuple[Matrix, Matrix]:
    """Return the rotations from the resting upper arm and forearm to a straight hanging arm.

    The elbow then bends forward.
    """
    shoulder, elbow, wrist = (heads[f"{bone}.{letter}"] for bone in ("upperarm01", "lowerarm01", "wrist"))
    upper, lower = elbow - shoulder, wrist - elbow
    hinge = np.cross(upper, lower)
    hanging = _make_axes(np.array([0.0, 0.0, -1.0]), np.array([0.0, -1.0, 0.0]))
    return hanging @ _make_axes(upper, hinge).T, hanging @ _make_axes(lower, hinge).T


def _make_axes(along: NDArray[np.float64], hinge: NDArray[np.float64]) -> Matrix:
    """Return (3, 3) with the columns along, hinge and their cross product; hinge is perpendicular to along."""
    first, second = along / np.linalg.norm(along), hinge / np.linalg.norm(hinge)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _rotate_collar_bone(upper_arm: Matrix, sign: float) -> Matrix:
    """Return the collar bone's rotation on the chest, for an upper arm raised from hanging."""
    direction = -upper_arm[:, 2]
    raised = max(0.0, np.arccos(np.clip(-direction[2], -1.0, 1.0)) - SHOULDER_FREE_RAD)
    axis = np.cross([0.0, 0.0, -1.0], direction)
    length = np.linalg.norm(axis)
    axis = axis / length if length > 1e-6 else np.array([sign, 0.0, 0.0])
    return Rotation.from_rotvec(axis * SHOULDER_SHARE * raised).as_matrix()
