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

"""Labels compared with the images that they describe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.simulation.labels import Labels, draw_labels
from multihmr2_ros.simulation.rendering.renderer import RenderedImage
from multihmr2_ros.simulation.scene import SceneOptions, sample_scene
from test.helpers.simulation_scenes import SHARED, make_box, make_person, make_scene, render_scene

LENS = np.array([-0.2, 0.03, 0.0, 0.0, 0.0])


def find_joints_inside(rendered: RenderedImage, truth: Labels, row: int, dilation_px: int = 5) -> np.ndarray:
    """Return a mask (163,) of the joints inside the person's dilated mask."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * dilation_px + 1, 2 * dilation_px + 1))
    mask = cv2.dilate((rendered.instances == row).astype(np.uint8), kernel)
    x, y = np.floor(np.nan_to_num(truth.joints_2d[row], nan=-1.0)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    return inside & (mask[np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)] > 0)


def check_boxes(rendered: RenderedImage, truth: Labels) -> None:
    """Check that masks are inside visible boxes, these inside boxes, and these inside the image (to a pixel)."""
    height, width = truth.image_size
    for row in np.flatnonzero(truth.visible_pixels):
        y, x = np.nonzero(rendered.instances == row)
        x0, y0, x1, y1 = truth.visible_box[row]
        assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (x0, y0, x1, y1)
        outer = truth.box[row] + [-1.5, -1.5, 1.5, 1.5]
        assert (outer[:2] <= [x0, y0]).all()
        assert (outer[2:] >= [x1, y1]).all()
        assert (truth.box[row] >= 0).all()
        assert (truth.box[row] <= [width, height, width, height]).all()


@pytest.mark.parametrize("distortion", [np.zeros(0), LENS])
def test_labels_match_the_image(distortion: np.ndarray) -> None:
    shown = make_scene(
        make_person(3.0, 0.6, 7),
        make_person(4.0, -0.7, 3),
        make_person(3.5, -1.6, 9, gait="walk"),
        distortion=distortion,
        width=240,
    )
    posed, rendered, truth = render_scene(shown)
    check_boxes(rendered, truth)
    assert truth.person_id.tolist() == [7, 3, 9]
    assert (truth.visible_fraction > 0.99).all()
    assert truth.findable.all()
    for row in range(3):
        assert find_joints_inside(rendered, truth, row, dilation_px=2).mean() > 0.97
        u, v = np.floor(truth.location[row]).astype(int)
        assert rendered.instances[v, u] == row
    if not len(distortion):
        projected = posed.center @ truth.k.T
        np.testing.assert_allclose(truth.location, projected[:, :2] / projected[:, 2:], atol=1e-3)
    assert draw_labels(rendered.image, truth).shape == rendered.image.shape


def test_a_person_cut_at_the_pelvis_is_half_visible() -> None:
    """Compared with the same view in an image that is tall enough for the whole person."""
    k = intrinsics_from_fov(np.deg2rad(40.0), 160, 120)
    whole = render_scene(
        make_scene(make_person(3.0, 0.0), k=k + np.array([[0, 0, 0], [0, 0, 100], [0, 0, 0]]), height=320)
    )
    pelvis_row = int((whole[0].joints[0, 0] @ whole[2].k.T)[1] / whole[0].joints[0, 0, 2])
    assert whole[2].visible_fraction[0] == 1.0
    cut = render_scene(make_scene(make_person(3.0, 0.0), k=whole[2].k, height=pelvis_row))[2]
    expected = cut.visible_pixels[0] / whole[2].visible_pixels[0]
    assert 0.4 < expected < 0.7
    assert cut.visible_fraction[0] == pytest.approx(expected, abs=0.02)
    assert cut.box[0, 3] == pelvis_row


def test_a_person_behind_others_is_visible_in_part() -> None:
    alone = render_scene(make_scene(make_person(4.0, 0.0)))[2]
    both = render_scene(make_scene(make_person(4.0, 0.0), make_person(2.0, 0.1, 1)))[2]
    assert both.visible_fraction[0] == pytest.approx(both.visible_pixels[0] / alone.visible_pixels[0], abs=0.05)
    assert both.visible_fraction[0] < 0.7
    assert both.visible_fraction[1] == 1.0


@pytest.mark.parametrize(
    ("x", "y", "obstacles"),
    [
        (4.0, 0.0, (make_box(2.0, 0.0, 1.5, (0.2, 2.0, 3.0)),)),  # behind a wall
        (-3.0, 0.0, ()),  # behind the camera
        (3.0, 6.0, ()),  # outside of the image
    ],
)
def test_hidden_people_are_not_visible(x: float, y: float, obstacles: tuple) -> None:
    _, rendered, truth = render_scene(make_scene(make_person(x, y), obstacles=obstacles))
    assert truth.visible_fraction.tolist() == [0.0]
    assert truth.visible_pixels.tolist() == [0]
    assert np.isnan(truth.visible_box).all()
    assert not truth.findable.any()
    assert (rendered.instances == -1).all()
    assert np.isnan(truth.joints_2d).all() == (x < 0)


def test_no_people_no_rows() -> None:
    truth = render_scene(make_scene())[2]
    for field in dataclasses.fields(truth):
        value = getattr(truth, field.name)
        if field.name not in ("k", "image_size"):
            assert len(value) == 0, field.name
    assert truth.joints_2d.shape == (0, 163, 2)
    assert truth.box.shape == (0, 4)


def test_small_people_are_not_findable() -> None:
    truth = render_scene(make_scene(make_person(30.0, 0.0), make_person(3.0, 1.0, 1)))[2]
    assert truth.findable.tolist() == [False, True]


SHARED_IS_MISSING = "the shared data folder with backgrounds and garments is not on this machine"


@pytest.mark.slow
@pytest.mark.parametrize(
    "folders", [False, pytest.param(True, marks=pytest.mark.skipif(not SHARED.is_dir(), reason=SHARED_IS_MISSING))]
)
def test_random_scenes(folders: bool) -> None:
    """Labels of 200 scenes are compared with their images; ids stay constant over time."""
    given: dict[str, Path] = {}
    if folders:
        given = {"backgrounds": SHARED / "backgrounds", "garments": SHARED / "makehuman_assets"}
        given["textures"] = SHARED / "backgrounds" / "textures"
    options = SceneOptions(width=160, height=120, people=(1, 4), duration_s=1.0, **given)
    inside: list[float] = []
    for seed in range(100):
        shown = sample_scene(np.random.default_rng(seed), options)
        _, rendered, truth = render_scene(shown, seed=seed)
        check_boxes(rendered, truth)
        assert rendered.image.std() > 0
        for row in np.flatnonzero(truth.visible_fraction == 1.0):
            inside.append(float(find_joints_inside(rendered, truth, row).mean()))
        if seed % 10 == 0:
            later = render_scene(shown, seed=seed, time_s=0.5)[2]
            assert later.person_id.tolist() == truth.person_id.tolist()
            np.testing.assert_array_equal(later.shape, truth.shape)
            np.testing.assert_allclose(later.stature, truth.stature)
    assert len(inside) > 20
    assert np.mean(inside) > 0.98
