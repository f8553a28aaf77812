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

"""Simulated scenes: rendered objects and people's positions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.camera import compute_vertical_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.motion.clips import GaitClip, MotionClip
from multihmr2_ros.simulation.motion.gaits import GaitStyle
from multihmr2_ros.simulation.motion.paths import ArcPath, CameraPath
from multihmr2_ros.simulation.motion.phenotypes import estimate_leg_length, estimate_stature, is_infant, sample_shape
from multihmr2_ros.simulation.scene import Camera, Person, Scene, SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.posing import PosedScene, pose_scene
from test import paths

MOTIONS = paths.SHARED / "data" / "motions"
ADULT = np.array([0.5, 2 / 3, 0.5, 0.5, 0.4, 0.5], np.float32)


@pytest.fixture(scope="module")
def stills() -> list[Scene]:
    return [sample_scene(np.random.default_rng(seed), SceneOptions()) for seed in range(200)]


def get_data(value: Any) -> Any:
    """Return a scene as nested tuples that compare by value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (type(value).__name__, *(get_data(getattr(value, entry.name)) for entry in dataclasses.fields(value)))
    if isinstance(value, tuple | list):
        return tuple(get_data(entry) for entry in value)
    return value.tobytes() if isinstance(value, np.ndarray) else value


def make_scene(*people: Person, height_m: float = 1.2, pitch_rad: float = 0.0) -> Scene:
    """Return people in front of a camera at the origin that looks along x, without surroundings, which poses do not
    need."""
    k = np.array([[300.0, 0.0, 160.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]])
    camera = Camera(320, 240, k, np.zeros(0), CameraPath(ArcPath(0, 0, 0), height_m, pitch_rad))
    nothing: Any = None
    return Scene(0, people, camera, (), nothing, nothing, 10.0, 0.0)


def make_person(gait: str, x: float, y: float, heading: float, person_id: int = 1, **style: Any) -> Person:
    nothing: Any = None
    return Person(person_id, ADULT, GaitClip(gait, GaitStyle(**style)), ArcPath(x, y, heading), nothing)


def compute_heights(posed: PosedScene, body: Body) -> np.ndarray:
    """Return heights (n, V) m of the surface vertices above the ground."""
    vertices = posed.vertices[:, body.surface_vertices.numpy()]
    return (vertices @ posed.world_from_camera[:3, :3].T + posed.world_from_camera[:3, 3])[..., 2]


def test_same_seed_same_scene() -> None:
    options = SceneOptions(duration_s=3.0, moving_camera=True)
    first, again, other = (sample_scene(np.random.default_rng(seed), options) for seed in (5, 5, 6))
    assert get_data(first) == get_data(again)
    assert get_data(first) != get_data(other)


def test_options_are_kept(stills: list[Scene]) -> None:
    counts = [len(scene.people) for scene in stills]
    assert 0 <= min(counts) <= max(counts) <= 8
    assert np.mean([count == 0 for count in counts]) < 0.1
    assert len(set(counts)) >= 7
    fovs = [np.degrees(compute_vertical_fov(scene.camera.k, 240)) for scene in stills]
    assert 25 <= min(fovs) < 32
    assert 93 < max(fovs) <= 100
    camera_heights = [scene.camera.path.world_from_camera(0.0)[2, 3] for scene in stills]
    assert 0.3 <= min(camera_heights) < 0.5
    assert 2.3 < max(camera_heights) <= 2.5
    distances = np.array([np.hypot(*person.path.compute_position(0.0)) for scene in stills for person in scene.people])
    assert distances.min() >= 0.7 - 1e-6
    assert distances.max() <= 15 + 1e-6
    assert np.ptp(np.log(distances)) > 2


def test_narrow_options_are_kept() -> None:
    options = SceneOptions(
        width=640, height=480, people=(2, 3), vertical_fov_deg=(60, 61), camera_height_m=(1, 1), distance_m=(3, 5)
    )
    for seed in range(20):
        scene = sample_scene(np.random.default_rng(seed), options)
        assert len(scene.people) <= 3
        assert (scene.camera.width, scene.camera.height) == (640, 480)
        assert all(3 - 1e-6 <= np.hypot(*person.path.compute_position(0.0)) <= 5 + 1e-6 for person in scene.people)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"people": (3, 2)},
        {"people": (-1, 2)},
        {"vertical_fov_deg": (0.0, 200.0)},
        {"camera_height_m": (float("nan"), 1.0)},
        {"distance_m": (0.0, 5.0)},
        {"duration_s": -1.0},
        {"duration_s": float("inf")},
        {"duration_s": float("nan")},
        {"duration_s": 1e9},
        {"frame_rate_hz": 0.0},
        {"frame_rate_hz": 1e9},
        {"width": 99_999, "height": 99_999},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        SceneOptions(**wrong)
    assert "\n" not in str(caught.value)


