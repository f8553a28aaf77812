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

"""The depth images of a bag: selection of the topic registered to the images, and lookup by stamp."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.stamps import NS
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.content import LATE_S, HeaderContent
from multihmr2_ros.messages.depth import TYPES, depth_from_ros, insert_by_stamp
from multihmr2_ros.messages.images import compressed_image_from_ros

RAW = "sensor_msgs/msg/Image"
DEPTH = "depth"  # part of the name of a depth topic
OFF = "off"  # value of --depth-topic
MAX_DELAY_S = 0.1  # between the stamps of an image and its depth image
MAX_DELAY_NS = int(MAX_DELAY_S * NS)
AHEAD_NS = NS  # how much later than its image a depth image may be recorded
KEPT = 60  # depth images in memory, for images that are recorded later than their depth images


class DepthReader:
    """Reader of a bag's depth images in parallel with its images, in order of recording. Use it as a context manager.

    At most KEPT depth images are in memory, usually those of MAX_DELAY_S before the image.
    """

    def __init__(self, path: Path, topic: str) -> None:
        self._bag = BagReader(path)
        self._messages: Iterator[BagMessage] = self._bag.messages([topic])
        self._next = next(self._messages, None)
        self._kept: deque[tuple[int, Any]] = deque()  # at most KEPT; stamp (ns), ascending, and message
        self._last_ns = 0  # stamp of the last image

    def find(self, header: HeaderContent, image_size: tuple[int, int], recorded_ns: int) -> NDArray[np.generic] | None:
        """Return the depth image (H, W), uint16 mm or float32 m, with the nearest stamp; None if none is near enough.

        header       of the image
        image_size   (H, W) of the image
        recorded_ns  time of the image's recording

        Times of recording replace the stamps of images and depth images without one. Raises UserError for a depth image
        that is not registered to the image.
        """
        wanted_ns = header.stamp_ns or recorded_ns
        if wanted_ns < self._last_ns:  # time jumped back
            self._forget(wanted_ns, latest_ns=wanted_ns + MAX_DELAY_NS)
        self._last_ns = wanted_ns
        self._read(wanted_ns, recorded_ns)
        self._forget(wanted_ns)
        if not self._kept:
            return None
        stamp_ns, message = min(self._kept, key=lambda kept: abs(kept[0] - wanted_ns))
        if abs(stamp_ns - wanted_ns) > MAX_DELAY_NS:
            return None
        return depth_from_ros(message, header, image_size)

    def close(self) -> None:
        self._bag.close()

    def __enter__(self) -> DepthReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, wanted_ns: int, latest_ns: float = math.inf) -> None:
        """Remove the depth images that are too old for an image of stamp wanted_ns, and those after latest_ns."""
        kept = [each for each in self._kept if wanted_ns - MAX_DELAY_NS <= each[0] <= latest_ns]
        self._kept = deque(kept)

    def _read(self, stamp_ns: int, recorded_ns: int) -> None:
        """Read all depth images recorded before the image, and further until one has the image's stamp or a later
        one."""
        while self._next is not None:
            is_due = self._next.time_ns <= recorded_ns
            is_sought = not self._kept or self._kept[-1][0] < stamp_ns
            if not is_due and not (is_sought and self._next.time_ns <= recorded_ns + AHEAD_NS):
                return
            self._keep(self._next)
            self._next = next(self._messages, None)

    def _keep(self, message: BagMessage) -> None:
        try:
            decoded = self._bag.decode(message)
        except UserError:
            return  # a damaged message
        stamp_ns = decoded.header.stamp.sec * NS + decoded.header.stamp.nanosec or message.time_ns
        if self._kept and stamp_ns < self._kept[-1][0] - LATE_S * NS:
            self._kept.clear()  # time jumped back
        if len(self._kept) == KEPT:
            self._kept.popleft()
        insert_by_stamp(self._kept, stamp_ns, decoded)


def choose_depth_topic(bag: BagReader, image_topic: str, wanted: str | None) -> tuple[str | None, str]:
    """Return the topic of depth images, None for no depth, and a warning or "".

    wanted: a topic; OFF for none; None for the only topic with "depth" in its name whose first image is a depth image
    of the same size and TF frame as the first image of image_topic. Raises UserError if the bag has no such topic.
    """
    if wanted == OFF:
        return None, ""
    raw = sorted(name for name, topic in bag.topics.items() if topic.type_name == RAW and name != image_topic)
    if wanted is not None:
        if wanted in raw:
            return wanted, ""
        raise UserError(f"{bag.path} has no images on {wanted} (--depth-topic); it has {', '.join(raw) or 'none'}")
    named = [name for name in raw if DEPTH in name.lower()]
    if not named:
        return None, ""
    layout = _read_layout(_read_first(bag, image_topic))
    fitting = []
    for name in named:
        depth = _read_first(bag, name)
        if depth is not None and depth.encoding in TYPES and _read_layout(depth) == layout:
            fitting.append(name)
    if len(fitting) > 1:
        return None, f"the bag has several depth topics, choose one with --depth-topic: {', '.join(fitting)}"
    return (fitting[0] if fitting else None), ""


def _read_first(bag: BagReader, topic: str) -> Any:
    """Return the first message of a topic that can be decoded, or None."""
    for message in bag.messages([topic]):
        try:
            return bag.decode(message)
        except UserError:
            continue
    return None


def _read_layout(image: Any) -> tuple[int, int, str] | None:
    """Return height, width (px) and TF frame of an image message; None if they cannot be read."""
    if image is None:
        return None
    if hasattr(image, "encoding"):
        return image.height, image.width, image.header.frame_id
    try:
        height, width = compressed_image_from_ros(image).shape[:2]
    except UserError:
        return None
    return height, width, image.header.frame_id
