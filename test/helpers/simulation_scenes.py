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

"""Small scenes for the renderer tests: people at given places in plain surroundings."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from multihmr2_ros.body import Body
from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.simulation.appearance.appearance import sample_appearance
from multihmr2_ros.simulation.appearance.materials import Material
from multihmr2_ros.simulation.labels import Labels, make_labels
from multihmr2_ros.simulation.motion.clips import GaitClip
from multihmr2_ros.simulation.motion.gaits import GaitStyle
from multihmr2_ros.simulation.motion.paths import ArcPath, CameraPath
from multihmr2_ros.simulation.rendering.renderer import RenderedImage, Renderer
from multihmr2_ros.simulation.scene import Camera, Obstacle, Person, Scene
from multihmr2_ros.simulation.scene.environment import Backdrop, Environment, Light, Surface
from multihmr2_ros.simulation.scene.posing import PosedScene, pose_scene
from multihmr2_ros.simulation.scene.sensor import SensorEffects
from test import paths

SHARED = paths.SHARED / "data"
ADULT = np.array([0.5, 0.67, 0.5, 0.5, 0.5, 0.5], np.float32)
GRAY = Material((0.6, 0.6, 0.6))


@functools.cache
def body() -> Body:
    return Body("full")


@functools.cache
def make_renderer() -> Renderer:
    return Renderer(body())


def make_person(x: float, y: float, person_id: int = 0, heading_rad: float = np.pi, gait: str = "stand") -> Person:
    """Return an adult at (x, y) m in textured clothes, by default facing a camera at the origin that looks along x."""
    looks = sample_appearance(np.random.default_rng(person_id), ADULT)
    return Person(person_id, ADULT, GaitClip(gait, GaitStyle()), ArcPath(x, y, heading_rad), looks)


def make_surroundings(sun: tuple[float, float, float] = (0.0, 0.6, 0.8)) -> Environment:
    """Return gray ground under one sun, and a drawn backdrop."""
    lights = (Light(sun, (0.8, 0.8, 0.8), spread_rad=0.005),)
    return Environment(Surface(GRAY), None, lights, (0.2, 0.2, 0.2), (0.1, 0.1, 0.1), Backdrop(0, "sky"))


def make_box(x: float, y: float, z: float, size: tuple[float, float, float]) -> Obstacle:
    return Obstacle("box", np.array([x, y, z]), np.array(size), 0.0, GRAY)


def make_scene(*people: Person, obstacles: tuple[Obstacle, ...] = (), **camera: Any) -> Scene:
    """Return a scene with a camera 1 m above the origin that looks along the world's x, by default 160 × 120 px and a
    vertical field of view of 60°."""
    width, height = camera.pop("width", 160), camera.pop("height", 120)
    k = camera.pop("k", intrinsics_from_fov(np.deg2rad(60.0), width, height))
    distortion = np.asarray(camera.pop("distortion", ()), np.float64)
    place = camera.pop("surroundings", make_surroundings())
    view = Camera(width, height, k, distortion, CameraPath(ArcPath(0.0, 0.0, 0.0), height_m=1.0, **camera))
    return Scene(0, people, view, obstacles, place, SensorEffects(), 10.0, 0.0)


def render_scene(shown: Scene, seed: int = 0, time_s: float = 0.0) -> tuple[PosedScene, RenderedImage, Labels]:
    """Pose, render and label a scene."""
    posed = pose_scene(shown, time_s, body())
    rendered = make_renderer().render(shown, posed, np.random.default_rng(seed))
    return posed, rendered, make_labels(shown, posed, rendered)
