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

"""Transforms between frames of reference in a tree, each with a pose in its parent, as in tf2. Needs no ROS."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNIT_TOLERANCE = 1e-2  # of a quaternion's length, as in tf2
SAME_DIRECTION = 1 - 1e-9  # cosine above which two quaternions are interpolated linearly

Pose = tuple[float, ...]
"""Seven numbers: translation x, y, z (m) and quaternion x, y, z, w of a frame in its parent."""


class TransformChain(NamedTuple):
    """The frames between two frames of a tree.

    up    from the source to the nearest common ancestor, without the ancestor
    down  from the target to the same ancestor, without it
    """

    up: list[str]
    down: list[str]

    def target_from_source(self, parent_from: Callable[[str], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the pose (4, 4) of the source in the target.

        parent_from: frame name → pose (4, 4) of this frame in its parent.
        """
        from_source, from_target = np.eye(4), np.eye(4)
        for frame in self.up:
            from_source = parent_from(frame) @ from_source
        for frame in self.down:
            from_target = parent_from(frame) @ from_target
        return _invert(from_target) @ from_source


def find_transform_chain(target: str, source: str, parent_of: Callable[[str], str | None]) -> TransformChain | None:
    """Return the chain from source to target; None if they are not connected.

    parent_of: frame name → name of its parent; None for roots and for unknown frames.
    """
    up, down = list(_list_ancestors(source, parent_of)), list(_list_ancestors(target, parent_of))
    shared = set(down)
    common = next((frame for frame in up if frame in shared), None)
    return None if common is None else TransformChain(up[: up.index(common)], down[: down.index(common)])


def interpolate_at(
    stamps: Sequence[int], poses: Sequence[Pose] | NDArray[np.float64], stamp_ns: int
) -> ArrayLike | None:
    """Return the pose (7,) interpolated at a stamp (ns); None before the first and after the last stamp.

    stamps: in ns, ascending; one per pose.
    """
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
    """Return the pose (7,) at a share in [0, 1] between two poses (7,).

    The translation is interpolated linearly, the rotation along the shorter arc (slerp).
    """
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
    """Convert a pose (7,) to a matrix (4, 4); the quaternion is normalized."""
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
    """Return whether all numbers are finite and the quaternion has unit length, within tf2's tolerance."""
    return all(map(math.isfinite, pose)) and abs(math.hypot(*pose[3:]) - 1) <= UNIT_TOLERANCE


def normalize_frame_name(name: str) -> str:
    """Remove the leading slash of ROS 1 frame names, as tf2 does."""
    return name.removeprefix("/")


def _list_ancestors(frame: str, parent_of: Callable[[str], str | None]) -> Iterator[str]:
    """Yield the frame, its parent, and so on up to the root; stops if the frames form a cycle."""
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
