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

"""Placement step by step: changed and unchanged fields, each cue alone, and scenes without information."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, UserError
from multihmr2_ros.camera import project
from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.media.rasterize import DepthBuffer
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.people import PER_PERSON_FIELDS, People, PlacementCue
from multihmr2_ros.placement import (
    BodySurface,
    GroundPlane,
    Placement,
    PlacementConfig,
    depth_to_meters,
    place_people,
    stature_prior,
)
from multihmr2_ros.simulation.motion.phenotypes import sample_shape
from test.helpers.people_factory import make_people, pinhole
from test.helpers.rgbd_scenes import (
    NetworkErrors,
    RgbdFrame,
    compute_distance,
    load_low_body,
    make_frame,
    make_predicted,
    make_surface,
)
from test.helpers.simulation_scenes import make_box, make_person, make_scene
from test.helpers.small_network import small_network

EXACT = NetworkErrors(shared=0, own_depth=0, own_stature=0, pose_deg=0, root_deg=0, pixel=0, age=0)
# The size of a body in the image is certain, so that distance and scale change together.
RIGID = PlacementConfig(own_depth_sigma=0.001, own_stature_sigma=0.001, ground_sigma_m=0.01)
HOLES = np.full((240, 320), np.nan, np.float32)


def make_rgbd_frame(*people: Any, **changes: Any) -> RgbdFrame:
    shown = make_scene(*people, width=320, height=240, **changes)
    return make_frame(shown, 0.0, np.random.default_rng(0))


def make_true_people(frame: RgbdFrame) -> People:
    return make_predicted(frame, EXACT, np.random.default_rng(0))


def misplace_people(people: People, along: Any, scale: Any = 1.0) -> People:
    """Return people with pelvises `along` times as far and bodies `scale` times as large: numbers, or one for each."""
    along, scale = (np.broadcast_to(np.float32(value), len(people))[:, None, None] for value in (along, scale))
    pelvis = people.pelvis[:, None]
    bone_poses = people.bone_poses.copy()
    bone_poses[..., :3, 3] *= scale
    return dataclasses.replace(
        people,
        vertices=along * pelvis + scale * (people.vertices - pelvis),
        joints=along * pelvis + scale * (people.joints - pelvis),
        pelvis=(along * pelvis)[:, 0],
        stature=people.stature * scale[:, 0, 0],
        bone_poses=bone_poses,
    )


@pytest.fixture(scope="module")
def standing() -> RgbdFrame:
    """Return one adult, 3.5 m away."""
    return make_rgbd_frame(make_person(3.5, 0.1))


def assert_same(placed: Placement, other: Placement) -> None:
    for name in PER_PERSON_FIELDS:
        np.testing.assert_array_equal(getattr(placed.people, name), getattr(other.people, name))
    np.testing.assert_array_equal(placed.distance_sigma_m, other.distance_sigma_m)
    np.testing.assert_array_equal(placed.cue, other.cue)


@pytest.mark.parametrize("along", [0.8, 0.9, 1.0, 1.1, 1.25])
def test_depth_brings_a_person_back(standing: RgbdFrame, along: float) -> None:
    placed = place_people(misplace_people(make_true_people(standing), along), make_surface(), standing.depth)
    assert compute_distance(placed.people)[0] == pytest.approx(standing.truth[0], abs=0.04)
    assert placed.cue.tolist() == [PlacementCue.DEPTH]
    assert 0.01 < placed.distance_sigma_m[0] < 0.06


@pytest.mark.parametrize("along", [0.85, 1.0, 1.2])
def test_the_ground_brings_a_person_back_whose_picture_is_right(standing: RgbdFrame, along: float) -> None:
    placed = place_people(
        misplace_people(make_true_people(standing), along, along), make_surface(), None, standing.ground, RIGID
    )
    assert compute_distance(placed.people)[0] == pytest.approx(standing.truth[0], rel=0.03)
    assert placed.people.stature[0] == pytest.approx(standing.posed.stature[0], rel=0.03)
    lowest = (placed.people.vertices[0] @ standing.ground.normal).min() - standing.ground.offset_m
    assert abs(lowest) < 0.03
    assert placed.cue.tolist() == [PlacementCue.GROUND]


@pytest.mark.parametrize("cues", ["depth", "ground", "both"])
def test_whatever_moves_stays_consistent(standing: RgbdFrame, cues: str) -> None:
    before = misplace_people(make_true_people(standing), 1.15, 1.1)
    after = place_people(
        before,
        make_surface(),
        None if cues == "ground" else standing.depth,
        None if cues == "depth" else standing.ground,
    ).people
    scale = after.stature / before.stature
    assert 0.8 < scale[0] < 1.0
    np.testing.assert_allclose(project(after.pelvis, after.k), project(before.pelvis, before.k), atol=1e-3)
    np.testing.assert_allclose(after.joints_2d, project(after.joints, after.k), atol=1e-2)
    np.testing.assert_array_equal(after.pelvis, after.joints[:, 0])
    for name in ("vertices", "joints"):
        sized = scale[:, None, None] * (getattr(before, name) - before.pelvis[:, None])
        np.testing.assert_allclose(getattr(after, name) - after.pelvis[:, None], sized, atol=2e-6)
    heads = after.bone_poses[..., :3, 3]
    np.testing.assert_allclose(heads - heads[:, :1], after.joints - after.pelvis[:, None], atol=1e-4)
    changed = {"vertices", "joints", "joints_2d", "pelvis", "stature", "bone_poses"}
    for field in dataclasses.fields(People):
        if field.name not in changed:
            assert getattr(after, field.name) is getattr(before, field.name)


def test_a_picture_of_certain_size_does_not_change(standing: RgbdFrame) -> None:
    before = misplace_people(make_true_people(standing), 1.1, 1.1)
    after = place_people(before, make_surface(), standing.depth, standing.ground, RIGID).people
    assert abs(compute_distance(after) - compute_distance(before))[0] > 0.2
    np.testing.assert_allclose(project(after.vertices, after.k), project(before.vertices, before.k), atol=0.3)


def test_without_any_cue_the_posterior_is_the_gaussian_of_its_formula() -> None:
    """Compared with the product of the two Gaussians computed from their information matrices."""
    people = make_predicted(make_rgbd_frame(make_person(3.0, 0.0)), EXACT, np.random.default_rng(0))
    people = dataclasses.replace(people, stature=np.array([2.0], np.float32))
    config = PlacementConfig(shared_sigma=0.12, own_depth_sigma=0.06, own_stature_sigma=0.05)
    placed = place_people(people, make_surface(), HOLES, None, config)
    mean, sigma = (float(values[0]) for values in stature_prior(people.shape[:, 1]))
    shared = config.shared_sigma**2
    covariance = np.array(
        [[shared + config.own_depth_sigma**2, shared], [shared, shared + config.own_stature_sigma**2]]
    )
    information = np.linalg.inv(covariance) + np.diag([0.0, sigma**-2])
    x, y = np.linalg.solve(information, [0.0, (mean - np.log(2.0)) / sigma**2])
    assert np.log(compute_distance(placed.people) / compute_distance(people))[0] == pytest.approx(x, abs=1e-6)
    assert np.log(placed.people.stature[0] / 2.0) == pytest.approx(y, abs=1e-6)
    expected = np.sqrt(np.linalg.inv(information)[0, 0]) * compute_distance(placed.people)[0]
    assert placed.distance_sigma_m[0] == pytest.approx(expected, rel=1e-6)


def test_the_maximum_is_one(standing: RgbdFrame) -> None:
    """The result of the grid and the steps does not depend on the start within the network's uncertainty."""
    one, other = (
        compute_distance(
            place_people(misplace_people(make_true_people(standing), along), make_surface(), standing.depth).people
        )[0]
        for along in (0.9, 1.1)
    )
    assert one == pytest.approx(other, abs=0.015)


