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

"""Built-in body motion: each gait is a function from a person's style and the time to a pose.

Walking and running solve the legs from the path of the feet: a foot on the ground moves backward under the pelvis at
exactly the walking speed, so that feet do not slide. Angles in rad, lengths in m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from multihmr2_ros.simulation.motion.pose import Arm, Leg, Pose, Trunk, pose_from_angles

GRAVITY_MPS2 = 9.81
# Forward angles of Anny's thigh and shin at rest (adults), with the pose's angles at 0 and the feet flat.
THIGH_AT_REST, SHIN_AT_REST = 0.078, -0.066

REST_ARMS = {
    "hanging": Arm(0.0, 0.16, 0.3, 0.3),
    "pocket": Arm(-0.25, 0.3, 0.35, 0.8),
    "hip": Arm(-0.35, 0.75, 0.95, 1.75),
    "clasped": Arm(0.3, 0.12, 0.75, 1.1),
    "crossed": Arm(0.5, 0.12, 1.15, 1.65),
    "behind": Arm(-0.55, 0.25, 0.9, 0.7),
    "phone": Arm(0.55, 0.1, 0.35, 1.75),
    "ear": Arm(0.75, 0.55, 0.15, 2.35),
    "carrying": Arm(0.15, 0.12, 0.15, 1.5),
}


@dataclass(frozen=True)
class GaitStyle:
    """Style in which one person performs a gait.

    leg_m: hip to ankle. speed_mps: of the path. phase: of the cycle at time 0, in cycles. tempo_hz: of idle movement.
    vigor: 1 is usual. lean: of the trunk, forward. left_arm, right_arm: at rest. side: +1 left or −1 right, if a
    gait uses one side. spread: of the legs. variant: in [0, 1), selects among variants of a gait.
    """

    leg_m: float = 0.88
    speed_mps: float = 0.0
    phase: float = 0.0
    tempo_hz: float = 0.25
    vigor: float = 1.0
    lean: float = 0.03
    left_arm: Arm = REST_ARMS["hanging"]
    right_arm: Arm = REST_ARMS["hanging"]
    side: float = -1.0
    spread: float = 0.02
    variant: float = 0.5


Gait = Callable[[GaitStyle, float], Pose]


def oscillate(style: GaitStyle, time_s: float, frequency: float = 1.0, lag: float = 0.0) -> float:
    """Return a sine in [−1, 1] at a multiple of the idle tempo."""
    return math.sin(2 * math.pi * (frequency * style.tempo_hz * time_s + style.phase - lag))


def sway_arm(arm: Arm, amount: float) -> Arm:
    """Return the arm moved a little by breathing and balance."""
    return arm._replace(flexion=arm.flexion + amount, elbow=max(0.0, arm.elbow + 0.5 * amount))


def stand(style: GaitStyle, time_s: float) -> Pose:
    """Stand at ease and shift the weight from leg to leg."""
    shift, breath = oscillate(style, time_s), oscillate(style, time_s, 1.3, 0.2)
    roll = 0.03 * style.vigor * shift
    trunk = Trunk(0.03 * breath, 0.0, roll, 0.04 * shift, style.lean + 0.01 * breath, -1.3 * roll)
    arms = [sway_arm(arm, 0.03 * breath) for arm in (style.left_arm, style.right_arm)]
    relaxed = 0.25 * max(0.0, style.variant - 0.5)
    legs = [
        Leg(-0.01 + 0.5 * bend, style.spread - sign * roll, 0.12 * style.variant, bend)
        for sign, bend in ((-1.0, relaxed * (1 + shift)), (1.0, relaxed * (1 - shift)))
    ]
    return pose_from_angles(trunk, arms, legs)


def compute_natural_rate(leg_m: float) -> float:
    """Return the rate in 1/s by which Froude similarity scales walking and running."""
    return math.sqrt(GRAVITY_MPS2 / leg_m)


def compute_walking_stride_hz(leg_m: float, speed_mps: float) -> float:
    natural = compute_natural_rate(leg_m)
    return 0.28 * natural * (0.55 + speed_mps / leg_m / natural)


def compute_running_stride_hz(leg_m: float, speed_mps: float) -> float:
    natural = compute_natural_rate(leg_m)
    return 0.23 * natural * (1.45 + 0.35 * speed_mps / leg_m / natural)


def compute_crawling_stride_hz(leg_m: float, speed_mps: float) -> float:
    return max(speed_mps, 0.02) / (0.5 * leg_m)


# Cycles per second of the gaits that move forward, from leg length and speed.
STRIDE_HZ = {"walk": compute_walking_stride_hz, "run": compute_running_stride_hz, "crawl": compute_crawling_stride_hz}


def walk(style: GaitStyle, time_s: float) -> Pose:
    """Walk at the path's speed; a stride is two steps."""
    speed = max(style.speed_mps, 1e-3) / style.leg_m
    stride_hz = compute_walking_stride_hz(style.leg_m, speed * style.leg_m)
    contact = 0.62
    reach = min(speed * contact / stride_hz, 1.0)  # ground covered under the pelvis, in leg lengths
    cycle = stride_hz * time_s + style.phase
    swing = 0.9 * reach * style.vigor
    legs, arms = [], []
    for offset, arm in ((0.0, style.left_arm), (0.5, style.right_arm)):
        phase = (cycle + offset) % 1.0
        height = 0.985 - (0.045 + 0.04 * math.cos(4 * math.pi * phase)) * reach**2
        legs.append(_pose_stepping_leg(phase, reach, contact, height, 0.10 + 0.10 * reach, style.spread))
        back = math.cos(2 * math.pi * phase)  # the arm is furthest back at the heel strike of the same side
        held = arm.elbow > 0.9
        amount = (0.08 if held else 0.42) * swing
        arms.append(arm._replace(flexion=arm.flexion - amount * back, elbow=arm.elbow + (1 - back) * 0.35 * amount))
    turn = 0.12 * reach * math.cos(2 * math.pi * cycle)
    sway = 0.04 * reach * math.sin(2 * math.pi * cycle)
    trunk = Trunk(-turn, 0.02, sway, 2 * turn, style.lean + 0.03 * reach, -sway)
    return pose_from_angles(trunk, arms, legs)


