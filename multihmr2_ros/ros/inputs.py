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

"""The node's subscriptions. `frames` converts the messages to frames.

Messages are received serialized and decoded when an image is processed, so that dropped images are never decoded and
damaged bytes cannot stop the executor.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.messages.depth import DepthImages

from .graph import STALLED, explain_silence, list_publishers, list_topics_of_others
from .parameters import NodeParameters
from .qos import LATCHED, NEWEST, SILENT_SUBSCRIPTION, subscribe_serialized
from .transforms import TransformListener

SUFFIX = "/compressed"  # of topics of compressed images
UPDATE_PERIOD_S = 0.5
FIRST_IMAGE_TIMEOUT_S = 5.0  # time limit for the first image of a new publisher
# Parameters whose change requires new subscriptions.
SUBSCRIPTION_PARAMETERS = ("image_transport", "use_depth", "fixed_frame", "ground_frame", "target_frame")


@dataclass(frozen=True)
class ReceivedImage:
    """A received image, serialized, with the newest CameraInfo (serialized; None: none yet).

    arrival_s         s, on the node's clock, which may be simulated
    steady_arrival_s  s, on the monotonic clock
    """

    image: bytes
    camera_info: bytes | None
    is_compressed: bool
    arrival_s: float
    steady_arrival_s: float


@dataclass(frozen=True)
class ImageTopic:
    """A topic that may carry images. topic: full name; kind: class of its messages."""

    topic: str
    kind: type

    @property
    def is_compressed(self) -> bool:
        return self.kind is CompressedImage

    @property
    def transport(self) -> str:
        """Value of the parameter image_transport that selects this topic."""
        return "compressed" if self.is_compressed else "raw"

    @property
    def type_name(self) -> str:
        return f"sensor_msgs/msg/{self.kind.__name__}"


def list_image_topics(node: Any) -> list[ImageTopic]:
    """List the topics of raw and compressed images, in the order in which they are tried.

    As in image_transport, the topic of compressed images is the (remapped) topic of raw images with /compressed
    appended, unless `image/compressed` is remapped itself, or `image` is remapped to a topic that ends in /compressed.
    """
    image, given = node.resolve_topic_name("image"), node.resolve_topic_name("image/compressed")
    if given != node.resolve_topic_name("image/compressed", only_expand=True):
        return [ImageTopic(image, Image), ImageTopic(given, CompressedImage)]
    if image.endswith(SUFFIX):
        return [ImageTopic(image, CompressedImage), ImageTopic(image.removesuffix(SUFFIX), Image)]
    return [ImageTopic(image, Image), ImageTopic(image + SUFFIX, CompressedImage)]


class Inputs:
    """The subscriptions of one active node.

    parameters    those in `SUBSCRIPTION_PARAMETERS` select the subscriptions
    report        called with the cause and the text of a problem
    camera_info   the newest CameraInfo, serialized; None: none yet. Copied from the previous inputs, because some
                  drivers publish it only once
    image_topic   full name; may be read by any thread, also after `destroy`
    depth_topic   as image_topic; "" without a subscription
    depth_images  None without a subscription
    transforms    None if no parameter names a frame
    """

    def __init__(
        self,
        node: Any,
        parameters: NodeParameters,
        get_time_s: Callable[[], float],
        on_image: Callable[[ReceivedImage], None],
        report: Callable[[str, str], None],
        camera_info: bytes | None = None,
    ) -> None:
        self._node = node
        self._get_time_s = get_time_s
        self._on_image = on_image
        self.camera_info = camera_info
        self._report = report
        transport = parameters.image_transport
        sources = list_image_topics(node)
        self._sources = [source for source in sources if transport in ("auto", source.transport)]
        self._others = [source for source in sources if source not in self._sources]
        # GID of each image publisher → when it was first seen, s, monotonic clock
        self._appeared_s: dict[tuple[int, ...], float] = {}
        self._is_only_elsewhere = False
        self._images: Any = None
        self._subscribe_to_images(self._sources[0])
        self._infos = subscribe_serialized(node, CameraInfo, "camera_info", self._receive_camera_info, NEWEST, report)
        self._latched_infos: Any = None
        self.depth_images = DepthImages() if parameters.use_depth else None
        self._depths: Any = None
        if self.depth_images is not None:
            self._depths = subscribe_serialized(node, Image, "depth", self.depth_images.add, NEWEST, report)
        self.depth_topic = str(self._depths.topic_name) if self._depths else ""
        needs_transforms = bool(parameters.fixed_frame or parameters.ground_frame or parameters.target_frame)
        self.transforms = TransformListener(node, parameters.body_prefix, report) if needs_transforms else None
        self.update_subscriptions()

    def update_subscriptions(self) -> None:
        """Adapt the subscriptions to the published topics. Call it every UPDATE_PERIOD_S.

        Images: if, in two successive calls, only the other image topic has a publisher, subscribes to that topic.
        camera_info: subscribes as transient local if a publisher is transient local, because its message may not be
        repeated. It is not done for volatile publishers, which would warn about an incompatible QoS, nor needed if the
        user's qos_overrides already request transient local.
        """
        publishers = self._node.get_publishers_info_by_topic(self.image_topic)
        now_s, gids = time.monotonic(), [tuple(publisher.endpoint_gid) for publisher in publishers]
        self._appeared_s = {gid: self._appeared_s.get(gid, now_s) for gid in gids}
        elsewhere = self._find_elsewhere()
        if elsewhere and self._is_only_elsewhere:
            self._subscribe_to_images(elsewhere[0])
            self._node.get_logger().info(f"images are published on {self.image_topic}")
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

    def explain_silence(self, silent_s: float | None) -> tuple[str, bool]:
        """Return why no image arrives, if the ROS graph shows it, and whether it is too early to report a fault.

        silent_s: s since the last image; None: no image yet.
        """
        if elsewhere := self._find_elsewhere():
            return f"waiting for an image on {elsewhere[0].topic}: the node is switching to it", True
        reason = explain_silence(self._node, self._images, self._source.type_name, silent_s, self._find_other_topics())
        present_s = time.monotonic() - min(self._appeared_s.values(), default=-math.inf)
        # Whether an image has arrived since the publishers appeared, which is detected with a delay.
        has_come = silent_s is not None and silent_s < present_s + 2 * UPDATE_PERIOD_S
        if STALLED in reason and present_s < FIRST_IMAGE_TIMEOUT_S and not has_come:
            names = list_publishers(self._node, self.image_topic)
            return f"waiting for an image on {self.image_topic}: {names} appeared {present_s:.0f} s ago", True
        return reason, False

    def destroy(self) -> None:
        for subscription in (self._images, self._infos, self._latched_infos, self._depths):
            if subscription:
                self._node.destroy_subscription(subscription)
        if self.transforms is not None:
            self.transforms.destroy()

    def _subscribe_to_images(self, source: ImageTopic) -> None:
        if self._images is not None:
            self._node.destroy_subscription(self._images)
        self._source = source
        receive = functools.partial(self._receive_image, source)
        self._images = subscribe_serialized(self._node, source.kind, source.topic, receive, NEWEST, self._report)
        self.image_topic = str(self._images.topic_name)

    def _find_elsewhere(self) -> list[ImageTopic]:
        """Return the published topics that the node can switch to; [] if the current one has a publisher."""
        if self._node.count_publishers(self.image_topic):
            return []
        return [source for source in self._sources if self._is_published(source)]

    def _is_published(self, source: ImageTopic) -> bool:
        found = self._node.get_publishers_info_by_topic(source.topic)
        return any(publisher.topic_type == source.type_name for publisher in found)

    def _find_other_topics(self) -> str:
        """Return topics with images that the node could subscribe to, and how to select them; "" if there are none."""
        for other in self._others:
            if self._is_published(other):
                name = list_publishers(self._node, other.topic)
                return (
                    f", but {name} publishes {other.type_name} on {other.topic}: set image_transport to "
                    f"{other.transport} (transport:={other.transport} of the launch file)"
                )
        topics = list_topics_of_others(self._node, [source.type_name for source in self._sources])
        topics = list(dict.fromkeys(topic.removesuffix(SUFFIX) for topic in topics if "depth" not in topic.lower()))
        if not topics:
            return ""
        return f"; images are published on {', '.join(topics[:3])}: remap image to the right topic (image:={topics[0]})"

    def _receive_image(self, source: ImageTopic, message: bytes) -> None:
        self._on_image(
            ReceivedImage(message, self.camera_info, source.is_compressed, self._get_time_s(), time.monotonic())
        )

    def _receive_camera_info(self, message: bytes) -> None:
        self.camera_info = message