def test_the_population_has_all_ages() -> None:
    generator = np.random.default_rng(0)
    shapes = np.array([sample_shape(generator) for _ in range(2000)])
    assert ((shapes >= 0) & (shapes <= 1)).all()
    assert 0.25 < (shapes[:, 1] < 0.5).mean() < 0.45
    assert (shapes[:, 1] < 0.1).mean() > 0.03
    assert (shapes[:, 1] > 0.85).mean() > 0.08
    adults = np.array([estimate_stature(shape) for shape in shapes if 0.6 < shape[1] < 0.8])
    assert 1.6 < adults.mean() < 1.8


def test_statures_and_legs_are_the_bodys(body: Body) -> None:
    generator = np.random.default_rng(1)
    shapes = np.array([sample_shape(generator) for _ in range(60)])
    with torch.no_grad():
        statures = body.compute_stature(torch.from_numpy(shapes)).numpy()
        rest = body.compute_rest_bone_poses(torch.from_numpy(shapes)).numpy()
    row = body.bone_labels.index
    hip, knee, ankle = (rest[:, row(name), :3, 3] for name in ("upperleg01.L", "lowerleg01.L", "foot.L"))
    legs = np.linalg.norm(hip - knee, axis=1) + np.linalg.norm(knee - ankle, axis=1)
    np.testing.assert_allclose([estimate_stature(shape) for shape in shapes], statures, rtol=0.08)
    np.testing.assert_allclose([estimate_leg_length(shape) for shape in shapes], legs, rtol=0.12)


def test_infants_sit_crawl_lie_or_toddle(stills: list[Scene]) -> None:
    infants = [person for scene in stills for person in scene.people if is_infant(person.shape)]
    assert len(infants) > 10
    for infant in infants:
        assert isinstance(infant.clip, GaitClip)
        assert infant.clip.gait in ("sit_on_floor", "crawl", "lie", "walk")
        assert infant.clip.gait != "walk" or estimate_stature(infant.shape) >= 0.7


@pytest.mark.parametrize("duration_s", [0.0, 6.0])
def test_people_do_not_walk_through_each_other(duration_s: float) -> None:
    options = SceneOptions(duration_s=duration_s, people=(3, 6))
    for seed in range(15):
        scene = sample_scene(np.random.default_rng(seed), options)
        for time in np.linspace(0.0, duration_s, 7):
            places = np.array([person.path.compute_position(time) for person in scene.people])
            apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 10 * np.eye(len(places))
            assert apart.min(initial=10.0) > 0.2
            assert np.hypot(*places.T).min(initial=10.0) > 0.4  # not through the camera either


def test_most_people_are_seen(stills: list[Scene], body: Body) -> None:
    seen, tall, cut = [], [], []
    for scene in stills[:35]:
        posed = pose_scene(scene, 0.0, body)
        vertices = posed.vertices[:, body.surface_vertices.numpy()]
        for points in vertices:
            ahead = points[points[:, 2] > 0.05]
            pixels = (ahead @ scene.camera.k.T)[:, :2] / ahead[:, 2:]
            inside = ((pixels > 0) & (pixels < (320, 240))).all(axis=1)
            seen.append(inside.any())
            tall.append(np.ptp(pixels[:, 1]) >= 48 if len(pixels) else False)
            cut.append(inside.sum() < 0.95 * len(points))
    assert np.mean(seen) > 0.97
    assert np.mean(tall) > 0.7
    assert 0.15 < np.mean(cut) < 0.65


def test_a_camera_path_looks_where_it_drives() -> None:
    path = CameraPath(ArcPath(1.0, 2.0, np.pi / 2, 1.0), 1.5, pitch_rad=0.2, roll_rad=0.0)
    pose = path.world_from_camera(2.0)
    np.testing.assert_allclose(pose[:3, 3], [1.0, 4.0, 1.5], atol=1e-9)
    np.testing.assert_allclose(pose[:3, 2], [0.0, np.cos(0.2), -np.sin(0.2)], atol=1e-9)  # forward, slightly down
    np.testing.assert_allclose(pose[:3, 0], [1.0, 0.0, 0.0], atol=1e-9)  # right, when driving north, is east
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    assert CameraPath(ArcPath(0, 0, 0), 1.0, roll_rad=0.1).world_from_camera(0.0)[2, 0] < 0  # right side down


def test_moving_cameras_drive_like_robots() -> None:
    options = SceneOptions(duration_s=4.0, moving_camera=True, people=(1, 2))
    bases = [sample_scene(np.random.default_rng(seed), options).camera.path.base for seed in range(30)]
    speeds = [np.linalg.norm(base.compute_position(1.001) - base.compute_position(1.0)) / 0.001 for base in bases]
    turns = [abs(base.compute_heading(2.0) - base.compute_heading(1.0)) for base in bases]
    assert 0.5 < max(speeds) <= 1.0 + 1e-6
    assert np.radians(20) < max(turns) <= np.radians(45) + 1e-6
    still = sample_scene(np.random.default_rng(0), SceneOptions(duration_s=4.0)).camera.path
    np.testing.assert_array_equal(still.world_from_camera(0.0), still.world_from_camera(4.0))


