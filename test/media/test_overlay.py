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

"""Meshes drawn on images: their positions, occlusion, and omitted people."""

import itertools

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial import Delaunay

from multihmr2_ros.media.colors import UNTRACKED, get_track_color
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.media.rasterize import DepthBuffer
from test.helpers.overlay_images import (
    BALL,
    BOX,
    HEIGHT,
    WIDTH,
    at,
    compute_overlap,
    compute_pixel_rays,
    find_painted,
    make_background,
)
from test.helpers.people_factory import make_full_mesh, make_people, pinhole

# The rasterizer against a ray caster


def cast(points: np.ndarray, nearness: np.ndarray, triangles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the nearness (T, H, W) of every triangle at every pixel center from barycentric coordinates, 0 outside of
    it."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    layers = np.zeros((len(triangles), height, width))
    for layer, corners in zip(layers, triangles, strict=True):
        equations = np.vstack([points[corners].T, np.ones(3)])
        weights = np.linalg.solve(equations, np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)]))
        inside = (weights >= 0).all(axis=0).reshape(height, width)
        layer[inside] = (nearness[corners] @ weights).reshape(height, width)[inside]
    return layers


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_triangle_wins_at_every_pixel(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-30, -20), (70, 50), (60, 2))  # also partly, and wholly, outside the image
    nearness = rng.uniform(0.1, 2.0, 60)
    triangles = np.arange(60).reshape(20, 3)
    expected = cast(points, nearness, triangles, 30, 40)
    buffer = DepthBuffer(30, 40)
    for part in (slice(0, 7), slice(7, 20)):  # drawing in parts makes no difference
        buffer.draw(points[:, 0], points[:, 1], nearness, triangles[part].T, 100 + np.arange(20)[part])
    pixel, value = buffer.read_nearest()
    np.testing.assert_array_equal(pixel, np.flatnonzero(expected.max(axis=0) > 0))
    np.testing.assert_array_equal(value - 100, expected.argmax(axis=0).ravel()[pixel])


def test_triangles_that_share_edges_cover_every_pixel_once():
    rng = np.random.default_rng(0)
    inner = rng.integers(0, 41, (40, 2)) * [1.0, 0.75]  # many corners and edges exactly on pixel centers
    inner[::2] += 0.5
    points = np.vstack([inner, [[-1, -1], [42, -1], [-1, 32], [42, 32]]])
    triangles = Delaunay(points).simplices
    times = np.zeros(30 * 40, int)
    for triangle in triangles:
        buffer = DepthBuffer(30, 40)
        buffer.draw(points[:, 0], points[:, 1], np.ones(len(points)), triangle[:, None], np.zeros(1, int))
        times[buffer.read_nearest()[0]] += 1
    assert (times == 1).all()


@pytest.mark.parametrize(
    "corners", [[(3, 3), (3, 3), (3, 3)], [(2, 2), (6, 6), (9, 9)], [(1, 4.5), (9, 4.5), (5, 4.5)]]
)
def test_triangles_without_area_cover_nothing(corners):
    x, y = np.array(corners, float).T
    buffer = DepthBuffer(10, 12)
    buffer.draw(x, y, np.ones(3), np.arange(3)[:, None], np.zeros(1, int))
    assert len(buffer.read_nearest()[0]) == 0


# Positions of people


def test_a_box_covers_exactly_its_silhouette():
    turned = trimesh.transformations.euler_matrix(0.4, 0.7, 0.2)[:3, :3]
    vertices = at(BOX, (0, 0, 0)) @ turned.T + (0.3, -0.2, 2.5)
    k = pinhole()
    projected = vertices[0] @ k.T
    hull = cv2.convexHull((projected[:, :2] / projected[:, 2:]).astype(np.float32))
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    edges = zip(hull[:, 0], np.roll(hull[:, 0], -1, axis=0), strict=True)
    sides = [(x1 - x0) * (rows - y0) - (y1 - y0) * (columns - x0) for (x0, y0), (x1, y1) in edges]
    expected = (np.min(sides, axis=0) > 0) | (np.max(sides, axis=0) < 0)
    mask = find_painted(vertices, BOX.faces)
    assert expected.sum() > 10_000
    assert compute_overlap(mask, expected) > 0.999


@pytest.mark.parametrize("place", [(0, 0, 2), (0.8, 0.4, 3), (-1.3, -0.9, 2.2), (0.7, 0, 1.2)])
def test_a_ball_covers_the_rays_that_meet_it(place):
    k = np.array([[520.0, 0, 300], [0, 480, 260], [0, 0, 1]])
    rays = compute_pixel_rays(k)
    along = rays @ place
    expected = along**2 >= (rays**2).sum(axis=2) * (np.dot(place, place) - 0.4**2)
    assert compute_overlap(find_painted(at(BALL, place), BALL.faces, k=k), expected) > 0.97


