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

"""Places people in view of the camera, without collisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.motion.behavior import Behavior
from multihmr2_ros.simulation.motion.clips import Clip, MotionClip
from multihmr2_ros.simulation.motion.paths import ArcPath, MotionPath, Path
from multihmr2_ros.simulation.motion.phenotypes import estimate_stature
from multihmr2_ros.simulation.motion.roaming import is_roaming, simulate_roaming
from multihmr2_ros.simulation.scene.options import SceneOptions
from multihmr2_ros.simulation.scene.scene import Camera

STEP_S = 0.25  # between the times at which distances are checked
GAP_M = 0.5  # between the grounds of two bodies, if there is room
TIGHT_GAP_M = 0.05
CAMERA_GAP_M = 0.45
TRIES = 60
ROAMING_TRIES = 24
AWAY_SHARE = 0.15  # fraction of targets outside the image; people return from them
LOOK_STEPS = 2  # steps of STEP_S between checks of the people in view
MIN_TIME_IN_VIEW = 0.6  # of the scene's time, for roaming people
# Minimum height of most people in the image, as a fraction of the image height.
MIN_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class OccupiedGround:
    """Ground occupied over the scene's time: positions (t, 2) m and a radius in m around them."""

    positions: NDArray[np.float64]
    radius_m: float


def make_check_times(options: SceneOptions) -> NDArray[np.float64]:
    """Return the times (t,) s at which distances within the scene are checked."""
    return np.linspace(0.0, options.duration_s, 1 + math.ceil(options.duration_s / STEP_S))


