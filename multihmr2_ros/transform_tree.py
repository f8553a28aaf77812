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

"""The arithmetic of frames of reference, each of which has a pose in its parent, as in tf2. Needs no ROS."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNIT_TOLERANCE = 1e-2  # of a quaternion's length, as in tf2
SAME_DIRECTION = 1 - 1e-9  # cosine above which two quaternions are not interpolated along the sphere

Pose = tuple[float, ...]
"""Seven numbers: translation x, y, z (m) and quaternion x, y, z, w of a frame in its parent."""


class TransformChain(NamedTuple):
    """The frames from a source up to the nearest ancestor that it shares with a target, and those from the target;
    each without that ancestor."""

    up: list[str]
    down: list[str]

    def target_from_source(self, parent_from: Callable[[str], NDArray[np.float64]]) -> NDArray[np.float64]:
        """(4, 4); parent_from: (4, 4) of a frame in its parent, by its name."""
        from_source, from_target = np.eye(4), np.eye(4)
        for frame in self.up:
            from_source = parent_from(frame) @ from_source
        for frame in self.down:
            from_target = parent_from(frame) @ from_target
        return _invert(from_target) @ from_source


def find_transform_chain(target: str, source: str, parent_of: Callable[[str], str | None]) -> TransformChain | None:
    """None where nothing connects the two. parent_of: a frame's parent; None of roots and of unknown frames."""
    up, down = list(_list_ancestors(source, parent_of)), list(_list_ancestors(target, parent_of))
    shared = set(down)
    common = next((frame for frame in up if frame in shared), None)
    return None if common is None else TransformChain(up[: up.index(common)], down[: down.index(common)])


def interpolate_at(
    stamps: Sequence[int], poses: Sequence[Pose] | NDArray[np.float64], stamp_ns: int
) -> ArrayLike | None:
    """The pose (7,) at a stamp, interpolated; None before the first and after the last one. stamps (ns) ascend."""
    after = bisect_left(stamps, stamp_ns)
    if after == len(stamps):
        return None
    if stamps[after] == stamp_ns:
        return poses[after]
    if after == 0:
        return None
    share = (stamp_ns - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    return interpolate_poses(poses[after - 1], poses[after], share)


def interpolate_poses(first: ArrayLike, second: ArrayLike, share: float) -> NDArray[np.float64]:
    """The pose (7,) at a share in [0, 1] of the way between two: straight, turning the shorter way."""
    start, end = np.array(first, np.float64), np.array(second, np.float64)
    start[3:] /= np.linalg.norm(start[3:])
    end[3:] /= np.linalg.norm(end[3:])
    cosine = float(start[3:] @ end[3:])
    if cosine < 0:
        end[3:], cosine = -end[3:], -cosine
    pose = (1 - share) * start + share * end
    if cosine < SAME_DIRECTION:
        angle = np.arccos(cosine)
        pose[3:] = (np.sin((1 - share) * angle) * start[3:] + np.sin(share * angle) * end[3:]) / np.sin(angle)
    return pose


def pose_to_matrix(pose: ArrayLike) -> NDArray[np.float64]:
    """(4, 4) of a pose (7,), whose quaternion is normalised."""
    pose = np.asarray(pose, np.float64)
    x, y, z, w = pose[3:] / np.linalg.norm(pose[3:])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), pose[0]],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), pose[1]],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), pose[2]],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def is_pose(pose: Pose) -> bool:
    """Whether all numbers are finite and the quaternion is of unit length, as far as tf2 asks for it."""
    return all(map(math.isfinite, pose)) and abs(math.hypot(*pose[3:]) - 1) <= UNIT_TOLERANCE


def normalize_frame_name(name: str) -> str:
    """As tf2 has it: without the slash that ROS 1 put before names."""
    return name.removeprefix("/")


def _list_ancestors(frame: str, parent_of: Callable[[str], str | None]) -> Iterator[str]:
    """The frame, its parent, and so on to the root; ends where the tree is none."""
    seen: set[str] = set()
    name: str | None = frame
    while name is not None and name not in seen:
        yield name
        seen.add(name)
        name = parent_of(name)


def _invert(rigid: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.eye(4)
    inverse[:3, :3] = rigid[:3, :3].T
    inverse[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return inverse