def run(style: GaitStyle, time_s: float) -> Pose:
    """Run: each foot is on the ground for a third of the stride, with both in the air between."""
    speed = max(style.speed_mps, 1e-3) / style.leg_m
    stride_hz = compute_running_stride_hz(style.leg_m, speed * style.leg_m)
    contact = 0.34
    reach = min(speed * contact / stride_hz, 1.05)
    cycle = stride_hz * time_s + style.phase
    legs, arms = [], []
    for offset in (0.0, 0.5):
        phase = (cycle + offset) % 1.0
        height = 0.93 - 0.10 * reach**2
        legs.append(_pose_stepping_leg(phase, reach, contact, height, 0.42, style.spread))
        back = math.cos(2 * math.pi * (phase - 0.05))
        arms.append(Arm(-0.15 - 0.7 * back * style.vigor, 0.2, 0.25, 1.5 - 0.2 * back))
    turn = 0.2 * reach * math.cos(2 * math.pi * cycle)
    trunk = Trunk(-turn, 0.08, 0.0, 2 * turn, 0.1 + style.lean, 0.0)
    airborne = max(0.0, -math.cos(4 * math.pi * (cycle - contact / 2)))
    return pose_from_angles(trunk, arms, legs, clearance_m=0.09 * style.leg_m * airborne)


def step_in_place(style: GaitStyle, time_s: float) -> Pose:
    """Make small steps, as when turning on the spot; the path turns."""
    cycle = 0.8 * time_s + style.phase
    legs = [_pose_stepping_leg((cycle + offset) % 1.0, 0.03, 0.62, 0.985, 0.07, style.spread) for offset in (0.0, 0.5)]
    lag = 0.05 * math.sin(2 * math.pi * cycle)
    return pose_from_angles(Trunk(lag, 0.0, 0.0, lag, style.lean), (style.left_arm, style.right_arm), legs)


def _pose_stepping_leg(phase: float, reach: float, contact: float, hip: float, lift: float, abduction: float) -> Leg:
    """Return the leg whose foot is on the ground for phases below contact; lengths in leg lengths.

    reach: distance of the foot backward under the pelvis meanwhile. hip: height above the ankle's lowest position.
    """
    if phase < contact:
        done = phase / contact
        forward = reach * (0.46 - done)
        late = max(0.0, (done - 0.55) / 0.45)
        raised = 0.65 * lift * late**2
    else:
        done = (phase - contact) / (1.0 - contact)
        slope = -reach * (1.0 - contact) / contact  # the foot leaves and meets the ground at the ground's speed
        forward = _interpolate_hermite(done, -0.54 * reach, 0.46 * reach, slope, 0.5 * slope)
        raised = 0.65 * lift * (1 - done) ** 2 + 0.8 * lift * math.sin(math.pi * done) ** 2
    thigh, shin = _solve_two_links(forward, hip - raised)
    return Leg(thigh - THIGH_AT_REST, abduction, 0.08, max(0.0, thigh - shin - THIGH_AT_REST + SHIN_AT_REST))


