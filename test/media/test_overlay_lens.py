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

"""Meshes drawn on images with lens distortion, against OpenCV's own lens model."""

import functools

import cv2
import numpy as np
import pytest
import trimesh

from multihmr2_ros.camera import CameraModel, distort_points
from multihmr2_ros.media.overlay import draw_people
from test.helpers.overlay_images import (
    BALL,
    HEIGHT,
    WIDTH,
    at,
    compute_overlap,
    compute_pixel_rays,
    find_painted,
    make_background,
)
from test.helpers.people_factory import make_people

LENS_K = np.array([[400.0, 0, 310], [0, 390, 250], [0, 0, 1]])
BARREL = ("plumb_bob", [-0.3, 0.07, 0.01, -0.01, 0.0])
FISHEYE = ("equidistant", [0.02, 0.01, 0.0, 0.0])
PINCUSHION = ("rational_polynomial", [0.4, 0.05, 0.005, 0.005, 0.0, 0.1, 0.0, 0.0])
NOT_FOR_WIDE_ANGLES = ("plumb_bob", [-0.3, 0.0, 0.0, 0.0])  # the radius has its maximum at x / z = 1.054: 0.703
EVERY_LENS = pytest.mark.parametrize(("model", "coefficients"), [BARREL, FISHEYE, PINCUSHION])


def make_lens(model: str, coefficients: list[float]) -> functools.partial:
    """Return the `distort` function of a Frame of this camera."""
    return functools.partial(distort_points, camera=CameraModel(LENS_K, np.array(coefficients), model, WIDTH, HEIGHT))


def project_by_opencv(points: np.ndarray, model: str, coefficients: list[float]) -> np.ndarray:
    """Return points (n, 3) m projected by OpenCV's own lens model, (n, 2) px."""
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    zero, distortion = np.zeros(3), np.array(coefficients)
    return project(points[None], zero, zero, LENS_K, distortion)[0].reshape(-1, 2)


def is_inside_image(points: np.ndarray) -> np.ndarray:
    """Return a mask of the points (n, 2) px that are in the image."""
    return np.asarray(((points >= 0) & (points < [WIDTH, HEIGHT])).all(axis=1))


