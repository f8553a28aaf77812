"""Transforms between two frames of reference over time, from a bag's /tf and /tf_static. Needs no ROS."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from multihmr2_ros.errors import UserError

from .bag_reading import BagReader

TF, TF_STATIC = "/tf", "/tf_static"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"
NS = 1_000_000_000


@dataclass
class _Edge:
    """A frame in its parent: translation (m) and quaternion (x, y, z, w) of each stamp (ns), in order of time after
    `sort`; a static one has one stamp, which holds for all times."""

    parent: str
    is_static: bool
    stamps: array[int] = field(default_factory=lambda: array("q"))
    poses: array[float] = field(default_factory=lambda: array("d"))

    def add(self, stamp_ns: int, pose: tuple[float, ...]) -> None:
        if self.is_static:
            del self.stamps[:], self.poses[:]
        self.stamps.append(stamp_ns)
        self.poses.extend(pose)

    def sort(self) -> None:
        stamps = np.array(self.stamps, np.int64)
        stamps, first = np.unique(stamps, return_index=True)
        poses = np.array(self.poses, np.float64).reshape(-1, 7)[first]
        self.stamps, self.poses = array("q", stamps.tolist()), array("d", poses.ravel().tolist())

    def parent_from_child(self, stamp_ns: int, child: str) -> NDArray[np.float64]:
        """(4, 4) at a stamp, interpolated. Raises UserError before the first and after the last one."""
        poses = np.frombuffer(self.poses, np.float64).reshape(-1, 7)
        if self.is_static:
            return _matrix(poses[0, :3], Rotation.from_quat(poses[0, 3:]))
        stamps = np.frombuffer(self.stamps, np.int64)
        after = int(np.searchsorted(stamps, stamp_ns))
        if after < len(stamps) and stamps[after] == stamp_ns:
            return _matrix(poses[after, :3], Rotation.from_quat(poses[after, 3:]))
        if not 0 < after < len(stamps):
            raise UserError(
                f"the transform of {child} in {self.parent} is known from {stamps[0] / NS:.3f} to "
                f"{stamps[-1] / NS:.3f} s, but {stamp_ns / NS:.3f} s was asked for; record {TF} for the whole bag"
            )
        before = after - 1
        share = float(stamp_ns - stamps[before]) / float(stamps[after] - stamps[before])
        translation = (1 - share) * poses[before, :3] + share * poses[after, :3]
        turn = Slerp([0.0, 1.0], Rotation.from_quat(poses[[before, after], 3:]))(share)
        return _matrix(translation, turn)


class Transforms:
    """The way from a source frame to a target frame. Only the transforms on it are kept in memory.

    Raises UserError where the bag has no connection between the two.
    """

    def __init__(self, path: str | Path, target: str, source: str) -> None:
        self.target, self.source = target, source
        parents: dict[str, str] = {}
        for child, parent, *_ in _transforms(path):
            parents[child] = parent
        up, down = _ancestors(source, parents), _ancestors(target, parents)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise UserError(
                f"{path} has no transform between {source!r} and {target!r} on {TF} and {TF_STATIC}; record both topics"
            )
        self._up, self._down = up[: up.index(common)], down[: down.index(common)]
        self._edges = self._collect(path)

    def target_from_source(self, stamp_ns: int) -> NDArray[np.float64]:
        """(4, 4) rigid, m, at a stamp. Raises UserError where a transform on the way is not known then."""
        return np.linalg.inv(self._to_ancestor(self._down, stamp_ns)) @ self._to_ancestor(self._up, stamp_ns)

    def _to_ancestor(self, frames: list[str], stamp_ns: int) -> NDArray[np.float64]:
        pose = np.eye(4)
        for frame in frames:
            pose = self._edges[frame].parent_from_child(stamp_ns, frame) @ pose
        return pose

    def _collect(self, path: str | Path) -> dict[str, _Edge]:
        wanted, edges = {*self._up, *self._down}, dict[str, _Edge]()
        for child, parent, is_static, stamp_ns, pose in _transforms(path):
            if child in wanted:
                edges.setdefault(child, _Edge(parent, is_static)).add(stamp_ns, pose)
        for edge in edges.values():
            edge.sort()
        return edges


def _transforms(path: str | Path) -> Iterator[tuple[str, str, bool, int, tuple[float, ...]]]:
    """Child, parent, whether static, stamp (ns), translation and quaternion, of all that the bag has."""
    with BagReader(path) as bag:
        topics = [name for name in (TF_STATIC, TF) if name in bag.topics and bag.topics[name].type_name == TF_MESSAGE]
        for message in bag.messages(topics) if topics else ():
            try:
                transforms = bag.decode(message).transforms
            except UserError:
                continue  # a damaged message; the bag's reader of images tells
            for each in transforms:
                place, turn, stamp = each.transform.translation, each.transform.rotation, each.header.stamp
                pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
                child, parent = each.child_frame_id.lstrip("/"), each.header.frame_id.lstrip("/")
                if np.isfinite(pose).all() and any(pose[3:]):
                    yield child, parent, message.topic == TF_STATIC, stamp.sec * NS + stamp.nanosec, pose


def _ancestors(frame: str, parents: dict[str, str]) -> list[str]:
    """The frame, its parent, and so on to the root; ends where the tree is none."""
    chain = [frame]
    while (parent := parents.get(chain[-1])) is not None and parent not in chain:
        chain.append(parent)
    return chain


def _matrix(translation: NDArray[np.float64], rotation: Rotation) -> NDArray[np.float64]:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.as_matrix(), translation
    return pose
