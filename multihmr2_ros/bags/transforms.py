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

"""Transforms from a bag's /tf and /tf_static: between two frames over time, and poses of the camera. Needs no ROS."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.bags.stamps import NS
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import GroundPlane
from multihmr2_ros.transform_tree import (
    Pose,
    find_transform_chain,
    interpolate_at,
    is_pose,
    normalize_frame_name,
    pose_to_matrix,
)

TF, TF_STATIC = "/tf", "/tf_static"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"


@dataclass
class _TransformEdge:
    """The transforms of a frame to its parent over time.

    Translation (m) and quaternion (x, y, z, w) of each stamp (ns), in order of time after `sort`. A static transform
    has one stamp and is valid at all times.
    """

    parent: str
    is_static: bool
    stamps: array[int] = field(default_factory=lambda: array("q"))
    poses: array[float] = field(default_factory=lambda: array("d"))

    def add(self, stamp_ns: int, pose: Pose) -> None:
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
        """Return the transform (4, 4) at a stamp, interpolated. Raises UserError before the first and after the last
        stamp."""
        poses = np.frombuffer(self.poses, np.float64).reshape(-1, 7)
        pose = poses[0] if self.is_static else interpolate_at(self.stamps, poses, stamp_ns)
        if pose is None:
            raise UserError(
                f"the transform of {child} in {self.parent} is known from {self.stamps[0] / NS:.3f} to "
                f"{self.stamps[-1] / NS:.3f} s, but {stamp_ns / NS:.3f} s was requested; record {TF} for the whole bag"
            )
        return pose_to_matrix(pose)


class BagTransforms:
    """The transform from a source frame to a target frame. Only the transforms on the path between them are kept in
    memory.

    Raises UserError if the frames are not connected in the bag.
    """

    def __init__(self, path: str | Path, target: str, source: str) -> None:
        self.target, self.source = target, source
        parents: dict[str, str] = {}
        for child, parent, *_ in _read_transforms(path):
            parents[child] = parent
        way = find_transform_chain(target, source, parents.get)
        if way is None:
            raise UserError(
                f"{path} has no transform between {source!r} and {target!r} on {TF} and {TF_STATIC}; record both topics"
            )
        self._chain = way
        self._edges = self._collect(path)

    def target_from_source(self, stamp_ns: int) -> NDArray[np.float64]:
        """Return the rigid transform (4, 4), m, at a stamp. Raises UserError if a transform between the frames is
        unknown then."""
        return self._chain.target_from_source(lambda frame: self._edges[frame].parent_from_child(stamp_ns, frame))

    def _collect(self, path: str | Path) -> dict[str, _TransformEdge]:
        wanted, edges = {*self._chain.up, *self._chain.down}, dict[str, _TransformEdge]()
        for child, parent, is_static, stamp_ns, pose in _read_transforms(path):
            if child in wanted:
                edges.setdefault(child, _TransformEdge(parent, is_static)).add(stamp_ns, pose)
        for edge in edges.values():
            edge.sort()
        return edges


class CameraPoses:
    """Lookup of the camera's pose in a bag's TF. A missing transform is reported, and the pose is then None.

    report: called with each problem, one line.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = path, report
        self._transforms: dict[tuple[str, str], BagTransforms | None] = {}

    def lookup_pose(self, target: str, camera_frame: str, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return the pose (4, 4), m, of camera_frame in target at a stamp.

        None if target is "" or the transform is unknown at the stamp.
        """
        if not target:
            return None
        key = normalize_frame_name(target), normalize_frame_name(camera_frame)
        try:
            if key not in self._transforms:
                self._transforms[key] = None
                self._transforms[key] = BagTransforms(self._path, *key)
            transforms = self._transforms[key]
            return None if transforms is None else transforms.target_from_source(stamp_ns)
        except UserError as error:
            self._report(str(error))
            return None

    def lookup_ground(self, ground_frame: str, camera_frame: str, stamp_ns: int) -> GroundPlane | None:
        """Return the plane z = 0 of ground_frame in the camera's frame, or None (see `lookup_pose`)."""
        pose = self.lookup_pose(ground_frame, camera_frame, stamp_ns)
        if pose is None:
            return None
        try:
            return GroundPlane.from_fixed_frame(pose)
        except UserError as error:
            self._report(f"{error} (--ground-frame {ground_frame})")
            return None


def _read_transforms(path: str | Path) -> Iterator[tuple[str, str, bool, int, Pose]]:
    """Yield child, parent, whether static, stamp (ns) and the child's pose, of all transforms in the bag."""
    with BagReader(path) as bag:
        topics = [name for name in (TF_STATIC, TF) if name in bag.topics and bag.topics[name].type_name == TF_MESSAGE]
        for message in bag.messages(topics) if topics else ():
            try:
                transforms = bag.decode(message).transforms
            except UserError:
                continue  # a damaged message; reported by the reader of the images
            for each in transforms:
                place, turn, stamp = each.transform.translation, each.transform.rotation, each.header.stamp
                pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
                child, parent = normalize_frame_name(each.child_frame_id), normalize_frame_name(each.header.frame_id)
                if is_pose(pose):
                    yield child, parent, message.topic == TF_STATIC, stamp.sec * NS + stamp.nanosec, pose
