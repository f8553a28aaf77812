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

"""Samples scenes: a camera at the height of robots, people in front of it, and obstacles."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.simulation.appearance.appearance import sample_appearance
from multihmr2_ros.simulation.motion.behavior import sample_behavior
from multihmr2_ros.simulation.motion.paths import ArcPath, CameraPath, Path, make_weaving_path
from multihmr2_ros.simulation.motion.phenotypes import estimate_stature, sample_shape
from multihmr2_ros.simulation.motion.retarget import list_motion_files
from multihmr2_ros.simulation.motion.roaming import is_roaming
from multihmr2_ros.simulation.scene.environment import sample_environment
from multihmr2_ros.simulation.scene.obstacles import make_chair, sample_obstacles
from multihmr2_ros.simulation.scene.options import SceneOptions
from multihmr2_ros.simulation.scene.placing import OccupiedGround, place_person
from multihmr2_ros.simulation.scene.scene import Camera, Obstacle, Person, Scene
from multihmr2_ros.simulation.scene.sensor import sample_sensor

EMPTY_SHARE = 0.04
SPARE_PEOPLE = 20
MAX_SPEED_MPS = 1.0
MAX_DRIVE_M = 6.0
MAX_TURN_RATE_RADPS = math.radians(45)


def sample_scene(generator: np.random.Generator, options: SceneOptions) -> Scene:
    """Sample a scene; the same generator state and options give the same scene.

    People without a free position in view are left out; others are tried if too few would be left.
    """
    seed = int(generator.integers(2**31))
    count = _sample_count(generator, options)
    shapes = [sample_shape(generator) for _ in range(count)]
    motions = list_motion_files(options.motions) if options.motions else ()
    doings = [sample_behavior(generator, shape, motions) for shape in shapes]
    camera = _sample_camera(generator, shapes, options)
    people: list[Person] = []
    obstacles: list[Obstacle] = []
    occupied: list[OccupiedGround] = []
    # Roaming people come last: they walk around the others.
    waiting = sorted(zip(shapes, doings, strict=True), key=lambda pair: is_roaming(pair[1], options.duration_s))
    spare = SPARE_PEOPLE
    while waiting:
        shape, doing = waiting.pop(0)
        placed = place_person(generator, shape, doing, camera, occupied, options)
        if placed is not None:
            appearance = sample_appearance(generator, shape, options.garments)
            people.append(Person(len(people) + 1, shape, placed.clip, placed.path, appearance))
            occupied.append(placed.ground)
            obstacles += make_chair(generator, people[-1])
        if not waiting and len(people) < options.people[0] and spare > 0:
            spare -= 1
            shape = sample_shape(generator)
            waiting = [(shape, sample_behavior(generator, shape, motions))]
    obstacles += sample_obstacles(generator, camera, occupied, options)
    depression = camera.path.pitch_rad + math.atan2(camera.height - camera.k[1, 2], camera.k[1, 1])
    return Scene(
        seed=seed,
        people=tuple(people),
        camera=camera,
        obstacles=tuple(obstacles),
        environment=sample_environment(generator, options, depression),
        sensor=sample_sensor(generator, options),
        frame_rate_hz=options.frame_rate_hz,
        duration_s=options.duration_s,
    )


def _sample_count(generator: np.random.Generator, options: SceneOptions) -> int:
    """Sample the number of people: few empty scenes, and small groups more often than crowds."""
    minimum, maximum = options.people
    if minimum == 0 and generator.random() < EMPTY_SHARE:
        return 0
    low = min(max(minimum, 1), maximum)
    counts = np.arange(low, maximum + 1)
    weights = 1.0 / (5.0 + counts - low)
    return int(generator.choice(counts, p=weights / weights.sum()))


def _sample_camera(generator: np.random.Generator, shapes: list[NDArray[np.float32]], options: SceneOptions) -> Camera:
    """Sample a camera at the world's origin at mid-time, looking along x and pitched to people at middle distance."""
    fov = math.radians(generator.uniform(*options.vertical_fov_deg))
    k = intrinsics_from_fov(fov, options.width, options.height)
    height = float(generator.uniform(*options.camera_height_m))
    base = _sample_drive(generator, options.duration_s) if options.moving_camera else ArcPath(0.0, 0.0, 0.0)
    stature = float(np.mean([estimate_stature(shape) for shape in shapes])) if shapes else 1.6
    distance = np.clip(k[1, 1] * stature / options.height * generator.uniform(1.0, 2.5), *options.distance_m)
    pitch = math.atan2(height - 0.55 * stature, distance) + generator.normal(0.0, 0.08) * fov
    roll = float(generator.normal(0.0, math.radians(2.0)))
    path = CameraPath(base, height, float(np.clip(pitch, -0.5, 0.9)), float(np.clip(roll, -0.12, 0.12)))
    return Camera(options.width, options.height, k, np.zeros(0), path)


def _sample_drive(generator: np.random.Generator, duration_s: float) -> Path:
    """Sample the path of a robot that drives forward and turns to both sides."""
    fastest = min(MAX_SPEED_MPS, MAX_DRIVE_M / max(duration_s, 1e-3))
    speed = float(generator.uniform(0.0, fastest))
    turn_rate = float(generator.uniform(-1.0, 1.0)) * MAX_TURN_RATE_RADPS
    return make_weaving_path(speed, turn_rate, float(generator.uniform(4.0, 8.0)), duration_s)
