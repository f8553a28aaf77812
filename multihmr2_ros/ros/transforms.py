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

"""Subscribes to /tf and /tf_static, keeps the transforms of the last seconds, and looks up camera poses.

Used instead of tf2_ros, which exists in ROS installations only. Memory is bounded for any input.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from tf2_msgs.msg import TFMessage

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.transform_tree import (
    Pose,
    find_transform_chain,
    interpolate_at,
    is_pose,
    normalize_frame_name,
    pose_to_matrix,
)

from .interfaces.bodies import make_rep155_prefix
from .qos import TF, TF_STATIC, subscribe_serialized

RATE_S = 0.1  # interval over which motion is averaged, as in tf's lookupTwist
NS = 1_000_000_000
HISTORY_NS = 10 * NS  # as in tf2's buffer
MAX_POSES = 2_000  # of one frame
MAX_FRAMES = 1_000  # of moving frames, and also of static frames
MAX_NAME = 256
JUMP_NS = 2 * NS  # if a frame's stamps go back by more, its time was set back
SILENT_S = 60.0  # moving frames without a transform for longer are removed, such as people who have left
REACH_NS = 1_000_000  # an image's stamp may be later than the newest transform by this much, because of rounding


class TransformListener:
    """The subscriptions of one active node to /tf and /tf_static.

    body_prefix  frames of the node's own people (this prefix or that of REP-155, followed by a number) are ignored
    report       called with a cause and a text for damaged messages and invalid transforms

    Messages are received serialized, so that damaged bytes cannot stop the executor.
    """

    def __init__(self, node: Any, body_prefix: str, report: Callable[[str, str], None]) -> None:
        self._node = node
        self._person = re.compile(rf"({re.escape(body_prefix)}|{re.escape(make_rep155_prefix(body_prefix))})\d+")
        self._report = report
        self._buffer = TransformBuffer()
        self._subscriptions = [
            subscribe_serialized(node, TFMessage, "/tf", lambda data: self._receive(data, False), TF, report),
            subscribe_serialized(
                node, TFMessage, "/tf_static", lambda data: self._receive(data, True), TF_STATIC, report
            ),
        ]

    def lookup_pose(self, frame: str, header: HeaderContent, timeout_s: float) -> NDArray[np.float64]:
        """Return the pose (4, 4) of the header's frame in `frame` at the header's stamp. Waits at most timeout_s.

        Raises UnknownTransformError if the transform is unknown.
        """
        return self._buffer.lookup_transform(frame, header.frame_id, header.stamp_ns, timeout_s)

    def estimate_rate(self, frame: str, header: HeaderContent, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the change per second of a pose (4, 4), averaged over the last RATE_S; NaN without an earlier pose.

        pose: of the header's frame in `frame` at the header's stamp.
        """
        try:
            before = self._buffer.lookup_transform(frame, header.frame_id, header.stamp_ns - round(RATE_S * NS))
        except UnknownTransformError:
            return np.full((4, 4), np.nan)
        return (pose - before) / RATE_S

    def clear_after_jump(self, from_s: float) -> None:
        """Remove moving frames after time jumped back from from_s (s); see TransformBuffer.clear_after_jump."""
        self._buffer.clear_after_jump(round(from_s * NS))

    def destroy(self) -> None:
        self._buffer.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _receive(self, data: bytes, is_static: bool) -> None:
        try:
            message = deserialize_message(data, TFMessage)
            transforms = [_read_transform(each) for each in message.transforms]
        except Exception:  # the type for invalid bytes depends on the middleware
            self._report("transform", f"received a damaged TFMessage ({len(data)} bytes); check its publisher")
            return
        others = [each for each in transforms if not self._person.fullmatch(each[0])]
        refused = self._buffer.add(others, is_static=is_static)
        if refused:
            topic, too_many = ("/tf_static", f", or more than {MAX_FRAMES} frames") if is_static else ("/tf", "")
            self._report(
                "transform",
                f"{refused} transforms on {topic} were rejected: no name, a name of more than {MAX_NAME} characters, "
                f"the same child and parent, or an invalid pose{too_many}; check their publisher",
            )


def _read_transform(transform: Any) -> tuple[str, str, int, Pose]:
    stamp, place, turn = transform.header.stamp, transform.transform.translation, transform.transform.rotation
    pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
    return transform.child_frame_id, transform.header.frame_id, stamp.sec * NS + stamp.nanosec, pose


class UnknownTransformError(Exception):
    """Error for an unknown transform; the text gives the reason.

    may_come: whether the next message may contain it. False for frames that are not connected, which may never be
    published: otherwise every image would wait for them.
    """

    def __init__(self, reason: str, *, may_come: bool) -> None:
        super().__init__(reason)
        self.may_come = may_come


