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

"""Pure functions that convert between People, the content classes of `messages.content` and rclpy's messages."""

from __future__ import annotations

import array
import importlib
from functools import cache
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.messages.content import (
    HeaderContent,
    HumanArrayContent,
    MarkerContent,
    PointCloudContent,
    make_label_marker,
    make_mesh_marker,
    validate_faces,
)
from multihmr2_ros.messages.conversion_packages import get_converter
from multihmr2_ros.messages.human_array import compute_body_quaternions, human_array_message, make_body_frames
from multihmr2_ros.msg import BodyModel, HumanArray
from multihmr2_ros.people import People, TrackState

from .target_frame import PlacedPeople

JPEG_QUALITY = 80  # of 100
NOBODY = "nobody"  # the summary of an image without people
LABEL_HEIGHT_M = 0.15
LABEL_GAP_M = 0.25  # from the highest joint, which is inside the head, to the middle of the label
MARKER_LIFETIME_NS = 5_000_000_000  # removes the markers if the node is killed and cannot send DELETE


def human_array_to_ros(content: HumanArrayContent) -> HumanArray:
    """Convert the content to multihmr2_ros/HumanArray."""
    return human_array_message(content, _make, _float32_sequence_to_ros)


def people_to_transforms(people: People, header: HeaderContent, body_prefix: str = "body_") -> TFMessage:
    """Convert to tf2_msgs/TFMessage: the frame `<body_prefix><id>` of each confirmed person in the header's frame.

    Without transforms if the header has no frame or no stamp (`HeaderContent.allows_transforms`): for each transform
    without a parent, tf2 would log an error.
    """
    transforms: list[TransformStamped] = []
    if not header.allows_transforms:
        return TFMessage(transforms=transforms)
    names = make_body_frames(people, body_prefix)
    for name, place, quaternion in zip(names, people.pelvis, compute_body_quaternions(people), strict=True):
        if name and np.isfinite(place).all():
            x, y, z = place.tolist()
            qx, qy, qz, qw = quaternion.tolist()
            transform = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))
            transforms.append(TransformStamped(header=header_to_ros(header), child_frame_id=name, transform=transform))
    return TFMessage(transforms=transforms)


def people_to_markers(
    people: People, header: HeaderContent, faces: NDArray[Any], camera: NDArray[np.float64] | None = None
) -> list[MarkerContent]:
    """Return a mesh and a label for each person, in the track's color.

    people  in the header's frame
    header  of the messages
    faces   (F, 3) triangles of people.vertices
    camera  (4, 4) the camera's pose in the header's frame; None if the header's frame is the camera's. Labels contain
            the distance from the camera, and are above the person in the image

    Marker ids are track ids; people without a track have their row as id, in separate namespaces. Meshes with values
    that are not finite are omitted, because RViz rejects them.
    """
    markers: list[MarkerContent] = []
    if people.vertices.size:
        faces = validate_faces(faces, people.vertices.shape[1])
    has_mesh = np.atleast_1d(np.isfinite(people.vertices).all(axis=(1, 2)) & bool(people.vertices.size))
    has_place = np.atleast_1d(np.isfinite(people.joints).all(axis=(1, 2)))
    camera = np.eye(4) if camera is None else camera
    up, pelvis = -camera[:3, 1], people.joints[:, 0]  # y points down in a camera's optical frame
    height_m = (people.joints @ up).max(axis=1) + LABEL_GAP_M - pelvis @ up
    label_place = pelvis + height_m[:, None] * up
    distance_m = np.linalg.norm(pelvis - camera[:3, 3], axis=1)
    for row, track_id in enumerate(people.track_id.tolist()):
        suffix, marker_id = ("", track_id) if track_id >= 0 else ("_untracked", row)
        looks = _to_color(track_id), MARKER_LIFETIME_NS
        if has_mesh[row]:
            markers.append(make_mesh_marker(header, f"mesh{suffix}", marker_id, people.vertices[row], faces, *looks))
        if has_place[row]:
            x, y, z = label_place[row].tolist()
            text = f"{distance_m[row]:.1f} m" if track_id < 0 else f"#{track_id}: {distance_m[row]:.1f} m"
            markers.append(
                make_label_marker(header, f"label{suffix}", marker_id, text, (x, y, z), LABEL_HEIGHT_M, *looks)
            )
    return markers


