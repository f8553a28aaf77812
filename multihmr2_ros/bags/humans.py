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

"""The HumanArrays of a bag, found by their stamps, and their people. Needs no ROS."""

from __future__ import annotations

import bisect
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.former_humans import HUMAN_ARRAY
from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.stamps import read_stamp_ns
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.content import HumanArrayContent
from multihmr2_ros.messages.human_array import human_array_message
from multihmr2_ros.people import IntrinsicsSource, People
from multihmr2_ros.transform_tree import normalize_frame_name

IMAGE, CAMERA_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
TRUTH_TOPIC, HUMANS_TOPIC = "/ground_truth/humans", "/humans"
SOURCES = (IntrinsicsSource.PREDICTED, IntrinsicsSource.K, IntrinsicsSource.P, IntrinsicsSource.PARAMETER)
NO_TRACK = 0xFFFFFFFF  # Human.NO_TRACK
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

    def read_all(self) -> Iterator[HumansMessage]:
        """Yield every message, in order of recording."""
        for message, stamp in zip(self._bag.messages([self.topic]), list(self._stamps), strict=False):
            yield HumansMessage(self._bag.decode(message), message, stamp)

    def read_at(self, wanted_ns: int) -> HumansMessage | None:
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
            raise UserError(f"{self.path} has no HumanArrays on {self.topic}; topics with HumanArrays: {listed}")
        if known.type_name != HUMAN_ARRAY:
            raise UserError(
                f"expected {HUMAN_ARRAY} on {self.topic} of {self.path}, got {known.type_name}; choose another topic"
            )

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


def people_from_human_array(message: Any, image_size: tuple[int, int]) -> People:
    """Return the people of a multihmr2_ros/HumanArray. image_size: (height, width) of its image.

    Fields that are not in the message are NaN: bone_poses, the shape of this single image, the predicted field of view;
    track features have no columns. velocity_frame is "camera" if the message names the header's frame.

    Raises UserError for a message whose fields do not fit each other.
    """
    try:
        return _make_people(message, image_size)
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(
            f"the fields of a HumanArray do not fit each other ({' '.join(str(error).split())}); record it again"
        ) from error


def _make_people(message: Any, image_size: tuple[int, int]) -> People:
    humans = message.humans
    count = len(humans)
    joints = _stack([human.joints for human in humans], np.float32, (-1, 3))
    ids = np.array([human.track_id for human in humans], np.int64).reshape(count)
    phenotype = _stack([human.phenotype for human in humans], np.float32, (6,))
    is_fixed = any(human.velocity_frame != message.header.frame_id for human in humans)
    bones = joints.shape[1]
    return People(
        score=np.array([human.score for human in humans], np.float32),
        track_id=np.where(ids == NO_TRACK, -1, ids),
        track_state=np.array([human.state for human in humans], np.int64),
        track_age_s=np.array([human.age for human in humans], np.float64),
        shape=np.full((count, 6), np.nan, np.float32),
        running_shape=phenotype,
        rotations=_rotations_from_ros([human.joint_rotations for human in humans]),
        bone_poses=np.full((count, bones, 4, 4), np.nan, np.float32),
        joints=joints,
        joints_2d=_stack([human.joints_2d for human in humans], np.float32, (-1, 2)),
        pelvis=_stack([_points_to_array([human.pelvis.pose.position])[0] for human in humans], np.float32, (3,)),
        velocity=_stack([_points_to_array([human.velocity])[0] for human in humans], np.float64, (3,)),
        pelvis_covariance=_stack([human.pelvis.covariance for human in humans], np.float64, (6, 6))[:, :3, :3],
        velocity_covariance=_stack([human.velocity_covariance for human in humans], np.float64, (3, 3)),
        vertices=_stack([human.vertices for human in humans], np.float32, (-1, 3)),
        stature=np.array([human.stature for human in humans], np.float32),
        track_feature=np.zeros((count, 0), np.float32),
        k=np.array(message.k, np.float64).reshape(3, 3),
        vertical_fov=float(message.vertical_fov),
        predicted_vertical_fov=float("nan"),
        intrinsics_source=SOURCES[message.intrinsics_source],
        velocity_frame="fixed" if is_fixed else "camera",
        stamp=message.header.stamp.sec + message.header.stamp.nanosec * 1e-9,
        image_size=image_size,
    )


def _stack(rows: list[Any], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Stack one row per person to (n, *shape). A -1 in shape is 0 without people."""
    if not rows:
        return np.zeros((0, *(0 if size < 0 else size for size in shape)), dtype)
    return np.stack([np.asarray(row, dtype).reshape(shape) for row in rows])


def _points_to_array(points: Any) -> NDArray[np.float64]:
    return np.array([(point.x, point.y, point.z) for point in points], np.float64).reshape(-1, 3)


def _rotations_from_ros(rows: list[Any]) -> NDArray[np.float32]:
    """Return (n, J, 3, 3) rotation matrices. rows: quaternions x, y, z, w (4 J,) of each person."""
    quaternions = _stack(rows, np.float64, (-1, 4))
    if not quaternions.size:
        return np.zeros((*quaternions.shape[:2], 3, 3), np.float32)
    matrices = Rotation.from_quat(quaternions.reshape(-1, 4)).as_matrix()
    return matrices.reshape(*quaternions.shape[:2], 3, 3).astype(np.float32)