def test_people_predicted_in_the_wrong_order_are_put_right() -> None:
    frame = make_rgbd_frame(make_person(3.0, 0.15, 1), make_person(3.8, -0.15, 2))
    people = make_true_people(frame)
    wrong = misplace_people(people, [1.22, 0.85])
    assert compute_distance(wrong)[0] > compute_distance(wrong)[1]
    placed = place_people(wrong, make_surface(), frame.depth)
    np.testing.assert_allclose(compute_distance(placed.people), frame.truth, atol=0.06)


def test_a_person_with_most_of_the_body_behind_another_is_found_by_the_rest() -> None:
    frame = make_rgbd_frame(make_person(2.5, 0.0, 1), make_person(3.3, -0.35, 2))
    assert frame.occluded[1]
    placed = place_people(misplace_people(make_true_people(frame), [1.1, 0.92]), make_surface(), frame.depth)
    np.testing.assert_allclose(compute_distance(placed.people), frame.truth, atol=0.08)


def test_legs_behind_a_table_do_not_matter() -> None:
    frame = make_rgbd_frame(make_person(3.5, 0.0), obstacles=(make_box(2.8, 0.0, 0.35, (0.4, 1.5, 0.7)),))
    placed = place_people(misplace_people(make_true_people(frame), 1.12), make_surface(), frame.depth)
    assert compute_distance(placed.people)[0] == pytest.approx(frame.truth[0], abs=0.05)


