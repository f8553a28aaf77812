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

"""Poses on bodies of every age: joint angles, gaits, and random poses within their limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.clips import GaitClip
from multihmr2_ros.simulation.motion.gaits import GAITS, GaitStyle
from multihmr2_ros.simulation.motion.pose import SIDES, Arm, Leg, Trunk, pose_from_angles
from multihmr2_ros.simulation.motion.random_poses import (
    LIMITS,
    is_self_touching,
    pose_from_random_angles,
    sample_angles,
)
from test.helpers.motion_cases import compute_direction, make_posed

AGES = (0.0, 0.2, 1 / 3, 2 / 3, 1.0)
UPRIGHT = ("stand", "walk", "run", "turn", "wave", "reach", "cheer", "sit", "sit_on_floor", "kneel")
MANNERS = [
    GaitStyle(phase=phase, variant=variant, speed_mps=1.2) for phase in (0.0, 0.4) for variant in (0.05, 0.5, 0.95)
]


def test_resting_bones_are_those_of_the_posed_body(body: Body) -> None:
    shape = torch.rand((3, 6), generator=torch.Generator().manual_seed(0))
    rest = body.compute_rest_bone_poses(shape)
    posed_poses = body(shape, torch.eye(3).repeat(3, 163, 1, 1)).bone_poses
    torch.testing.assert_close(torch.linalg.inv(rest[:, :1]) @ rest, posed_poses, atol=1e-5, rtol=0)


@pytest.mark.parametrize("age", AGES)
def test_standing_is_upright_at_every_age(body: Body, age: float) -> None:
    joints = make_posed(body, pose_from_angles(Trunk(), (Arm(0, 0, 0, 0),) * 2, (Leg(),) * 2), age)
    assert compute_direction(joints, "root", "head")[2] > 0.95
    for letter, left in (("L", 1.0), ("R", -1.0)):
        leg = compute_direction(joints, f"upperleg01.{letter}", f"foot.{letter}")
        assert leg[2] < -0.97
        assert abs(leg[1]) < 1e-3  # in one sagittal plane
        for bones in (("upperarm01", "lowerarm01"), ("lowerarm01", "wrist")):
            hanging = compute_direction(joints, *(f"{bone}.{letter}" for bone in bones))
            np.testing.assert_allclose(hanging, [0.0, 0.0, -1.0], atol=1e-3)
        assert joints[f"wrist.{letter}"][1] * left > 0.05
        assert joints[f"foot.{letter}"][1] * left > 0.02


RIGHT_ANGLE = np.pi / 2
# Limb, its angles, and the resulting directions of its two segments (x front, y to the limb's own side, z up).
ARM_CASES = [
    (Arm(0, 0, 0, RIGHT_ANGLE), (0, 0, -1), (1, 0, 0)),  # the elbow bends forward
    (Arm(RIGHT_ANGLE, 0, 0, 0), (1, 0, 0), (1, 0, 0)),  # flexion is forward
    (Arm(0, RIGHT_ANGLE, 0, 0), (0, 1, 0), (0, 1, 0)),  # abduction is away from the body
    (Arm(0, 0, RIGHT_ANGLE, RIGHT_ANGLE), (0, 0, -1), (0, -1, 0)),  # internal rotation: forearm in front of the belly
    (Arm(0, RIGHT_ANGLE, -RIGHT_ANGLE, RIGHT_ANGLE), (0, 1, 0), (0, 0, 1)),  # hands up
]


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize(("arm", "upper", "lower"), ARM_CASES)
def test_arms_point_where_their_angles_say(body: Body, age: float, arm: Arm, upper: tuple, lower: tuple) -> None:
    joints = make_posed(body, pose_from_angles(Trunk(), (arm, arm), (Leg(), Leg())), age)
    for letter, side in (("L", 1.0), ("R", -1.0)):
        mirror = np.array([1.0, side, 1.0])
        found = (
            compute_direction(joints, f"upperarm01.{letter}", f"lowerarm01.{letter}"),
            compute_direction(joints, f"lowerarm01.{letter}", f"wrist.{letter}"),
        )
        np.testing.assert_allclose(found, np.array([upper, lower]) * mirror, atol=2e-3)


def test_legs_point_where_their_angles_say(body: Body) -> None:
    joints = make_posed(body, pose_from_angles(Trunk(), (Arm(), Arm()), (Leg(1.5, 0, 0, 1.5), Leg(0, 0.5, 0, 0))))
    assert compute_direction(joints, "upperleg01.L", "lowerleg01.L")[0] > 0.95  # hips flex forward
    assert compute_direction(joints, "lowerleg01.L", "foot.L")[2] < -0.95  # knees bend backward
    assert compute_direction(joints, "upperleg01.R", "foot.R")[1] == pytest.approx(-np.sin(0.5), abs=0.02)


@pytest.mark.parametrize("gait", GAITS)
def test_gaits_respect_joints(gait: str) -> None:
    for style, time in itertools.product(MANNERS, np.linspace(0.0, 2.0, 9)):
        pose = GaitClip(gait, style).pose(time)
        assert np.linalg.det(pose.orientation) == pytest.approx(np.ones(10), abs=1e-6)
        np.testing.assert_allclose(
            pose.orientation @ pose.orientation.swapaxes(1, 2), np.tile(np.eye(3), (10, 1, 1)), atol=1e-9
        )
        for side in SIDES:
            # The lower segment's direction in the upper one's axes: knees bend backward, elbows forward, not sideways.
            for upper, lower, forward in (("thigh", "shin", -1.0), ("upper_arm", "forearm", 1.0)):
                bent = pose[f"{side}_{upper}"].T @ -pose[f"{side}_{lower}"][:, 2]
                assert forward * bent[0] > -1e-6 or bent[2] > 0
                assert abs(bent[1]) < 1e-6


@pytest.mark.parametrize("gait", UPRIGHT)
def test_upright_gaits_have_the_head_above_the_pelvis(body: Body, gait: str) -> None:
    for style in MANNERS[:3]:
        joints = make_posed(body, GaitClip(gait, style).pose(0.3))
        assert compute_direction(joints, "root", "head")[2] > 0.85
        assert joints["root"][2] > joints["foot.L"][2] or gait == "sit_on_floor"


def test_lying_and_crawling_are_not_upright(body: Body) -> None:
    for variant in (0.1, 0.4, 0.6, 0.9):
        joints = make_posed(body, GaitClip("lie", GaitStyle(variant=variant)).pose(0.0))
        assert abs(compute_direction(joints, "root", "head")[2]) < 0.5
    joints = make_posed(body, GaitClip("crawl", GaitStyle(speed_mps=0.3)).pose(0.0))
    assert compute_direction(joints, "root", "head")[0] > 0.8  # head first
    assert all(joints[name][2] < joints["root"][2] - 0.3 for name in ("wrist.L", "wrist.R", "foot.L", "lowerleg01.R"))


@pytest.mark.parametrize(("side", "waving", "other"), [(-1.0, "R", "L"), (1.0, "L", "R")])
def test_the_hand_that_waves_is_the_one_that_was_asked_for(body: Body, side: float, waving: str, other: str) -> None:
    joints = make_posed(body, GaitClip("wave", GaitStyle(side=side)).pose(0.2))
    assert joints[f"wrist.{waving}"][2] > joints[f"upperarm01.{waving}"][2] > joints[f"wrist.{other}"][2]
    assert joints[f"wrist.{waving}"][1] * side > 0.3


@pytest.mark.parametrize(("gait", "speed", "slip"), [("walk", 0.7, 0.3), ("walk", 1.3, 0.3), ("run", 3.0, 0.35)])
def test_feet_on_the_ground_do_not_slide(body: Body, gait: str, speed: float, slip: float) -> None:
    """The slowest foot is slow over the ground, compared with the body: the median over two seconds."""
    clip = GaitClip(gait, GaitStyle(leg_m=0.9, speed_mps=speed))
    times, step = np.arange(0.0, 1.5, 0.1), 0.01
    slowest = []
    for time in times:
        before, after = make_posed(body, clip.pose(time)), make_posed(body, clip.pose(time + step))
        moved = [
            (after[f"foot.{s}"] - after["root"] - before[f"foot.{s}"] + before["root"])[0] / step + speed for s in "LR"
        ]
        slowest.append(min(abs(value) for value in moved))
    assert np.median(slowest) < slip * speed


def test_random_poses_keep_within_limits_and_outside_the_body() -> None:
    generator = np.random.default_rng(3)
    angles = np.array([sample_angles(generator) for _ in range(100)])
    assert (angles >= LIMITS[:, 0] - 1e-9).all()
    assert (angles <= LIMITS[:, 1] + 1e-9).all()
    assert not any(is_self_touching(pose_from_random_angles(row)) for row in angles)
    assert angles.std(axis=0).min() > 0.02  # no value is constant
    crossed = pose_from_angles(Trunk(), (Arm(0, 0, 1.5, 2.0), Arm()), (Leg(), Leg()))  # the forearm through the belly
    assert is_self_touching(crossed)
