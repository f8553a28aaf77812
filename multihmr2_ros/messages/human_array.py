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

"""HumanArray messages: the content from People, and message objects from the content.

Needs no ROS: the caller passes the message classes, of rclpy or of rosbags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.messages.content import Array, HeaderContent, HumanArrayContent
from multihmr2_ros.messages.conversion_packages import get_converter
from multihmr2_ros.people import IntrinsicsSource, People, TrackState

Make = Callable[..., Any]
Sequence = Callable[[Array], Any]
INTRINSICS = {  # HumanArray.INTRINSICS_*
    IntrinsicsSource.PREDICTED: 0,
    IntrinsicsSource.K: 1,
    IntrinsicsSource.P: 2,
    IntrinsicsSource.PARAMETER: 3,
}
# Largest number of rotations converted by tf_transformations: it takes 0.2 ms for each, SciPy 0.2 ms for all of them
# and 0.4 ms for the joints of a person (2-core machine under load, 2026-11-26).
SHORT_SEQUENCE = 4


@dataclass(frozen=True)
class Timing:
    """The durations in a HumanArray, in s (NaN: unknown), and the number of images dropped since the node's
    activation."""

    age_at_receipt: float = float("nan")
    inference_time: float = float("nan")
    total_latency: float = float("nan")
    dropped_frames: int = 0


def people_to_content(
    people: People,
    header: HeaderContent,
    timing: Timing,
    *,
    with_vertices: bool = False,
    body_prefix: str = "body_",
    fixed_frame: str = "",
) -> HumanArrayContent:
    """Convert the people of one image to the content of a multihmr2_ros/HumanArray.

    people         in the frame of header: the camera's optical frame, or the target frame
    header         stamp and frame
    timing         durations, and the number of dropped images
    with_vertices  whether vertices are included
    body_prefix    of the names of the people's TF frames
    fixed_frame    name of the fixed frame, if velocities may be in it
    """
    return HumanArrayContent(
        header=header,
        image_size=people.image_size,
        k=people.k,
        intrinsics_source=INTRINSICS[people.intrinsics_source],
        vertical_fov=people.vertical_fov,
        age_at_receipt=timing.age_at_receipt,
        inference_time=timing.inference_time,
        total_latency=timing.total_latency,
        dropped_frames=timing.dropped_frames,
        track_id=people.track_id,
        frame_id=make_body_frames(people, body_prefix) if header.allows_transforms else ("",) * len(people),
        state=people.track_state,
        age=people.track_age_s,
        score=people.score,
        pelvis=people.pelvis,
        pelvis_orientation=compute_body_quaternions(people),
        pelvis_covariance=make_pose_covariances(people),
        velocity=people.velocity,
        velocity_covariance=people.velocity_covariance,
        velocity_frame=fixed_frame if people.velocity_frame == "fixed" and fixed_frame else header.frame_id,
        stature=people.stature,
        phenotype=people.running_shape,
        box=compute_boxes(people.joints_2d, people.image_size),
        joints=people.joints,
        joints_2d=people.joints_2d,
        joint_rotations=rotations_to_quaternions(people.rotations),
        vertices=people.vertices if with_vertices else people.vertices[:, :0],
    )


def make_pose_covariances(people: People) -> NDArray[np.float64]:
    """Return the covariances (n, 6, 6) of the pelvis poses: m² for the position, NaN for the orientation, which has
    none."""
    covariance = np.full((len(people), 6, 6), np.nan)
    covariance[:, :3, :3] = people.pelvis_covariance
    return covariance


def make_body_frames(people: People, prefix: str) -> tuple[str, ...]:
    """Return the name of each person's TF frame (REP-155); "" if none is broadcast, because the track is not
    confirmed."""
    return tuple(
        f"{prefix}{track_id}" if state == TrackState.CONFIRMED and track_id >= 0 else ""
        for track_id, state in zip(people.track_id.tolist(), people.track_state.tolist(), strict=True)
    )


def compute_body_quaternions(people: People) -> NDArray[np.float64]:
    """Return quaternions (n, 4) x, y, z, w of the body axes in the frame of people.

    The axes are those of REP-155: x out of the body, y to its left, z to the head. In the root bone's frame the head is
    at -z, the left at +x and the front at +y.
    """
    root = people.bone_poses[:, 0, :3, :3]
    return rotations_to_quaternions(np.stack([root[..., 1], root[..., 0], -root[..., 2]], axis=-1))


def compute_boxes(joints_2d: NDArray[np.float32], image_size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the boxes (n, 4) x_offset, y_offset, height, width in px around joints (n, J, 2), cut to the image (H, W).

    All values are zero if no joint is inside the image.
    """
    size = np.array(image_size[::-1])
    inside = np.all((joints_2d >= 0) & (joints_2d < size), axis=2)  # false for NaN
    known = np.isfinite(joints_2d)
    first = np.where(known, joints_2d, np.inf).min(axis=1, initial=np.inf)
    last = np.where(known, joints_2d, -np.inf).max(axis=1, initial=-np.inf)
    first, last = np.clip(np.floor(first), 0, size), np.clip(np.ceil(last), 0, size)
    box = np.hstack([first, (last - first)[:, ::-1]])
    return np.where(np.any(inside, axis=1, keepdims=True), box, 0).astype(np.int64)