def test_people_stand_upright():
    """y points down: the apex at y = -0.9 m is drawn at the top, the foot at y = 0 below it."""
    cone = trimesh.creation.cone(radius=0.4, height=0.9)
    vertices = cone.vertices @ trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0))[:3, :3].T
    mask = find_painted(vertices[None] + (0, 0, 3.0), cone.faces)
    widths = mask.sum(axis=1)
    rows = np.flatnonzero(widths)
    assert rows[0] == pytest.approx(HEIGHT / 2 - 0.9 / 3 * 500, abs=2)
    assert widths[rows[0]] < 5
    assert widths[rows[-10]] > 100


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_person_hides_the_farther(order):
    places = np.array([(-0.15, 0, 3.0), (0.15, 0, 2.0)])[list(order)]
    ids = np.array([1, 2])[list(order)]
    people = make_people(2, vertices=at(BALL, *places), track_id=ids)
    drawn = draw_people(make_background(), people, BALL.faces, alpha=1.0, labels=False)
    near = find_painted(at(BALL, (0.15, 0, 2.0)), BALL.faces)
    far = find_painted(at(BALL, (-0.15, 0, 3.0)), BALL.faces) & ~near
    assert far.sum() > 1000
    # Shading changes the brightness, not the hue.
    hue_of = {track_id: np.array(get_track_color(track_id)) / max(get_track_color(track_id)) for track_id in (1, 2)}
    for mask, track_id in ((near, 2), (far, 1)):
        pixels = drawn[mask].astype(float)
        unclipped = pixels[(pixels.max(axis=1) < 250) & (pixels.max(axis=1) > 50)]
        assert len(unclipped) > 500
        hues = unclipped / unclipped.max(axis=1, keepdims=True)
        np.testing.assert_allclose(hues, np.broadcast_to(hue_of[track_id], hues.shape), atol=0.03)


def test_alpha_blends_the_image_and_the_mesh():
    people = make_people(1, vertices=at(BALL, (0, 0, 2)))
    clear, half, opaque = (
        draw_people(make_background(), people, BALL.faces, alpha=alpha, labels=False).astype(int)
        for alpha in (0, 0.5, 1)
    )
    np.testing.assert_array_equal(clear, make_background())
    assert np.abs(half - (make_background() + opaque) / 2).max() <= 1


def test_surfaces_that_face_the_camera_are_brighter():
    people = make_people(1, vertices=at(BALL, (0, 0, 2)))
    brightness = draw_people(make_background(), people, BALL.faces, alpha=1.0, labels=False).sum(axis=2)
    assert brightness[240, 320] > 1.3 * brightness[240, 320 + 97]
    assert brightness[240, 320] > 1.3 * brightness[240 + 97, 320]


# Omitted people


def test_without_people_the_image_is_unchanged():
    for vertices in (np.zeros((0, 0, 3)), np.zeros((0, len(BALL.vertices), 3))):
        image = make_background()
        drawn = draw_people(image, make_people(0, vertices=vertices), BALL.faces)
        np.testing.assert_array_equal(drawn, make_background())
        drawn[:] = 0
        np.testing.assert_array_equal(image, make_background())  # a copy


@pytest.mark.parametrize("count", [0, 2])
def test_people_without_any_points_leave_the_image_as_it_is(count):
    """Messages without people, or without their meshes and joints, give such people."""
    people = make_people(count, vertices=np.zeros((count, 0, 3)), joints_2d=np.zeros((count, 0, 2), np.float32))
    np.testing.assert_array_equal(draw_people(make_background(), people, BALL.faces), make_background())


def test_the_given_image_is_not_modified_and_may_be_a_view():
    image = np.repeat(make_background(), 2, axis=1)[:, ::2]
    people = make_people(1, vertices=at(BALL, (0, 0, 2)))
    drawn = draw_people(image, people, BALL.faces)
    np.testing.assert_array_equal(image, make_background())
    np.testing.assert_array_equal(drawn, draw_people(make_background(), people, BALL.faces))


@pytest.mark.parametrize(
    "place", [(0, 0, -2), (0, 0, 0), (0, 0, -1e30), (900, 0, 2), (1e30, 1e30, 0.5), (np.nan, 0, 2), (0, 0, np.inf)]
)
def test_people_who_are_not_visible_are_left_out(place):
    """A whole mesh behind the camera, around it, far outside, or NaN; the same for labels."""
    tiny = BALL.vertices * (0.1 if place == (0, 0, 0) else 1)
    people = make_people(1, vertices=tiny[None] + place, pelvis=np.array([place]))
    np.testing.assert_array_equal(draw_people(make_background(), people, BALL.faces), make_background())


def test_half_a_person_behind_the_camera_leaves_the_other_half():
    """A box on the right, z from -0.1 to 0.3 m: its left side, at x = 0.3 m, is visible if z is above the limit."""
    mesh = BOX.subdivide().subdivide().subdivide()
    k = pinhole(focal=100)
    mask = find_painted(at(mesh, (0.6, 0.1, 0.1)), mesh.faces, k=k)
    rays = compute_pixel_rays(k)
    with np.errstate(divide="ignore"):
        depth = 0.3 / rays[:, :, 0]
    height = rays[:, :, 1] * depth
    side = (depth < 0.3) & (height > -0.4) & (height < 0.6)
    assert mask[side & (depth > 0.11)].all()
    assert not mask[~side | (depth < 0.04)].any()
    assert mask.sum() > 1000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_vertex_removes_only_its_triangles(bad):
    vertices = at(BALL, (0, 0, 2))
    whole = find_painted(vertices, BALL.faces)
    vertex = vertices[0, :, 2].argmin()
    broken = vertices.copy()
    broken[0, vertex] = bad
    mask = find_painted(broken, BALL.faces)
    lost = whole & ~mask
    assert 0 < lost.sum() < 0.02 * whole.sum()


