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

"""people_msgs/People on /people, the input of Nav2's social costmap layer.

This layer looks up the transform at the exact stamp of the message, treats people slower than 0.1 m/s as standing, and
keeps the last message forever. Therefore people are published in a fixed frame, and an empty list is published if there
are no people, or if their positions are no longer known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import make_body_frames
from multihmr2_ros.people import PHENOTYPE_LABELS, People
from multihmr2_ros.ros.conversions import header_to_ros
from multihmr2_ros.ros.qos import RELIABLE, is_wanted
from multihmr2_ros.ros.target_frame import CameraFrame

TOPIC = "/people"
LOST_S = 1.0  # without a transform for this long, an empty list replaces the last one

# The body model's anchors of the phenotype "age" from 0 to 1; a person gets the label of the nearest anchor.
AGE_CLASSES = ("baby", "child", "adult", "old")


@dataclass(frozen=True)
class PersonContent:
    """people_msgs/Person: position (3,) m and velocity (3,) m/s in the frame of the list; tags: name → value."""

    name: str
    position: tuple[float, float, float]
    velocity: tuple[float, float, float]
    reliability: float
    tags: dict[str, str]


class PeopleOutput:
    """The publisher of /people. messages: classes of people_msgs."""

    def __init__(self, node: Any, messages: Any, body_prefix: str) -> None:
        self._messages = messages
        self._body_prefix = body_prefix
        self._frame = ""  # of the last list; "" after an empty one replaced it
        self._published_s = 0.0
        self.publisher = node.create_publisher(messages.People, TOPIC, RELIABLE)

    def publish(self, frame: CameraFrame, people: People) -> None:
        """Publish the people of an image, which are in the camera's frame."""
        header, stamp_s = frame.header, frame.header.stamp_s
        if frame.fixed_frame and frame.fixed_from_camera is not None:
            self._frame, self._published_s = frame.fixed_frame, stamp_s
            if is_wanted(self.publisher):
                self._publish_persons(
                    transform_to_fixed_frame(people, frame.fixed_from_camera, self._body_prefix), header
                )
        elif not frame.fixed_frame or not 0 <= stamp_s - self._published_s < LOST_S:
            self.publish_empty(header)
            self._frame = ""

    def publish_empty(self, header: HeaderContent) -> None:
        """Publish an empty list at the header's stamp, in the frame of the last list, if any."""
        if self._frame:
            self._publish_persons([], header)

    def _publish_persons(self, persons: list[PersonContent], header: HeaderContent) -> None:
        header = HeaderContent(header.sec, header.nanosec, self._frame)
        self.publisher.publish(persons_to_ros(persons, header, self._messages))


def transform_to_fixed_frame(
    people: People, fixed_from_camera: NDArray[np.float64], body_prefix: str = "body_"
) -> list[PersonContent]:
    """Return the confirmed people, named like their TF frames. fixed_from_camera (4, 4): the camera's pose.

    If the velocity relative to the fixed frame is unknown, it is 0: the message has no value for unknown, and the
    camera's own motion must not be interpreted as the person's.
    """
    position = people.pelvis @ fixed_from_camera[:3, :3].T + fixed_from_camera[:3, 3]
    is_known = np.isfinite(people.velocity).all(axis=1, keepdims=True) & (people.velocity_frame == "fixed")
    velocity = np.where(is_known, people.velocity, 0.0)
    return [
        PersonContent(
            name, _finite_vector(position[row]), _finite_vector(velocity[row]), float(people.score[row]), tags
        )
        for row, (name, tags) in enumerate(zip(make_body_frames(people, body_prefix), _make_tags(people), strict=True))
        if name and np.isfinite(position[row]).all()
    ]


def persons_to_ros(persons: list[PersonContent], header: HeaderContent, messages: Any) -> Any:
    """Convert to people_msgs/People."""
    return messages.People(
        header=header_to_ros(header),
        people=[
            messages.Person(
                name=person.name,
                position=_point_to_ros(person.position),
                velocity=_point_to_ros(person.velocity),
                reliability=person.reliability,
                tagnames=list(person.tags),
                tags=list(person.tags.values()),
            )
            for person in persons
        ],
    )


def _make_tags(people: People) -> list[dict[str, str]]:
    age = people.running_shape[:, PHENOTYPE_LABELS.index("age")].clip(0.0, 1.0)
    nearest = np.rint(np.nan_to_num(age) * (len(AGE_CLASSES) - 1)).astype(int)
    return [
        {
            "age_class": AGE_CLASSES[nearest[row]],
            "stature_m": f"{people.stature[row]:.2f}",
            "track_age_s": f"{people.track_age_s[row]:.1f}",
        }
        for row in range(len(people))
    ]


def _finite_vector(values: NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _point_to_ros(values: tuple[float, float, float]) -> Point:
    x, y, z = values
    return Point(x=x, y=y, z=z)
