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

"""Clips: motion of a body over time, without its path over the ground."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.motion.gaits import GAITS, GaitStyle
from multihmr2_ros.simulation.motion.pose import SEGMENTS, Pose, rotate_about
from multihmr2_ros.simulation.motion.random_poses import pose_from_random_angles
from multihmr2_ros.simulation.motion.retarget import Motion

# A mirrored body: left and right are swapped, and rotations about x and z change sign.
OTHER_SIDE = {"left": "right", "right": "left"}
MIRRORED_SEGMENTS = [
    SEGMENTS.index("_".join(OTHER_SIDE.get(part, part) for part in name.split("_"))) for name in SEGMENTS
]
MIRRORED_SIGNS = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]])

FADE_S = 0.5
MAX_TILT_RAD = 0.8


class Clip(Protocol):
    """Body motion. The pose is in the heading frame of the person's path."""

    def pose(self, time_s: float) -> Pose:
        """Return the pose at any time; times before 0 are valid and there is no end."""
        ...


@dataclass(frozen=True)
class GaitClip:
    """A built-in gait of GAITS in one person's style."""

    gait: str
    style: GaitStyle

    def pose(self, time_s: float) -> Pose:
        return GAITS[self.gait](self.style, time_s)


@dataclass(frozen=True, eq=False)
class MotionClip:
    """A recorded motion, repeated from start_s on, for a body with legs of leg_m, optionally mirrored.

    Its own heading is part of the pose, so that the path (`MotionPath`) keeps one heading. If the motion ends as it
    began, upright or not, it restarts at its end position, and its last moments fade into the first. Otherwise, as when
    getting up, it is played forward and backward.
    """

    motion: Motion
    start_s: float
    leg_m: float
    mirrored: bool

    def pose(self, time_s: float) -> Pose:
        orientation, clearance = np.zeros((len(SEGMENTS), 3, 3)), 0.0
        for share, repetition, frame in self._blend_frames(time_s):
            turn = rotate_about(2, repetition * self._turn_rad)
            orientation = orientation + share * (turn @ _interpolate(self.motion.orientation, frame))
            clearance += share * float(_interpolate(self.motion.clearance, frame))
        orientation = project_to_rotations(orientation)
        if self.mirrored:
            orientation = orientation[MIRRORED_SEGMENTS] * MIRRORED_SIGNS
        return Pose(orientation, self.leg_m * clearance)

    def compute_travel(self, time_s: float) -> NDArray[np.float64]:
        """Return the pelvis position (2,) over the ground in m, in the heading frame."""
        place = np.zeros(2)
        for share, repetition, frame in self._blend_frames(time_s):
            start, turn = np.zeros(2), rotate_about(2, self._turn_rad)[:2, :2]
            for _ in range(repetition):
                start = _interpolate(self.motion.travel, self._period) + turn @ start
            turn = rotate_about(2, repetition * self._turn_rad)[:2, :2]
            place += share * (start + turn @ _interpolate(self.motion.travel, frame))
        return self.leg_m * np.array([1.0, -1.0 if self.mirrored else 1.0]) * place

    def _blend_frames(self, time_s: float) -> list[tuple[float, int, float]]:
        """Return the blended frames at a time as (share, repetition, frame); the shares sum to 1."""
        last = len(self.motion.travel) - 1
        position = max(0.0, self.start_s + time_s) / self.motion.frame_s
        if last == 0:
            return [(1.0, 0, 0.0)]
        if not self._begins_anew:
            position %= 2 * last
            return [(1.0, 0, min(position, 2 * last - position))]
        repetition, frame = int(position // self._period), position % self._period
        share = smooth_step(frame / (last - self._period))
        if repetition == 0 or share >= 1.0:
            return [(1.0, repetition, frame)]
        return [(1.0 - share, repetition - 1, self._period + frame), (share, repetition, frame)]

    @functools.cached_property
    def _begins_anew(self) -> bool:
        up = self.motion.orientation[[0, -1], 0, :, 2].astype(np.float64)
        return bool(up[0] @ up[1] > math.cos(MAX_TILT_RAD))

    @functools.cached_property
    def _period(self) -> float:
        """Number of frames between starts: the recording without the part that fades out."""
        last = len(self.motion.travel) - 1
        return last - min(FADE_S / self.motion.frame_s, 0.25 * last)

    @functools.cached_property
    def _turn_rad(self) -> float:
        """Rotation about z of a repetition relative to the one before."""
        end = project_to_rotations(_interpolate(self.motion.orientation, self._period))[0]
        turn = end @ self.motion.orientation[0, 0].astype(np.float64).T
        return math.atan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])


def smooth_step(share: float) -> float:
    """Interpolate from 0 to 1; the value and its slope are continuous at both ends."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


def _interpolate(values: NDArray[np.floating], frame: float) -> NDArray[np.float64]:
    first = min(int(frame), len(values) - 1)
    share = frame - first
    following = values[min(first + 1, len(values) - 1)]
    return np.asarray((1.0 - share) * values[first].astype(np.float64) + share * following)


def project_to_rotations(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotations (n, 3, 3) nearest to matrices (n, 3, 3)."""
    u, _, v = np.linalg.svd(matrices)
    u[..., 2] *= np.linalg.det(u @ v)[..., None]
    return u @ v


@dataclass(frozen=True, eq=False)
class RandomClip:
    """Motion back and forth between two random poses, angles (22,) each, within period_s; phase in cycles at time 0."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    period_s: float
    phase: float

    def pose(self, time_s: float) -> Pose:
        share = 0.5 - 0.5 * np.cos(2 * np.pi * (time_s / self.period_s + self.phase))
        return pose_from_random_angles(self.start + share * (self.end - self.start))


@dataclass(frozen=True, eq=False)
class StrollClip:
    """A gait of STRIDE_HZ at a changing speed: tables over times (t,) s of speeds (t,) m/s and cycles (t,)."""

    gait: str
    style: GaitStyle
    times: NDArray[np.float64]
    speeds: NDArray[np.float64]
    cycles: NDArray[np.float64]

    def pose(self, time_s: float) -> Pose:
        speed, cycle = (float(np.interp(time_s, self.times, values)) for values in (self.speeds, self.cycles))
        return GAITS[self.gait](dataclasses.replace(self.style, speed_mps=speed, phase=cycle), 0.0)


@dataclass(frozen=True, eq=False)
class StagedClip:
    """A sequence of clips, each from its start in starts (s, ascending) on; every clip fades into the next."""

    starts: tuple[float, ...]
    clips: tuple[Clip, ...]

    def pose(self, time_s: float) -> Pose:
        stage = max(0, bisect.bisect_right(self.starts, time_s) - 1)
        pose = self.clips[stage].pose(time_s)
        share = smooth_step((time_s - self.starts[stage]) / FADE_S)
        if stage == 0 or share >= 1.0:
            return pose
        before = self.clips[stage - 1].pose(time_s)
        orientation = project_to_rotations((1.0 - share) * before.orientation + share * pose.orientation)
        return Pose(orientation, (1.0 - share) * before.clearance_m + share * pose.clearance_m)
