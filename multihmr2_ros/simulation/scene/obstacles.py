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

"""Obstacles: chairs under seated people, and occluders in front of the camera."""

from __future__ import annotations

import math

import numpy as np

from multihmr2_ros.simulation.appearance.materials import sample_surface
from multihmr2_ros.simulation.motion.clips import GaitClip
from multihmr2_ros.simulation.motion.phenotypes import estimate_stature
from multihmr2_ros.simulation.scene.options import SceneOptions
from multihmr2_ros.simulation.scene.placing import CAMERA_GAP_M, OccupiedGround, is_free
from multihmr2_ros.simulation.scene.scene import Camera, Obstacle, Person

SEAT_SHARE = 0.225  # height of the seat as a fraction of the sitter's stature
OCCLUDED_SHARE = 0.3  # fraction of scenes with occluders
MAX_HIDDEN = 0.4  # of the image's width by one occluder, all the time

# Kind, minimum and maximum size in m (along, across, up).
OCCLUDERS: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float]]] = {
    "pillar": ("cylinder", (0.15, 0.15, 1.5), (0.5, 0.5, 3.0)),
    "crate": ("box", (0.3, 0.3, 0.3), (1.0, 1.0, 1.2)),
    "table": ("box", (0.6, 0.6, 0.65), (1.6, 0.9, 0.9)),
    "panel": ("box", (0.04, 0.6, 1.0), (0.1, 1.5, 2.0)),
}


def make_chair(generator: np.random.Generator, person: Person) -> list[Obstacle]:
    """Return the seat below a seated person, as a list of one or none."""
    if not (isinstance(person.clip, GaitClip) and person.clip.gait == "sit"):
        return []
    stature, heading = estimate_stature(person.shape), person.path.compute_heading(0.0)
    behind = 0.02 * stature
    x, y = person.path.compute_position(0.0) - behind * np.array([math.cos(heading), math.sin(heading)])
    seat = SEAT_SHARE * stature
    width = generator.uniform(0.2, 0.35) * stature
    center, size = np.array([x, y, 0.5 * seat]), np.array([0.22 * stature, width, seat])
    return [Obstacle("box", center, size, heading, sample_surface(generator))]


def sample_obstacles(
    generator: np.random.Generator, camera: Camera, occupied: list[OccupiedGround], options: SceneOptions
) -> list[Obstacle]:
    """Sample up to three occluders for some scenes, most between the camera and a person, none on a person's path."""
    if generator.random() > OCCLUDED_SHARE:
        return []
    middle = 0.5 * options.duration_s
    viewpoint, heading = camera.path.base.compute_position(middle), camera.path.base.compute_heading(middle)
    steps = max((len(ground.positions) for ground in occupied), default=1)
    times = np.linspace(0.0, options.duration_s, steps)
    camera_ground = OccupiedGround(np.array([camera.path.base.compute_position(time) for time in times]), CAMERA_GAP_M)
    obstacles = []
    for _ in range(int(generator.integers(1, 4))):
        name = list(OCCLUDERS)[generator.integers(len(OCCLUDERS))]
        kind, minimum, maximum = OCCLUDERS[name]
        size = generator.uniform(minimum, maximum)
        if kind == "cylinder":
            size[1] = size[0]
        if occupied and generator.random() < 0.8:
            person = occupied[generator.integers(len(occupied))]
            spot = viewpoint + generator.uniform(0.35, 0.9) * (person.positions[steps // 2] - viewpoint)
            spot = spot + generator.normal(0.0, 0.25, 2)
        else:
            bearing = heading + generator.uniform(-0.6, 0.6)
            spot = viewpoint + generator.uniform(1.5, 8.0) * np.array([math.cos(bearing), math.sin(bearing)])
        ground = OccupiedGround(np.tile(spot, (steps, 1)), 0.5 * math.hypot(size[0], size[1]))
        turn, material = float(generator.uniform(-math.pi, math.pi)), sample_surface(generator)
        away = float(np.linalg.norm(ground.positions - camera_ground.positions, axis=1).min())
        hides = 2.0 * ground.radius_m / away * camera.k[0, 0] / camera.width if away > 0 else math.inf
        if options.duration_s > 0 and hides > MAX_HIDDEN:
            continue
        if is_free(ground, [*occupied, camera_ground], 0.05):
            center = np.array([*spot, 0.5 * size[2]])
            obstacles.append(Obstacle("box" if kind == "box" else "cylinder", center, size, turn, material))
    return obstacles