def _interpolate_hermite(t: float, start: float, end: float, start_slope: float, end_slope: float) -> float:
    """Evaluate the cubic from start to end with the given slopes, at t in [0, 1]."""
    return (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * start_slope
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * end_slope
    )


def _solve_two_links(forward: float, down: float) -> tuple[float, float]:
    """Solve the forward angles of thigh and shin from straight down that reach the ankle, with the knee in front.

    Each link is half a leg long.
    """
    length = min(math.hypot(forward, down), 0.9995)
    lean, bend = math.atan2(forward, down), math.acos(length)
    return lean + bend, lean - bend


def wave(style: GaitStyle, time_s: float) -> Pose:
    """Stand and wave with the hand of style.side."""
    base = stand(style, time_s)
    beat = math.sin(2 * math.pi * (1.4 * style.vigor * time_s + style.phase))
    arm = Arm(0.35, 1.25 + 0.5 * style.variant, -1.35 + 0.3 * beat, 1.3 - 0.5 * style.variant + 0.2 * beat)
    return _replace_arm(base, style.side, arm)


def reach(style: GaitStyle, time_s: float) -> Pose:
    """Stand and reach or point with one hand, from waist height to overhead."""
    base = stand(style, time_s)
    raised = 0.9 + 1.8 * style.variant + 0.15 * oscillate(style, time_s)
    return _replace_arm(base, style.side, Arm(raised, 0.15, 0.1, 0.35))


def cheer(style: GaitStyle, time_s: float) -> Pose:
    """Stand with both arms up."""
    base = stand(style, time_s)
    up = 2.0 + 0.7 * style.variant + 0.15 * oscillate(style, time_s, 4.0)
    return _replace_arm(_replace_arm(base, 1.0, Arm(0.3, up, -0.6, 0.5)), -1.0, Arm(0.3, up, -0.6, 0.5))


def _replace_arm(pose: Pose, side: float, arm: Arm) -> Pose:
    """Return the same pose with one arm replaced."""
    neutral = pose_from_angles(Trunk(), (arm, arm), (Leg(), Leg()))
    orientation = pose.orientation.copy()
    rows = slice(2, 4) if side > 0 else slice(6, 8)
    orientation[rows] = pose["chest"] @ neutral.orientation[rows]
    return Pose(orientation, pose.clearance_m)


def sit(style: GaitStyle, time_s: float) -> Pose:
    """Sit on a chair of the legs' height: thighs level, feet flat."""
    lean = 0.35 * style.variant - 0.25
    breath = oscillate(style, time_s)
    hip = 1.5 + 0.08 * style.vigor
    legs = [
        Leg(hip + lean, 0.05 + style.spread * 3, 0.0, hip + extra)
        for extra in (0.25 * (style.variant - 0.5), -0.3 * style.lean)
    ]
    on_lap = Arm(0.3 - 0.8 * lean, 0.12, 0.3, 0.85)
    held = [arm if arm.elbow > 1.0 and arm.flexion > 0 else on_lap for arm in (style.left_arm, style.right_arm)]
    arms = [sway_arm(arm, 0.02 * breath) for arm in held]
    return pose_from_angles(Trunk(0.0, lean, 0.0, 0.1 * breath, 0.12 + 0.03 * breath), arms, legs)


def sit_on_floor(style: GaitStyle, time_s: float) -> Pose:
    """Sit on the ground, legs stretched, apart or crossed."""
    breath = oscillate(style, time_s)
    bend = 2.1 * style.variant
    leg = Leg(1.45 + 0.12 * bend, 0.15 + 0.3 * bend, 0.35 * bend, bend)
    arms = [Arm(0.5, 0.2, 0.3, 0.8 - 0.1 * sign * breath) for sign in (1, -1)]
    return pose_from_angles(Trunk(0.0, -0.1, 0.0, 0.15 * breath, 0.2 + style.lean, 0.04 * breath), arms, (leg, leg))