def test_a_very_near_vertex_does_not_overflow():
    """At coordinates of 1e7 px and more, the triangle fills half of the image."""
    vertices = np.array([[[-1e4, -1e4, 0.06], [-1e4, 1e4, 0.06], [0, 0, 1e3]]], np.float32)
    mask = find_painted(vertices, np.array([[0, 2, 1]])) | find_painted(vertices, np.array([[0, 1, 2]]))
    assert mask[:, :319].mean() > 0.5
    assert not mask[:, 321:].any()


def test_without_a_mesh_the_joints_box_is_drawn():
    people = make_people(2, track_id=np.array([1, -1]))
    drawn = draw_people(make_background(), people, BALL.faces, labels=False)
    changed = (drawn != make_background()).any(axis=2)
    for row, color in ((0, get_track_color(1)), (1, UNTRACKED)):
        (left, top), (right, bottom) = people.joints_2d[row].min(axis=0), people.joints_2d[row].max(axis=0)
        assert changed[round(top + 20), int(left)] or changed[round(bottom - 20), int(left)]
        assert (drawn[int(bottom), int((left + right) / 2)] == color).all()
    assert changed.mean() < 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, -1e30])
def test_boxes_of_bad_joints_do_not_crash(bad):
    people = make_people(1)
    joints_2d = people.joints_2d.copy()
    joints_2d[0, 5] = bad
    some = draw_people(make_background(), make_people(1, joints_2d=joints_2d), BALL.faces)
    assert (some != make_background()).any()
    none = draw_people(make_background(), make_people(1, joints_2d=np.full_like(joints_2d, bad)), BALL.faces)
    np.testing.assert_array_equal(none, make_background())


# Labels and colors


def test_labels_show_track_id_and_distance_with_the_nearest_on_top(monkeypatch):
    written = []

    def put_text(image, text, *arguments):
        written.append(text)
        return real_put_text(image, text, *arguments)

    real_put_text = cv2.putText
    monkeypatch.setattr(cv2, "putText", put_text)
    pelvis = np.array([(0, 0, 2), (0.3, 0.4, 4.2), (0.5, 0, 3)])
    people = make_people(3, vertices=at(BALL, *pelvis), pelvis=pelvis, track_id=np.array([3, 4_000_000_000, -1]))
    draw_people(make_background(), people, BALL.faces)
    assert list(dict.fromkeys(written)) == ["#4000000000: 4.2 m", "3.0 m", "#3: 2.0 m"]


def test_labels_are_above_the_body_not_above_its_guides():
    """The guides are vertices that no face uses."""
    drawn = [
        draw_people(make_background(), make_full_mesh(1, guides_m), np.zeros((0, 3), int)) for guides_m in (0.0, -0.3)
    ]
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0] != make_background()).any()


@pytest.mark.parametrize("place", [(0, 0, 3), (-1.9, -1.4, 3), (1.9, 1.4, 3), (0, -1.3, 2.5)])
def test_labels_are_above_the_head_and_within_the_image(place):
    people = make_people(1, vertices=at(BALL, place), pelvis=np.array([place]))
    plain = draw_people(make_background(), people, BALL.faces, labels=False)
    labeled = draw_people(make_background(), people, BALL.faces)
    rows, columns = np.nonzero((plain != labeled).any(axis=2))
    head_column = place[0] / place[2] * 500 + WIDTH / 2
    head_row = (place[1] - 0.4) / place[2] * 500 + HEIGHT / 2
    assert len(rows) > 100  # complete: the outline keeps a distance from the border
    assert columns.min() > 0
    assert columns.max() < WIDTH - 1
    assert rows.min() > 0
    assert rows.max() <= max(head_row + 2, 25)
    assert abs(np.clip(head_column, 60, WIDTH - 60) - (columns.min() + columns.max()) / 2) < 30


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 3000)])
def test_images_of_any_size(size):
    people = make_people(1, vertices=at(BALL, (0, 0, 3)), image_size=size)
    assert draw_people(np.zeros((*size, 3), np.uint8), people, BALL.faces).shape == (*size, 3)
    assert draw_people(np.zeros((*size, 3), np.uint8), make_people(1, image_size=size), BALL.faces).shape == (*size, 3)


def test_track_colors():
    first = [get_track_color(track_id) for track_id in range(21)]
    assert len(set(first)) == 21
    for one, other in itertools.pairwise(first):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 60  # neighbors have distant colors
    assert get_track_color(np.int64(5)) == get_track_color(5)
    assert get_track_color(-1) == UNTRACKED
    assert get_track_color(2**63 - 1) in first
    assert all(isinstance(value, int) and 0 <= value <= 255 for color in first for value in color)
