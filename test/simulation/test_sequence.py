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

"""Sequences: natural motion of people for the whole duration of a scene, and depth images of a simulated sensor."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.behavior import Behavior
from multihmr2_ros.simulation.motion.clips import GaitClip, StagedClip, StrollClip
from multihmr2_ros.simulation.motion.gaits import GaitStyle
from multihmr2_ros.simulation.motion.paths import CameraPath, TablePath, make_weaving_path
from multihmr2_ros.simulation.motion.roaming import MIN_DURATION_S, simulate_roaming
from multihmr2_ros.simulation.rendering.sensor import simulate_measured_depth, to_exact_depth
from multihmr2_ros.simulation.scene import Person, Scene, SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.posing import pose_scene
from multihmr2_ros.simulation.sequence import limit_to_one_thread
from test import paths

MOTIONS = paths.SHARED / "data" / "motions"
DURATION_S = 20.0
TIMES = np.linspace(0.0, DURATION_S, 101)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Return eight scenes of 20 s; every second camera moves."""
    options = SceneOptions(duration_s=DURATION_S, people=(2, 5))
    return [
        sample_scene(np.random.default_rng(seed), dataclasses.replace(options, moving_camera=seed % 2 == 1))
        for seed in range(8)
    ]


def track(person: Person, times: np.ndarray = TIMES) -> np.ndarray:
    return np.array([person.path.compute_position(time) for time in times])


def make_roamers(scenes: list[Scene]) -> list[tuple[Scene, Person]]:
    return [(scene, person) for scene in scenes for person in scene.people if isinstance(person.path, TablePath)]


def compute_bearings(scene: Scene, places: np.ndarray, times: np.ndarray = TIMES) -> np.ndarray:
    """Return the horizontal positions (t,) in the image: −1 to 1 inside, infinite behind the camera."""
    found = []
    for place, time in zip(places, times, strict=True):
        camera = np.linalg.inv(scene.camera.path.world_from_camera(time))
        x, _, z = camera[:3, :3] @ [*place, 1.0] + camera[:3, 3]
        found.append(scene.camera.k[0, 0] * x / z / (0.5 * scene.camera.width) if z > 0.1 else np.inf)
    return np.array(found)


def test_scenes_have_the_requested_number_of_people(scenes: list[Scene]) -> None:
    assert all(2 <= len(scene.people) <= 5 for scene in scenes)


def test_most_people_go_about(scenes: list[Scene]) -> None:
    going = make_roamers(scenes)
    assert len(going) > 0.5 * sum(len(scene.people) for scene in scenes)
    distances = [np.linalg.norm(np.diff(track(person), axis=0), axis=1).sum() for _, person in going]
    assert np.median(distances) > 3.0
    turns = [np.ptp([person.path.compute_heading(time) for time in TIMES]) for _, person in going]
    assert np.median(turns) > 1.0


def test_people_stay_mostly_in_view_and_some_return(scenes: list[Scene]) -> None:
    inside = [np.abs(compute_bearings(scene, track(person))) < 1.1 for scene, person in make_roamers(scenes)]
    assert min(np.mean(each) for each in inside) > 0.5
    assert any(not each[:-10].all() and each[np.flatnonzero(~each)[0] :].any() for each in inside)


def test_people_walk_in_the_direction_they_face_at_their_speed(scenes: list[Scene]) -> None:
    step = 0.05
    times = np.arange(0.0, DURATION_S, step)
    for _, person in make_roamers(scenes):
        assert isinstance(person.clip, StagedClip)
        velocity = np.diff(track(person, times), axis=0) / step
        speed = np.linalg.norm(velocity, axis=1)
        assert speed.max() < 5.0
        # Acceleration is bounded except at a halt: no person jumps.
        assert np.abs(np.diff(speed)).max() < 0.05 * 1.6 * max(1.0, speed.max()) + 0.02
        headings = np.array([person.path.compute_heading(time) for time in times[:-1]])
        ahead = np.stack([np.cos(headings), np.sin(headings)], axis=1)
        moving = speed > 0.2
        assert ((velocity * ahead).sum(axis=1)[moving] > 0.98 * speed[moving]).all()
        assert np.abs(np.diff(headings)).max() <= 0.05 * 1.6 + 1e-6


