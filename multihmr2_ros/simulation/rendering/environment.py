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

"""Converts a scene's environment to arrays for the kernels: obstacles, ground, room and lights in the camera frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray

from multihmr2_ros.simulation.appearance.materials import Material
from multihmr2_ros.simulation.rendering import kernels
from multihmr2_ros.simulation.rendering.backdrop import load_texture_levels
from multihmr2_ros.simulation.rendering.meshes import to_device
from multihmr2_ros.simulation.rendering.sensor import LUMINANCE
from multihmr2_ros.simulation.scene.environment import Surface
from multihmr2_ros.simulation.scene.posing import PosedScene
from multihmr2_ros.simulation.scene.scene import Scene

# Albedo of a floor: the mean of a photograph divided by this is the light on the people in it.
MEAN_ALBEDO = 0.3
LIGHT_GAIN_RANGE = (0.3, 1.6)
MIN_ROOM_M = 1.0
ROOM_SAMPLES_HZ = 4
# Bones that darken the ground below, and the radius around them as a fraction of the stature.
BLOCKING_BONES = {
    "foot.L": 0.05, "foot.R": 0.05, "toe1-1.L": 0.03, "toe1-1.R": 0.03, "lowerleg01.L": 0.05, "lowerleg01.R": 0.05,
    "upperleg01.L": 0.08, "upperleg01.R": 0.08, "spine03": 0.10, "spine01": 0.10, "head": 0.06,
    "wrist.L": 0.025, "wrist.R": 0.025,
}  # fmt: skip


def make_obstacle_arrays(scene: Scene, posed: PosedScene, first_material: int, device: str) -> Any:
    """Return the kernels' ObstacleArrays, with consecutive materials from row first_material."""
    obstacles = kernels.ObstacleArrays()
    obstacles.count = len(scene.obstacles)
    kinds, transforms, halves = [], [], []
    for obstacle in scene.obstacles:
        world_from_own = np.eye(4)
        world_from_own[:3, :3] = _rotate_about_z(obstacle.heading_rad)
        world_from_own[:3, 3] = obstacle.center
        kinds.append(("box", "cylinder").index(obstacle.kind))
        transforms.append(np.linalg.inv(world_from_own) @ posed.world_from_camera)
        halves.append(np.asarray(obstacle.size) / 2.0)
    obstacles.kind = to_device(kinds, wp.int32, device)
    obstacles.own_from_camera = to_device(transforms, wp.mat44, device)
    obstacles.half_size = to_device(halves, wp.vec3, device)
    obstacles.material = to_device(np.arange(first_material, first_material + len(kinds)), wp.int32, device)
    return obstacles


def make_environment_arrays(
    scene: Scene,
    posed: PosedScene,
    bone_labels: tuple[str, ...],
    light_gain: float,
    first_material: int,
    device: str,
) -> tuple[Any, list[Material]]:
    """Return the EnvironmentArrays, and the materials of ground, walls and ceiling (rows from first_material on)."""
    environment = scene.environment
    arrays = kernels.EnvironmentArrays()
    arrays.world_from_camera = wp.mat44(posed.world_from_camera)
    arrays.pixel_angle = 1.0 / float(scene.camera.k[1, 1])
    ground, room = environment.ground, environment.room
    materials = [Material((0.5, 0.5, 0.5))] * 3
    arrays.ground_shown = int(ground is not None)
    arrays.ground_texture, arrays.ground_texture_size = _upload_texture(ground, device)
    arrays.ground_material, arrays.wall_material, arrays.ceiling_material = range(first_material, first_material + 3)
    if ground is not None:
        materials[0] = ground.material
    arrays.wall_texture, arrays.wall_texture_size = _upload_texture(None if room is None else room.walls, device)
    arrays.has_room = int(room is not None)
    if room is not None:
        materials[1:] = room.walls.material, Material(room.ceiling)
        room_from_world, half_size = compute_room(scene)
        arrays.room_from_world, arrays.room_half_size = wp.mat44(room_from_world), wp.vec3(half_size)
    camera_from_world = posed.world_from_camera[:3, :3].T
    directions = [camera_from_world @ light.direction for light in environment.lights]
    arrays.light_direction = to_device(directions, wp.vec3, device)
    arrays.light_color = to_device(
        [light_gain * np.array(light.color) for light in environment.lights], wp.vec3, device
    )
    arrays.light_spread = environment.lights[0].spread_rad
    arrays.sky_light = wp.vec3(light_gain * np.array(environment.sky_light))
    arrays.ground_light = wp.vec3(light_gain * np.array(environment.ground_light))
    arrays.blocker = to_device(_make_blockers(posed, bone_labels), wp.vec4, device)
    return arrays, materials


def compute_light_gain(scene: Scene, backdrop: NDArray[np.float32]) -> float:
    """Compute the factor on all lights that makes people as bright as the photograph behind them.

    It is 1 without a photograph.
    """
    environment = scene.environment
    if environment.backdrop.photograph is None:
        return 1.0
    up = sum((np.array(light.color) * max(light.direction[2], 0.0) for light in environment.lights), np.zeros(3))
    on_ground = float((up + environment.sky_light) @ LUMINANCE)
    gain = float((backdrop @ LUMINANCE).mean()) / (MEAN_ALBEDO * on_ground)
    return float(np.clip(gain, *LIGHT_GAIN_RANGE))


def compute_room(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return room_from_world (4, 4), with its origin in the room's middle, and half the room's size (3,).

    The room is the same at all times.
    """
    room = scene.environment.room
    assert room is not None
    times = np.linspace(0.0, scene.duration_s, 1 + math.ceil(ROOM_SAMPLES_HZ * scene.duration_s))
    points = [scene.camera.path.world_from_camera(time)[:2, 3] for time in times]
    points += [person.path.compute_position(time) for person in scene.people for time in times]
    points += [np.asarray(obstacle.center)[:2] for obstacle in scene.obstacles]
    turned = np.array(points) @ _rotate_about_z(room.heading_rad)[:2, :2]
    low = turned.min(axis=0) - MIN_ROOM_M - np.array(room.margins_m[:2])
    high = turned.max(axis=0) + MIN_ROOM_M + np.array(room.margins_m[2:])
    highest_camera = max(scene.camera.path.world_from_camera(time)[2, 3] for time in times)
    height = max(room.height_m, highest_camera + 0.5)
    room_from_world = np.eye(4)
    room_from_world[:3, :3] = _rotate_about_z(room.heading_rad).T
    room_from_world[:3, 3] = -np.array([*(low + high) / 2.0, height / 2.0])
    return room_from_world, np.array([*(high - low) / 2.0, height / 2.0])


def _rotate_about_z(heading_rad: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(heading_rad), np.sin(heading_rad)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _make_blockers(posed: PosedScene, bone_labels: tuple[str, ...]) -> NDArray[np.float32]:
    """Return spheres (b, 4) around some joints of all people, camera frame."""
    bones = [bone_labels.index(label) for label in BLOCKING_BONES]
    radius = posed.stature[:, None] * np.array(list(BLOCKING_BONES.values()))
    return np.concatenate([posed.joints[:, bones], radius[..., None]], axis=-1).reshape(-1, 4).astype(np.float32)


def _upload_texture(surface: Surface | None, device: str) -> tuple[Any, float]:
    if surface is None or surface.texture is None:
        return to_device((), wp.vec3, device, dimensions=3), 1.0
    return to_device(load_texture_levels(surface.texture), wp.vec3, device, dimensions=3), surface.texture_size_m
