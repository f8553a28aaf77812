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
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

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
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.msg import BodyModel, HumanArray
from multihmr2_ros.people import People

from .content_publisher import ContentPublisher, can_deserialize_cdr, marker_array_to_ros, point_cloud_to_ros
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
from .target_frame import CameraFrame, PlacedPeople


class Outputs:
    """The publishers of one configured node, and the ids of the markers that are currently shown."""

    def __init__(self, node: Any, body: Any, parameters: NodeParameters) -> None:
        self._node = node
        self._body_prefix = parameters.body_prefix
        self._shown: set[tuple[str, int]] = set()
        self._described: Any = None
        sends_bytes = can_deserialize_cdr()
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
        self.reconfigure(body, parameters)

    def reconfigure(self, body: Any, parameters: NodeParameters) -> None:
        """Apply the body and the parameters of the next people. Publishes the BodyModel if the body has changed."""
        self._publish_vertices = parameters.publish_vertices
        if body.faces is not self._described:
            self._described = body.faces  # not the body, which may be in the memory of a failed device
            self._faces, self._bone_labels = np.ascontiguousarray(body.faces, np.intp), body.bone_labels
            self._latched.publish(body_model_to_ros(body))

    @property
    def needs_vertices(self) -> bool:
        """Whether an output that shows meshes has a subscriber."""
        shown = (self._markers.publisher, self._points.publisher, self._overlay, self._overlay_jpeg)
        return any(is_wanted(publisher) for publisher in shown) or self.interfaces.needs_vertices

    def publish(self, frame: CameraFrame, people: People, timing: Timing) -> None:
        """Publish all messages about one image.

        frame   of the image
        people  in the camera's frame
        timing  latencies for the HumanArray; the total latency is measured just before the HumanArray is converted
        """
        placed = frame.place(people)
        if placed is not None:
            self._publish_placed(placed, frame.fixed_frame, timing)
        if is_wanted(self._overlay) or is_wanted(self._overlay_jpeg):
            self._publish_overlay(draw_people(frame.image, people, self._faces, distort=frame.distort), frame.header)
        self.interfaces.publish(frame, people, placed, self._bone_labels)

    def _publish_placed(self, placed: PlacedPeople, fixed_frame: str, timing: Timing) -> None:
        """Publish the messages that contain positions. TF is first, because viewers need it to show the others."""
        people, header = placed.people, placed.header
        if is_wanted(self._transforms):
            self._transforms.publish(people_to_transforms(people, header, self._body_prefix))
        if is_wanted(self._humans):
            latency_s = header.compute_age_s(self._node.get_clock().now().nanoseconds * 1e-9)
            content = people_to_content(
                people, header, dataclasses.replace(timing, total_latency=latency_s),
                with_vertices=self._publish_vertices, body_prefix=self._body_prefix, fixed_frame=fixed_frame,
            )  # fmt: skip
            self._humans.publish(human_array_to_ros(content))
        if is_wanted(self._markers.publisher):
            self._publish_markers(people_to_markers(people, header, self._faces, placed.camera), header)
        if is_wanted(self._points.publisher):
            self._points.publish(people_to_points(people, header))
        if is_wanted(self._summary):
            self._summary.publish(String(data=format_summary(placed, fixed_frame)))

    def _publish_overlay(self, drawn: NDArray[np.uint8], header: HeaderContent) -> None:
        if is_wanted(self._overlay):
            self._overlay.publish(image_to_ros(drawn, header))
        if is_wanted(self._overlay_jpeg):
            self._overlay_jpeg.publish(compressed_image_to_ros(drawn, header))

    def publish_empty(self, header: HeaderContent, dropped_frames: int) -> None:
        """Publish empty messages: a HumanArray, the deletion of all markers, a point cloud, and the other interfaces.

        header: stamp and frame of the messages.
        """
        self._humans.publish(human_array_to_ros(HumanArrayContent(header, dropped_frames)))
        self._publish_markers([], header)
        self._summary.publish(String(data=NOBODY))
        if header.frame_id:  # a costmap keeps the last points until new ones arrive
            self._points.publish(PointCloudContent(header, np.zeros((0, 3))))
        self.interfaces.publish_empty(header)

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