def test_people_do_not_collide(scenes: list[Scene]) -> None:
    for scene in scenes:
        tracks = [track(person) for person in scene.people]
        driven = np.array([scene.camera.path.world_from_camera(time)[:2, 3] for time in TIMES])
        for one, other in itertools.combinations([*tracks, driven], 2):
            assert np.linalg.norm(one - other, axis=1).min() > 0.2


def test_bodies_move_without_jumps(scenes: list[Scene]) -> None:
    """Over starts, halts and gestures at 25 images per second, no hand is faster than 12 m/s."""
    body = Body("low")
    step = 0.04
    for scene in scenes[:3]:
        stages = [
            start for person in scene.people if isinstance(person.clip, StagedClip) for start in person.clip.starts[1:3]
        ]
        for start in stages[:3]:
            with limit_to_one_thread(), torch.no_grad():
                posed = [pose_scene(scene, start + offset * step, body) for offset in range(-1, 3)]
            for before, after in itertools.pairwise(posed):
                world = [
                    each.joints @ each.world_from_camera[:3, :3].T + each.world_from_camera[:3, 3]
                    for each in (before, after)
                ]
                assert np.linalg.norm(world[1] - world[0], axis=-1).max() < 12 * step


def test_walkers_avoid_people_in_their_path() -> None:
    """A person stands on the straight path to the goal."""
    walk = GaitClip("walk", GaitStyle(speed_mps=1.2))
    goal, standing = np.array([6.0, 0.0]), np.array([[3.0, 0.02, 0.3]])
    clip, path = simulate_roaming(
        np.random.default_rng(0),
        Behavior(walk, 1.2, 0.4, 0.3),
        np.zeros(2),
        0.0,
        MIN_DURATION_S,
        lambda time: goal,
        lambda time: standing,
    )
    places = np.array([path.compute_position(time) for time in np.arange(0.0, MIN_DURATION_S, 0.05)])
    assert np.linalg.norm(places - standing[0, :2], axis=1).min() > 0.6
    assert places[-1, 0] > 4.5
    assert isinstance(clip, StagedClip)
    assert isinstance(clip.clips[0], StrollClip)


def test_strides_match_the_distance_walked() -> None:
    """At a constant speed, a stroll is the gait of that speed."""
    style = GaitStyle(speed_mps=1.3)
    _, path = simulate_roaming(
        np.random.default_rng(0),
        Behavior(GaitClip("walk", style), 1.3, 0.4, 0.3),
        np.zeros(2),
        0.0,
        10.0,
        lambda time: np.array([100.0, 0.0]),
        lambda time: np.zeros((0, 3)),
    )
    clip = make_roam_clip(style)
    np.testing.assert_allclose(path.compute_position(5.0) - path.compute_position(1.0), [4 * 1.3, 0.0], atol=1e-6)
    for time in (0.5, 2.0, 6.3):
        expected = GaitClip("walk", style).pose(time + 0.2)  # the table begins 0.2 s before time 0
        np.testing.assert_allclose(clip.pose(time).orientation, expected.orientation, atol=1e-6)


def make_roam_clip(style: GaitStyle) -> StagedClip:
    clip, _ = simulate_roaming(
        np.random.default_rng(0),
        Behavior(GaitClip("walk", style), style.speed_mps, 0.4, 0.3),
        np.zeros(2),
        0.0,
        10.0,
        lambda time: np.array([100.0, 0.0]),
        lambda time: np.zeros((0, 3)),
    )
    assert isinstance(clip, StagedClip)
    return clip