def rotations_to_quaternions(matrices: NDArray[Any]) -> NDArray[np.float64]:
    """Convert rotation matrices (..., 3, 3) to quaternions (..., 4) x, y, z, w."""
    if not matrices.size:
        return np.zeros((*matrices.shape[:-2], 4))
    transformations = get_converter("tf_transformations")
    if transformations is not None and matrices.size <= 9 * SHORT_SEQUENCE and np.isfinite(matrices).all():
        rigid = np.tile(np.eye(4), (matrices.size // 9, 1, 1))
        rigid[:, :3, :3] = matrices.reshape(-1, 3, 3)
        found = [transformations.quaternion_from_matrix(each) for each in rigid]
        return np.array(found, np.float64).reshape(*matrices.shape[:-2], 4)
    nearly = matrices.reshape(-1, 3, 3).astype(np.float64)
    # One Newton step to the nearest rotation. SciPy computes an SVD of each matrix that is orthogonal only in float32.
    nearly = 1.5 * nearly - 0.5 * nearly @ nearly.transpose(0, 2, 1) @ nearly
    return Rotation.from_matrix(nearly).as_quat().reshape(*matrices.shape[:-2], 4)


def human_array_message(content: HumanArrayContent, make: Make, sequence: Sequence) -> Any:
    """Return a multihmr2_ros/HumanArray with this content.

    make      makes a message: make("package/msg/Name", field=value, …)
    sequence  converts a float32 array (N,) to the type of float32[] in the message classes
    """
    header = content.header
    height, width = content.image_size
    return make(
        "multihmr2_ros/msg/HumanArray",
        header=make(
            "std_msgs/msg/Header",
            stamp=make("builtin_interfaces/msg/Time", sec=header.sec, nanosec=header.nanosec),
            frame_id=header.frame_id,
        ),
        height=int(height),
        width=int(width),
        k=_float64_to_ros(content.k),
        intrinsics_source=int(content.intrinsics_source),
        vertical_fov=float(content.vertical_fov),
        age_at_receipt=float(content.age_at_receipt),
        inference_time=float(content.inference_time),
        total_latency=float(content.total_latency),
        dropped_frames=int(content.dropped_frames),
        humans=[_human_message(content, row, make, sequence) for row in range(len(content.score))],
    )


def _human_message(content: HumanArrayContent, row: int, make: Make, sequence: Sequence) -> Any:
    x_offset, y_offset, height, width = map(int, content.box[row])
    pose = make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", **_name_values("xyz", content.pelvis[row])),
        orientation=make("geometry_msgs/msg/Quaternion", **_name_values("xyzw", content.pelvis_orientation[row])),
    )
    covariance = _float64_to_ros(content.pelvis_covariance[row])
    return make(
        "multihmr2_ros/msg/Human",
        track_id=int(content.track_id[row]) & 0xFFFFFFFF,
        frame_id=content.frame_id[row],
        state=int(content.state[row]),
        age=float(content.age[row]),
        score=float(content.score[row]),
        pelvis=make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance),
        velocity=make("geometry_msgs/msg/Vector3", **_name_values("xyz", content.velocity[row])),
        velocity_covariance=_float64_to_ros(content.velocity_covariance[row]),
        velocity_frame=content.velocity_frame,
        stature=float(content.stature[row]),
        phenotype=_float32_to_ros(content.phenotype[row]),
        box=make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=x_offset, y_offset=y_offset, height=height, width=width, do_rectify=False,
        ),
        joints=sequence(_float32_to_ros(content.joints[row])),
        joints_2d=sequence(_float32_to_ros(content.joints_2d[row])),
        joint_rotations=sequence(_float32_to_ros(content.joint_rotations[row])),
        vertices=sequence(_float32_to_ros(content.vertices[row])),
    )  # fmt: skip


def _name_values(names: str, values: Array) -> dict[str, float]:
    return dict(zip(names, np.asarray(values, np.float64).tolist(), strict=True))


def _float64_to_ros(values: Array) -> Array:
    return np.asarray(values, np.float64).ravel()


def _float32_to_ros(values: Array) -> Array:
    return np.asarray(values, np.float32).ravel()