def compute_positions(path: Path, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the positions (t, 2) in m of the path at the times."""
    return np.array([path.compute_position(time) for time in times])


def is_free(ground: OccupiedGround, others: list[OccupiedGround], gap_m: float) -> bool:
    """Return whether a body is farther than gap_m from all others at all times."""
    return all(
        np.linalg.norm(ground.positions - other.positions, axis=1).min() > gap_m + ground.radius_m + other.radius_m
        for other in others
    )


class PlacedPerson(NamedTuple):
    """Clip and path of a person, and the ground occupied."""

    clip: Clip
    path: Path
    ground: OccupiedGround


def place_person(
    generator: np.random.Generator,
    shape: NDArray[np.floating],
    behavior: Behavior,
    camera: Camera,
    others: list[OccupiedGround],
    options: SceneOptions,
) -> PlacedPerson | None:
    """Return a collision-free path in view of the camera; None if the scene has no room left."""
    if is_roaming(behavior, options.duration_s):
        return _place_roaming(generator, shape, behavior, camera, others, options)
    times = make_check_times(options)
    camera_ground = OccupiedGround(compute_positions(camera.path.base, times), 0.0)
    wants_border = generator.random() < 0.12
    middle = 0.5 * options.duration_s
    for attempt in range(TRIES):
        distance, bearing = _sample_place(generator, shape, camera, others, options)
        path = _sample_path(generator, distance, bearing, behavior, camera, options)
        ground = OccupiedGround(compute_positions(path, times), behavior.radius_m)
        gap = GAP_M if attempt < TRIES // 2 else TIGHT_GAP_M
        near_camera = options.distance_m[0] if options.duration_s == 0 else CAMERA_GAP_M
        seen = _compute_visible_share(path.compute_position(middle), estimate_stature(shape), camera, middle)
        enough = 0.0 < seen < 1.0 if wants_border and attempt < TRIES // 2 else seen >= 0.5
        if enough and is_free(ground, others, gap) and is_free(ground, [camera_ground], near_camera - ground.radius_m):
            return PlacedPerson(behavior.clip, path, ground)
    return None


def _place_roaming(
    generator: np.random.Generator,
    shape: NDArray[np.floating],
    behavior: Behavior,
    camera: Camera,
    others: list[OccupiedGround],
    options: SceneOptions,
) -> PlacedPerson | None:
    """Return a roaming path that is mostly in the image and avoids others; None if none is found."""
    times = make_check_times(options)
    camera_ground = OccupiedGround(compute_positions(camera.path.base, times), 0.0)
    stature = estimate_stature(shape)
    avoided = [*others, OccupiedGround(camera_ground.positions, CAMERA_GAP_M)]

    def target(time_s: float) -> NDArray[np.float64]:
        distance, bearing = _sample_place(generator, shape, camera, [], options)
        if generator.random() < AWAY_SHARE:
            bearing += math.copysign(generator.uniform(0.8, 1.4), bearing) * math.atan(camera.k[0, 2] / camera.k[0, 0])
        return _compute_ground_point(camera, distance, bearing, time_s)

    for _ in range(ROAMING_TRIES):
        heading = float(generator.uniform(-math.pi, math.pi))
        clip, path = simulate_roaming(
            generator,
            behavior,
            target(0.0),
            heading,
            options.duration_s,
            target,
            _make_neighbor_query(avoided, options),
        )
        ground = OccupiedGround(compute_positions(path, times), behavior.radius_m)
        if not (
            is_free(ground, others, TIGHT_GAP_M) and is_free(ground, [camera_ground], CAMERA_GAP_M - ground.radius_m)
        ):
            continue
        seen = [
            _compute_visible_share(where, stature, camera, time) >= 0.5
            for where, time in zip(ground.positions[::LOOK_STEPS], times[::LOOK_STEPS], strict=True)
        ]
        if np.mean(seen) >= MIN_TIME_IN_VIEW:
            return PlacedPerson(clip, path, ground)
    return None


def _make_neighbor_query(others: list[OccupiedGround], options: SceneOptions) -> Callable[[float], NDArray[np.float64]]:
    """Return a function from a time in s to the others' positions in m and radii in m (o, 3)."""
    positions = np.array([other.positions for other in others])
    radii = np.array([[other.radius_m] for other in others])
    last = positions.shape[1] - 1

    def at(time_s: float) -> NDArray[np.float64]:
        row = min(max(round(time_s / options.duration_s * last), 0), last)
        return np.hstack([positions[:, row], radii])

    return at


def _compute_ground_point(camera: Camera, distance: float, bearing: float, time_s: float) -> NDArray[np.float64]:
    """Return the ground point (2,) in m at a distance in m and a bearing in rad from the camera at a time.

    The bearing is relative to the camera's viewing direction.
    """
    direction = camera.path.base.compute_heading(time_s) + bearing
    point = camera.path.base.compute_position(time_s) + distance * np.array([math.cos(direction), math.sin(direction)])
    return np.asarray(point)


def _sample_place(
    generator: np.random.Generator,
    shape: NDArray[np.floating],
    camera: Camera,
    others: list[OccupiedGround],
    options: SceneOptions,
) -> tuple[float, float]:
    """Sample distance in m and bearing in rad from the camera at mid-time."""
    minimum, maximum = options.distance_m
    stature = estimate_stature(shape)
    fills = camera.k[1, 1] * stature / camera.height  # the distance at which the person fills the image height
    kind = generator.random()
    if kind < 0.2:  # half of the body visible
        low, high = 0.45 * fills, 1.0 * fills
    elif kind < 0.93:
        low, high = fills, fills / MIN_SHARE
    else:
        low, high = fills / MIN_SHARE, maximum
    low, high = np.clip([low, high], minimum, maximum)
    # Uniform over the ground would give only distant people; uniform over the logarithm gives all sizes in the image.
    distance = float(np.exp(generator.uniform(np.log(low), np.log(high)))) if high > low else float(low)
    half_width = math.atan(0.5 * camera.width / camera.k[0, 0])
    bearing = float(generator.uniform(-1.05, 1.05)) * half_width
    if others and generator.random() < 0.3:  # in line with another person, for occlusion
        other = others[generator.integers(len(others))]
        x, y = other.positions[len(other.positions) // 2] - camera.path.base.compute_position(0.5 * options.duration_s)
        bearing = math.atan2(y, x) - camera.path.base.compute_heading(0.5 * options.duration_s)
        bearing += float(generator.normal(0.0, 0.25)) / max(1.0, distance)
    return distance, bearing


def _sample_path(
    generator: np.random.Generator,
    distance: float,
    bearing: float,
    behavior: Behavior,
    camera: Camera,
    options: SceneOptions,
) -> Path:
    """Sample a path through the position at mid-time; people at rest often face the camera, others go anywhere."""
    middle = 0.5 * options.duration_s
    direction = camera.path.base.compute_heading(middle) + bearing
    x, y = _compute_ground_point(camera, distance, bearing, middle)
    heading = float(generator.uniform(-math.pi, math.pi))
    if behavior.speed_mps == 0 and generator.random() < 0.4:
        heading = direction + math.pi + float(generator.normal(0.0, 0.5))
    if isinstance(behavior.clip, MotionClip):
        return MotionPath(behavior.clip, float(x), float(y), heading, middle)
    turn_rate = float(generator.uniform(-1.0, 1.0)) * behavior.turn_rate_radps
    return ArcPath(float(x), float(y), heading, behavior.speed_mps, turn_rate, middle)


def _compute_visible_share(position: NDArray[np.float64], stature: float, camera: Camera, time_s: float) -> float:
    """Return the fraction of a standing body's axis that is in the image at a time."""
    camera_from_world = np.linalg.inv(camera.path.world_from_camera(time_s))
    heights = np.linspace(0.05, 0.95, 7) * stature
    points = np.stack([np.full(7, position[0]), np.full(7, position[1]), heights, np.ones(7)])
    x, y, z = (camera_from_world @ points)[:3]
    ahead = z > 0.1
    u = camera.k[0, 0] * x / np.where(ahead, z, 1.0) + camera.k[0, 2]
    v = camera.k[1, 1] * y / np.where(ahead, z, 1.0) + camera.k[1, 2]
    return float((ahead & (u > 0) & (u < camera.width) & (v > 0) & (v < camera.height)).mean())
