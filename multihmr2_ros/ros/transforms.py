"""The node's ears for TF: what comes on /tf and /tf_static, and the camera's pose in other frames by it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from tf2_msgs.msg import TFMessage

from .content import HeaderContent
from .frame_tree import Pose
from .transform_buffer import NS, TransformBuffer

# Those of tf2's own listener.
MOVING = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
STATIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Transforms:
    """The subscriptions of one active node to /tf and /tf_static.

    body_prefix: frames of that name and a number are people, the node's own among them, and are left out. Messages
    arrive serialised, so that damaged bytes cannot stop the executor; report is told of them, with a cause and a text.
    """

    def __init__(self, node: Any, body_prefix: str, report: Callable[[str, str], None]) -> None:
        self._node = node
        self._person = re.compile(rf"{re.escape(body_prefix)}b?\d+")  # b: as REP-155 has it
        self._report = report
        self._buffer = TransformBuffer()
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", lambda data: self._receive(data, False), MOVING, raw=True),
            node.create_subscription(TFMessage, "/tf_static", lambda data: self._receive(data, True), STATIC, raw=True),
        ]

    def pose(self, frame: str, header: HeaderContent, timeout_s: float) -> NDArray[np.float64]:
        """(4, 4) frame from the frame of the header, at its stamp. Waits at most timeout_s. Raises Unknown."""
        return self._buffer.lookup(frame, header.frame_id, header.stamp_ns, timeout_s)

    def clear(self) -> None:
        """Time was set back."""
        self._buffer.clear()

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
            self._report(
                "transform",
                f"{refused} transforms on {'/tf_static' if is_static else '/tf'} are refused: no names, numbers that "
                "are no pose, or too many frames; check their publisher",
            )


def _content(transform: Any) -> tuple[str, str, int, Pose]:
    stamp, place, turn = transform.header.stamp, transform.transform.translation, transform.transform.rotation
    pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
    return transform.child_frame_id, transform.header.frame_id, stamp.sec * NS + stamp.nanosec, pose
