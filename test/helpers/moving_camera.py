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

"""A robot that drives and turns past people, and its camera's noisy detections of them, with the truth beside them.

Noise models
- A detection errs by 3 % of the distance along the ray and by 1.5 px (focal length 610 px) across it, independently
  from image to image (standard deviations of normal distributions). With a memory, the error along the ray is alike
  for about that time.
- People who stand sway: each component of their velocity is normal with 0.03 m/s, independent after 0.2 s or so.
- People who walk keep their speed and direction but for a random walk: 0.14 m/s in each component in a second.
- The robot drives at 1 m/s and turns at 45°/s, on a circle. Its pose is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.tracking import Detections

FOCAL_PX = 610.0
DEPTH_NOISE, PIXEL_NOISE = 0.03, 1.5
SWAY_M_S, SWAY_S = 0.03, 0.2
DRIFT_M_S = 0.14
SPEED_M_S, TURN_RAD_S = 1.0, np.pi / 4
SUBSTEPS = 4


@dataclass(frozen=True)
class Seen:
    """One image: stamp (s), the camera's pose (4, 4) in the fixed frame, detections of n people, and their true
    velocity (n, 3) m/s in the fixed frame."""

    stamp_s: float
    fixed_from_camera: NDArray[np.float64]
    detections: Detections
    velocity: NDArray[np.float64]


def drive(
    people: NDArray[np.float64], rate_hz: float, duration_s: float, seed: int, memory_s: float = 0.0
) -> Iterator[Seen]:
    """The images of a drive past people who set out with velocities (n, 3) m/s, y downwards; 0: they stand.

    Half way through they are 5 to 8 m from the middle of the robot's circle, whose radius is 1.3 m. The camera sees all
    around, so that they have all distances and directions to it.
    """
    generator = np.random.default_rng(seed)
    stands = ~people.any(axis=1)
    velocity = people.copy()
    bearing, distance = generator.uniform(0, 2 * np.pi, len(people)), generator.uniform(5, 8, len(people))
    middle = np.array([SPEED_M_S / TURN_RAD_S, 0.3, 0.0])
    ring = np.column_stack([distance * np.sin(bearing), np.zeros(len(people)), distance * np.cos(bearing)])
    place = middle + ring - velocity * duration_s / 2
    velocity[stands] = SWAY_M_S * generator.normal(size=(stands.sum(), 3))
    step_s = 1 / rate_hz / SUBSTEPS
    keeps = np.exp(-1 / rate_hz / memory_s) if memory_s else 0.0
    along = generator.normal(size=(len(people), 1))
    for frame in range(round(duration_s * rate_hz) + 1):
        pose = robot(frame / rate_hz)
        camera = (place - pose[:3, 3]) @ pose[:3, :3]
        yield Seen(frame / rate_hz, pose, detections(noisy(camera, generator, along)), velocity.copy())
        along = keeps * along + np.sqrt(1 - keeps**2) * generator.normal(size=along.shape)
        for _ in range(SUBSTEPS):
            place = place + velocity * step_s
            velocity = _later(velocity, stands, step_s, generator)


def robot(time_s: float) -> NDArray[np.float64]:
    """(4, 4) pose of the camera in the fixed frame: z ahead, turning to the right about the downward y."""
    angle, radius = TURN_RAD_S * time_s, SPEED_M_S / TURN_RAD_S
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0, angle, 0]).as_matrix()
    pose[:3, 3] = radius * (1 - np.cos(angle)), 0, radius * np.sin(angle)
    return pose


def noisy(
    pelvis: NDArray[np.float64], generator: np.random.Generator, along: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Pelvises (n, 3) m, camera frame, as the noise model has them measured. along (n, 1): the errors along the ray, in
    standard deviations."""
    distance = np.linalg.norm(pelvis, axis=1, keepdims=True)
    ray = pelvis / distance
    along = generator.normal(size=distance.shape) if along is None else along
    across = generator.normal(size=pelvis.shape) * PIXEL_NOISE / FOCAL_PX * distance
    across -= (across * ray).sum(axis=1, keepdims=True) * ray
    return pelvis + DEPTH_NOISE * distance * along * ray + across


def detections(pelvis: NDArray[np.float64]) -> Detections:
    """Of people at (n, 3) m, camera frame, each of whom looks like no other."""
    n = len(pelvis)
    ray = pelvis / np.linalg.norm(pelvis, axis=1, keepdims=True)
    # All around, each direction has a place of its own, which moves about as fast as in a picture.
    location = np.column_stack([ray[:, [0, 2]], -np.log(np.linalg.norm(pelvis, axis=1))])
    return Detections(np.eye(n), location, np.tile(np.eye(3), (n, 1, 1)), pelvis)


def walking(count: int, speed_m_s: float, seed: int) -> NDArray[np.float64]:
    """(n, 3) m/s, over the ground in all directions."""
    bearing = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    return speed_m_s * np.column_stack([np.sin(bearing), np.zeros(count), np.cos(bearing)])


def _later(
    velocity: NDArray[np.float64], stands: NDArray[np.bool_], step_s: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    kick = generator.normal(size=velocity.shape)
    keeps = np.exp(-step_s / SWAY_S)
    swaying = keeps * velocity + np.sqrt(1 - keeps**2) * SWAY_M_S * kick
    return np.where(stands[:, None], swaying, velocity + DRIFT_M_S * np.sqrt(step_s) * kick)
