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

"""Behaviors of people of a given build: a clip and its speed over the ground."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.people import BENT_THIGHS, BENT_TRUNK, LYING_TRUNK
from multihmr2_ros.simulation.motion.clips import Clip, GaitClip, MotionClip, RandomClip
from multihmr2_ros.simulation.motion.gaits import REST_ARMS, GaitStyle
from multihmr2_ros.simulation.motion.phenotypes import estimate_leg_length, estimate_stature, is_infant
from multihmr2_ros.simulation.motion.pose import SEGMENTS, Arm
from multihmr2_ros.simulation.motion.random_poses import sample_angles
from multihmr2_ros.simulation.motion.retarget import Motion, load_motion

# Gait → weight, for people able to walk and for infants.
ACTIVITIES = {
    "stand": 0.27,
    "walk": 0.27,
    "run": 0.04,
    "turn": 0.03,
    "wave": 0.05,
    "reach": 0.05,
    "cheer": 0.02,
    "sit": 0.10,
    "sit_on_floor": 0.03,
    "crouch": 0.04,
    "kneel": 0.02,
    "bend": 0.04,
    "crawl": 0.01,
    "lie": 0.02,
    "random": 0.09,
}
INFANT_ACTIVITIES = {"sit_on_floor": 0.4, "crawl": 0.25, "lie": 0.2, "walk": 0.15}
MOTION_SHARE = 0.5  # of people able to walk, if recorded motions are available
# Postures of recorded motions, so that rare ones can be sampled as often as common ones. Recordings mostly show people
# standing or walking: of about 700 clips, 3 % of the frames are lying, 7 % sitting or crouching, 1 % bent.
Posture = Literal["stand", "reach", "bend", "low", "lie"]
POSTURES: tuple[Posture, ...] = get_args(Posture)

RAISED_ARM = -0.2  # cosine of the tilt of an upper arm from its direction in standing
# Posture of a recorded motion at the start → weight. In the recordings, 90 % of the frames are standing.
POSTURE_WEIGHTS: dict[Posture, float] = {"stand": 0.38, "reach": 0.17, "bend": 0.12, "low": 0.25, "lie": 0.08}
MOTION_TRIES = 40
TODDLING_STATURE_M = 0.7
LYING = ("lie",)
TURN_RATE_PER_SPEED = 0.35  # rad/m: the tightest walked arc has a radius of 3 m


Name = TypeVar("Name", bound=str)


class Behavior(NamedTuple):
    """A clip with its motion over the ground.

    speed_mps: of the path. turn_rate_radps: its maximum. radius_m: of the ground that the body needs around the path.
    """

    clip: Clip
    speed_mps: float
    turn_rate_radps: float
    radius_m: float


def sample_behavior(
    generator: np.random.Generator, shape: NDArray[np.floating], motions: Sequence[Path] = ()
) -> Behavior:
    """Sample the behavior of a person of phenotypes (6,). motions: BVH files."""
    stature, infant = estimate_stature(shape), is_infant(shape)
    if motions and not infant and generator.random() < MOTION_SHARE:
        return _sample_motion(generator, shape, motions)
    activities = dict(INFANT_ACTIVITIES if infant else ACTIVITIES)
    if infant and stature < TODDLING_STATURE_M:
        del activities["walk"]
    gait = choose_weighted(generator, activities)
    if gait == "random":
        poses = sample_angles(generator), sample_angles(generator)
        clip = RandomClip(*poses, period_s=generator.uniform(2.0, 6.0), phase=generator.random())
        return Behavior(clip, 0.0, 0.0, 0.3 * stature)
    style = _sample_style(generator, shape)
    if infant and gait == "walk":
        style = _sample_toddling(generator, style)
    speed = sample_speed(generator, gait, style)
    turn_rate = 1.2 if gait == "turn" else TURN_RATE_PER_SPEED * speed
    radius = 0.55 * stature if gait in LYING else 0.17 * stature + 0.02
    return Behavior(GaitClip(gait, dataclasses.replace(style, speed_mps=speed)), speed, turn_rate, radius)


def _sample_motion(generator: np.random.Generator, shape: NDArray[np.floating], motions: Sequence[Path]) -> Behavior:
    """Sample a recorded motion that starts at a frame of a sampled posture.

    If no motion tried has that posture, it starts at any frame.
    """
    posture = POSTURES.index(choose_weighted(generator, POSTURE_WEIGHTS))
    for _ in range(MOTION_TRIES):
        motion = load_motion(motions[int(generator.integers(len(motions)))])
        frames = np.flatnonzero(classify_frames(motion) == posture)
        if len(frames):
            break
    else:
        frames = np.arange(len(motion.travel))
    start = motion.frame_s * float(generator.choice(frames))
    clip = MotionClip(motion, start, estimate_leg_length(shape), mirrored=bool(generator.random() < 0.5))
    return Behavior(clip, 0.0, 0.0, 0.3 * estimate_stature(shape))


def choose_weighted(generator: np.random.Generator, weights: Mapping[Name, float]) -> Name:
    """Choose one of the names with probabilities proportional to the weights."""
    share = np.array(list(weights.values()))
    return list(weights)[generator.choice(len(weights), p=share / share.sum())]


def _sample_style(generator: np.random.Generator, shape: NDArray[np.floating]) -> GaitStyle:
    arms = [_sample_arm(generator) for _ in range(2)]
    if generator.random() < 0.3:  # both arms in the same pose: clasped, crossed, on the hips
        arms[1] = arms[0]
    old = max(0.0, float(shape[1]) - 0.85) / 0.15
    return GaitStyle(
        leg_m=estimate_leg_length(shape),
        phase=generator.random(),
        tempo_hz=generator.uniform(0.15, 0.4),
        vigor=generator.uniform(0.6, 1.4),
        lean=generator.normal(0.03, 0.05) + 0.2 * old * generator.random(),
        left_arm=arms[0],
        right_arm=arms[1],
        side=generator.choice([-1.0, 1.0]),
        spread=generator.uniform(0.0, 0.08),
        variant=generator.random(),
    )


def _sample_arm(generator: np.random.Generator) -> Arm:
    """Sample a resting arm: hanging in 60 % of the cases, otherwise busy; the angles always vary."""
    busy = [name for name in REST_ARMS if name != "hanging"]
    name = "hanging" if generator.random() < 0.6 else busy[generator.integers(len(busy))]
    flexion, abduction, internal, elbow = REST_ARMS[name] + generator.normal(0.0, (0.08, 0.04, 0.12, 0.12))
    return Arm(flexion, max(0.05, abduction), internal, max(0.05, elbow))


def _sample_toddling(generator: np.random.Generator, style: GaitStyle) -> GaitStyle:
    """Spread the legs and raise the arms for balance."""
    arm = Arm(0.3, 0.8, -0.3, generator.uniform(0.5, 1.4))
    return dataclasses.replace(style, spread=0.15, left_arm=arm, right_arm=arm, lean=0.1)


def sample_speed(generator: np.random.Generator, gait: str, style: GaitStyle) -> float:
    """Sample a speed in m/s, proportional to the square root of the leg length (Froude similarity)."""
    natural = np.sqrt(9.81 * style.leg_m)
    relative = {"walk": (0.25, 0.6), "run": (0.8, 1.3), "crawl": (0.06, 0.15)}
    return float(natural * generator.uniform(*relative[gait])) if gait in relative else 0.0


@functools.lru_cache(maxsize=1024)
def classify_frames(motion: Motion) -> NDArray[np.int64]:
    """Return the index into POSTURES of each frame (F,).

    "lie" (or crawl), "low" (sit, crouch, kneel), "bend", "reach" (an arm above the shoulder), otherwise "stand".
    """
    upright = motion.orientation[..., 2, 2]
    pelvis, chest = upright[:, SEGMENTS.index("pelvis")], upright[:, SEGMENTS.index("chest")]
    thighs = 0.5 * (upright[:, SEGMENTS.index("left_thigh")] + upright[:, SEGMENTS.index("right_thigh")])
    left_arm, right_arm = (upright[:, SEGMENTS.index(f"{side}_upper_arm")] for side in ("left", "right"))
    return np.select(
        [
            (chest < LYING_TRUNK) & (pelvis < LYING_TRUNK),
            thighs < BENT_THIGHS,
            chest < BENT_TRUNK,
            np.minimum(left_arm, right_arm) < RAISED_ARM,
        ],
        [POSTURES.index(name) for name in ("lie", "low", "bend", "reach")],
        POSTURES.index("stand"),
    )
