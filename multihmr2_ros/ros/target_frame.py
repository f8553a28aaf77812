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

"""The frame of a live camera, and its people in the frame of the messages: the image's own, or the target frame.

Needs no ROS.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.frame import Frame
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.people import People


@dataclass(frozen=True, eq=False)
class TargetFrame:
    """The frame of the messages, if it differs from the frame of the image.

    frame_id            name of the frame
    target_from_camera  (4, 4) camera pose in this frame at the image's stamp
    rate                (4, 4) change of target_from_camera per second; NaN if unknown; 0 between frames that do not
                        move relative to each other
    """

    frame_id: str
    target_from_camera: NDArray[np.float64]
    rate: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CameraFrame(Frame):
    """One image of a live camera, with the header and the target frame of its messages.

    header        of the image
    target_frame  name of the frame of the messages; "": the image's frame
    target        the camera's pose in target_frame; None: target_frame is "", or its transform is unknown
    """

    header: HeaderContent = field(default_factory=HeaderContent)
    target_frame: str = ""
    target: TargetFrame | None = None

    @property
    def is_unplaced(self) -> bool:
        """Whether the transform to the target frame is unknown, so that messages with positions are not published."""
        return bool(self.target_frame) and self.target is None

    def place(self, people: People) -> PlacedPeople | None:
        """Return the people of this image in the frame of the messages; None if the frame `is_unplaced`."""
        return None if self.is_unplaced else place_people_in(self.target, people, self.header)


@dataclass(frozen=True, eq=False)
class PlacedPeople:
    """The people of an image in the frame of the messages.

    people  positions, orientations and, if velocity_frame is "camera", velocities are in header.frame_id
    header  stamp of the image, and name of the frame
    camera  (4, 4) camera pose in this frame
    """

    people: People
    header: HeaderContent
    camera: NDArray[np.float64]


def place_people_in(target: TargetFrame | None, people: People, header: HeaderContent) -> PlacedPeople:
    """Return people in the target frame.

    target: None: the camera's frame is kept; people: in the camera's frame; header: of the image.
    """
    if target is None or target.frame_id == header.frame_id:
        return PlacedPeople(people, header, np.eye(4))
    return PlacedPeople(
        transform_people(target, people),
        dataclasses.replace(header, frame_id=target.frame_id),
        target.target_from_camera,
    )


def transform_people(target: TargetFrame, people: People) -> People:
    """Transform people from the camera's frame to the target frame, in float64: a map's origin may be far away.

    Covariances are rotated. A velocity relative to the camera becomes a velocity relative to the target frame: the
    camera's own motion is added, and the result is NaN if that motion is unknown. A velocity relative to the fixed
    frame does not change.
    """
    turn, shift = target.target_from_camera[:3, :3], target.target_from_camera[:3, 3]
    rotations: NDArray[Any] = people.rotations.astype(np.float64)
    bone_poses: NDArray[Any] = people.bone_poses.astype(np.float64)
    rotations[:, :1] = turn @ rotations[:, :1]  # the others are relative to their parent bones
    bone_poses[..., :3, :] = turn @ bone_poses[..., :3, :]  # about the body's own origin
    velocity, velocity_covariance = people.velocity, people.velocity_covariance
    if people.velocity_frame == "camera":
        carried = people.pelvis @ target.rate[:3, :3].T + target.rate[:3, 3]
        velocity = velocity @ turn.T + carried
        velocity_covariance = turn @ velocity_covariance @ turn.T
        velocity_covariance = np.where(np.isfinite(velocity).all(axis=1)[:, None, None], velocity_covariance, np.nan)
    return dataclasses.replace(
        people,
        rotations=rotations,
        bone_poses=bone_poses,
        joints=people.joints @ turn.T + shift,
        pelvis=people.pelvis @ turn.T + shift,
        pelvis_covariance=turn @ people.pelvis_covariance @ turn.T,
        velocity=velocity,
        velocity_covariance=velocity_covariance,
        vertices=people.vertices @ turn.T + shift,
    )
