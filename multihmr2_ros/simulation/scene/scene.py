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

"""A scene as data: people with their motion, the camera, obstacles and the environment.

World frame: meters, z up, the ground at z = 0. Cameras look along the z of their optical frame (x right, y down).
No code here is random: `sampling.py` samples scenes, `posing.py` poses their people at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.appearance.appearance import Appearance
from multihmr2_ros.simulation.appearance.materials import Material
from multihmr2_ros.simulation.motion.clips import Clip
from multihmr2_ros.simulation.motion.paths import CameraPath, Path
from multihmr2_ros.simulation.scene.environment import Environment
from multihmr2_ros.simulation.scene.sensor import SensorEffects


@dataclass(frozen=True, eq=False)
class Person:
    """One person of a scene.

    person_id: unique in the scene and constant over time. shape (6,) float32: Anny's phenotypes in PHENOTYPE_LABELS
    order. clip: motion of the body. path: motion over the ground.
    """

    person_id: int
    shape: NDArray[np.float32]
    clip: Clip
    path: Path
    appearance: Appearance


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with an optional lens, on a path.

    k (3, 3): px. distortion (n,): ROS's plumb_bob coefficients, or empty. path.world_from_camera(time_s) is (4, 4).
    """

    width: int
    height: int
    k: NDArray[np.float64]
    distortion: NDArray[np.float64]
    path: CameraPath


@dataclass(frozen=True, eq=False)
class Obstacle:
    """A solid obstacle that hides people: a pillar, a table, a box, a panel.

    center (3,): meters, world. size (3,): meters along its own axes, z up; a cylinder's axis is z, and its size is
    (diameter, diameter, height). heading_rad: of its x axis about the world's z.
    """

    kind: Literal["box", "cylinder"]
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    heading_rad: float
    material: Material


@dataclass(frozen=True, eq=False)
class Scene:
    """All visible objects, for duration_s from time 0 (0: a single image)."""

    seed: int
    people: tuple[Person, ...]
    camera: Camera
    obstacles: tuple[Obstacle, ...]
    environment: Environment
    sensor: SensorEffects
    frame_rate_hz: float
    duration_s: float
