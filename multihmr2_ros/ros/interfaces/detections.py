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

"""vision_msgs/Detection3DArray: each person as a box with the orientation of the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion, Vector3
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import compute_body_quaternions
from multihmr2_ros.people import People
from multihmr2_ros.ros.conversions import header_to_ros
from multihmr2_ros.ros.qos import RELIABLE, is_wanted

TOPIC = "~/detections"
CLASS_ID = "person"


@dataclass(frozen=True)
class DetectionArrayContent:
    """The m people with a known position, in the frame of the message; lengths in meters.

    name        m names: the prefix of body frames and the track id; "" without a track
    score       (m,)
    pelvis      (m, 3)
    quaternion  (m, 4) x, y, z, w, orientation of the box and the body (x axis forward, z axis toward the head)
    center      (m, 3) of the box
    size        (m, 3) of the box along its own axes
    """

    name: list[str]
    score: NDArray[Any]
    pelvis: NDArray[Any]
    quaternion: NDArray[Any]
    center: NDArray[Any]
    size: NDArray[Any]


class DetectionsOutput:
    """The publisher of ~/detections. messages: classes of vision_msgs."""

    def __init__(self, node: Any, messages: Any, body_prefix: str) -> None:
        self._messages = messages
        self._body_prefix = body_prefix
        self.publisher = node.create_publisher(messages.Detection3DArray, TOPIC, RELIABLE)

    def publish(self, people: People, header: HeaderContent) -> None:
        if is_wanted(self.publisher):
            detections = people_to_detections(people, self._body_prefix)
            self.publisher.publish(detections_to_ros(detections, header, self._messages))

    def publish_empty(self, header: HeaderContent) -> None:
        self.publisher.publish(self._messages.Detection3DArray(header=header_to_ros(header)))


def people_to_detections(people: People, body_prefix: str = "body_") -> DetectionArrayContent:
    """Return the people with a finite position, with boxes around their vertices (without a mesh: their joints)."""
    points = people.surface if people.vertices.shape[1] else people.joints
    rows = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)) & np.isfinite(people.pelvis).all(axis=1))
    people, points = people.select(rows), points[rows]
    quaternion = compute_body_quaternions(people)
    axes = Rotation.from_quat(quaternion).as_matrix() if len(people) else np.zeros((0, 3, 3))
    along_axes = (points - people.pelvis[:, None]) @ axes
    low, high = along_axes.min(axis=1), along_axes.max(axis=1)
    return DetectionArrayContent(
        name=[f"{body_prefix}{track_id}" if track_id >= 0 else "" for track_id in people.track_id.tolist()],
        score=people.score,
        pelvis=people.pelvis,
        quaternion=quaternion,
        center=people.pelvis + np.einsum("nij,nj->ni", axes, (low + high) / 2),
        size=high - low,
    )


def detections_to_ros(detections: DetectionArrayContent, header: HeaderContent, messages: Any) -> Any:
    """Convert to vision_msgs/Detection3DArray. Covariances are not set (0)."""
    return messages.Detection3DArray(
        header=header_to_ros(header),
        detections=[
            messages.Detection3D(
                header=header_to_ros(header),
                id=name,
                bbox=messages.BoundingBox3D(
                    center=_pose(detections.center[row], detections.quaternion[row]),
                    size=Vector3(**_vector_to_ros(detections.size[row])),
                ),
                results=[
                    messages.ObjectHypothesisWithPose(
                        hypothesis=messages.ObjectHypothesis(class_id=CLASS_ID, score=float(detections.score[row])),
                        pose=PoseWithCovariance(pose=_pose(detections.pelvis[row], detections.quaternion[row])),
                    )
                ],
            )
            for row, name in enumerate(detections.name)
        ],
    )


def _pose(position: NDArray[Any], quaternion: NDArray[Any]) -> Pose:
    x, y, z, w = quaternion.tolist()
    return Pose(position=Point(**_vector_to_ros(position)), orientation=Quaternion(x=x, y=y, z=z, w=w))


def _vector_to_ros(values: NDArray[Any]) -> dict[str, float]:
    return dict(zip("xyz", values.tolist(), strict=True))
