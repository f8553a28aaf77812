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

"""The node's subscriptions, and what their messages say: an image with its intrinsics; depth images and transforms are
kept for `cues`.

Messages arrive serialised and are taken apart when it is their turn, so that an image that is dropped costs nothing
and damaged bytes cannot stop the executor.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.calibration import Intrinsics, intrinsics_from_info
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.depth import DepthImages
from multihmr2_ros.messages.images import compressed_image_from_ros, image_from_ros
from multihmr2_ros.people import IntrinsicsSource

from .conversions import header_from_ros
from .graph import STALLED, publishers_of, silence, topics_of_others
from .parameters import NodeParameters
from .qos import LATCHED, SILENT_SUBSCRIPTION
from .transforms import Transforms

# Matches every publisher, whatever it offers.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# What the parameters qos_overrides.TOPIC.subscription.KIND may change.
OVERRIDABLE = (QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
SUFFIX = "/compressed"  # of the topics of compressed images
LOOK_PERIOD_S = 0.5
FUTURE_S = 1.0  # stamps may be ahead by so much: clocks differ a little, and a simulated one comes in steps
APPEARED_S = 5.0  # so long after a publisher has appeared, its first image may take
# The parameters whose change asks for other subscriptions.
SUBSCRIBING = ("image_transport", "use_depth", "fixed_frame", "ground_frame", "target_frame")


@dataclass(frozen=True)
class Received:
    """An image as it came: serialised, with the newest CameraInfo (serialised; None: none yet).

    arrival_s         on the node's clock, which may be simulated
    steady_arrival_s  on the monotonic clock
    """

    image: bytes
    camera_info: bytes | None
    is_compressed: bool
    arrival_s: float
    steady_arrival_s: float


@dataclass(frozen=True)
class CameraImage:
    """An image (H, W, 3) uint8 RGB and its header. arrival_s: on the node's clock, which may be simulated."""

    image: NDArray[np.uint8]
    header: HeaderContent
    arrival_s: float

    @property
    def stamp_s(self) -> float:
        return self.header.sec + self.header.nanosec * 1e-9

    @property
    def time_s(self) -> float:
        """The stamp; the arrival where there is none."""
        return self.stamp_s or self.arrival_s

    @property
    def faults(self) -> list[str]:
        """What is wrong with the header."""
        faults = []
        if not self.header.frame_id:
            faults.append(
                "images have no header.frame_id: no transforms of people are published; set the frame of the camera in "
                "its driver"
            )
        ahead_s = -self.age_at_receipt_s
        if self.arrival_s > 0 and ahead_s > FUTURE_S:
            faults.append(
                f"images are stamped {ahead_s:.1f} s in the future: ages and latencies mean nothing, max_age_s drops "
                "none; set the clocks of the camera and of this machine alike"
            )
        return faults

    @property
    def age_at_receipt_s(self) -> float:
        """NaN where the image has no stamp."""
        return self.arrival_s - self.stamp_s if self.stamp_s else float("nan")


@dataclass(frozen=True)
class ImageSource:
    """A way in which images may come. topic: full name; kind: class of its messages."""

    topic: str
    kind: type

    @property
    def is_compressed(self) -> bool:
        return self.kind is CompressedImage

    @property
    def transport(self) -> str:
        """The value of the parameter image_transport that asks for it."""
        return "compressed" if self.is_compressed else "raw"

    @property
    def type_name(self) -> str:
        return f"sensor_msgs/msg/{self.kind.__name__}"


def image_sources(node: Any) -> list[ImageSource]:
    """The raw images and the compressed ones, in the order in which they are tried.

    As in image_transport, the topic of compressed images is that of raw ones, remapped, with /compressed behind it;
    unless `image/compressed` is remapped itself, or `image` to a topic that ends like that.
    """
    image, given = node.resolve_topic_name("image"), node.resolve_topic_name("image/compressed")
    if given != node.resolve_topic_name("image/compressed", only_expand=True):
        return [ImageSource(image, Image), ImageSource(given, CompressedImage)]
    if image.endswith(SUFFIX):
        return [ImageSource(image, CompressedImage), ImageSource(image.removesuffix(SUFFIX), Image)]
    return [ImageSource(image, Image), ImageSource(image + SUFFIX, CompressedImage)]