@pytest.mark.parametrize(
    "depth",
    [
        HOLES,
        np.zeros_like(HOLES),
        np.full_like(HOLES, np.inf),
        np.full_like(HOLES, np.finfo(np.float32).max),
        np.full_like(HOLES, -1.0),
        np.zeros(HOLES.shape, np.uint16),
        np.full_like(HOLES, 1.0),  # all people are behind a wall
        np.full_like(HOLES, 9.0),  # there are no people
    ],
    ids=["NaN", "0", "infinite", "largest number", "negative", "0 mm", "behind a wall", "nobody"],
)
def test_a_depth_image_without_people_changes_nothing(standing: RgbdFrame, depth: np.ndarray) -> None:
    people = misplace_people(make_true_people(standing), 1.1)
    for ground, cue in ((None, PlacementCue.PRIOR), (standing.ground, PlacementCue.GROUND)):
        placed = place_people(people, make_surface(), depth, ground)
        assert_same(placed, place_people(people, make_surface(), None, ground))
        assert placed.cue.tolist() == [cue]


def test_nobody() -> None:
    placed = place_people(
        make_people(0, image_size=HOLES.shape), make_surface(), HOLES, GroundPlane(np.array([0, -1, 0]), -1)
    )
    assert len(placed.people) == len(placed.cue) == len(placed.distance_sigma_m) == 0


def test_people_who_are_not_before_the_camera_stay(standing: RgbdFrame) -> None:
    people = make_true_people(standing).select(np.array([0, 0, 0]))
    vertices, pelvis, joints = people.vertices.copy(), people.pelvis.copy(), people.joints.copy()
    for values in (vertices, pelvis, joints):
        values[1] *= -1
        values[2] = np.nan
    odd = dataclasses.replace(people, vertices=vertices, pelvis=pelvis, joints=joints)
    placed = place_people(misplace_people(odd, [1.1, 1.0, 1.0]), make_surface(), standing.depth, standing.ground)
    np.testing.assert_array_equal(placed.people.vertices[1:], vertices[1:])
    assert np.isnan(placed.distance_sigma_m[1:]).all()
    assert compute_distance(placed.people)[0] == pytest.approx(standing.truth[0], abs=0.04)


def test_huge_float64_depth_is_no_depth_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depth = depth_to_meters(np.array([[1e300, -1e300, np.inf, np.nan, 2.0]]))
    np.testing.assert_array_equal(depth, np.array([[np.nan, np.nan, np.nan, np.nan, 2.0]], np.float32))


def test_millimeters_and_meters_are_the_same(standing: RgbdFrame) -> None:
    people = misplace_people(make_true_people(standing), 1.1)
    in_mm = np.nan_to_num(np.round(1000 * standing.depth)).astype(np.uint16)
    np.testing.assert_allclose(depth_to_meters(in_mm), standing.depth, atol=1e-6)
    placed = [place_people(people, make_surface(), depth) for depth in (standing.depth, in_mm)]
    np.testing.assert_allclose(placed[0].people.pelvis, placed[1].people.pelvis, atol=1e-5)


def test_feet_that_cannot_be_seen_tell_nothing() -> None:
    cut = make_rgbd_frame(make_person(1.2, 0.0), make_person(4.0, 1.5, 1))
    placed = place_people(make_true_people(cut), make_surface(), None, cut.ground)
    assert placed.cue.tolist() == [PlacementCue.PRIOR, PlacementCue.GROUND]