def people_to_points(people: People, header: HeaderContent) -> PointCloudContent:
    """Return the finite vertices on the surfaces of all people as one point cloud."""
    points = people.surface.reshape(-1, 3)
    return PointCloudContent(header, points[np.isfinite(points).all(axis=1)])


def image_to_ros(image: NDArray[np.uint8], header: HeaderContent) -> Image:
    """Convert (H, W, 3) uint8 RGB to sensor_msgs/Image."""
    bridge = get_converter("cv_bridge")
    if bridge is not None:
        return bridge.cv2_to_imgmsg(image, "rgb8", header_to_ros(header))
    height, width = image.shape[:2]
    message = Image(header=header_to_ros(header), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(image.tobytes())
    return message


def compressed_image_to_ros(image: NDArray[np.uint8], header: HeaderContent) -> CompressedImage:
    """Convert (H, W, 3) uint8 RGB to sensor_msgs/CompressedImage, as JPEG."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    message = CompressedImage(header=header_to_ros(header), format="jpeg")
    message.data.frombytes(data.tobytes())
    return message


def body_model_to_ros(body: Any) -> BodyModel:
    """Convert a `multihmr2_ros.body.Body` to multihmr2_ros/BodyModel."""
    return BodyModel(
        bone_labels=list(body.bone_labels),
        bone_parents=list(body.bone_parents),
        faces=np.asarray(body.faces, np.uint32).ravel(),
        phenotype_labels=list(body.phenotype_labels),
    )


def format_summary(placed: PlacedPeople, fixed_frame: str = "") -> str:
    """Summarize people in text: a line with their number, and a line per person in descending score; NOBODY if none.

    fixed_frame: name of the fixed frame that velocities may refer to.
    """
    people, frame = placed.people, placed.header.frame_id
    if not len(people):
        return NOBODY
    over = fixed_frame if people.velocity_frame == "fixed" and fixed_frame else frame
    away_m = np.linalg.norm(people.pelvis - placed.camera[:3, 3], axis=1)
    speed_m_s = np.linalg.norm(people.velocity, axis=1)
    lines = [f"{len(people)} {'person' if len(people) == 1 else 'people'} in {frame}, velocities in {over}"]
    for row, track_id in enumerate(people.track_id.tolist()):
        x, y, z = people.pelvis[row].tolist()
        words = [
            f"{away_m[row]:.1f} m from the camera, at ({x:.2f}, {y:.2f}, {z:.2f}) m",
            f"{speed_m_s[row]:.1f} m/s" if np.isfinite(speed_m_s[row]) else "speed unknown",
            f"{people.stature[row]:.2f} m tall",
            f"score {people.score[row]:.2f}",
        ]
        if people.track_state[row] == TrackState.TENTATIVE:
            words.append("tentative")
        name = f"#{track_id}" if track_id >= 0 else "untracked"
        lines.append(f"{name}: {', '.join(words)}")
    return "\n".join(lines)


def header_to_ros(header: HeaderContent) -> Header:
    return Header(stamp=Time(sec=header.sec, nanosec=header.nanosec), frame_id=header.frame_id)


def header_from_ros(header: Any) -> HeaderContent:
    return HeaderContent(header.stamp.sec, header.stamp.nanosec, header.frame_id)


def _to_color(track_id: int) -> tuple[float, float, float, float]:
    red, green, blue = get_track_color(track_id)
    return red / 255, green / 255, blue / 255, 1.0


def _make(type_name: str, **fields: Any) -> Any:
    return import_message_class(type_name)(**fields)


@cache
def import_message_class(type_name: str) -> Any:
    """Return the Python class of `package/msg/Name`. Raises UserError if the package is not available in this shell."""
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the message type {type_name} is not available; source the workspace with {package}"
        ) from error


def _float32_sequence_to_ros(values: NDArray[np.float32]) -> array.array[float]:
    return array.array("f", values.tobytes())
