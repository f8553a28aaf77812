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

"""Noisy detections of people by the camera of a robot that drives and turns, with the ground truth.

Noise model
- Detections: 3 % of the distance along the ray and 1.5 px (focal length 610 px) across it (standard deviations of
  normal distributions), independent between images. With memory_s, errors along the ray are correlated over about that
  time.
- Standing people sway: each component of their velocity is normal with 0.03 m/s, independent after about 0.2 s.
- Walking people keep their velocity except for a random walk of 0.14 m/s per component within a second.
- The robot drives on a circle at 1 m/s and 45°/s. Its pose is known.
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
    """Data of one image: stamp (s), pose (4, 4) of the camera in the fixed frame, detections of n people, and their
    true velocities (n, 3) m/s in the fixed frame."""

    stamp_s: float
    fixed_from_camera: NDArray[np.float64]
    detections: Detections
    velocity: NDArray[np.float64]


def drive(
    people: NDArray[np.float64], rate_hz: float, duration_s: float, seed: int, memory_s: float = 0.0
) -> Iterator[Seen]:
    """Return the images of a drive past people.

    - people: initial velocities (n, 3) m/s, y down; 0 for standing people.
    - rate_hz, duration_s: rate and duration of the images.
    - seed: seed of the noise.
    - memory_s: correlation time of the errors along the ray (s).

    Halfway through, people are 5 to 8 m from the center of the robot's circle, whose radius is 1.3 m. The camera has a
    field of view of 360°, so that people appear at all distances and in all directions.
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
    """Return the camera's pose (4, 4) in the fixed frame: z forward, turning right about the downward y axis."""
    angle, radius = TURN_RAD_S * time_s, SPEED_M_S / TURN_RAD_S
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0, angle, 0]).as_matrix()
    pose[:3, 3] = radius * (1 - np.cos(angle)), 0, radius * np.sin(angle)
    return pose


def noisy(
    pelvis: NDArray[np.float64], generator: np.random.Generator, along: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return pelvises (n, 3) m in the camera frame with noise added.

    along (n, 1): errors along the ray, in standard deviations.
    """
    distance = np.linalg.norm(pelvis, axis=1, keepdims=True)
    ray = pelvis / distance
    along = generator.normal(size=distance.shape) if along is None else along
    across = generator.normal(size=pelvis.shape) * PIXEL_NOISE / FOCAL_PX * distance
    across -= (across * ray).sum(axis=1, keepdims=True) * ray
    return pelvis + DEPTH_NOISE * distance * along * ray + across


def detections(pelvis: NDArray[np.float64]) -> Detections:
    """Return detections of people at pelvis (n, 3) m in the camera frame, each with a distinct feature."""
    n = len(pelvis)
    ray = pelvis / np.linalg.norm(pelvis, axis=1, keepdims=True)
    # Each of the 360° of directions has its own location, which moves about as fast as in an image.
    location = np.column_stack([ray[:, [0, 2]], -np.log(np.linalg.norm(pelvis, axis=1))])
    return Detections(np.eye(n), location, np.tile(np.eye(3), (n, 1, 1)), pelvis)


def walking(count: int, speed_m_s: float, seed: int) -> NDArray[np.float64]:
    """Return velocities (n, 3) m/s over the ground in all directions."""
    bearing = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    return speed_m_s * np.column_stack([np.sin(bearing), np.zeros(count), np.cos(bearing)])


def _later(
    velocity: NDArray[np.float64], stands: NDArray[np.bool_], step_s: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    kick = generator.normal(size=velocity.shape)
    keeps = np.exp(-step_s / SWAY_S)
    swaying = keeps * velocity + np.sqrt(1 - keeps**2) * SWAY_M_S * kick
    return np.where(stands[:, None], swaying, velocity + DRIFT_M_S * np.sqrt(step_s) * kick)
