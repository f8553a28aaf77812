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

"""Conversion of a HumanArray, of rclpy or of a bag, to People, for images and metrics of recordings. Needs no ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.errors import UserError
from multihmr2_ros.people import IntrinsicsSource, People

SOURCES = (IntrinsicsSource.PREDICTED, IntrinsicsSource.K, IntrinsicsSource.P, IntrinsicsSource.PARAMETER)
NO_TRACK = 0xFFFFFFFF  # Human.NO_TRACK


def people_from_human_array(message: Any, image_size: tuple[int, int]) -> People:
    """Return the people of a multihmr2_ros/HumanArray. image_size: (height, width) of its image.

    Fields that are not in the message are NaN: bone_poses, the shape of this single image, the predicted field of view;
    track features have no columns. velocity_frame is "camera" if the message names the header's frame.

    Raises UserError for a message whose fields do not fit each other.
    """
    try:
        return _make_people(message, image_size)
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(
            f"a HumanArray holds what no node publishes ({' '.join(str(error).split())}); record it again"
        ) from error


def _make_people(message: Any, image_size: tuple[int, int]) -> People:
    humans = message.humans
    count = len(humans)
    joints = _stack([human.joints for human in humans], np.float32, (-1, 3))
    ids = np.array([human.track_id for human in humans], np.int64).reshape(count)
    phenotype = _stack([human.phenotype for human in humans], np.float32, (6,))
    is_fixed = any(human.velocity_frame != message.header.frame_id for human in humans)
    bones = joints.shape[1]
    return People(
        score=np.array([human.score for human in humans], np.float32),
        track_id=np.where(ids == NO_TRACK, -1, ids),
        track_state=np.array([human.state for human in humans], np.int64),
        track_age_s=np.array([human.age for human in humans], np.float64),
        shape=np.full((count, 6), np.nan, np.float32),
        running_shape=phenotype,
        rotations=_rotations_from_ros([human.joint_rotations for human in humans]),
        bone_poses=np.full((count, bones, 4, 4), np.nan, np.float32),
        joints=joints,
        joints_2d=_stack([human.joints_2d for human in humans], np.float32, (-1, 2)),
        pelvis=_stack([_points_to_array([human.pelvis.pose.position])[0] for human in humans], np.float32, (3,)),
        velocity=_stack([_points_to_array([human.velocity])[0] for human in humans], np.float64, (3,)),
        pelvis_covariance=_stack([human.pelvis.covariance for human in humans], np.float64, (6, 6))[:, :3, :3],
        velocity_covariance=_stack([human.velocity_covariance for human in humans], np.float64, (3, 3)),
        vertices=_stack([human.vertices for human in humans], np.float32, (-1, 3)),
        stature=np.array([human.stature for human in humans], np.float32),
        track_feature=np.zeros((count, 0), np.float32),
        k=np.array(message.k, np.float64).reshape(3, 3),
        vertical_fov=float(message.vertical_fov),
        predicted_vertical_fov=float("nan"),
        intrinsics_source=SOURCES[message.intrinsics_source],
        velocity_frame="fixed" if is_fixed else "camera",
        stamp=message.header.stamp.sec + message.header.stamp.nanosec * 1e-9,
        image_size=image_size,
    )


def _stack(rows: list[Any], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Stack one row per person to (n, *shape). A -1 in shape is 0 without people."""
    if not rows:
        return np.zeros((0, *(0 if size < 0 else size for size in shape)), dtype)
    return np.stack([np.asarray(row, dtype).reshape(shape) for row in rows])


def _points_to_array(points: Any) -> NDArray[np.float64]:
    return np.array([(point.x, point.y, point.z) for point in points], np.float64).reshape(-1, 3)


def _rotations_from_ros(rows: list[Any]) -> NDArray[np.float32]:
    """Return (n, J, 3, 3) rotation matrices. rows: quaternions x, y, z, w (4 J,) of each person."""
    quaternions = _stack(rows, np.float64, (-1, 4))
    if not quaternions.size:
        return np.zeros((*quaternions.shape[:2], 3, 3), np.float32)
    matrices = Rotation.from_quat(quaternions.reshape(-1, 4)).as_matrix()
    return matrices.reshape(*quaternions.shape[:2], 3, 3).astype(np.float32)