@dataclass
class _FrameHistory:
    """Poses of a frame in its parent, with ascending stamps (ns). arrived_s: of the last pose, monotonic clock."""

    parent: str
    stamps: list[int] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    arrived_s: float = 0.0

    def add(self, stamp_ns: int, pose: Pose) -> None:
        """Insert a pose in order of time; remove poses that are too old or too many."""
        place = bisect_left(self.stamps, stamp_ns)
        if place < len(self.stamps) and self.stamps[place] == stamp_ns:
            self.poses[place] = pose
            return
        self.stamps.insert(place, stamp_ns)
        self.poses.insert(place, pose)
        too_old = bisect_left(self.stamps, self.stamps[-1] - HISTORY_NS)
        gone = max(too_old, len(self.stamps) - MAX_POSES)
        del self.stamps[:gone], self.poses[:gone]

    def parent_from_frame(self, stamp_ns: int, name: str) -> NDArray[np.float64]:
        """Return the pose (4, 4) interpolated at a stamp.

        Raises UnknownTransformError before the first and after the last pose.
        """
        pose = interpolate_at(self.stamps, self.poses, stamp_ns)
        if pose is not None:
            return pose_to_matrix(pose)
        nearest = 0 if stamp_ns < self.stamps[0] else -1
        apart_s = (self.stamps[nearest] - stamp_ns) / NS
        if abs(apart_s) * NS <= REACH_NS:
            return pose_to_matrix(self.poses[nearest])
        word = f"the newest is {-apart_s:.3f} s older" if apart_s < 0 else f"the oldest is {apart_s:.3f} s newer"
        raise UnknownTransformError(
            f"no transform from {name!r} to {self.parent!r} at its stamp: {word}", may_come=apart_s < 0
        )


class TransformBuffer:
    """Buffer of the transforms of the last seconds. Thread-safe."""

    def __init__(self) -> None:
        self._moving: dict[str, _FrameHistory] = {}  # in the order of their last change
        self._static: dict[str, _FrameHistory] = {}
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return the number of stored poses."""
        with self._changed:
            return sum(len(frame.stamps) for frame in (*self._moving.values(), *self._static.values()))

    def add(self, transforms: Sequence[tuple[str, str, int, Pose]], *, is_static: bool) -> int:
        """Add transforms and return the number of rejected ones.

        transforms: (child frame, parent frame, stamp in ns, pose of the child in the parent). Rejected are transforms
        with an empty or too long name, with the same child and parent, or with an invalid pose, and static transforms
        above the maximum number.
        """
        with self._changed:
            taken = sum(
                self._add(normalize_frame_name(child), normalize_frame_name(parent), stamp_ns, pose, is_static)
                for child, parent, stamp_ns, pose in transforms
            )
            self._changed.notify_all()
        return len(transforms) - taken

    def lookup_transform(self, target: str, source: str, stamp_ns: int, timeout_s: float = 0.0) -> NDArray[np.float64]:
        """Return the transform (4, 4) target from source at a stamp. Waits for it, at most timeout_s.

        Raises UnknownTransformError if the transform is unknown.
        """
        target, source = normalize_frame_name(target), normalize_frame_name(source)
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                try:
                    return self._lookup_now(target, source, stamp_ns)
                except UnknownTransformError as reason:
                    left_s = deadline_s - time.monotonic()
                    if self._is_closed or not reason.may_come or left_s <= 0:
                        raise
                self._changed.wait(left_s)

    def clear_after_jump(self, from_ns: int) -> None:
        """Remove moving frames after time jumped back from from_ns.

        Frames whose newest pose is more than JUMP_NS before from_ns were received after the jump, and are kept. After a
        shorter jump the two cases cannot be distinguished, and all moving frames are removed.
        """
        with self._changed:
            self._moving = {name: each for name, each in self._moving.items() if each.stamps[-1] < from_ns - JUMP_NS}

    def close(self) -> None:
        """End all waiting lookups: no more transforms will arrive."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _add(self, child: str, parent: str, stamp_ns: int, pose: Pose, is_static: bool) -> bool:
        if not (child and parent and child != parent and max(len(child), len(parent)) <= MAX_NAME):
            return False
        if not is_pose(pose):
            return False
        if is_static:
            if child not in self._static and len(self._static) >= MAX_FRAMES:
                return False
            self._moving.pop(child, None)
            self._static[child] = _FrameHistory(parent, [stamp_ns], [pose])
            return True
        self._static.pop(child, None)
        frame = self._moving.pop(child, None)
        if frame is not None and stamp_ns < frame.stamps[-1] - JUMP_NS:
            frame = None  # only this one: its publisher may have another clock
        if frame is None or frame.parent != parent:
            frame = _FrameHistory(parent)
        frame.add(stamp_ns, pose)
        frame.arrived_s = time.monotonic()
        self._moving[child] = frame
        self._forget(frame.arrived_s)
        return True

    def _forget(self, now_s: float) -> None:
        """Remove frames without a recent transform, and the oldest frames above the maximum."""
        while True:
            name, oldest = next(iter(self._moving.items()))
            if len(self._moving) <= MAX_FRAMES and oldest.arrived_s >= now_s - SILENT_S:
                return
            del self._moving[name]

    def _lookup_now(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        way = find_transform_chain(target, source, self._get_parent)
        if way is None:
            raise UnknownTransformError(f"no transform connects {source!r} with {target!r}", may_come=False)
        return way.target_from_source(lambda name: self._get_parent_from(name, stamp_ns))

    def _get_parent(self, name: str) -> str | None:
        frame = self._static.get(name) or self._moving.get(name)
        return None if frame is None else frame.parent

    def _get_parent_from(self, name: str, stamp_ns: int) -> NDArray[np.float64]:
        static = self._static.get(name)
        return pose_to_matrix(static.poses[0]) if static else self._moving[name].parent_from_frame(stamp_ns, name)