class Inputs:
    """The subscriptions of one active node.

    parameters: those that `SUBSCRIBING` names decide what is subscribed to. report takes a cause and a text.
    camera_info: the newest one, serialised, which some publish only once: handed on from the inputs before; None: none
    yet. image_topic, depth_topic: full names, for any thread, also when the subscriptions have gone; depth_topic: empty
    where it is not subscribed to. depth_images, transforms: None where they are not asked for.
    """

    def __init__(
        self,
        node: Any,
        parameters: NodeParameters,
        now_s: Callable[[], float],
        on_image: Callable[[Received], None],
        report: Callable[[str, str], None],
        camera_info: bytes | None = None,
    ) -> None:
        self._node = node
        self._now_s = now_s
        self._on_image = on_image
        self.camera_info = camera_info
        self._report = report
        transport = parameters.image_transport
        sources = image_sources(node)
        self._sources = [source for source in sources if transport in ("auto", source.transport)]
        self._others = [source for source in sources if source not in self._sources]
        self._appeared_s: dict[tuple[int, ...], float] = {}  # publishers of images, since when (monotonic clock)
        self._is_only_elsewhere = False
        self._images: Any = None
        self._subscribe_to_images(self._sources[0])
        self._infos = subscribe_newest(node, CameraInfo, "camera_info", self._receive_camera_info, report)
        self._latched_infos: Any = None
        self.depth_images = DepthImages() if parameters.use_depth else None
        self._depths: Any = None
        if self.depth_images is not None:
            self._depths = node.create_subscription(Image, "depth", self.depth_images.add, NEWEST, raw=True)
        self.depth_topic = str(self._depths.topic_name) if self._depths else ""
        needs_transforms = bool(parameters.fixed_frame or parameters.ground_frame or parameters.target_frame)
        self.transforms = Transforms(node, parameters.body_prefix, report) if needs_transforms else None
        self.look()

    def look(self) -> None:
        """Follow what others publish: to be called every LOOK_PERIOD_S.

        Images: where those that are subscribed to have no publisher, and the others have one for the second time, the
        others are subscribed to. A camera_info that is latched is asked for as such, since it may not come again; where
        none is, to ask for it would make its publishers warn of a QoS that does not fit. The user's qos_overrides may
        have asked for it already.
        """
        publishers = self._node.get_publishers_info_by_topic(self.image_topic)
        now_s, gids = time.monotonic(), [tuple(publisher.endpoint_gid) for publisher in publishers]
        self._appeared_s = {gid: self._appeared_s.get(gid, now_s) for gid in gids}
        elsewhere = [] if publishers else [source for source in self._sources if self._is_published(source)]
        if elsewhere and self._is_only_elsewhere:
            self._subscribe_to_images(elsewhere[0])
            self._node.get_logger().info(f"images come on {self.image_topic}")
        self._is_only_elsewhere = bool(elsewhere) and not self._is_only_elsewhere
        asked = self._infos.qos_profile
        is_asked_for = (asked.durability, asked.reliability) == (LATCHED.durability, LATCHED.reliability)
        if self._latched_infos is None and not is_asked_for:
            for publisher in self._node.get_publishers_info_by_topic(self._infos.topic_name):
                if publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                    self._latched_infos = self._node.create_subscription(
                        CameraInfo, "camera_info", self._receive_camera_info, LATCHED, raw=True,
                        event_callbacks=SILENT_SUBSCRIPTION,
                    )  # fmt: skip
                    break

    def why_silent(self, silent_s: float | None) -> tuple[str, bool]:
        """Why no image comes, as far as the graph tells, and whether it is too early to say that something is wrong.

        silent_s: since the last one; None: there never was one.
        """
        reason = silence(self._node, self._images, self._source.type_name, silent_s, self._where_else())
        present_s = time.monotonic() - min(self._appeared_s.values(), default=-math.inf)
        # Since the publishers appeared, which was noticed a little later.
        has_come = silent_s is not None and silent_s < present_s + 2 * LOOK_PERIOD_S
        if STALLED in reason and present_s < APPEARED_S and not has_come:
            names = publishers_of(self._node, self.image_topic)
            return f"waiting for an image on {self.image_topic}: {names} appeared {present_s:.0f} s ago", True
        return reason, False

    def destroy(self) -> None:
        for subscription in (self._images, self._infos, self._latched_infos, self._depths):
            if subscription:
                self._node.destroy_subscription(subscription)
        if self.transforms is not None:
            self.transforms.destroy()

    def _subscribe_to_images(self, source: ImageSource) -> None:
        if self._images is not None:
            self._node.destroy_subscription(self._images)
        self._source = source
        receive = functools.partial(self._receive_image, source)
        self._images = subscribe_newest(self._node, source.kind, source.topic, receive, self._report)
        self.image_topic = str(self._images.topic_name)

    def _is_published(self, source: ImageSource) -> bool:
        found = self._node.get_publishers_info_by_topic(source.topic)
        return any(publisher.topic_type == source.type_name for publisher in found)

    def _where_else(self) -> str:
        """Where images are published that could be subscribed to, and how; "" where there are none."""
        for other in self._others:
            if self._is_published(other):
                name = publishers_of(self._node, other.topic)
                return (
                    f", but {name} publishes {other.type_name} on {other.topic}: set image_transport to "
                    f"{other.transport} (transport:={other.transport} of the launch file)"
                )
        topics = topics_of_others(self._node, [source.type_name for source in self._sources])
        topics = list(dict.fromkeys(topic.removesuffix(SUFFIX) for topic in topics if "depth" not in topic.lower()))
        if not topics:
            return ""
        return f"; images come on {', '.join(topics[:3])}: remap image to the right topic (image:={topics[0]})"

    def _receive_image(self, source: ImageSource, message: bytes) -> None:
        self._on_image(Received(message, self.camera_info, source.is_compressed, self._now_s(), time.monotonic()))

    def _receive_camera_info(self, message: bytes) -> None:
        self.camera_info = message