def crouch(style: GaitStyle, time_s: float) -> Pose:
    """Squat, from a little to deep."""
    depth = 0.8 + 1.3 * style.variant + 0.08 * oscillate(style, time_s)
    pitch = 0.35 * depth
    leg = Leg(0.55 * depth + pitch, 0.15 + style.spread, 0.2, depth)
    arms = [Arm(0.5 + 0.3 * depth + 0.1 * sign * style.lean, 0.1, 0.3, 0.7) for sign in (1, -1)]
    return pose_from_angles(Trunk(0.0, pitch, 0.0, 0.0, 0.15), arms, (leg, leg))


def kneel(style: GaitStyle, time_s: float) -> Pose:
    """Kneel on one knee (variant below 0.6) or on both."""
    sway = 0.05 * oscillate(style, time_s)
    down = Leg(0.0, 0.05, 0.0, 1.5)
    other = Leg(1.5, 0.1, 0.0, 1.5) if style.variant < 0.6 else down
    legs = (down, other) if style.side < 0 else (other, down)
    return pose_from_angles(Trunk(0.0, 0.0, 0.0, sway, style.lean + 0.1), (style.left_arm, style.right_arm), legs)


def bend(style: GaitStyle, time_s: float) -> Pose:
    """Bend down to the ground, with straight or bent knees."""
    pitch = 0.5 + 0.5 * style.variant + 0.1 * oscillate(style, time_s)
    knee = 0.5 * (1.0 - style.variant)
    leg = Leg(pitch + 0.5 * knee + 0.15 * pitch, 0.08 + style.spread, 0.1, knee)
    arms = [Arm(1.0 + 0.3 * pitch, 0.1, 0.1, 0.3) for _ in range(2)]
    return pose_from_angles(Trunk(0.0, pitch, 0.0, 0.0, 0.5 * pitch), arms, (leg, leg))


def crawl(style: GaitStyle, time_s: float) -> Pose:
    """Crawl on hands and knees; opposite limbs move together."""
    cycle = 2 * math.pi * (compute_crawling_stride_hz(style.leg_m, style.speed_mps) * time_s + style.phase)
    step = 0.3 * math.sin(cycle)
    legs = [Leg(1.45 + sign * step, 0.08, 0.0, 1.5 + sign * 0.5 * step) for sign in (1, -1)]
    arms = [Arm(1.4 - sign * step, 0.08, 0.0, 0.15) for sign in (1, -1)]
    return pose_from_angles(Trunk(0.0, 1.4, 0.0, 0.0, 0.0, 0.1 * math.sin(cycle)), arms, legs)


def lie(style: GaitStyle, time_s: float) -> Pose:
    """Lie on the back, the front or a side, by variant."""
    breath = 0.04 * oscillate(style, time_s, 2.0)
    turned_by = np.floor(4 * style.variant)
    part = 4 * style.variant - turned_by
    bent = 1.3 * part**2
    leg = Leg(0.6 * bent, 0.06, 0.1, bent)
    if turned_by == 0 or turned_by == 1:  # on the back
        folded, above = Arm(0.1 + breath, 0.4, 1.25, 0.8 + part), Arm(0.1, 1.0 + part, -1.4, 1.2)
        beside = Arm(-0.1, 0.35, 1.2, 0.1)
        arms = [beside if part < 0.5 else folded, folded if turned_by == 0 else above]
        return pose_from_angles(Trunk(0.0, -math.pi / 2), arms, (leg, leg._replace(flexion=0.1, knee=0.1)))
    if turned_by == 2:  # on the front, arms beside the head
        arms = [Arm(0.2, 1.2 + 0.6 * part + breath, -1.4, 1.3)] * 2
        return pose_from_angles(Trunk(0.0, math.pi / 2), arms, (Leg(0.0, 0.1), Leg(0.0, 0.1)))
    fold = Leg(0.5 + bent, 0.0, 0.0, 0.6 + bent)
    arms = [Arm(0.9 + breath, 0.0, 0.2, 1.2), Arm(1.2, 0.0, 0.2, 1.3)]
    return pose_from_angles(Trunk(0.0, 0.0, style.side * 1.45, 0.0, 0.15), arms, (fold, fold))


GAITS: dict[str, Gait] = {
    "stand": stand,
    "walk": walk,
    "run": run,
    "turn": step_in_place,
    "wave": wave,
    "reach": reach,
    "cheer": cheer,
    "sit": sit,
    "sit_on_floor": sit_on_floor,
    "crouch": crouch,
    "kneel": kneel,
    "bend": bend,
    "crawl": crawl,
    "lie": lie,
}
