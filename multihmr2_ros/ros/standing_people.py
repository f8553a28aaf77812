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

"""Generated people, for measurements of the node without network and weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from multihmr2_ros.body import Body, Mesh
from multihmr2_ros.estimator import EstimatorConfig, Runtime
from multihmr2_ros.frame import Frame
from multihmr2_ros.people import BONE_COUNT, IntrinsicsSource, People, TrackState


def make_standing_people(body: Body, count: int, image_size: tuple[int, int] = (480, 640)) -> People:
    """Return people of mean shape side by side, 5 m in front of the camera, with confirmed tracks 1, 2, …

    image_size: (height, width) px.
    """
    rotations = np.tile(np.eye(3, dtype=np.float32), (count, BONE_COUNT, 1, 1))
    rotations[:, 0] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # upright, facing the camera
    shape = np.full((count, 6), 0.5, np.float32)
    with torch.inference_mode():
        posed = body(torch.from_numpy(shape), torch.from_numpy(rotations))
    pelvis = np.stack([np.linspace(-2.0, 2.0, count), np.zeros(count), np.full(count, 5.0)], axis=1)
    place = (pelvis - posed.joints[:, 0].numpy())[:, None].astype(np.float32)
    joints = posed.joints.numpy() + place
    height, width = image_size
    k = np.array([[500.0, 0.0, width / 2], [0.0, 500.0, height / 2], [0.0, 0.0, 1.0]])
    projected = joints @ k.T
    vertical_fov = 2.0 * float(np.arctan(height / (2.0 * k[1, 1])))
    return People(
        score=np.full(count, 0.9, np.float32),
        track_id=np.arange(1, count + 1),
        track_state=np.full(count, int(TrackState.CONFIRMED)),
        track_age_s=np.ones(count),
        shape=shape,
        running_shape=shape,
        rotations=rotations,
        bone_poses=posed.bone_poses.numpy(),
        joints=joints,
        joints_2d=(projected[..., :2] / projected[..., 2:]).astype(np.float32),
        pelvis=joints[:, 0],
        velocity=np.zeros((count, 3)),
        pelvis_covariance=np.tile(0.01 * np.eye(3), (count, 1, 1)),
        velocity_covariance=np.tile(0.04 * np.eye(3), (count, 1, 1)),
        vertices=posed.vertices.numpy() + place,
        stature=posed.stature.numpy(),
        track_feature=np.zeros((count, 1), np.float32),
        k=k,
        vertical_fov=vertical_fov,
        predicted_vertical_fov=vertical_fov,
        intrinsics_source=IntrinsicsSource.PREDICTED,
        velocity_frame="camera",
        stamp=0.0,
        image_size=image_size,
    )


class StandInEstimator:
    """Substitute for the estimator: returns the same people for every image, without delay."""

    def __init__(self, mesh: Mesh, count: int) -> None:
        self.config = EstimatorConfig(mesh=mesh)
        self.runtime = Runtime("cpu")
        self.body = Body(mesh)
        self._people = make_standing_people(self.body, count)

    def step(self, frame: Frame, /) -> People:
        return dataclasses.replace(self._people, stamp=frame.stamp)

    def reconfigure(self, config: EstimatorConfig) -> None:
        self.config = config

    def reset(self) -> None:
        """Do nothing, because there are no tracks."""
