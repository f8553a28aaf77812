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

"""The node's publishers. Outputs without subscribers are not computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from multihmr2_ros.lens import Distort
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.messages import cdr
from multihmr2_ros.messages.content import (
    HeaderContent,
    HumanArrayContent,
    MarkerContent,
    PointCloudContent,
    make_delete_marker,
)
from multihmr2_ros.messages.conversion_packages import describe_packages
from multihmr2_ros.messages.people_content import Timing, people_to_content
from multihmr2_ros.msg import BodyModel, HumanArray
from multihmr2_ros.people import People

from .content_publisher import ContentPublisher, can_read_our_bytes, marker_array_to_ros, point_cloud_to_ros
from .conversions import (
    NOBODY,
    body_model_to_ros,
    compressed_image_to_ros,
    format_summary,
    human_array_to_ros,
    image_to_ros,
    people_to_markers,
    people_to_points,
    people_to_transforms,
)
from .interfaces.outputs import InterfaceOutputs
from .parameters import NodeParameters
from .qos import LAST_MESSAGES_TIMEOUT, LATCHED, RELIABLE, TF, is_wanted
from .target_frame import PlacedPeople, TargetFrame, place_people_in


class Outputs:
    """The publishers of one configured node, and the ids of the markers that are currently shown."""

    def __init__(self, node: Any, body: Any, parameters: NodeParameters) -> None:
        self._node = node
        self._body_prefix = parameters.body_prefix
        self._shown: set[tuple[str, int]] = set()
        self._described: Any = None
        sends_bytes = can_read_our_bytes()
        self._transforms = node.create_publisher(TFMessage, "/tf", TF)
        self._humans = node.create_publisher(HumanArray, "humans", RELIABLE)
        self._markers: ContentPublisher[Sequence[MarkerContent]] = ContentPublisher(
            node.create_publisher(MarkerArray, "~/markers", RELIABLE),
            cdr.marker_array_to_cdr, marker_array_to_ros, sends_bytes=sends_bytes,
        )  # fmt: skip
        self._points: ContentPublisher[PointCloudContent] = ContentPublisher(
            node.create_publisher(PointCloud2, "~/points", RELIABLE),
            cdr.point_cloud_to_cdr, point_cloud_to_ros, sends_bytes=sends_bytes,
        )  # fmt: skip
        self._summary = node.create_publisher(String, "~/summary", RELIABLE)
        self._overlay = node.create_publisher(Image, "~/overlay", RELIABLE)
        # As in image_transport: appended to the image topic's name after remapping.
        self._overlay_jpeg = node.create_publisher(CompressedImage, f"{self._overlay.topic_name}/compressed", RELIABLE)
        self._latched = node.create_publisher(BodyModel, "~/body_model", LATCHED)
        self.interfaces = InterfaceOutputs(node, parameters)
        node.get_logger().info(describe_packages(sends_bytes=sends_bytes))
        self.describe(body)

    def describe(self, body: Any) -> None:
        """Publish the BodyModel of the next people, if the body has changed."""
        if body.faces is not self._described:
            self._described = body.faces  # not the body, which may be in the memory of a failed device
            self._faces, self._bone_labels = np.ascontiguousarray(body.faces, np.intp), body.bone_labels
            self._latched.publish(body_model_to_ros(body))

    @property
    def needs_vertices(self) -> bool:
        """Whether an output that shows meshes has a subscriber."""
        shown = (self._markers.publisher, self._points.publisher, self._overlay, self._overlay_jpeg)
        return any(is_wanted(publisher) for publisher in shown) or self.interfaces.needs_vertices

    def publish(
        self,
        people: People,
        image: NDArray[np.uint8],
        header: HeaderContent,
        timing: Timing,
        now_s: Callable[[], float],
        *,
        with_vertices: bool,
        distort: Distort | None = None,
        fixed_frame: str = "",
        fixed_from_camera: NDArray[np.float64] | None = None,
        target_frame: str = "",
        target: TargetFrame | None = None,
    ) -> None:
        """Publish all messages about one image. TF is first, because viewers need it to show the others.

        people                          in the camera's frame
        image                           (H, W, 3) uint8 RGB
        header                          of the image
        timing                          latencies for the HumanArray
        now_s                           returns the time of the node's clock (s); the total latency is measured just
                                        before the HumanArray is converted
        with_vertices                   whether the HumanArray contains vertices
        distort                         lens distortion, if the image and people.joints_2d are distorted
        fixed_frame, fixed_from_camera  name of the fixed frame, and the camera's pose in it (4, 4), if known
        target_frame, target            frame of the messages, "" for the image's frame, and the camera's pose in it;
                                        without the pose, messages with positions are not published
        """
        placed = place_people_in(target, people, header) if target is not None or not target_frame else None
        if placed is not None:
            self._publish_placed(placed, timing, now_s, with_vertices=with_vertices, fixed_frame=fixed_frame)
        if is_wanted(self._overlay) or is_wanted(self._overlay_jpeg):
            self._publish_overlay(draw_people(image, people, self._faces, distort=distort), header)
        self.interfaces.publish(people, image, header, self._bone_labels, fixed_frame, fixed_from_camera, placed)

    def _publish_placed(
        self,
        placed: PlacedPeople,
        timing: Timing,
        now_s: Callable[[], float],
        *,
        with_vertices: bool,
        fixed_frame: str,
    ) -> None:
        """Publish the messages that contain positions."""
        people, header = placed.people, placed.header
        if is_wanted(self._transforms):
            self._transforms.publish(people_to_transforms(people, header, self._body_prefix))
        if is_wanted(self._humans):
            stamp_s = header.sec + header.nanosec * 1e-9
            timing = dataclasses.replace(timing, total_latency=now_s() - stamp_s if stamp_s else float("nan"))
            content = people_to_content(
                people,
                header,
                timing,
                with_vertices=with_vertices,
                body_prefix=self._body_prefix,
                fixed_frame=fixed_frame,
            )
            self._humans.publish(human_array_to_ros(content))
        if is_wanted(self._markers.publisher):
            markers = people_to_markers(people, header, self._faces, placed.camera)
            self._publish_markers(markers, header)
        if is_wanted(self._points.publisher):
            self._points.publish(people_to_points(people, header))

        if is_wanted(self._summary):
            self._summary.publish(String(data=format_summary(placed, fixed_frame)))

    def _publish_overlay(self, drawn: NDArray[np.uint8], header: HeaderContent) -> None:
        if is_wanted(self._overlay):
            self._overlay.publish(image_to_ros(drawn, header))
        if is_wanted(self._overlay_jpeg):
            self._overlay_jpeg.publish(compressed_image_to_ros(drawn, header))

    def publish_nobody(self, header: HeaderContent, dropped_frames: int) -> None:
        """Publish empty messages: a HumanArray, the deletion of all markers, a point cloud, and the other interfaces.

        header: stamp and frame of the messages.
        """
        self._humans.publish(human_array_to_ros(HumanArrayContent(header, dropped_frames)))
        self._publish_markers([], header)
        self._summary.publish(String(data=NOBODY))
        if header.frame_id:  # a costmap keeps the last points until new ones arrive
            self._points.publish(PointCloudContent(header, np.zeros((0, 3))))
        self.interfaces.publish_nobody(header)

    def destroy(self) -> None:
        """Destroy the publishers once the last messages are acknowledged, or after LAST_MESSAGES_TIMEOUT."""
        for last in (self._humans, self._markers.publisher, self._points.publisher):
            last.wait_for_all_acked(LAST_MESSAGES_TIMEOUT)
        for publisher in (
            self._humans, self._transforms, self._markers.publisher, self._points.publisher, self._summary,
            self._overlay, self._overlay_jpeg,
            self._latched,
        ):  # fmt: skip
            self._node.destroy_publisher(publisher)
        self.interfaces.destroy()

    def _publish_markers(self, markers: list[MarkerContent], header: HeaderContent) -> None:
        """Publish markers, and the deletion of shown markers that are not among them."""
        shown = {(marker.namespace, marker.id) for marker in markers}
        markers += [make_delete_marker(header, *gone) for gone in sorted(self._shown - shown)]
        self._shown = shown
        self._markers.publish(markers)