def subscribe_newest(
    node: Any, kind: type, topic: str, receive: Callable[[bytes], None], report: Callable[[str, str], None]
) -> Any:
    """A subscription to serialised messages with the QoS of NEWEST, or what the user's qos_overrides make of it. Where
    those are no QoS, report is told, and they are not used."""
    qos = QoSProfile(depth=NEWEST.depth, reliability=NEWEST.reliability)  # a copy: rclpy writes the overrides into it
    overriding = QoSOverridingOptions(
        OVERRIDABLE, callback=lambda qos: SetParametersResult(successful=qos.depth > 0, reason=f"depth is {qos.depth}")
    )
    try:
        return node.create_subscription(kind, topic, receive, qos, raw=True, qos_overriding_options=overriding)
    except Exception as error:  # rclpy has several types for a value of a wrong type and for one that is none
        full_name = node.resolve_topic_name(topic)
        report(
            "qos",
            f"qos_overrides.{full_name}.subscription must have depth (1 and more), reliability and durability as "
            f"ROS names them, but: {' '.join(str(error).split())}; best effort, volatile, depth 1 are used",
        )
        return node.create_subscription(kind, topic, receive, NEWEST, raw=True)


def camera_image(received: Received) -> CameraImage:
    """Raises UserError for an image that cannot be used."""
    message = deserialized(received.image, CompressedImage if received.is_compressed else Image)
    image = compressed_image_from_ros(message) if received.is_compressed else image_from_ros(message)
    return CameraImage(image, header_from_ros(message.header), received.arrival_s)


def intrinsics(received: Received, image: NDArray[np.uint8], parameters: NodeParameters) -> Intrinsics:
    """The intrinsics of an image: those of the parameter, else of the CameraInfo, else to be predicted."""
    height, width = image.shape[:2]
    if parameters.vertical_fov_rad > 0:
        k = intrinsics_from_fov(parameters.vertical_fov_rad, width, height)
        return Intrinsics(k, IntrinsicsSource.PARAMETER)
    predicted = IntrinsicsSource.PREDICTED
    if received.camera_info is None:
        return Intrinsics(None, predicted, notice="no camera_info received: intrinsics are predicted")
    try:
        info = deserialized(received.camera_info, CameraInfo)
    except UserError as error:
        return Intrinsics(None, predicted, f"{error}; until then intrinsics are predicted")
    return intrinsics_from_info(info, image, rectified=parameters.image_rectified)


def deserialized(data: bytes, kind: type) -> Any:
    """A message from its bytes. Raises UserError where they are none."""
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # each middleware has its own for bytes that it does not understand
        raise UserError(f"a damaged {kind.__name__} came ({len(data)} bytes); check its publisher") from error
