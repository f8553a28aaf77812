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

"""Poses the people of a scene at a time: from data to meshes in the camera frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.pose import rotate_about
from multihmr2_ros.simulation.motion.skeleton import compute_bone_rotations
from multihmr2_ros.simulation.scene.scene import Scene


@dataclass(frozen=True, eq=False)
class PosedScene:
    """The n people of a scene at one time, in the scene's order. Meters; camera: the optical frame at that time.

    world_from_camera (4, 4) float64
    shape     (n, 6) float32, Anny's phenotypes
    rotations (n, 163, 3, 3) float32 as in People.rotations: relative to the parent bone, row 0 in the camera
              frame
    vertices  (n, V, 3) float32, camera frame
    joints    (n, 163, 3) float32 bone heads, camera frame
    center    (n, 3) float32, the body's center vertex, camera frame
    stature   (n,) float32
    person_id (n,) int64
    """

    time_s: float
    world_from_camera: NDArray[np.float64]
    shape: NDArray[np.float32]
    rotations: NDArray[np.float32]
    vertices: NDArray[np.float32]
    joints: NDArray[np.float32]
    center: NDArray[np.float32]
    stature: NDArray[np.float32]
    person_id: NDArray[np.int64]


@torch.no_grad()
def pose_scene(scene: Scene, time_s: float, body: Body, heights: NDArray[np.float64] | None = None) -> PosedScene:
    """Pose all people of the scene at a time by one call of the body model; pelvises are above the paths.

    heights (n,) m: pelvis heights above the ground, `PelvisTrajectory.heights`. If None, as for a single image, the
    lowest vertex is on the ground, or above it if the clip has the feet in the air.
    """
    people = scene.people
    world_from_camera = scene.camera.path.world_from_camera(time_s)
    camera_from_world = np.linalg.inv(world_from_camera)
    device = body.identity.device
    shape = np.array([person.shape for person in people], np.float32).reshape(-1, 6)
    poses = [person.clip.pose(time_s) for person in people]
    shape_tensor = torch.from_numpy(shape).to(device)
    rest = body.compute_rest_bone_poses(shape_tensor).cpu().numpy()
    turns = compute_bone_rotations(poses, rest, body.bone_labels, body.bone_parents)
    for row, person in enumerate(people):
        heading = rotate_about(2, person.path.compute_heading(time_s))
        turns[row, 0] = camera_from_world[:3, :3] @ heading @ turns[row, 0]
    rotations = turns.astype(np.float32)

    posed = body(shape_tensor, torch.from_numpy(rotations).to(device))
    vertices, joints = posed.vertices.cpu().numpy(), posed.joints.cpu().numpy()
    up = camera_from_world[:3, 2].astype(np.float32)
    surface = body.surface_vertices.cpu().numpy()
    lowest = (vertices @ up)[:, surface].min(axis=1, initial=np.inf)
    place = np.zeros((len(people), 3))
    for row, (person, pose) in enumerate(zip(people, poses, strict=True)):
        seated = pose.clearance_m - float(lowest[row]) + float(joints[row, 0] @ up)
        world = [*person.path.compute_position(time_s), seated if heights is None else heights[row]]
        place[row] = camera_from_world[:3, :3] @ world + camera_from_world[:3, 3] - joints[row, 0]
    moved = place[:, None].astype(np.float32)
    vertices, joints = vertices + moved, joints + moved
    return PosedScene(
        time_s=time_s,
        world_from_camera=world_from_camera,
        shape=shape,
        rotations=rotations,
        vertices=vertices,
        joints=joints,
        center=vertices[:, body.center_vertex],
        stature=posed.stature.cpu().numpy(),
        person_id=np.array([person.person_id for person in people], np.int64),
    )
