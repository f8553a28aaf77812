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

"""Rendered images against independent computations: rays, depths, shadows, lenses."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from multihmr2_ros.camera import CameraModel, back_project, distort_points, project
from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.appearance.materials import Material
from multihmr2_ros.simulation.rendering.lens import CameraRays
from multihmr2_ros.simulation.rendering.renderer import RenderedImage
from multihmr2_ros.simulation.scene.environment import Room, Surface
from multihmr2_ros.simulation.scene.sensor import SensorEffects
from test.helpers.simulation_scenes import (
    GRAY,
    body,
    make_box,
    make_person,
    make_scene,
    make_surroundings,
    render_scene,
)

LENS = np.array([-0.25, 0.06, 0.001, -0.001, 0.0])


def find_ground_points(rendered: RenderedImage, k: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """Return the points (H, W, 3) m in the world that the pixels show."""
    height, width = rendered.depth.shape
    y, x = np.mgrid[0:height, 0:width] + 0.5
    points = back_project(np.stack([x, y], axis=-1), np.minimum(rendered.depth, 1e3), k)
    return points @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]


def compute_nearest_triangle_depth(vertices: np.ndarray, ray: np.ndarray) -> float:
    """Return the depth of the body's first triangle on a ray (3,) with z = 1 (Möller and Trumbore), or infinity."""
    a, b, c = (vertices[body().faces[:, i]].astype(np.float64) for i in range(3))
    across = np.cross(np.broadcast_to(ray, c.shape), c - a)
    determinant = np.einsum("ti,ti->t", b - a, across)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.einsum("ti,ti->t", -a, across) / determinant
        other = np.cross(-a, b - a)
        v = other @ ray / determinant
        depth = np.einsum("ti,ti->t", c - a, other) / determinant
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth > 0)
    return float(depth[hit].min(initial=np.inf))


def test_depth_is_that_of_the_first_triangle_on_the_ray() -> None:
    shown = make_scene(make_person(2.0, 0.2))
    posed, rendered, _ = render_scene(shown)
    pixels = np.argwhere(rendered.instances == 0)
    chosen = pixels[np.random.default_rng(0).choice(len(pixels), 40, replace=False)]
    for y, x in chosen:
        ray = back_project(np.array([x + 0.5, y + 0.5]), 1.0, shown.camera.k)
        assert rendered.depth[y, x] == pytest.approx(compute_nearest_triangle_depth(posed.vertices[0], ray), abs=1e-3)


def test_ground_lies_at_height_zero_and_walls_stand_upright() -> None:
    room = Room(0.3, (1.0, 1.0, 1.0, 1.0), 3.0, Surface(GRAY), (0.9, 0.9, 0.9))
    shown = make_scene(
        make_person(3.0, 0.0), surroundings=dataclasses.replace(make_surroundings(), room=room), pitch_rad=0.2
    )
    posed, rendered, _ = render_scene(shown)
    points = find_ground_points(rendered, shown.camera.k, posed.world_from_camera)
    assert np.isfinite(rendered.depth).all()  # nothing outside of a room is visible
    heights = points[rendered.instances < 0][:, 2]
    assert heights.min() > -1e-3
    assert heights.max() < 3.0 + 1e-3
    assert np.abs(points[-1][rendered.instances[-1] < 0][:, 2]).max() < 1e-3


@pytest.mark.parametrize("distortion", [np.zeros(0), LENS])
def test_points_land_where_the_lens_puts_them(distortion: np.ndarray) -> None:
    """Small boxes at different depths are compared with camera.distort_points."""
    places = [(3.0, y, z) for y, z in ((0.0, 1.0), (1.5, 1.9), (-1.6, 1.8), (1.4, 0.3), (-1.5, 0.2), (-0.7, 1.2))]
    boxes = tuple(make_box(*place, (0.02, 0.12, 0.12)) for place in places)
    shown = make_scene(obstacles=boxes, distortion=distortion, width=320, height=240)
    depth, without = render_scene(shown)[1].depth, render_scene(dataclasses.replace(shown, obstacles=()))[1].depth
    count, parts = cv2.connectedComponents(((depth < without) & (np.abs(depth - 2.99) < 0.001)).astype(np.uint8))
    found = [np.argwhere(parts == part)[:, ::-1].mean(axis=0) + 0.5 for part in range(1, count)]
    in_camera = np.array([(-y, 1.0 - z, 2.99) for _, y, z in places])
    model = CameraModel(shown.camera.k, distortion, "plumb_bob" if len(distortion) else "", 320, 240)
    expected = distort_points(project(in_camera, shown.camera.k), model)
    assert len(found) == len(places)
    for place in expected:
        assert np.linalg.norm(np.array(found) - place, axis=1).min() < 0.6


