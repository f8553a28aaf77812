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

"""The images of a bag as frames, like those of a video. Needs no ROS."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.sources import FrameSource, source_name
from multihmr2_ros.messages.calibration import Intrinsics, Lens, intrinsics_from_info
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.images import compressed_image_from_ros, image_from_ros
from multihmr2_ros.people import Frame, IntrinsicsSource

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
USUAL_FPS = 10.0  # where a damaged bag does not say how long it is
DEPTH = "depth"  # in the name of a topic, or in the format of a compressed image
DEPTH_ENCODINGS = ("16UC1", "32FC1", "mono16")  # thermal cameras use mono16, too: with a depth topic's name only

logger = logging.getLogger(__name__)


class BagSource(FrameSource):
    """Every image of one topic of a bag, in order of recording. Frame.name is `<name>_<index:06d>`.

    topic: raw or compressed; None takes the only one with images of people, not of depth. Stamps are those of the
    messages' headers (s, since 1970 as a rule), or of the recording where a header has none. K comes from the newest
    CameraInfo beside the topic, or from the only one in the same namespace (before the first: from the first), as the
    node does it: from P where the topic's name begins with `image_rect`; where K has a distortion, the image is
    undistorted, and Frame.distort leads back to the recorded one.

    header: that of the newest frame's message, its stamp in whole nanoseconds and its frame of reference.

    Images that cannot be decoded are left out; `damage` says so in the end, and whether the bag is cut off.
    """

    header = HeaderContent()

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._path = Path(path)
        self.name = source_name(self._path)
        with BagReader(self._path) as bag:
            self._topic = _image_topic(bag, topic)
            self._info_topic, self._info_notice = _camera_info_topic(bag, self._topic)
            count = bag.topics[self._topic].count
            self.frame_count = count or None
            self.fps = (count - 1) / (bag.duration_ns * 1e-9) if count > 1 and bag.duration_ns > 0 else USUAL_FPS
        self._is_compressed = bag.topics[self._topic].type_name == COMPRESSED
        self._is_rectified = self._topic.removesuffix("/compressed").rpartition("/")[2].startswith("image_rect")

    def _frames(self) -> Generator[Frame, None, None]:
        self.damage = ""
        index, unreadable, reason = 0, 0, ""
        lens, camera_info = Lens(), self._first_camera_info()
        told: set[str] = set()
        if self._info_notice:
            logger.warning("%s: %s", self._path, self._info_notice)
        with BagReader(self._path) as bag:
            for message in bag.messages([self._topic, *([self._info_topic] if self._info_topic else [])]):
                try:
                    if message.topic == self._info_topic:
                        camera_info = _lower_case(bag.decode(message))
                        continue
                    image, stamp_s = self._image(bag, message)
                except UserError as error:
                    unreadable, reason = unreadable + 1, reason or str(error)
                    continue
                given = self._intrinsics(camera_info, image)
                for news in {given.problem, given.notice} - {""} - told:
                    told.add(news)
                    logger.warning("%s: %s", self._path, news)
                if given.distorted is not None:
                    image = lens.undistorted(image, given.distorted)
                name = f"{self.name}_{index:06d}"
                yield Frame(image, stamp_s, given.k, given.source, name, given.distort)
                index += 1
        losses = [f"the bag is damaged or cut off ({bag.damage})"] if bag.damage else []
        losses += [f"{unreadable} messages left out ({reason})"] if unreadable else []
        if index == 0:
            raise UserError(
                f"no image on {self._topic} of {self._path} can be read: {'; '.join(losses) or 'it is empty'}"
            )
        if losses:
            self.damage = f"{self._path}: {index} frames could be read; {'; '.join(losses)}"

    def _image(self, bag: BagReader, message: BagMessage) -> tuple[NDArray[np.uint8], float]:
        """The image and its stamp (s)."""
        decoded = bag.decode(message)
        image = compressed_image_from_ros(decoded) if self._is_compressed else image_from_ros(decoded)
        stamp = decoded.header.stamp
        self.header = HeaderContent(stamp.sec, stamp.nanosec, decoded.header.frame_id)
        image = np.require(image, requirements="W")  # that of a raw message lies in the message's own bytes
        return image, (stamp.sec + stamp.nanosec * 1e-9) or message.time_ns * 1e-9

    def _intrinsics(self, camera_info: Any, image: NDArray[np.uint8]) -> Intrinsics:
        if camera_info is None:
            return Intrinsics(None, IntrinsicsSource.PREDICTED)
        return intrinsics_from_info(camera_info, image, rectified=self._is_rectified)

    def _first_camera_info(self) -> Any:
        """None where there is none."""
        if self._info_topic is None:
            return None
        with BagReader(self._path) as bag:
            for message in bag.messages([self._info_topic]):
                try:
                    return _lower_case(bag.decode(message))
                except UserError:
                    continue
        return None


def _image_topic(bag: BagReader, wanted: str | None) -> str:
    """The topic that is wanted, or the only one with images; depth images do not count."""
    images = sorted(name for name, topic in bag.topics.items() if topic.type_name in (RAW, COMPRESSED))
    if wanted is not None:
        if wanted in images:
            return wanted
        raise UserError(f"{bag.path} has no images on {wanted}; it has {_listed(images)}")
    colour = [name for name in images if not _is_depth(bag, name)] if len(images) > 1 else images
    if not colour:
        if images:
            raise UserError(f"{bag.path} has depth images only ({_listed(images)}); choose one with --topic")
        raise UserError(f"{bag.path} has no topic with images ({RAW} or {COMPRESSED}); it has {_listed(bag.topics)}")
    if len(colour) > 1:
        raise UserError(f"{bag.path} has several topics with images, choose one with --topic: {', '.join(colour)}")
    return colour[0]


def _is_depth(bag: BagReader, topic: str) -> bool:
    """Whether a topic's first image is one of depth; the topic's name counts where the image does not tell."""
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


def _camera_info_topic(bag: BagReader, image_topic: str) -> tuple[str | None, str]:
    """The topic of an image topic's CameraInfo, None where there is none, and what should be said about the choice:
    `camera_info` beside the image topic; else the only one in the same namespace; else the only one of a bag with one
    image topic."""
    infos = sorted(name for name, topic in bag.topics.items() if topic.type_name == CAMERA_INFO)
    namespace = image_topic.removesuffix("/compressed").rpartition("/")[0]
    beside = f"{namespace}/camera_info"
    if beside in infos:
        return beside, ""
    near = [name for name in infos if name.rpartition("/")[0] == namespace]
    images = [name for name, topic in bag.topics.items() if topic.type_name in (RAW, COMPRESSED)]
    if len(near) == 1:
        return near[0], f"there is no {beside}; the intrinsics are those of {near[0]}, in the same namespace"
    if len(infos) == len(images) == 1:
        return infos[0], f"there is no {beside}; the intrinsics are those of {infos[0]}, the only one in the bag"
    if infos:
        return None, (
            f"there is no {beside}: intrinsics are predicted, and those on {', '.join(infos)} not used; give the right "
            "ones with --k"
        )
    return None, ""


def _lower_case(info: Any) -> Any:
    """A CameraInfo with ROS 2's names: ROS 1 has D, K, R and P."""
    if hasattr(info, "k"):
        return info
    return SimpleNamespace(**{name.lower(): value for name, value in vars(info).items()})


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