def test_people_stand_on_the_ground_on_their_path(body: Body) -> None:
    people = [
        make_person(gait, 3.0 + i, 0.5 * i, 1.0 * i, i + 5) for i, gait in enumerate(("stand", "sit", "lie", "crouch"))
    ]
    posed = pose_scene(make_scene(*people, pitch_rad=0.3), 0.7, body)
    assert posed.person_id.tolist() == [5, 6, 7, 8]
    np.testing.assert_allclose(compute_heights(posed, body).min(axis=1), 0.0, atol=1e-4)
    pelvis = posed.joints[:, 0] @ posed.world_from_camera[:3, :3].T + posed.world_from_camera[:3, 3]
    np.testing.assert_allclose(pelvis[:, :2], [[3.0, 0.0], [4.0, 0.5], [5.0, 1.0], [6.0, 1.5]], atol=1e-4)
    np.testing.assert_array_equal(posed.center, posed.vertices[:, body.center_vertex])
    assert [getattr(posed, name).dtype for name in ("shape", "rotations", "vertices", "joints")] == [np.float32] * 4


def test_people_face_where_they_head(body: Body) -> None:
    """Image right is +x, down is +y: heads are above pelvises; the right hand of a person facing the camera is on the
    left."""
    facing, away = make_person("wave", 3.0, 0.0, np.pi, 1, side=-1.0), make_person("wave", 3.0, 1.0, 0.0, 2, side=-1.0)
    posed = pose_scene(make_scene(facing, away), 0.2, body)
    row = body.bone_labels.index
    head, pelvis, right = (posed.joints[:, row(name)] for name in ("head", "root", "wrist.R"))
    assert (head[:, 1] < pelvis[:, 1] - 0.4).all()
    assert right[0, 0] < pelvis[0, 0] - 0.2
    assert right[1, 0] > pelvis[1, 0] + 0.2
    assert pelvis[1, 0] == pytest.approx(-1.0, abs=1e-4)  # one metre to the world's left
    toes = posed.joints[:, row("toe2-3.R")] - posed.joints[:, row("foot.R")]
    assert toes[0, 2] < 0 < toes[1, 2]
    # The project's convention: an upright person facing the camera has a root rotation of about −90° about x.
    assert posed.rotations[0, 0, 1, 2] > 0.9
    assert posed.rotations[0, 0, 0, 0] > 0.9


def test_rotations_reproduce_the_vertices(body: Body) -> None:
    posed = pose_scene(make_scene(make_person("walk", 3.0, 0.0, 2.0, speed_mps=1.2)), 0.4, body)
    with torch.no_grad():
        again = body(torch.from_numpy(posed.shape), torch.from_numpy(posed.rotations))
    moved = again.vertices.numpy() + (posed.joints[:, :1] - again.joints.numpy()[:, :1])
    np.testing.assert_allclose(moved, posed.vertices, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(posed.rotations), 1.0, atol=1e-5)


def test_runners_leave_the_ground_and_sitters_do_not(body: Body) -> None:
    runner = make_person("run", 4.0, 0.0, 1.0, speed_mps=3.0)
    lowest = [
        compute_heights(pose_scene(make_scene(runner), time, body), body).min() for time in np.linspace(0.0, 0.7, 15)
    ]
    assert min(lowest) == pytest.approx(0.0, abs=1e-4)
    assert 0.03 < max(lowest) < 0.2


def test_scenes_without_people_are_empty(body: Body) -> None:
    posed = pose_scene(make_scene(), 0.0, body)
    assert posed.vertices.shape == (0, body.vertex_count, 3)
    assert posed.rotations.shape == (0, 163, 3, 3)
    assert posed.person_id.shape == posed.stature.shape == (0,)


def test_ids_stay_and_motion_is_smooth(body: Body) -> None:
    scene = sample_scene(np.random.default_rng(11), SceneOptions(duration_s=4.0, people=(3, 4)))
    first, later = pose_scene(scene, 1.0, body), pose_scene(scene, 1.02, body)
    np.testing.assert_array_equal(first.person_id, later.person_id)
    assert len(set(first.person_id.tolist())) == len(scene.people) > 0
    assert np.linalg.norm(later.joints - first.joints, axis=-1).max() < 0.02 * 15  # no hand is faster than 15 m/s


@pytest.mark.skipif(not MOTIONS.is_dir(), reason="the folder of motions is not here")
def test_recorded_motions_are_used_where_they_are(body: Body) -> None:
    options = SceneOptions(motions=MOTIONS, people=(3, 5), duration_s=1.0)
    scenes = [sample_scene(np.random.default_rng(seed), options) for seed in range(12)]
    clips = [person.clip for scene in scenes for person in scene.people]
    assert 0.15 < np.mean([isinstance(clip, MotionClip) for clip in clips]) < 0.6
    for scene in scenes[:4]:
        lowest = compute_heights(pose_scene(scene, 0.5, body), body).min(axis=1)
        assert (lowest > -1e-4).all()
        assert (lowest < 0.6).all()


def test_a_folder_without_motions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bvh"):
        sample_scene(np.random.default_rng(0), SceneOptions(motions=tmp_path))
