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

"""The node's ears for TF: what comes on /tf and /tf_static, and the camera's pose in other frames by it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from tf2_msgs.msg import TFMessage

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.transform_tree import Pose

from .interfaces.bodies import rep155_prefix
from .qos import TF, TF_STATIC
from .transform_buffer import LONGEST_NAME, MOST_FRAMES, NS, TransformBuffer, Unknown

RATE_S = 0.1  # over which motion is averaged, as tf's lookupTwist does


class Transforms:
    """The subscriptions of one active node to /tf and /tf_static.

    body_prefix: the node's own people, whose frames have that name or REP-155's and a number, are left out. Messages
    arrive serialised, so that damaged bytes cannot stop the executor; report is told of them, with a cause and a text.
    """

    def __init__(self, node: Any, body_prefix: str, report: Callable[[str, str], None]) -> None:
        self._node = node
        self._person = re.compile(rf"({re.escape(body_prefix)}|{re.escape(rep155_prefix(body_prefix))})\d+")
        self._report = report
        self._buffer = TransformBuffer()
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", lambda data: self._receive(data, False), TF, raw=True),
            node.create_subscription(
                TFMessage, "/tf_static", lambda data: self._receive(data, True), TF_STATIC, raw=True
            ),
        ]

    def pose(self, frame: str, header: HeaderContent, timeout_s: float) -> NDArray[np.float64]:
        """(4, 4) frame from the frame of the header, at its stamp. Waits at most timeout_s. Raises Unknown."""
        return self._buffer.lookup(frame, header.frame_id, header.stamp_ns, timeout_s)

    def rate(self, frame: str, header: HeaderContent, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """(4, 4) how the pose, which is that of the header's frame at its stamp, has changed lately, in a second; NaN
        where it is not known where the frame was before."""
        try:
            before = self._buffer.lookup(frame, header.frame_id, header.stamp_ns - round(RATE_S * NS))
        except Unknown:
            return np.full((4, 4), np.nan)
        return (pose - before) / RATE_S

    def set_back(self, from_s: float) -> None:
        """Time was set back from a stamp."""
        self._buffer.set_back(round(from_s * NS))

    def destroy(self) -> None:
        self._buffer.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _receive(self, data: bytes, is_static: bool) -> None:
        try:
            message = deserialize_message(data, TFMessage)
            transforms = [_content(each) for each in message.transforms]
        except Exception:  # each middleware has its own for bytes that it does not understand
            self._report("transform", f"a damaged TFMessage came ({len(data)} bytes); check its publisher")
            return
        others = [each for each in transforms if not self._person.fullmatch(each[0])]
        refused = self._buffer.add(others, is_static=is_static)
        if refused:
            topic, too_many = ("/tf_static", f", or beyond {MOST_FRAMES} frames") if is_static else ("/tf", "")
            self._report(
                "transform",
                f"{refused} transforms on {topic} are refused: without names, with names of over {LONGEST_NAME} "
                f"letters, of a frame in itself, or with numbers that are no pose{too_many}; check their publisher",
            )


def _content(transform: Any) -> tuple[str, str, int, Pose]:
    stamp, place, turn = transform.header.stamp, transform.transform.translation, transform.transform.rotation
    pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
    return transform.child_frame_id, transform.header.frame_id, stamp.sec * NS + stamp.nanosec, pose
