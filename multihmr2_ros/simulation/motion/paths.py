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

"""Paths of people and cameras. World frame: meters, z up; headings in rad about z from the x axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.motion.clips import MotionClip
from multihmr2_ros.simulation.motion.pose import rotate_about, rotate_yaw_pitch_roll

# Optical axes (right, down, forward) in the camera's own heading frame (x forward, y left, z up).
FORWARD_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


class Path(Protocol):
    """Path of a person over the ground."""

    def compute_position(self, time_s: float) -> NDArray[np.float64]:
        """Return x and y (2,) in m."""
        ...

    def compute_heading(self, time_s: float) -> float:
        """Return the heading in rad."""
        ...


@dataclass(frozen=True)
class ArcPath:
    """A straight line, an arc or, at speed 0, a fixed position: constant speed in m/s and turn rate in rad/s.

    (x, y, heading_rad) is the state at the time at_s. Heading and position are smooth and defined at every time.
    """

    x: float
    y: float
    heading_rad: float
    speed_mps: float = 0.0
    turn_rate_radps: float = 0.0
    at_s: float = 0.0

    def compute_position(self, time_s: float) -> NDArray[np.float64]:
        elapsed = time_s - self.at_s
        half_turn = 0.5 * self.turn_rate_radps * elapsed
        chord = self.speed_mps * elapsed * np.sinc(half_turn / math.pi)
        direction = self.heading_rad + half_turn
        return np.array([self.x + chord * math.cos(direction), self.y + chord * math.sin(direction)])

    def compute_heading(self, time_s: float) -> float:
        return self.heading_rad + self.turn_rate_radps * (time_s - self.at_s)


@dataclass(frozen=True, eq=False)
class MotionPath:
    """Path of a recorded motion that passes (x, y) at the time at_s, with one constant heading."""

    clip: MotionClip
    x: float
    y: float
    heading_rad: float
    at_s: float = 0.0

    def compute_position(self, time_s: float) -> NDArray[np.float64]:
        ahead, left = self.clip.compute_travel(time_s) - self.clip.compute_travel(self.at_s)
        cosine, sine = math.cos(self.heading_rad), math.sin(self.heading_rad)
        return np.array([self.x + cosine * ahead - sine * left, self.y + sine * ahead + cosine * left])

    def compute_heading(self, time_s: float) -> float:
        return self.heading_rad


@dataclass(frozen=True, eq=False)
class TablePath:
    """A path computed step by step: positions (t, 2) m and headings (t,) rad, without jumps, at times (t,) s."""

    times: NDArray[np.float64]
    positions: NDArray[np.float64]
    headings: NDArray[np.float64]

    def compute_position(self, time_s: float) -> NDArray[np.float64]:
        return np.array([np.interp(time_s, self.times, column) for column in self.positions.T])

    def compute_heading(self, time_s: float) -> float:
        return float(np.interp(time_s, self.times, self.headings))


def make_weaving_path(speed_mps: float, turn_rate_radps: float, period_s: float, duration_s: float) -> TablePath:
    """Return a path through the origin at mid-time with heading 0; the turn rate swings between ± the given one."""
    step_s = 0.01
    half = math.ceil((0.5 * duration_s + 1.0) / step_s)
    elapsed = step_s * np.arange(-half, half + 1)
    rate = 2 * math.pi / period_s
    headings = turn_rate_radps / rate * np.sin(rate * elapsed)
    steps = speed_mps * step_s * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    positions: NDArray[np.float64] = np.concatenate(
        [np.zeros((1, 2)), np.cumsum(0.5 * (steps[1:] + steps[:-1]), axis=0)]
    )
    times = np.asarray(elapsed + 0.5 * duration_s, np.float64)
    return TablePath(times, positions - positions[half], np.asarray(headings, np.float64))


@dataclass(frozen=True)
class CameraPath:
    """Path of a camera at a fixed height on a base that is still or drives.

    pitch_rad: down is positive. roll_rad: about the optical axis, clockwise as seen in the image's direction.
    """

    base: Path
    height_m: float
    pitch_rad: float = 0.0
    roll_rad: float = 0.0

    def world_from_camera(self, time_s: float) -> NDArray[np.float64]:
        """Return the transform (4, 4) from the optical frame to the world."""
        return self.world_from_base(time_s) @ self.base_from_camera()

    def world_from_base(self, time_s: float) -> NDArray[np.float64]:
        """Return the transform (4, 4) from the base's frame (x ahead, y left, z up, on the ground) to the world."""
        pose = np.eye(4)
        pose[:3, :3] = rotate_about(2, self.base.compute_heading(time_s))
        pose[:2, 3] = self.base.compute_position(time_s)
        return pose

    def base_from_camera(self) -> NDArray[np.float64]:
        """Return the transform (4, 4) from the optical frame to the base's frame."""
        pose = np.eye(4)
        pose[:3, :3] = rotate_yaw_pitch_roll(0.0, self.pitch_rad, self.roll_rad) @ FORWARD_FROM_OPTICAL
        pose[2, 3] = self.height_m
        return pose