def test_a_person_high_over_the_ground_is_not_pulled_down(standing: RgbdFrame) -> None:
    people = make_true_people(standing)
    lower = GroundPlane(standing.ground.normal, standing.ground.offset_m - 1.0)
    placed = place_people(people, make_surface(), None, lower, RIGID)
    assert placed.cue.tolist() == [PlacementCue.PRIOR]
    assert compute_distance(placed.people)[0] == pytest.approx(compute_distance(people)[0], rel=0.05)


def test_the_full_mesh_is_placed_like_the_low_one(standing: RgbdFrame) -> None:
    by_mesh = [
        place_people(
            misplace_people(make_predicted(standing, EXACT, np.random.default_rng(0), mesh), 1.1),
            make_surface(mesh),
            standing.depth,
        )
        for mesh in ("low", "full")
    ]
    assert compute_distance(by_mesh[0].people)[0] == pytest.approx(compute_distance(by_mesh[1].people)[0], abs=0.015)


def test_statures_by_age_are_the_body_models() -> None:
    generator = np.random.default_rng(1)
    shapes = np.stack([sample_shape(generator) for _ in range(1500)])
    for age in (0.0, 0.1, 0.22, 1 / 3, 0.5, 2 / 3, 1.0):
        shapes[:, 1] = np.clip(age + generator.normal(0.0, 0.05, len(shapes)), 0.0, 1.0)
        usual = np.where(shapes[:, 1] < 0.1, 0.48, 0.42)  # as sample_shape samples heights
        shapes[:, 4] = np.clip(generator.normal(usual, 0.11), 0.02, 0.98)
        with torch.no_grad():
            statures = np.log(load_low_body().compute_stature(torch.from_numpy(shapes)).numpy())
        mean, sigma = stature_prior(np.array([age]))
        assert statures.mean() == pytest.approx(mean[0], abs=0.02)
        assert statures.std() == pytest.approx(sigma[0], rel=0.1)


def test_a_ground_is_the_same_plane_however_it_is_named() -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # looks along the fixed frame's x
    pose[:3, 3] = 5.0, 2.0, 1.2
    ground = GroundPlane.from_fixed_frame(pose, height_m=0.2)
    np.testing.assert_allclose(ground.normal, [0, -1, 0])
    assert ground.offset_m == pytest.approx(-1.0)
    for factor in (2.0, -0.5):
        again = GroundPlane(factor * ground.normal, factor * ground.offset_m)
        np.testing.assert_allclose(again.normal, ground.normal)
        assert again.offset_m == pytest.approx(ground.offset_m)
    for height_m in (1.2, 1.3):
        with pytest.raises(UserError, match=rf"above the ground, got {height_m - 1.2:.3f} m below"):
            GroundPlane.from_fixed_frame(pose, height_m)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda people: place_people(people, make_surface(), HOLES[:120]), "registered .* 320 x 240 px, got 320 x 120"),
        (
            lambda people: place_people(people, make_surface(), np.zeros(HOLES.shape, np.int32)),
            r"uint16 mm or float32 m, got int32",
        ),
        (
            lambda people: place_people(people, make_surface(), np.stack([HOLES] * 3, -1)),
            r"got float32 \(240, 320, 3\)",
        ),
        (lambda people: place_people(people, make_surface(), [[1.0]]), "got list"),
        (lambda people: place_people(people, make_surface("full"), HOLES), "19158 vertices, as the surface, got 615"),
        (lambda _: GroundPlane(np.zeros(3), 1.0), "not all 0"),
        (lambda _: GroundPlane(np.array([0.0, np.nan, 1.0]), 1.0), "a ground plane must have"),
        (lambda _: GroundPlane(np.array([0.0, 1.0]), 1.0), "a normal of 3 numbers"),
        (lambda _: GroundPlane(np.array([0.0, -1.0, 0.0]), 0.0), "above the ground"),
        (lambda _: GroundPlane.from_fixed_frame(np.eye(3)), r"\(4, 4\)"),
        (lambda _: PlacementConfig(shared_sigma=0.0), "PlacementConfig.shared_sigma: expected a finite number above 0"),
        (lambda _: PlacementConfig(inlier_share=1.0), "inlier_share: expected a fraction between 0 and 1, got 1.0"),
        (lambda _: PlacementConfig(ground_sigma_m=np.inf), "ground_sigma_m"),
    ],
)
def test_mistakes_are_named(standing: RgbdFrame, make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        make(make_true_people(standing))
    assert "\n" not in str(raised.value)


def test_samples_stand_for_equal_areas() -> None:
    body = load_low_body()
    template = body.anny.template_vertices.numpy()
    surface = BodySurface.from_mesh(body.faces, template, samples=400)
    corners = template[body.faces]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    assert len(surface.triangles[0]) * surface.spacing_m**2 == pytest.approx(area.sum())
    chosen = template[surface.triangles].mean(axis=0)
    middle = (area[:, None] * corners.mean(axis=1)).sum(axis=0) / area.sum()
    np.testing.assert_allclose(chosen.mean(axis=0), middle, atol=0.02)


CONFIG = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=1, mesh="low")
IMAGE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
CAMERA = pinhole(280.0, (240, 320))


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(small_network(), CONFIG, Runtime("cpu", "fp32"))


