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

"""Converts joint positions of any human rig to poses, from the directions of the limbs.

Rigs differ in rest pose, bone axes, units and names, but not in the position of a knee. So only joint positions are
used: pelvis and chest from hips and shoulders, every limb from the positions of its two ends, with the smallest twist
that these allow. If an elbow or knee is clearly bent, its hinge determines the twist of the upper segment.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import grey_opening

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.motion.bvh import Bvh, load_bvh
from multihmr2_ros.simulation.motion.pose import SEGMENTS, SIDES

# Joint → names in lower case without punctuation, in order of preference; {s} is the side, {l} its letter.
JOINT_NAMES = {
    "shoulder": ("{s}arm", "{s}upperarm", "{s}uparm", "uparm{l}", "upperarm{l}", "{s}shoulder", "{l}shoulder"),
    "elbow": ("{s}forearm", "{s}lowerarm", "{s}elbow", "loarm{l}", "lowerarm{l}", "forearm{l}", "{l}elbow"),
    "wrist": ("{s}wrist", "{s}hand", "hand{l}", "wrist{l}", "{l}wrist", "{l}hand"),
    "hip": ("{s}upleg", "{s}upperleg", "{s}thigh", "upleg{l}", "upperleg{l}", "thigh{l}", "{s}hip", "{l}hip"),
    "knee": ("{s}knee", "{s}lowerleg", "{s}leg", "{s}shin", "loleg{l}", "lowerleg{l}", "shin{l}", "calf{l}", "{l}knee"),
    "ankle": ("{s}ankle", "{s}foot", "foot{l}", "ankle{l}", "{l}ankle", "{l}foot"),
}
RATE_HZ = 60.0  # higher frame rates are reduced to this
BENT_RAD = (0.3, 0.8)  # bends at which a hinge begins to determine the twist, and fully does
MAX_TWIST_RAD = 1.5
MAX_JUMP_S = 0.8
TIPTOE = 0.06  # of the leg length: maximum rise of the lowest joint of a person on the ground


@dataclass(frozen=True, eq=False)
class Motion:
    """A recorded motion, independent of its rig. World: z up; the person faces x in the first frame.

    orientation (F, 10, 3, 3) float32: SEGMENTS in the world. travel (F, 2): the pelvis over the ground, relative to the
    first frame; clearance (F,): of the lowest joint above the ground; both in leg lengths. frame_s: s per frame.
    """

    name: str
    orientation: NDArray[np.float32]
    travel: NDArray[np.float64]
    clearance: NDArray[np.float64]
    frame_s: float

    @property
    def duration_s(self) -> float:
        return (len(self.travel) - 1) * self.frame_s


@functools.lru_cache(maxsize=1024)
def load_motion(path: FilePath) -> Motion:
    """Read the motion of a BVH file; UserError if the file is invalid or its rig is not recognized as human."""
    try:
        return retarget(load_bvh(path), path.stem)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}") from None


def list_motion_files(folder: FilePath) -> list[FilePath]:
    """List the BVH files of a folder, sorted; UserError if there are none."""
    files = sorted(FilePath(folder).glob("*.bvh"))
    if not files:
        raise UserError(f"expected *.bvh files in {folder}, found none; give another folder of motions, or omit it")
    return files


def retarget(bvh: Bvh, name: str = "") -> Motion:
    """Convert a BVH motion to one that is independent of its rig."""
    columns = _find_joints(bvh)
    step = max(1, int(1.0 / (RATE_HZ * bvh.frame_s)))
    places = Bvh(bvh.joints, bvh.values[::step], bvh.frame_s).compute_positions()
    joints = {joint: places[:, column] for joint, column in columns.items()}
    leg = sum(
        float(np.median(np.linalg.norm(joints[f"{side}_{one}"] - joints[f"{side}_{other}"], axis=1))) / 2
        for side in SIDES
        for one, other in (("hip", "knee"), ("knee", "ankle"))
    )
    if not leg > 1e-6:
        raise UserError(
            "the legs of a human rig must have a length above 0, but hip, knee and ankle coincide; correct the rig"
        )
    to_world = _compute_upright_rotation(joints)
    places = (places / leg) @ to_world.T
    joints = {joint: places[:, column] for joint, column in columns.items()}
    middle = 0.5 * (joints["left_hip"] + joints["right_hip"])
    clearance = _compute_clearance(places[..., 2].min(axis=1), step * bvh.frame_s)
    travel = middle[:, :2] - middle[0, :2]
    return Motion(name, compute_segment_orientations(joints).astype(np.float32), travel, clearance, step * bvh.frame_s)


def _compute_clearance(lowest: NDArray[np.float64], frame_s: float) -> NDArray[np.float64]:
    """Compute the height (F,) above the ground of the lowest joint, given at heights (F,) in the file.

    Recordings drift, so the ground is the height at which the lowest joint stays longer than any jump lasts.
    """
    window = min(len(lowest), 1 + int(MAX_JUMP_S / frame_s))
    return np.maximum(0.0, lowest - grey_opening(lowest, window, mode="nearest") - TIPTOE)


def _find_joints(bvh: Bvh) -> dict[str, int]:
    """Return joint names, such as left_knee, with their indices; UserError if one is missing."""
    named: dict[str, int] = {}
    for index, entry in enumerate(bvh.joints):
        if entry.name.startswith("_"):  # MakeHuman's helpers repeat the parent's position under the joint's name
            continue
        plain = "".join(letter for letter in entry.name.lower().rpartition(":")[2] if letter.isalnum())
        named.setdefault(plain, index)
    found: dict[str, int] = {}
    for side in SIDES:
        for joint, patterns in JOINT_NAMES.items():
            names = [pattern.format(s=side, l=side[0]) for pattern in patterns]
            known = [named[name] for name in names if name in named]
            if not known and joint == "wrist":  # the end of the forearm
                known = [index for index, entry in enumerate(bvh.joints) if entry.parent == found[f"{side}_elbow"]]
            if not known:
                raise UserError(
                    f"a human rig must have a {side} {joint} (such as {names[0]!r}), but no joint has a known name for "
                    "it; rename the joints"
                )
            found[f"{side}_{joint}"] = known[0]
    return found


def _compute_upright_rotation(joints: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the rotation (3, 3) from the file's axes to z up with the person facing x in the first frame.

    Files have y up, or z if the head is clearly above the feet along z for most of the time.
    """
    rise = joints["left_shoulder"] + joints["right_shoulder"] - joints["left_ankle"] - joints["right_ankle"]
    rise = rise / np.maximum(np.linalg.norm(rise, axis=1, keepdims=True), 1e-9)
    z_up = abs(np.median(rise[:, 2])) > 0.8
    axes = np.eye(3) if z_up else np.eye(3)[[2, 0, 1]]
    left = axes @ (joints["left_hip"] - joints["right_hip"])[0]
    up = axes @ rise[0]
    facing = np.cross(left, up)
    angle = np.arctan2(facing[1], facing[0]) if np.hypot(*facing[:2]) > 1e-9 else 0.0
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ axes


