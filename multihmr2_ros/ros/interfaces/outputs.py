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

"""Publishes people in the messages of other packages, if these are installed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.people import People
from multihmr2_ros.ros.parameters import NodeParameters
from multihmr2_ros.ros.qos import LAST_MESSAGES_TIMEOUT, is_wanted
from multihmr2_ros.ros.target_frame import CameraFrame, PlacedPeople

from .bodies import BodiesOutput
from .detections import DetectionsOutput
from .people import PeopleOutput

Output = TypeVar("Output")

# Packages that are missing in some distributions: GitHub repository, branch, and distributions with the package (index
# of ROS distributions, August 2026).
SOURCES = {
    "people_msgs": ("wg-perception/people", "ros2", ()),
    "hri_msgs": ("ros4hri/hri_msgs", "humble-devel", ("humble", "jazzy")),
}


class InterfaceOutputs:
    """The publishers of one configured node.

    facts  "people", "bodies" and "detections" → "published" or the reason why not; for the diagnostics
    """

    def __init__(self, node: Any, parameters: NodeParameters) -> None:
        self._node = node
        self._wanted: dict[str, str] = {}
        self.facts: dict[str, str] = {}
        prefix = parameters.body_prefix
        self._people = self._make_output("people", "people_msgs", parameters.publish_people, prefix, PeopleOutput)
        self._bodies = self._make_output("bodies", "hri_msgs", parameters.publish_bodies, prefix, BodiesOutput)
        self._detections = self._make_output(
            "detections", "vision_msgs", parameters.publish_detections, prefix, DetectionsOutput
        )

    def _make_output(
        self, name: str, package: str, when: str, body_prefix: str, make: Callable[[Any, Any, str], Output]
    ) -> Output | None:
        self._wanted[name] = when
        if when == "never":
            self.facts[name] = f"not published: publish_{name} is never"
            return None
        messages = import_messages(package)
        if messages is None:
            self.facts[name] = f"not published: {describe_installation(package)}"
            if when == "always":
                self._node.get_logger().warning(f"{name} are {self.facts[name]}")
            return None
        try:
            output = make(self._node, messages, body_prefix)
        except Exception as error:  # rclpy has several types for a package that was built for another Python or ROS
            self.facts[name] = f"not published: {package} cannot be used: {' '.join(str(error).split())}"
            self._node.get_logger().warning(f"{name} are {self.facts[name]}")
            return None
        self.facts[name] = "published"
        return output

    @property
    def faults(self) -> list[str]:
        """Return the interfaces that are set to "always" but cannot be published."""
        return [
            f"{name} are {fact}"
            for name, fact in self.facts.items()
            if self._wanted[name] == "always" and fact != "published"
        ]

    @property
    def needs_vertices(self) -> bool:
        """Whether an output that uses the mesh has a subscriber."""
        detections = self._detections is not None and is_wanted(self._detections.publisher)
        return detections or (self._bodies is not None and is_wanted(self._bodies.tracked))

    def publish(
        self, frame: CameraFrame, people: People, placed: PlacedPeople | None, bone_labels: Sequence[str]
    ) -> None:
        """Publish all messages about one image.

        frame        of the image
        people       in the camera's frame
        placed       the people in the frame of the messages; None if the transform is unknown
        bone_labels  of people.joints
        """
        if self._people is not None:
            if not frame.fixed_frame:
                self.facts["people"] = "not published: the parameter fixed_frame is not set"
            elif frame.fixed_from_camera is None:
                missing = f"from {frame.header.frame_id} to {frame.fixed_frame}"
                self.facts["people"] = f"not published: no transform {missing}"
            else:
                self.facts["people"] = "published"
            self._people.publish(frame, people)
        if self._bodies is not None:
            self._bodies.publish(frame, people, placed, bone_labels)
        if self._detections is not None and placed is not None:
            self._detections.publish(placed.people, placed.header)

    def publish_empty(self, header: HeaderContent) -> None:
        for output in (self._people, self._bodies, self._detections):
            if output is not None:
                output.publish_empty(header)

    def destroy(self) -> None:
        """Destroy the publishers once the last messages are acknowledged, or after LAST_MESSAGES_TIMEOUT."""
        last = [output.publisher for output in (self._people, self._detections) if output is not None]
        for publisher in last + ([] if self._bodies is None else [self._bodies.tracked]):
            publisher.wait_for_all_acked(LAST_MESSAGES_TIMEOUT)
        for publisher in last:
            self._node.destroy_publisher(publisher)
        if self._bodies is not None:
            self._bodies.destroy()


def import_messages(package: str) -> Any:
    """Return the message classes of the package; None if it is not installed."""
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError:
        return None


def describe_installation(package: str) -> str:
    """Return one line of instructions to install the package."""
    distribution = os.environ.get("ROS_DISTRO", "jazzy")
    repository, branch, released = SOURCES.get(package, ("", "", (distribution,)))
    if distribution in released:
        return f"{package} is not installed: sudo apt install ros-{distribution}-{package.replace('_', '-')}"
    return (
        f"{package} is not installed, and not released for {distribution}: in your workspace's src folder, "
        f"git clone -b {branch} https://github.com/{repository}, then colcon build --packages-select {package}"
    )