def near(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which points (n, 2) px, all in the image, are within 1.5 px of a pixel of the mask."""
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    column, row = points.astype(int).T
    return distance[row, column] <= 1.5


@EVERY_LENS
@pytest.mark.parametrize("place", [(0.9, 0.5, 1.8), (-0.9, -0.6, 1.7)])
def test_meshes_land_where_the_lens_puts_them(
    model: str, coefficients: list[float], place: tuple[float, float, float]
) -> None:
    """The silhouette contains every vertex and has the same extent."""
    mask = find_painted(at(BALL, place), BALL.faces, make_lens(model, coefficients), k=LENS_K)
    points = project_by_opencv(BALL.vertices + place, model, coefficients)
    seen = points[is_inside_image(points)]
    assert len(seen) > 1000
    assert near(mask, seen).all()
    rows, columns = np.nonzero(mask)
    inside = np.clip([points.min(axis=0), points.max(axis=0)], 0, [WIDTH, HEIGHT])
    np.testing.assert_allclose([columns.min(), rows.min()], inside[0], atol=1.5)
    np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], inside[1], atol=1.5)
    pinhole_mask = find_painted(at(BALL, place), BALL.faces, k=LENS_K)
    assert not near(pinhole_mask, seen).all(), "the lens moves it visibly"


@pytest.mark.parametrize(("model", "coefficients"), [BARREL, FISHEYE])
def test_a_ball_covers_the_rays_through_the_lens_that_meet_it(model: str, coefficients: list[float]) -> None:
    place = (0.6, -0.4, 1.4)
    # cv2.fisheye reads noncontiguous points incorrectly.
    pixels = np.ascontiguousarray(compute_pixel_rays(np.eye(3))[..., :2].reshape(-1, 1, 2))
    undistort = cv2.fisheye.undistortPoints if model == "equidistant" else cv2.undistortPoints
    rays = np.dstack(
        [undistort(pixels, LENS_K, np.array(coefficients)).reshape(HEIGHT, WIDTH, 2), np.ones((HEIGHT, WIDTH))]
    )
    along = rays @ place
    expected = (along > 0) & (along**2 >= (rays**2).sum(axis=2) * (np.dot(place, place) - 0.4**2))
    mask = find_painted(at(BALL, place), BALL.faces, make_lens(model, coefficients), k=LENS_K)
    assert expected.sum() > 10_000
    assert compute_overlap(mask, expected) > 0.97


def test_points_beyond_the_range_of_the_lens_are_not_folded_back() -> None:
    place = (4.0, 0.0, 2.5)
    folded = project_by_opencv(BALL.vertices + place, *NOT_FOR_WIDE_ANGLES)
    assert is_inside_image(folded).any(), "so the polynomial has it"
    people = make_people(1, vertices=at(BALL, place), pelvis=np.array([place]), k=LENS_K)
    drawn = draw_people(make_background(), people, BALL.faces, distort=make_lens(*NOT_FOR_WIDE_ANGLES))
    np.testing.assert_array_equal(drawn, make_background())


def test_meshes_are_drawn_up_to_the_range_of_the_lens() -> None:
    wall = trimesh.creation.box(extents=(20, 1, 0.01)).subdivide_to_size(0.1)
    mask = find_painted(at(wall, (0, 0, 2)), wall.faces, make_lens(*NOT_FOR_WIDE_ANGLES), k=LENS_K)
    columns = np.nonzero(mask.any(axis=0))[0]
    np.testing.assert_allclose([columns[0], columns[-1] + 1], 310 + 400 * np.array([-0.703, 0.703]), atol=3)
    assert len(columns) == columns[-1] + 1 - columns[0]


@pytest.mark.parametrize(
    "place", [(0, 0, -2), (0, 0, 0), (1e30, 1e30, 0.5), (1e30, 0, 0.06), (np.nan, 0, 2), (0, 0, np.inf)]
)
@EVERY_LENS
def test_people_who_are_not_visible_are_left_out_with_a_lens(
    model: str, coefficients: list[float], place: tuple[float, float, float]
) -> None:
    tiny = BALL.vertices * (0.1 if place == (0, 0, 0) else 1)
    people = make_people(1, vertices=tiny[None] + place, pelvis=np.array([place]), k=LENS_K)
    drawn = draw_people(make_background(), people, BALL.faces, distort=make_lens(model, coefficients))
    np.testing.assert_array_equal(drawn, make_background())


def test_labels_are_at_the_distorted_position_of_the_head() -> None:
    place = (1.0, 0.5, 1.8)
    people = make_people(1, vertices=at(BALL, place), pelvis=np.array([place]), k=LENS_K)
    plain, labeled = (
        draw_people(make_background(), people, BALL.faces, labels=labels, distort=make_lens(*BARREL))
        for labels in (False, True)
    )
    rows, columns = np.nonzero((plain != labeled).any(axis=2))
    points = project_by_opencv(BALL.vertices + place, *BARREL)
    head = points[points[:, 1].argmin()]
    assert (columns.min() + columns.max()) / 2 == pytest.approx(head[0], abs=4)
    assert rows.max() <= head[1] + 2
    assert rows.max() > head[1] - 25


def test_a_lens_without_distortion_changes_nothing() -> None:
    for vertices in (
        at(BALL, (0.3, 0, 2), (-1.2, -0.9, 2.2)),
        np.zeros((2, 0, 3)),
        np.zeros((0, len(BALL.vertices), 3)),
    ):
        people = make_people(len(vertices), vertices=vertices)
        drawn = draw_people(make_background(), people, BALL.faces, distort=lambda points: points)
        np.testing.assert_array_equal(drawn, draw_people(make_background(), people, BALL.faces))


def test_joints_2d_are_through_the_lens_already() -> None:
    people = make_people(2, k=LENS_K)
    boxes = draw_people(make_background(), people, BALL.faces, distort=make_lens(*BARREL))
    np.testing.assert_array_equal(boxes, draw_people(make_background(), people, BALL.faces))
