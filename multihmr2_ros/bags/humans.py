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

"""The HumanArrays of a bag, found by their stamps. Needs no ROS."""

from __future__ import annotations

import bisect
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.former_humans import HUMAN_ARRAY
from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.stamps import read_stamp_ns
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.content import HumanArrayContent
from multihmr2_ros.messages.human_array import human_array_message
from multihmr2_ros.transform_tree import normalize_frame_name

IMAGE, CAMERA_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
TRUTH_TOPIC, HUMANS_TOPIC = "/ground_truth/humans", "/humans"
TOLERANCE_NS = 1_000_000  # for stamps that a tool has rounded to milliseconds
MAX_PASSED_MESSAGES = 64  # skipped messages that are kept, as recorded


class HumansMessage(NamedTuple):
    """A HumanArray: decoded, and as recorded."""

    decoded: Any
    recorded: BagMessage
    stamp_ns: int


class HumansReader:
    """Reader of a topic of HumanArrays. Use it as a context manager.

    Only stamps are kept in memory. Messages are read in order; a request for an earlier message restarts at the first
    one. Raises UserError if the topic is missing or has another type.
    """

    def __init__(self, path: str | Path, topic: str) -> None:
        self.path, self.topic = Path(path), topic
        self._bag = BagReader(self.path)
        try:
            self._check_topic()
            self._stamps = [
                read_stamp_ns(message.data, message.type_name) if len(message.data) >= 12 else 0
                for message in self._bag.messages([topic])
            ]
        except BaseException:
            self._bag.close()
            raise
        self._waiting: dict[int, deque[int]] = {}  # stamp → messages with it that were not returned yet
        for index, stamp in enumerate(self._stamps):
            self._waiting.setdefault(stamp, deque()).append(index)
        self._sorted = sorted(self._waiting)
        self._reading: Iterator[BagMessage] = iter(())
        self._next = len(self._stamps)
        self._passed: OrderedDict[int, BagMessage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stamps)

    def all(self) -> Iterator[HumansMessage]:
        """Yield every message, in order of recording."""
        for message, stamp in zip(self._bag.messages([self.topic]), list(self._stamps), strict=False):
            yield HumansMessage(self._bag.decode(message), message, stamp)

    def at(self, wanted_ns: int) -> HumansMessage | None:
        """Return the message with this stamp. If several have it, because the clock jumped back, each is returned once,
        in order."""
        stamp = self._find_nearest(wanted_ns)
        if stamp is None:
            return None
        indices = self._waiting[stamp]
        index = indices.popleft() if len(indices) > 1 else indices[0]
        message = self._read_message(index)
        return HumansMessage(self._bag.decode(message), message, stamp)

    def close(self) -> None:
        self._bag.close()

    def __enter__(self) -> HumansReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_topic(self) -> None:
        known = self._bag.topics.get(self.topic)
        if known is None:
            others = sorted(name for name, topic in self._bag.topics.items() if topic.type_name == HUMAN_ARRAY)
            listed = ", ".join(others) or "none"
            raise UserError(f"{self.path} has no people on {self.topic}; its topics with HumanArrays: {listed}")
        if known.type_name != HUMAN_ARRAY:
            raise UserError(f"{self.topic} of {self.path} must be {HUMAN_ARRAY}, but it is {known.type_name}")

    def _find_nearest(self, wanted_ns: int) -> int | None:
        if wanted_ns == 0:
            return None  # no stamp, so there is nothing to match
        if wanted_ns in self._waiting:
            return wanted_ns
        place = bisect.bisect(self._sorted, wanted_ns)
        near = self._sorted[max(0, place - 1) : place + 1]
        best = min(near, key=lambda stamp: abs(stamp - wanted_ns), default=None)
        return best if best is not None and abs(best - wanted_ns) <= TOLERANCE_NS else None

    def _read_message(self, index: int) -> BagMessage:
        if index in self._passed:
            return self._passed[index]
        if index < self._next:
            self._reading, self._next = self._bag.messages([self.topic]), 0
        while True:
            try:
                message = next(self._reading)
            except StopIteration:
                raise UserError(f"{self.path} changed while it was read; evaluate again") from None
            self._passed[self._next] = message
            self._next += 1
            if len(self._passed) > MAX_PASSED_MESSAGES:
                self._passed.popitem(last=False)
            if self._next == index + 1:
                return message


def human_array_to_cdr(content: HumanArrayContent) -> bytes:
    """Serialize a multihmr2_ros/HumanArray as CDR."""
    message = human_array_message(content, _make, np.asarray)
    return bytes(require_type(HUMAN_ARRAY).serialize_cdr(message, HUMAN_ARRAY))


def _make(type_name: str, **fields: Any) -> Any:
    return require_type(type_name).types[type_name](**fields)


def estimate_image_size(message: Any, recorded: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (height, width) px of the image of a HumanArray; (0, 0) if no image was processed.

    recorded: the size from `find_recorded_image_size`, for HumanArrays of the former layout, which do not contain it.
    Without it, their height is computed from the vertical field of view, and the width from a principal point in the
    middle.
    """
    if message.height and message.width:
        return int(message.height), int(message.width)
    k = np.asarray(message.k, np.float64).reshape(3, 3)
    if k[1, 1] <= 0:
        return 0, 0
    if recorded is not None:
        return recorded
    fov_rad = float(message.vertical_fov)
    height = 2 * k[1, 1] * math.tan(fov_rad / 2) if 0 < fov_rad < math.pi else 2 * k[1, 2]
    return round(height), round(2 * k[0, 2])


def find_recorded_image_size(path: Path, frame_id: str) -> tuple[int, int] | None:
    """Return (height, width) px of the images in a TF frame: from the bag's images, or from their CameraInfo.

    Returns None if the bag has neither, or if they cannot be read.
    """
    wanted = normalize_frame_name(frame_id)
    with BagReader(path) as bag:
        for kind in (IMAGE, CAMERA_INFO):
            for name in sorted(name for name, topic in bag.topics.items() if topic.type_name == kind):
                with contextlib.suppress(UserError, StopIteration):
                    message = bag.decode(next(iter(bag.messages([name]))))
                    step = [max(1, getattr(message, f"binning_{axis}", 1)) for axis in "yx"]
                    region = getattr(message, "roi", message)  # an Image has no roi
                    described = region if region.height and region.width else message
                    height, width = described.height, described.width
                    if normalize_frame_name(message.header.frame_id) == wanted and height and width:
                        return height // step[0], width // step[1]
    return None
