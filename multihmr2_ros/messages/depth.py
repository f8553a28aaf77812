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

"""Depth images: decoding, and lookup of the one that belongs to an image. Needs no ROS."""

from __future__ import annotations

import bisect
import struct
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.content import LATE_S, HeaderContent

TYPES = {
    "16UC1": "u2",
    "mono16": "u2",
    "32FC1": "f4",
}  # encoding → NumPy type: the encodings of REP-118, and a name that some drivers use
KEPT_S = 1.0  # depth images in memory: those whose stamps are at most this much older than the newest one,
KEPT_BYTES = 256 << 20  # the newest ones of this size in all, but
KEPT_LEAST = 2  # at least so many
ALIVE_S = 1.0  # without messages for longer than this, a depth camera is not waited for
NS = 1_000_000_000
SWITCH_OFF = "switch depth off (node: use_depth:=false; bag: --depth-topic off)"


def depth_from_ros(message: Any, header: HeaderContent, image_size: tuple[int, int]) -> NDArray[Any]:
    """Decode a sensor_msgs/Image to (H, W) uint16 mm or float32 m.

    header, image_size (H, W): of the color image that it must be registered to. Raises UserError for other encodings,
    sizes and frames: an image from another viewpoint would give people wrong distances.
    """
    if message.encoding not in TYPES:
        raise UserError(
            f"depth images must be {' or '.join(sorted(TYPES))}, got {message.encoding!r}; publish those, or "
            f"{SWITCH_OFF}"
        )
    height, width, step = message.height, message.width, message.step
    if (height, width) != tuple(image_size) or message.header.frame_id != header.frame_id:
        raise UserError(
            f"depth images must be registered to the image ({image_size[1]} x {image_size[0]} px in frame "
            f"{header.frame_id!r}), got {width} x {height} px in {message.header.frame_id!r}; give the topic of the "
            f"registered ones as depth, or {SWITCH_OFF}"
        )
    dtype = np.dtype(TYPES[message.encoding]).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = width * dtype.itemsize
    if step < row_bytes or len(message.data) != step * height:
        raise UserError(
            f"a {width} x {height} {message.encoding} image must have {height} rows of at least {row_bytes} bytes, got "
            f"step {step} and {len(message.data)} bytes in all; check the depth camera's driver"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, :row_bytes]
    return np.ascontiguousarray(rows).view(dtype).astype(dtype.newbyteorder("="), copy=False)


class DepthImages:
    """A buffer of the depth images of the last second, serialized. One thread adds them, another one looks them up.

    An image may have to wait for the network and for transforms before its depth image is looked up.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[int, bytes]] = deque()  # stamp (ns), ascending
        self._bytes = 0
        self._arrived_s = -np.inf
        self._changed = threading.Condition()

    def add(self, message: bytes) -> None:
        """Add a serialized sensor_msgs/Image. A message too short for a stamp is ignored."""
        stamp_ns = read_stamp(message)
        if stamp_ns is None:
            return
        with self._changed:
            if self._kept and stamp_ns < self._kept[-1][0] - LATE_S * NS:
                self._kept.clear()  # time jumped back
                self._bytes = 0
            insert_by_stamp(self._kept, stamp_ns, message)
            self._bytes += len(message)
            newest_ns = self._kept[-1][0]
            while len(self._kept) > KEPT_LEAST and (
                self._bytes > KEPT_BYTES or self._kept[0][0] < newest_ns - KEPT_S * NS
            ):
                self._bytes -= len(self._kept.popleft()[1])
            self._arrived_s = time.monotonic()
            self._changed.notify_all()

    @property
    def is_alive(self) -> bool:
        """Whether a message arrived within the last second."""
        return time.monotonic() - self._arrived_s < ALIVE_S

    def find_nearest(self, stamp_ns: int, max_difference_s: float) -> bytes | None:
        """Return the message with the nearest stamp, at most max_difference_s away, or None. stamp_ns 0: no stamp.

        Waits up to max_difference_s for a message with this stamp or a later one, but no longer than the time
        difference to the nearest message so far, because later messages would be farther away.
        """
        if stamp_ns == 0:
            return None  # nothing to match, and the depth images would all seem equally near
        began_s = time.monotonic()
        with self._changed:
            while self._kept:
                stamp, message = min(self._kept, key=lambda kept: abs(kept[0] - stamp_ns))
                apart_s = abs(stamp - stamp_ns) / NS
                left_s = min(apart_s, max_difference_s) - (time.monotonic() - began_s)
                if self._kept[-1][0] >= stamp_ns or left_s <= 0 or not self.is_alive:
                    return message if apart_s <= max_difference_s else None
                self._changed.wait(left_s)
        return None


def insert_by_stamp(kept: deque[tuple[int, Any]], stamp_ns: int, message: Any) -> None:
    """Insert a message in ascending order of stamps (ns)."""
    kept.insert(bisect.bisect_right(kept, stamp_ns, key=lambda each: each[0]), (stamp_ns, message))


def read_stamp(message: bytes) -> int | None:
    """Read the stamp (ns) of a serialized message that begins with a header (CDR); None if it is too short."""
    if len(message) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, 4)
    return int(seconds) * NS + int(nanoseconds)
