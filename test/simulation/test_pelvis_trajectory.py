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

"""Pelvis heights over time: no jumps, velocities that agree with positions, and soles near the ground."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.behavior import sample_speed
from multihmr2_ros.simulation.motion.clips import FADE_S, Clip, GaitClip, MotionClip, RandomClip, StagedClip
from multihmr2_ros.simulation.motion.gaits import GAITS, GaitStyle
from multihmr2_ros.simulation.motion.paths import ArcPath, CameraPath, MotionPath
from multihmr2_ros.simulation.motion.phenotypes import estimate_leg_length
from multihmr2_ros.simulation.motion.random_poses import sample_angles
from multihmr2_ros.simulation.motion.retarget import load_motion
from multihmr2_ros.simulation.scene import Camera, Person, Scene
from multihmr2_ros.simulation.scene.pelvis_trajectory import (
    MARGIN_S,
    PelvisTrajectory,
    compute_ground_heights,
    compute_pelvis_trajectory,
)
from multihmr2_ros.simulation.scene.posing import pose_scene
from multihmr2_ros.simulation.sequence import limit_to_one_thread
from test import paths

MOTIONS = paths.SHARED / "data" / "motions"
# Recordings at 12 frames per second (names with "__") have kinks at every frame in running: used for stills only.
RECORDINGS = sorted(path.stem for path in MOTIONS.glob("*.bvh") if "__" not in path.stem)
ADULT = np.array([0.5, 2 / 3, 0.5, 0.5, 0.4, 0.5], np.float32)
LEG_M = estimate_leg_length(ADULT)
DURATION_S = 2.0


@pytest.fixture(scope="module")
def body() -> Body:
    return Body("low")


def make_moving_scene(clip: Clip, speed_mps: float = 0.0) -> Scene:
    """Return an adult in front of a camera that looks along x, without surroundings, which poses do not need."""
    nothing: Any = None
    path = MotionPath(clip, 4.0, 0.5, 1.0) if isinstance(clip, MotionClip) else ArcPath(4.0, 0.5, 1.0, speed_mps, 0.3)
    camera = Camera(320, 240, np.diag([300.0, 300.0, 1.0]), np.zeros(0), CameraPath(ArcPath(0, 0, 0), 1.2, 0.3))
    return Scene(0, (Person(1, ADULT, clip, path, nothing),), camera, (), nothing, nothing, 10.0, DURATION_S)


def make_built_in(gait: str) -> tuple[GaitClip, float]:
    """Return a gait and the highest speed of its kind in three samples."""
    generator = np.random.default_rng(0)
    speed = max(sample_speed(generator, gait, GaitStyle(leg_m=LEG_M)) for _ in range(3))
    return GaitClip(gait, GaitStyle(leg_m=LEG_M, speed_mps=speed)), speed


def make_staged(*gaits: str) -> StagedClip:
    return StagedClip(tuple(0.6 * i for i in range(len(gaits))), tuple(make_built_in(gait)[0] for gait in gaits))


def load_recorded(name: str) -> MotionClip:
    """Return the end of a recording and its continuation: from the beginning again, or backwards."""
    motion = load_motion(MOTIONS / f"{name}.bvh")
    return MotionClip(motion, max(MARGIN_S, motion.duration_s - DURATION_S + FADE_S), LEG_M, mirrored=False)


def check(scene: Scene, body: Body) -> PelvisTrajectory:
    """Check for jumps, and that velocities are central differences of positions at 10 and 30 images per second."""
    with limit_to_one_thread():
        ground = compute_pelvis_trajectory(scene, body)
    for rate in (10.0, 30.0):
        times = np.arange(1.0 / rate, DURATION_S, 1.0 / rate)
        before, after = (
            np.array([ground.compute_positions(time + side / rate)[0] for time in times]) for side in (-1.0, 1.0)
        )
        velocity = np.array([ground.compute_velocity(time)[0] for time in times])
        differences = 0.5 * rate * (after - before)
        assert np.abs(velocity - differences)[:, 2].max() < 0.3
        assert np.linalg.norm(velocity - differences, axis=1).max() < (0.3 if rate > 20.0 else 0.5)
    heights = np.array([ground.compute_heights(time)[0] for time in np.arange(0.0, DURATION_S, 0.01)])
    assert np.abs(np.diff(heights, 2)).max() / 0.01**2 < 25.0  # m/s²; a hard landing
    return ground


@pytest.mark.parametrize("gait", GAITS)
def test_built_in_behaviors_have_no_jolts(body: Body, gait: str) -> None:
    scene = make_moving_scene(*make_built_in(gait))
    ground = check(scene, body)
    times = np.arange(0.0, DURATION_S, 0.1)
    off = [ground.compute_heights(time) for time in times] - compute_ground_heights(scene.people[0], times, body)[
        :, None
    ]
    assert np.abs(off).max() < {"run": 0.1, "walk": 0.03}.get(gait, 0.015)


@pytest.mark.parametrize(
    "gaits", [("run", "stand", "kneel"), ("sit_on_floor", "walk", "crouch"), ("lie", "cheer", "bend")]
)
def test_changes_of_behavior_have_no_jolts(body: Body, gaits: tuple[str, ...]) -> None:
    check(make_moving_scene(make_staged(*gaits)), body)


def test_random_poses_have_no_jolts(body: Body) -> None:
    for seed in range(3):
        generator = np.random.default_rng(seed)
        check(make_moving_scene(RandomClip(sample_angles(generator), sample_angles(generator), 2.0, 0.1)), body)


@pytest.mark.skipif(not RECORDINGS, reason="the folder of motions is not here")
@pytest.mark.parametrize("name", RECORDINGS or ["none"])
def test_recorded_motions_have_no_jolts(body: Body, name: str) -> None:
    check(make_moving_scene(load_recorded(name)), body)


def test_images_contain_the_labeled_people(body: Body) -> None:
    scene = make_moving_scene(*make_built_in("run"))
    ground = compute_pelvis_trajectory(scene, body)
    for time in (0.0, 0.13, 1.4):
        posed = pose_scene(scene, time, body, ground.compute_heights(time))
        pelvis = posed.world_from_camera @ [*posed.joints[0, 0], 1.0]
        np.testing.assert_allclose(pelvis[:3], ground.compute_positions(time)[0], atol=1e-5)


def test_runners_bounce_and_are_as_high_as_those_put_on_the_ground(body: Body) -> None:
    scene = make_moving_scene(*make_built_in("run"))
    ground, times = compute_pelvis_trajectory(scene, body), np.arange(0.0, DURATION_S, 0.02)
    heights = np.array([ground.compute_heights(time)[0] for time in times])
    assert 0.02 < np.ptp(heights) < 0.15
    assert heights.mean() == pytest.approx(compute_ground_heights(scene.people[0], times, body).mean(), abs=0.005)


def test_seated_heights_are_those_of_a_still(body: Body) -> None:
    scene = make_moving_scene(*make_built_in("crawl"))
    times = np.array([0.0, 0.4])
    for time, height in zip(times, compute_ground_heights(scene.people[0], times, body), strict=True):
        posed = pose_scene(scene, time, body)
        assert (posed.world_from_camera @ [*posed.joints[0, 0], 1.0])[2] == pytest.approx(height, abs=1e-5)


def test_footing_of_a_still_and_without_people(body: Body) -> None:
    nothing: Any = None
    still, camera = make_moving_scene(*make_built_in("walk")), make_moving_scene(*make_built_in("walk")).camera
    alone = compute_pelvis_trajectory(Scene(0, still.people, camera, (), nothing, nothing, 10.0, 0.0), body)
    assert torch.isfinite(torch.from_numpy(alone.compute_velocity(0.0))).all()
    nobody = compute_pelvis_trajectory(Scene(0, (), camera, (), nothing, nothing, 10.0, 1.0), body)
    assert nobody.compute_heights(0.5).shape == (0,)
    assert nobody.compute_velocity(0.5).shape == (0, 3)
