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

"""Roaming people: they walk between targets in the camera's view, stop, turn and gesture.

A walk is computed step by step: towards a target, around others and the camera, at bounded acceleration and turn rate.
The walked path is stored in tables, so that a scene remains data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.motion.behavior import Behavior, choose_weighted, sample_speed
from multihmr2_ros.simulation.motion.clips import Clip, GaitClip, MotionClip, StagedClip, StrollClip
from multihmr2_ros.simulation.motion.gaits import STRIDE_HZ, GaitStyle
from multihmr2_ros.simulation.motion.paths import TablePath

Vector = NDArray[np.float64]

MIN_DURATION_S = 5.0  # of a scene; in shorter scenes, people walk straight or along a curve
STEP_S = 0.05
MARGIN_S = 0.2  # before the first image and after the last, for velocities
ACCELERATION_MPS2 = 1.5
TURN_RATE_RADPS = 1.6
MOTION_TURN_RATE_RADPS = 0.9  # of a recorded motion; its feet would slide at higher rates
ARRIVED_M = 0.35
MAX_LEG_S = 10.0
CLEAR_M = 0.9  # distance from another person's ground at which avoidance begins
# Gait → weight, of people after a stop.
PAUSES = {"stand": 0.62, "wave": 0.1, "reach": 0.1, "cheer": 0.03, "bend": 0.06, "crouch": 0.06, "kneel": 0.03}
ROAMING_GAITS = ("walk", "run", "turn", *PAUSES)

Target = Callable[[float], Vector]  # a time in s → target (2,) m
Others = Callable[[float], Vector]  # a time in s → people to avoid (o, 3): x, y and radius in m


def is_roaming(behavior: Behavior, duration_s: float) -> bool:
    """Return whether a person walks between targets instead of doing one thing all the time."""
    if duration_s < MIN_DURATION_S:
        return False
    clip = behavior.clip
    return isinstance(clip, MotionClip) or (isinstance(clip, GaitClip) and clip.gait in ROAMING_GAITS)


def simulate_roaming(
    generator: np.random.Generator,
    behavior: Behavior,
    start: Vector,
    heading_rad: float,
    duration_s: float,
    target: Target,
    others: Others,
) -> tuple[Clip, TablePath]:
    """Simulate a roaming person from `start` (2,) m on, with the heading at time 0; return clip and path."""
    walker = _Walker(generator, behavior, target, others, start, heading_rad)
    if isinstance(behavior.clip, MotionClip):
        for time in _make_times(duration_s):
            walker.follow(behavior.clip, time)
        return behavior.clip, walker.make_path(duration_s)
    assert isinstance(behavior.clip, GaitClip)
    walker.begin(behavior.clip)
    for time in _make_times(duration_s):
        walker.step(time)
    return walker.make_clip(duration_s), walker.make_path(duration_s)


def _make_times(duration_s: float) -> Vector:
    return np.arange(-MARGIN_S, duration_s + MARGIN_S + STEP_S, STEP_S)


@dataclass(eq=False)
class _Walker:
    """A roaming person and the states recorded so far.

    target    chooses a place to walk to (2,) m, by the time in s
    others    gives the other people at a time
    position  (2,) m on the ground
    heading   rad
    gait      of walking: "walk" or "run"
    restless  probability of a new target after a pause
    stay_s    minimum and maximum pause
    speed     m/s
    cycle     phase of the gait, in strides
    goal      (2,) m; None while turning or pausing
    facing    heading to turn to, rad; None while walking or pausing
    until_s   end of the pause, or of the attempt to reach the goal
    rows      (x, y, heading, speed, cycle) of each step
    stages    (time in s, gait), one for each change of the gait
    """

    generator: np.random.Generator
    behavior: Behavior
    target: Target
    others: Others
    position: Vector
    heading: float
    gait: str = "walk"
    style: GaitStyle = field(default_factory=GaitStyle)
    restless: float = 1.0
    stay_s: tuple[float, float] = (1.0, 4.5)
    speed: float = 0.0
    cycle: float = 0.0
    goal: Vector | None = None
    facing: float | None = None
    until_s: float = -math.inf
    rows: list[tuple[float, ...]] = field(default_factory=list)
    stages: list[tuple[float, str]] = field(default_factory=list)

    def begin(self, clip: GaitClip) -> None:
        """Set the initial state: walkers move at once, at their speed; others start at rest and more often stay."""
        self.style, self.cycle = clip.style, clip.style.phase
        if clip.gait in STRIDE_HZ:
            self.gait, self.speed = clip.gait, self.behavior.speed_mps
            self._start_moving(-MARGIN_S)
        else:
            speed = sample_speed(self.generator, "walk", clip.style)
            self.behavior = self.behavior._replace(speed_mps=speed)
            self.restless, self.stay_s = 0.4, (2.0, 7.0)
            self._pause(-MARGIN_S, "stand" if clip.gait == "turn" else clip.gait)

    def step(self, time_s: float) -> None:
        """Record the current state and advance one step."""
        self.rows.append((*self.position, self.heading, self.speed, self.cycle))
        if self.goal is not None:
            self._walk(time_s)
        elif self.facing is not None:
            self._turn(time_s)
        elif time_s >= self.until_s:
            if self.generator.random() < self.restless:
                self._start_moving(time_s)
            else:
                self._stop(time_s)
        self.position = self.position + STEP_S * self.speed * np.array([math.cos(self.heading), math.sin(self.heading)])
        self.cycle += STEP_S * STRIDE_HZ[self.gait](self.style.leg_m, self.speed)

    def follow(self, clip: MotionClip, time_s: float) -> None:
        """Record the current state of a recorded motion and turn its path towards the goal."""
        self.rows.append((*self.position, self.heading, 0.0, 0.0))
        ahead = clip.compute_travel(time_s + STEP_S) - clip.compute_travel(time_s)
        moved = float(np.linalg.norm(ahead))
        if self.goal is None or time_s >= self.until_s or np.linalg.norm(self.goal - self.position) < ARRIVED_M:
            self.goal, self.until_s = self.target(time_s), time_s + MAX_LEG_S
        if moved > 0.3 * STEP_S:  # moving, not on the spot
            course = self.heading + math.atan2(ahead[1], ahead[0])
            error = _wrap_angle(self._choose_direction(time_s) - course)
            self.heading += float(np.clip(error, -1.0, 1.0)) * MOTION_TURN_RATE_RADPS * STEP_S
        cosine, sine = math.cos(self.heading), math.sin(self.heading)
        step = np.array([cosine * ahead[0] - sine * ahead[1], sine * ahead[0] + cosine * ahead[1]])
        self.position = self.position + step

    def make_path(self, duration_s: float) -> TablePath:
        table = np.array(self.rows)
        return TablePath(_make_times(duration_s), table[:, :2], table[:, 2])

    def make_clip(self, duration_s: float) -> StagedClip:
        table, style = np.array(self.rows), self.style
        stroll = StrollClip(self.gait, style, _make_times(duration_s), table[:, 3], table[:, 4])
        still = dataclasses.replace(style, speed_mps=0.0)
        clips = [stroll if gait in STRIDE_HZ else GaitClip(gait, still) for _, gait in self.stages]
        return StagedClip(tuple(start for start, _ in self.stages), tuple(clips))

    def _start_moving(self, time_s: float) -> None:
        self.goal, self.facing, self.until_s = self.target(time_s), None, time_s + MAX_LEG_S
        self._begin_stage(time_s, self.gait)

    def _stop(self, time_s: float) -> None:
        """Come to a halt, and often turn on the spot with small steps."""
        turn = self.generator.normal(0.0, 1.0) if self.generator.random() < 0.7 else 0.0
        self.goal, self.facing = None, self.heading + float(turn)
        if abs(turn) > 0.3 or self.speed > 0.0:
            self._begin_stage(time_s, self.gait)

    def _pause(self, time_s: float, gait: str) -> None:
        self.goal = self.facing = None
        self.speed, self.until_s = 0.0, time_s + self.generator.uniform(*self.stay_s)
        self._begin_stage(time_s, gait)

    def _begin_stage(self, time_s: float, gait: str) -> None:
        if not self.stages or self.stages[-1][1] != gait:
            self.stages.append((time_s, gait))

    def _walk(self, time_s: float) -> None:
        assert self.goal is not None
        distance = float(np.linalg.norm(self.goal - self.position))
        if distance < ARRIVED_M or time_s >= self.until_s:
            if self.generator.random() < 0.4:
                self._start_moving(time_s)
            else:
                self._stop(time_s)
            return
        error = _wrap_angle(self._choose_direction(time_s) - self.heading)
        self._steer(error)
        # Slower around corners; turns on the spot if the path leads back.
        wanted = self.behavior.speed_mps * max(0.05, math.cos(min(abs(error), 0.5 * math.pi)))
        self._accelerate(min(wanted, 0.3 + 1.2 * distance))

    def _turn(self, time_s: float) -> None:
        assert self.facing is not None
        error = _wrap_angle(self.facing - self.heading)
        self._accelerate(0.0)
        self._steer(error if self.speed < 0.3 else 0.0)
        if self.speed == 0.0 and abs(error) < 0.1:
            self._pause(time_s, choose_weighted(self.generator, PAUSES))

    def _steer(self, error_rad: float) -> None:
        self.heading += float(np.clip(2.5 * error_rad, -TURN_RATE_RADPS, TURN_RATE_RADPS)) * STEP_S

    def _accelerate(self, wanted_mps: float) -> None:
        maximum = ACCELERATION_MPS2 * max(1.0, self.behavior.speed_mps) * STEP_S
        self.speed += min(max(wanted_mps - self.speed, -maximum), maximum)

    def _choose_direction(self, time_s: float) -> float:
        """Return the direction (rad) to the goal, deflected around people nearby and away from very close ones."""
        assert self.goal is not None
        ahead = self.goal - self.position
        direction = ahead / max(float(np.linalg.norm(ahead)), 1e-6)
        others = self.others(time_s)
        if len(others):
            away = self.position - others[:, :2]
            distance = np.maximum(np.linalg.norm(away, axis=1), 1e-3)
            away = away / distance[:, None]
            gap = distance - others[:, 2] - self.behavior.radius_m
            strength = np.clip(1.0 - gap / CLEAR_M, 0.0, 1.5)
            aside = np.stack([-away[:, 1], away[:, 0]], axis=1)
            aside *= np.where(aside @ direction >= 0.0, 1.0, -1.0)[:, None]
            blocked = np.maximum(0.0, -away @ direction)
            direction = direction + (strength[:, None] * (1.6 * away + (2.0 * blocked)[:, None] * aside)).sum(axis=0)
        return math.atan2(direction[1], direction[0])


def _wrap_angle(angle_rad: float) -> float:
    """Return the same angle between −π and π."""
    return math.remainder(angle_rad, 2.0 * math.pi)