def make_depth(people: People, faces: np.ndarray, farther: float) -> np.ndarray:
    """Return depth (H, W) uint16 mm of the people's meshes scaled about the camera, which keeps their images; 0
    elsewhere."""
    height, width = people.image_size
    vertices = people.vertices.reshape(-1, 3).astype(float)
    triangles = (faces + people.vertices.shape[1] * np.arange(len(people))[:, None, None]).reshape(-1, 3).T
    buffer = DepthBuffer(height, width)
    in_mm = (1000 * farther * vertices[triangles, 2].mean(axis=0)).astype(np.int64)
    buffer.draw(*project(vertices, people.k).T, 1 / vertices[:, 2], triangles, in_mm)
    depth = np.zeros(height * width, np.uint16)
    pixel, value = buffer.read_nearest()
    depth[pixel] = value
    return depth.reshape(height, width)


def test_the_estimator_tracks_refined_places(estimator: Estimator) -> None:
    estimator.reset()
    plain = estimator.step(IMAGE, CAMERA)
    assert plain.placement_cue is None
    assert plain.distance_sigma_m is None
    depth = make_depth(plain, estimator.faces, 1.1)
    refined = [estimator.step(IMAGE, CAMERA, stamp, depth=depth) for stamp in (1.0, 1.1, 1.2, 1.3)]
    assert refined[-1].placement_cue is not None
    assert refined[-1].distance_sigma_m is not None
    assert refined[-1].placement_cue.tolist() == [PlacementCue.DEPTH]
    np.testing.assert_allclose(compute_distance(refined[-1]) / compute_distance(plain), 1.1, atol=0.02)
    assert np.all(refined[0].velocity[:, 2] > 0), "from the network's place to the refined one is away from the camera"
    ray = refined[-1].pelvis[0] / compute_distance(refined[-1])
    along = ray @ refined[-1].pelvis_covariance[0] @ ray
    np.testing.assert_allclose(np.sqrt(along), refined[-1].distance_sigma_m[0], rtol=1e-4)
    across = np.trace(refined[-1].pelvis_covariance[0]) - along
    np.testing.assert_allclose(
        np.sqrt(across / 2), PlacementConfig().lateral_sigma_ratio * compute_distance(refined[-1])[0], rtol=1e-4
    )
    after = estimator.step(IMAGE, CAMERA, stamp=2.0)
    assert np.isnan(after.pelvis_covariance).all()
    assert after.placement_cue is None


def test_placement_can_be_switched_off(estimator: Estimator) -> None:
    estimator.reset()
    plain = estimator.step(IMAGE, CAMERA)
    depth = make_depth(plain, estimator.faces, 1.1)
    estimator.reconfigure(dataclasses.replace(CONFIG, place=False))
    estimator.reset()
    off = estimator.step(IMAGE, CAMERA, depth=depth, ground=GroundPlane(np.array([0.0, -1.0, 0.0]), -1.0))
    estimator.reconfigure(CONFIG)
    np.testing.assert_array_equal(plain.vertices, off.vertices)
    assert off.placement_cue is None


def test_the_estimator_refuses_another_size(estimator: Estimator) -> None:
    with pytest.raises(UserError, match="registered"):
        estimator.step(IMAGE, depth=HOLES[::2, ::2])
