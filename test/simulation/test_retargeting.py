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

"""Recordings on Anny bodies: directions, jumps, travel and repetition, and paths of people."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.bvh import load_bvh, parse_bvh
from multihmr2_ros.simulation.motion.clips import MotionClip
from multihmr2_ros.simulation.motion.paths import ArcPath, MotionPath
from multihmr2_ros.simulation.motion.pose import SEGMENTS, SIDES, Pose
from multihmr2_ros.simulation.motion.retarget import Motion, list_motion_files, load_motion, retarget
from test import paths
from test.helpers.motion_cases import compute_direction, make_posed, make_rig

MOTIONS = paths.SHARED / "data" / "motions"
needs_motions = pytest.mark.skipif(not MOTIONS.is_dir(), reason="the folder of motions is not here")
# Family → a file with an upright person in most frames.
FAMILIES = ["deepmimic_walk", "cmu_131_01", "animateddrawings_dab", "animateddrawings_jesse_dance", "makehuman_walk1"]


def test_retargeting_finds_directions_and_travel() -> None:
    still = {"left_knee": (0, 60, 0), "left_hip": (0, -60, 0)}  # the left thigh forward, the shin down
    motion = retarget(parse_bvh(make_rig(still, {**still, "position": (0, 95, 90)}).encode()))
    pose = Pose(motion.orientation[0].astype(float))
    np.testing.assert_allclose(pose["pelvis"], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(-pose["left_upper_arm"][:, 2], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(-pose["right_forearm"][:, 2], [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(-pose["left_thigh"][:, 2], [np.sin(np.pi / 3), 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(-pose["left_shin"][:, 2], [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(motion.travel, [[0, 0], [1, 0]], atol=1e-6)  # 90 units are one leg length, z is forward
    assert motion.duration_s == pytest.approx(0.05)


def test_jumps_rise_and_drift_does_not() -> None:
    def lifted(heights: np.ndarray) -> np.ndarray:
        return retarget(
            parse_bvh(make_rig(*({"position": (0, 95 + height, 0)} for height in heights)).encode())
        ).clearance

    jump = np.zeros(60)
    jump[25:32] = 30.0  # 0.35 s, a third of a leg length
    assert lifted(jump).max() == pytest.approx(30 / 90 - 0.06, abs=1e-6)
    assert lifted(jump)[:20].max() == 0
    assert lifted(np.linspace(0.0, 30.0, 60)).max() < 0.1


def test_mirrored_motion_swaps_the_sides() -> None:
    motion = retarget(parse_bvh(make_rig({"left_shoulder": (-80, 0, 0)}, {"left_shoulder": (-80, 0, 0)}).encode()))
    plain, mirrored = (MotionClip(motion, 0.0, 0.9, mirror).pose(0.02) for mirror in (False, True))
    flip = np.diag([1.0, -1.0, 1.0])
    for one, other in (("left_upper_arm", "right_upper_arm"), ("right_shin", "left_shin"), ("pelvis", "pelvis")):
        np.testing.assert_allclose(mirrored[one], flip @ plain[other] @ flip, atol=1e-6)
    assert plain["left_upper_arm"][2, 2] > 0.9  # hanging
    assert mirrored["right_upper_arm"][2, 2] > 0.9


def make_walk(*places: tuple[float, float, float], degrees: float = 0.0) -> Motion:
    """Return a recording of a person at places (x left, y up, z forward; 90 units are a leg length); 0.05 s per frame.

    degrees: rotation of the person by the end.
    """
    turns = np.linspace(0.0, degrees, len(places))
    frames = ({"position": place, "hips": (0, 0, turn)} for place, turn in zip(places, turns, strict=True))
    return retarget(parse_bvh(make_rig(*frames).encode()))


def test_motion_paths_go_where_the_recording_goes() -> None:
    motion = make_walk((0, 95, 0), (0, 95, 90), (0, 95, 180))
    path = MotionPath(MotionClip(motion, 0.0, 0.5, False), 3.0, 4.0, np.pi / 2, at_s=0.05)
    np.testing.assert_allclose(path.compute_position(0.05), [3.0, 4.0], atol=1e-9)
    np.testing.assert_allclose(path.compute_position(0.07), [3.0, 4.2], atol=1e-6)
    np.testing.assert_allclose(path.compute_position(0.02), [3.0, 3.7], atol=1e-6)


def test_recorded_walks_move_forward_only() -> None:
    """One leg length per frame, forward; the last quarter of a recording this short blends into the next repetition."""
    clip = MotionClip(make_walk(*((0.0, 95.0, 90.0 * step) for step in range(21))), 0.3, 1.0, False)
    places = np.array([clip.compute_travel(time) for time in np.linspace(0.0, 5.0, 201)])
    np.testing.assert_allclose(np.diff(places[:, 0]), 0.5, atol=1e-6)
    np.testing.assert_allclose(places[:, 1], 0.0, atol=1e-6)


def test_a_walk_that_turns_continues_in_a_circle() -> None:
    degrees = 90.0
    angles = np.radians(np.linspace(0.0, degrees, 41))
    corner = make_walk(*((300 * (1 - np.cos(a)), 95.0, 300 * np.sin(a)) for a in angles), degrees=degrees)
    for mirrored in (False, True):
        clip = MotionClip(corner, 0.0, 0.9, mirrored)
        center = np.array([0.0, -3.0 if mirrored else 3.0])  # to the left
        for time in np.linspace(0.0, 12.0, 60):
            assert np.linalg.norm(clip.compute_travel(time) - center) == pytest.approx(3.0, abs=0.02)
            ahead = clip.compute_travel(time + 1e-3) - clip.compute_travel(time)
            facing = clip.pose(time)["pelvis"][:2, 0]
            assert ahead @ facing / np.linalg.norm(ahead) > 0.99


def test_repetitions_have_no_jumps() -> None:
    lifted = make_walk(*((0.0, 95.0, 9.0 * step) for step in range(31)))
    raised = retarget(parse_bvh(make_rig(*({"left_shoulder": (-3.0 * step, 0, 0)} for step in range(31))).encode()))
    for motion in (lifted, raised):
        clip = MotionClip(motion, 0.0, 0.9, False)
        poses = [clip.pose(time) for time in np.arange(0.0, 4.0, 0.01)]
        turns = [np.linalg.norm(b.orientation - a.orientation, axis=(1, 2)).max() for a, b in itertools.pairwise(poses)]
        assert max(turns) < 0.1  # rad; the arm's 90° take at least half a second


def test_a_clip_of_getting_up_is_reversed_not_cut() -> None:
    lying = {"hips": (0, 90, 0)}
    rising = retarget(parse_bvh(make_rig({}, {"hips": (0, 45, 0)}, lying).encode()))
    clip = MotionClip(rising, 0.0, 0.9, False)
    for time in (0.01, 0.04, 0.07):
        np.testing.assert_allclose(clip.pose(0.2 - time).orientation, clip.pose(time).orientation, atol=1e-6)


@needs_motions
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_every_recorded_motion_can_be_used(step: int) -> None:
    for path in list_motion_files(MOTIONS)[::step]:
        motion = load_motion(path)
        assert motion.orientation.shape[1:] == (len(SEGMENTS), 3, 3)
        np.testing.assert_allclose(np.linalg.det(motion.orientation), 1.0, atol=1e-3)
        highest = 1.7 if "Backflip" in path.name else 1.0  # keyframed; the highest recorded jump is in cmu__49_02
        assert motion.clearance.max() < highest  # leg lengths


@needs_motions
@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_people_stand_on_their_feet_and_bend_the_right_way(body: Body, name: str) -> None:
    motion: Motion = load_motion(MOTIONS / f"{name}.bvh")
    assert np.median(motion.orientation[:, 0, 2, 2]) > 0.85  # the trunk is upright
    bends = []
    for frame in motion.orientation[::10].astype(float):
        pose = Pose(frame)
        for side in SIDES:
            assert -pose[f"{side}_shin"][2, 2] < 0.9  # no person is upside down
            bends.append((pose[f"{side}_thigh"].T @ -pose[f"{side}_shin"][:, 2])[0])
    assert np.quantile(bends, 0.9) < 0.1  # knees bend backward


@needs_motions
@pytest.mark.parametrize("name", FAMILIES)
def test_limbs_of_the_body_point_as_the_recorded_ones(body: Body, name: str) -> None:
    """Compared with the file's own joints by an independent method: directions between joints, rotated to z up."""
    bvh = load_bvh(MOTIONS / f"{name}.bvh")
    motion = load_motion(MOTIONS / f"{name}.bvh")
    names = [joint.name.lower().replace("_", "") for joint in bvh.joints]
    places = dict(zip(names, bvh.compute_positions().swapaxes(0, 1), strict=True))
    elbow = next(name for name in ("leftforearm", "leftelbow", "loarml") if name in places)
    shoulder = next(name for name in ("leftarm", "uparml", "leftshoulder") if name in places)
    frame = len(motion.travel) // 2
    step = round(motion.frame_s / bvh.frame_s)
    recorded = (places[elbow] - places[shoulder])[frame * step]
    joints = make_posed(body, Pose(motion.orientation[frame].astype(float)))
    up = 2 if name in ("makehuman_walk1", "animateddrawings_dab") else 1  # the axis that is up in the file
    found = compute_direction(joints, "upperarm01.L", "lowerarm01.L")
    assert found[2] == pytest.approx(recorded[up] / np.linalg.norm(recorded), abs=0.01)


def test_arc_paths_are_smooth_and_keep_their_speed() -> None:
    path = ArcPath(1.0, 2.0, 0.5, 1.3, 0.4, at_s=2.0)
    np.testing.assert_allclose(path.compute_position(2.0), [1.0, 2.0])
    for time in (-1.0, 0.0, 2.0, 7.5):
        velocity = (path.compute_position(time + 1e-5) - path.compute_position(time - 1e-5)) / 2e-5
        heading = path.compute_heading(time)
        np.testing.assert_allclose(velocity, 1.3 * np.array([np.cos(heading), np.sin(heading)]), atol=1e-6)
    np.testing.assert_allclose(ArcPath(0, 0, np.pi / 2, 2.0).compute_position(3.0), [0.0, 6.0], atol=1e-9)