def test_clips_fade_from_stage_to_stage() -> None:
    style = GaitStyle(tempo_hz=0.0)
    stand, cheer = GaitClip("stand", style), GaitClip("cheer", style)
    clip = StagedClip((0.0, 2.0), (stand, cheer))
    np.testing.assert_array_equal(clip.pose(-1.0).orientation, stand.pose(-1.0).orientation)
    np.testing.assert_array_equal(clip.pose(2.6).orientation, cheer.pose(2.6).orientation)
    np.testing.assert_allclose(clip.pose(2.0).orientation, stand.pose(2.0).orientation, atol=1e-9)
    arms = [clip.pose(time)["left_upper_arm"][2, 2] for time in np.linspace(2.0, 2.5, 11)]
    assert (np.diff(arms) < 0).all(), "the arm goes up all the time"


@pytest.mark.skipif(not MOTIONS.is_dir(), reason="the folder of motions is not here")
def test_recorded_walks_are_bent_to_stay_in_view() -> None:
    options = SceneOptions(duration_s=DURATION_S, people=(2, 4), motions=MOTIONS)
    going = []
    for seed in range(5):
        scene = sample_scene(np.random.default_rng(seed), options)
        going += [(scene, person) for scene, person in make_roamers([scene]) if not isinstance(person.clip, StagedClip)]
    assert len(going) >= 2
    for scene, person in going:
        assert np.mean(np.abs(compute_bearings(scene, track(person))) < 1.1) > 0.5
        speed = np.linalg.norm(np.diff(track(person), axis=0), axis=1) / (TIMES[1] - TIMES[0])
        assert speed.max() < 6.0


def test_camera_paths_weave_at_constant_speed() -> None:
    path = make_weaving_path(0.3, math.radians(45), 6.0, DURATION_S)
    headings = np.array([path.compute_heading(time) for time in TIMES])
    assert np.abs(headings).max() == pytest.approx(math.radians(45) * 6.0 / (2 * math.pi), rel=0.01)
    np.testing.assert_allclose(path.compute_position(0.5 * DURATION_S), [0.0, 0.0], atol=1e-9)
    assert path.compute_heading(0.5 * DURATION_S) == 0.0
    speed = np.linalg.norm(np.diff([path.compute_position(time) for time in TIMES], axis=0), axis=1) / (
        TIMES[1] - TIMES[0]
    )
    np.testing.assert_allclose(speed, 0.3, rtol=0.02)


def test_the_cameras_base_is_on_the_ground_below_it() -> None:
    path = CameraPath(make_weaving_path(0.5, 0.3, 5.0, 4.0), 1.2, pitch_rad=0.3, roll_rad=0.1)
    for time in (0.0, 3.0):
        base, camera = path.world_from_base(time), path.world_from_camera(time)
        np.testing.assert_allclose(base @ path.base_from_camera(), camera)
        np.testing.assert_allclose(camera[:3, 3] - base[:3, 3], [0.0, 0.0, 1.2])
        np.testing.assert_allclose(base[:3, 2], [0.0, 0.0, 1.0])


def test_depth_is_in_millimeters_and_zero_where_unknown() -> None:
    depth_m = np.array([[1.2345, 0.0, np.inf, 65.535, 65.536]], np.float32)
    np.testing.assert_array_equal(to_exact_depth(depth_m), [[1234, 0, 0, 65535, 0]])
    assert to_exact_depth(depth_m).dtype == np.uint16


def test_measured_depth_has_noise_that_grows_and_holes() -> None:
    generator = np.random.default_rng(0)
    for distance_m in (1.0, 4.0):
        wall = simulate_measured_depth(np.full((120, 160), distance_m, np.float32), generator)
        seen = wall[wall > 0].astype(float)
        assert seen.std() == pytest.approx(1.5 * distance_m**2, rel=0.05)
        assert seen.mean() == pytest.approx(1000 * distance_m, rel=1e-3)
        assert 0.005 < (wall == 0).mean() < 0.05
    step = np.full((60, 80), 4.0, np.float32)
    step[:, 40:] = 2.0
    assert (simulate_measured_depth(step, generator)[:, 39:41] == 0).all()
    for out_of_range in (0.2, 12.0, np.inf):
        assert not simulate_measured_depth(np.full((8, 8), out_of_range, np.float32), generator).any()