def test_rays_and_the_lens_are_inverse() -> None:
    lens = CameraRays(make_scene(distortion=LENS).camera)
    pixels = np.random.default_rng(0).uniform([0, 0], [160, 120], (200, 2))
    rays = lens.compute_directions(pixels).astype(np.float64)
    assert np.abs(lens.distort(project(rays, lens.model.k)) - pixels).max() < 0.02


def test_a_lens_that_folds_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="smaller coefficients") as error:
        CameraRays(make_scene(distortion=[-0.9, 0.0, 0.0, 0.0]).camera)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_shadows_fall_away_from_the_light(side: float) -> None:
    place = make_surroundings(sun=(0.0, side * 0.6, 0.8))
    empty = render_scene(make_scene(surroundings=place))[1].image.astype(int)
    posed, rendered, _ = render_scene(make_scene(make_person(3.0, 0.0), surroundings=place))
    darker = (empty - rendered.image).min(axis=-1) > 60
    points = find_ground_points(rendered, make_scene().camera.k, posed.world_from_camera)[
        darker & (rendered.instances < 0)
    ]
    assert len(points) > 50
    assert (side * points[:, 1]).mean() < -0.3


def test_people_cast_shadows_on_a_photographed_ground() -> None:
    place = dataclasses.replace(make_surroundings(), ground=None)
    empty = render_scene(make_scene(surroundings=place, pitch_rad=0.3))[1].image.astype(int)
    _, rendered, _ = render_scene(make_scene(make_person(3.0, 0.0), surroundings=place, pitch_rad=0.3))
    outside = cv2.dilate((rendered.instances == 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    change = (rendered.image.astype(int) - empty)[outside]
    assert change.max() <= 2
    assert (change.max(axis=-1) < -20).sum() > 50  # a shadow
    assert np.median(np.abs(change)) <= 2


def test_the_same_seed_gives_the_same_bytes() -> None:
    noisy = SensorEffects(electrons=300.0, read_noise=0.01, jpeg_quality=50)
    shown = dataclasses.replace(make_scene(make_person(3.0, 0.5), make_person(4.0, -0.5, 1)), sensor=noisy)
    first, again, other = render_scene(shown, seed=4)[1], render_scene(shown, seed=4)[1], render_scene(shown, seed=5)[1]
    assert first.image.tobytes() == again.image.tobytes()
    assert first.depth.tobytes() == again.depth.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    assert first.depth.tobytes() == other.depth.tobytes()


def test_an_empty_scene_shows_its_background() -> None:
    _, rendered, _ = render_scene(make_scene())
    assert rendered.image.shape == (120, 160, 3)
    assert rendered.image.dtype == np.uint8
    assert (rendered.instances == -1).all()
    assert np.isinf(rendered.depth[0]).all()
    assert np.isfinite(rendered.depth[-1]).all()
    assert rendered.visible_fraction.shape == (0,)


def test_clothes_move_with_the_body() -> None:
    """A person with a red top and blue trousers shows both, also upside down (the camera rolls)."""
    dressed = make_person(2.5, 0.0)
    looks = dataclasses.replace(
        dressed.appearance,
        top=Material((0.9, 0.1, 0.1)),
        bottom=Material((0.1, 0.1, 0.9)),
        sleeve_length=0.9,
        leg_length=0.9,
    )
    for roll in (0.0, np.pi):
        _, rendered, _ = render_scene(make_scene(dataclasses.replace(dressed, appearance=looks), roll_rad=roll))
        red, _, blue = np.moveaxis(rendered.image.astype(int), -1, 0)
        person_pixels = rendered.instances == 0
        tops, trousers = (np.argwhere(person_pixels & mask)[:, 0] for mask in (red > blue + 40, blue > red + 40))
        assert min(len(tops), len(trousers)) > 200
        assert (np.median(tops) < np.median(trousers)) == (roll == 0.0)