def compute_segment_orientations(joints: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Compute orientations (F, 10, 3, 3) of SEGMENTS from joint positions (F, 3) in the upright world."""
    shoulders = 0.5 * (joints["left_shoulder"] + joints["right_shoulder"])
    hips = 0.5 * (joints["left_hip"] + joints["right_hip"])
    segments = {
        "pelvis": _make_frame(shoulders - hips, joints["left_hip"] - joints["right_hip"]),
        "chest": _make_frame(shoulders - hips, joints["left_shoulder"] - joints["right_shoulder"]),
    }
    for side in SIDES:
        shoulder, elbow, wrist, hip, knee, ankle = (joints[f"{side}_{joint}"] for joint in JOINT_NAMES)
        upper_arm, forearm = _orient_limb(segments["chest"], elbow - shoulder, wrist - elbow, bends=-1.0)
        thigh, shin = _orient_limb(segments["pelvis"], knee - hip, ankle - knee, bends=1.0)
        segments |= {f"{side}_upper_arm": upper_arm, f"{side}_forearm": forearm}
        segments |= {f"{side}_thigh": thigh, f"{side}_shin": shin}
    return np.stack([segments[segment] for segment in SEGMENTS], axis=1)


def _normalize(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalize vectors (F, 3) to length one; vectors without a direction point down."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), [0.0, 0.0, -1.0])


def _make_frame(up: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frames (F, 3, 3) with the columns front, left, up, from an up and a rough left direction (F, 3)."""
    up = _normalize(up)
    front = np.cross(left, up)
    spare = np.cross(np.where(np.abs(up[:, :1]) < 0.9, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]), up)
    front = _normalize(np.where(np.linalg.norm(front, axis=1, keepdims=True) > 1e-9, front, spare))
    return np.stack([front, np.cross(up, front), up], axis=-1)


def _orient_limb(
    parent: NDArray[np.float64], upper: NDArray[np.float64], lower: NDArray[np.float64], bends: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return orientations (F, 3, 3) of a limb's two segments from their directions (F, 3).

    bends: +1 if the lower segment bends backward from hanging (knees), −1 if forward (elbows).
    """
    upper, lower = _normalize(upper), _normalize(lower)
    orientation = _compute_swing(-parent[..., 2], upper) @ parent
    hinge = bends * np.cross(upper, lower)
    axis, other = orientation[..., 1], np.cross(upper, orientation[..., 1])
    twist = np.arctan2((hinge * other).sum(-1), (hinge * axis).sum(-1))
    bend = np.arccos(np.clip((upper * lower).sum(-1), -1.0, 1.0))
    trust = np.clip((bend - BENT_RAD[0]) / (BENT_RAD[1] - BENT_RAD[0]), 0.0, 1.0)
    orientation = _rotate_about(upper, trust * np.clip(twist, -MAX_TWIST_RAD, MAX_TWIST_RAD)) @ orientation
    return orientation, _compute_swing(-orientation[..., 2], lower) @ orientation


def _compute_swing(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest rotations (F, 3, 3) between unit vectors (F, 3)."""
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=-1)
    spare = np.cross(start, np.where(np.abs(start[:, :1]) < 0.9, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    axis = np.where(sine[:, None] > 1e-9, axis, spare)
    return _rotate_about(axis / np.linalg.norm(axis, axis=-1, keepdims=True), np.arctan2(sine, (start * end).sum(-1)))


def _rotate_about(axis: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotations (F, 3, 3) about unit axes (F, 3) by angles (F,), by Rodrigues' formula."""
    x, y, z = axis.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    sine, versine = np.sin(angle)[:, None, None], (1.0 - np.cos(angle))[:, None, None]
    return np.eye(3) + sine * cross + versine * (cross @ cross)
