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

"""Frames from a bag: images with intrinsics, lens distortion, depth, ground and camera pose. Needs no ROS."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.depth_images import DEPTH, MAX_DELAY_S, RAW, DepthReader, choose_depth_topic
from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.transforms import CameraPoses
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.sources import FrameSource, make_source_name
from multihmr2_ros.messages.calibration import Intrinsics, intrinsics_from_info
from multihmr2_ros.messages.content import HeaderContent, LateImageFilter
from multihmr2_ros.messages.images import compressed_image_from_ros, image_from_ros

COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
USUAL_FPS = 10.0  # used if a damaged bag has no duration, or all its messages have one time of recording
MIN_PERIOD_NS = 1_000_000  # between two images on average
# mono16 only with "depth" in the topic's name, because thermal cameras use mono16 too.
DEPTH_ENCODINGS = ("16UC1", "32FC1", "mono16")

logger = logging.getLogger(__name__)


class BagSource(FrameSource):
    """Source of frames: the images of one topic of a bag, in order of recording.

    Frame.name is `<name>_<index:06d>`.

    topic         raw or compressed; None: the only topic with images that are not depth images
    depth_topic   raw depth images, registered to the images; None: the only suitable topic (see `choose_depth_topic`);
                  "off": none. A frame has the depth image of the nearest stamp, at most 0.1 s away
    ground_frame  TF frame whose plane z = 0 is the ground; "": the ground is unknown
    fixed_frame   TF frame of Frame.fixed_from_camera; "": the pose is unknown
    header        of the newest frame's image message

    Stamps are from the messages' headers (s, since 1970 as a rule), or times of recording for headers without a stamp.

    Intrinsics are from the newest CameraInfo beside the image topic, or from the only CameraInfo topic in the same
    namespace (before its first message: from its first message). As in the node, P is used if the topic's name begins
    with `image_rect`, else K with its lens distortion.

    Images that cannot be decoded are left out, and single images older than the one before, which the node drops too.
    After the last frame, `damage` describes them, and whether the bag is truncated. Missing depth, ground or poses are
    logged once; the frames then come without them.
    """

    header = HeaderContent()

    def __init__(
        self,
        path: str | Path,
        topic: str | None = None,
        depth_topic: str | None = None,
        *,
        ground_frame: str = "",
        fixed_frame: str = "",
    ) -> None:
        self._path = Path(path)
        self.name = make_source_name(self._path)
        self._ground_frame, self._fixed_frame = ground_frame, fixed_frame
        with BagReader(self._path) as bag:
            self._topic = _choose_image_topic(bag, topic)
            self._info_topic, info_notice = _choose_camera_info_topic(bag, self._topic)
            self._depth_topic, depth_notice = choose_depth_topic(bag, self._topic, depth_topic)
            self._notices = [notice for notice in (info_notice, depth_notice) if notice]
            count = bag.topics[self._topic].count
            self.frame_count = count or None
            has_times = count > 1 and bag.duration_ns >= (count - 1) * MIN_PERIOD_NS
            self.fps = (count - 1) / (bag.duration_ns * 1e-9) if has_times else USUAL_FPS
        self._is_compressed = bag.topics[self._topic].type_name == COMPRESSED
        self._is_rectified = self._topic.removesuffix("/compressed").rpartition("/")[2].startswith("image_rect")
        self._logged: set[str] = set()

    def _frames(self) -> Generator[Frame, None, None]:
        self.damage = ""
        index, unreadable, reason, late = 0, 0, "", 0
        newest_s, late_images = -math.inf, LateImageFilter()
        camera_info, poses = self._read_first_camera_info(), CameraPoses(self._path, self._warn)
        self._logged.clear()
        for notice in self._notices:
            self._warn(notice)
        with BagReader(self._path) as bag, self._open_depth() as depths:
            for message in bag.messages([self._topic, *([self._info_topic] if self._info_topic else [])]):
                try:
                    if message.topic == self._info_topic:
                        camera_info = _to_ros2_names(bag.decode(message))
                        continue
                    image = self._decode_image(bag, message)
                except UserError as error:
                    unreadable, reason = unreadable + 1, reason or str(error)
                    continue
                stamp_s = self._compute_stamp_s(message.time_ns)
                if late_images.is_late(stamp_s, newest_s):
                    late += 1
                    continue
                newest_s = stamp_s
                yield self._make_frame(index, image, message.time_ns, camera_info, depths, poses)
                index += 1
        losses = [f"the bag is damaged or cut off ({bag.damage})"] if bag.damage else []
        losses += [f"{unreadable} messages were skipped ({reason})"] if unreadable else []
        losses += [f"images that are older than the image before were skipped: {late}"] if late else []
        if index == 0:
            raise UserError(
                f"no image on {self._topic} of {self._path} can be read: {'; '.join(losses) or 'it is empty'}"
            )
        if losses:
            self.damage = f"{self._path}: {index} frames could be read; {'; '.join(losses)}"

    def _make_frame(
        self,
        index: int,
        image: NDArray[np.uint8],
        recorded_ns: int,
        camera_info: Any,
        depths: DepthReader | None,
        poses: CameraPoses,
    ) -> Frame:
        """Make the frame of an image. The image's header is in self.header.

        index        of the frame
        image        (H, W, 3) uint8 RGB
        recorded_ns  time of the image's recording
        camera_info  CameraInfo message, or None
        depths       depth images, or None
        poses        camera poses, or None
        """
        given = self._make_intrinsics(camera_info, image)
        stamp_ns, camera_frame = self.header.stamp_ns or recorded_ns, self.header.frame_id
        return Frame(
            image, self._compute_stamp_s(recorded_ns), given.k, given.source, f"{self.name}_{index:06d}", given.lens,
            depth=self._find_depth(depths, image, recorded_ns),
            ground=poses.lookup_ground(self._ground_frame, camera_frame, stamp_ns),
            fixed_from_camera=poses.lookup_pose(self._fixed_frame, camera_frame, stamp_ns),
            fixed_frame=self._fixed_frame,
        )  # fmt: skip

    def _compute_stamp_s(self, recorded_ns: int) -> float:
        """Return the stamp of the image with `header` (s), or the time of its recording."""
        return self.header.stamp_s or recorded_ns * 1e-9

    def _open_depth(self) -> contextlib.AbstractContextManager[DepthReader | None]:
        if self._depth_topic is None:
            return contextlib.nullcontext()
        return DepthReader(self._path, self._depth_topic)

    def _find_depth(
        self, depths: DepthReader | None, image: NDArray[np.uint8], recorded_ns: int
    ) -> NDArray[np.generic] | None:
        if depths is None:
            return None
        try:
            found = depths.find(self.header, (image.shape[0], image.shape[1]), recorded_ns)
        except UserError as error:
            self._warn(f"{error}; {self._depth_topic} is not used")
            return None
        if found is None:
            self._warn(f"some images have no depth image on {self._depth_topic} within {MAX_DELAY_S} s")
        return found

    def _warn(self, problem: str) -> None:
        """Log a problem, unless one of its kind was logged before. Problems that differ only in their stamps are one
        kind."""
        kind = problem.split(" is known from ")[0]
        if kind not in self._logged:
            self._logged.add(kind)
            logger.warning("%s: %s", self._path, problem)

    def _decode_image(self, bag: BagReader, message: BagMessage) -> NDArray[np.uint8]:
        """Decode an image (H, W, 3) and set `header`. Raises UserError if it cannot be decoded."""
        decoded = bag.decode(message)
        image = compressed_image_from_ros(decoded) if self._is_compressed else image_from_ros(decoded)
        stamp = decoded.header.stamp
        self.header = HeaderContent(stamp.sec, stamp.nanosec, decoded.header.frame_id)
        return np.require(image, requirements="W")  # a raw message's array is a view of read-only bytes

    def _make_intrinsics(self, camera_info: Any, image: NDArray[np.uint8]) -> Intrinsics:
        if camera_info is None:
            return Intrinsics()
        given = intrinsics_from_info(camera_info, image, rectified=self._is_rectified)
        for news in (given.problem, given.notice):
            if news:
                self._warn(news)
        return given

    def _read_first_camera_info(self) -> Any:
        """Return the first CameraInfo of the topic, or None."""
        if self._info_topic is None:
            return None
        with BagReader(self._path) as bag:
            for message in bag.messages([self._info_topic]):
                try:
                    return _to_ros2_names(bag.decode(message))
                except UserError:
                    continue
        return None


def _choose_image_topic(bag: BagReader, wanted: str | None) -> str:
    """Return the wanted topic, or the only one with images that are not depth images. Raises UserError if there is
    none."""
    images = sorted(name for name, topic in bag.topics.items() if topic.type_name in (RAW, COMPRESSED))
    if wanted is not None:
        if wanted in images:
            return wanted
        raise UserError(f"{bag.path} has no images on {wanted}; it has {_format_list(images)}")
    color = [name for name in images if not _is_depth(bag, name)] if len(images) > 1 else images
    if not color:
        if images:
            raise UserError(f"{bag.path} has depth images only ({_format_list(images)}); choose one with --topic")
        raise UserError(
            f"{bag.path} has no topic with images ({RAW} or {COMPRESSED}); it has {_format_list(bag.topics)}"
        )
    if len(color) > 1:
        raise UserError(f"{bag.path} has several topics with images, choose one with --topic: {', '.join(color)}")
    return color[0]


def _is_depth(bag: BagReader, topic: str) -> bool:
    """Return whether a topic's first image is a depth image: by its encoding, or by the topic's name if it is
    unreadable."""
    has_name = DEPTH in topic.lower()
    for message in bag.messages([topic]):
        try:
            image = bag.decode(message)
        except UserError:
            break
        if hasattr(image, "encoding"):
            return image.encoding in DEPTH_ENCODINGS and (has_name or image.encoding != "mono16")
        return DEPTH in image.format.lower() or any(each in image.format for each in DEPTH_ENCODINGS[:2])
    return has_name


def _choose_camera_info_topic(bag: BagReader, image_topic: str) -> tuple[str | None, str]:
    """Return the topic of an image topic's CameraInfo, or None, and a remark on the choice, or "".

    The choice is `camera_info` beside the image topic, else the only CameraInfo topic in the same namespace, else the
    only one of a bag with one image topic.
    """
    infos = sorted(name for name, topic in bag.topics.items() if topic.type_name == CAMERA_INFO)
    namespace = image_topic.removesuffix("/compressed").rpartition("/")[0]
    beside = f"{namespace}/camera_info"
    if beside in infos:
        return beside, ""
    near = [name for name in infos if name.rpartition("/")[0] == namespace]
    images = [name for name, topic in bag.topics.items() if topic.type_name in (RAW, COMPRESSED)]
    if len(near) == 1:
        return near[0], f"{beside} is missing; intrinsics are taken from {near[0]}, in the same namespace"
    if len(infos) == len(images) == 1:
        return infos[0], f"{beside} is missing; intrinsics are taken from {infos[0]}, the only CameraInfo topic"
    if infos:
        return None, (
            f"{beside} is missing: intrinsics are predicted, and those on {', '.join(infos)} are not used; give "
            "intrinsics with --k"
        )
    return None, ""


def _to_ros2_names(info: Any) -> Any:
    """Give a CameraInfo the field names of ROS 2. ROS 1 has D, K, R and P."""
    if hasattr(info, "k"):
        return info
    return SimpleNamespace(**{name.lower(): value for name, value in vars(info).items()})


def _format_list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
