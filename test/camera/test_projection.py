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

"""Projection, and resizing and padding to the network's input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihmr2_ros.camera import ResizePad, back_project, intrinsics_from_fov, project
from test.helpers.camera_cases import SKEW, K, get_refusal, make_points

# Landscape, portrait, rounded shorter sides with odd pads, the network's own size, and the two extremes.
SIZES = [(640, 480), (1920, 1080), (480, 640), (333, 517), (768, 576), (1, 1), (20000, 20), (768, 432)]


# --- resize and pad


def assert_follows_the_networks_rules(width: int, height: int) -> None:
    fit = ResizePad.fit(width, height)
    assert max(fit.resized_width, fit.resized_height) == 768
    horizontal = (width, fit.resized_width, fit.padded_width, fit.pad_left)
    vertical = (height, fit.resized_height, fit.padded_height, fit.pad_top)
    for source, resized, padded, before in (horizontal, vertical):
        assert abs(resized - max(1.0, source * 768 / max(width, height))) <= 0.5 + 1e-9
        assert padded % 16 == 0
        assert padded // 16 <= 48
        assert 0 <= padded - resized < 16
        assert padded - resized - 2 * before in (0, 1)  # the odd pixel is on the right or at the bottom


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_resize_and_pad_follow_the_networks_rules(width: int, height: int) -> None:
    assert_follows_the_networks_rules(width, height)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_resize_and_pad_follow_the_networks_rules_for_any_size(width: int, height: int) -> None:
    assert_follows_the_networks_rules(width, height)


@pytest.mark.parametrize(
    ("size", "resized", "padded", "pads"),
    [
        ((640, 480), (768, 576), (768, 576), (0, 0)),
        ((1920, 1080), (768, 432), (768, 432), (0, 0)),
        ((333, 517), (495, 768), (496, 768), (0, 0)),  # 494.66 → 495: the odd pixel is on the right
        ((1000, 333), (768, 256), (768, 256), (0, 0)),  # 255.74 → 256
        ((517, 333), (768, 495), (768, 496), (0, 0)),
        ((700, 500), (768, 549), (768, 560), (0, 5)),  # 5 above, 6 below
        ((20000, 20), (768, 1), (768, 16), (0, 7)),
        ((1, 1), (768, 768), (768, 768), (0, 0)),
    ],
)
def test_sizes_and_pads(size, resized, padded, pads) -> None:
    fit = ResizePad.fit(*size)
    assert (fit.resized_width, fit.resized_height) == resized
    assert (fit.padded_width, fit.padded_height) == padded
    assert (fit.pad_left, fit.pad_top) == pads
    corners = fit.points_to_input([[0, 0], size])
    np.testing.assert_allclose(corners, [pads, np.add(pads, resized)], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("fixed", [None, (768, 576), (448, 768)])
def test_maps_of_points_and_k_agree_and_invert(width: int, height: int, fixed: tuple[int, int] | None) -> None:
    fit = ResizePad.fit(width, height) if fixed is None else ResizePad.fit_inside(width, height, *fixed)
    k = intrinsics_from_fov(1.0, width, height)
    pixels = project(make_points(), k)
    np.testing.assert_allclose(fit.points_to_source(fit.points_to_input(pixels)), pixels, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fit.k_to_source(fit.k_to_input(k)), k, rtol=0, atol=1e-9)
    in_input = project(make_points(), fit.k_to_input(k))
    np.testing.assert_allclose(in_input, fit.points_to_input(pixels), rtol=0, atol=1e-9)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 48), st.integers(1, 48))
def test_fixed_input_holds_the_largest_image(width: int, height: int, columns: int, rows: int) -> None:
    fit = ResizePad.fit_inside(width, height, 16 * columns, 16 * rows)
    assert (fit.padded_width, fit.padded_height) == (16 * columns, 16 * rows)
    assert fit.resized_width <= fit.padded_width
    assert fit.resized_height <= fit.padded_height
    assert fit.resized_width == fit.padded_width or fit.resized_height == fit.padded_height
    scale = min(16 * columns / width, 16 * rows / height)
    assert abs(fit.resized_width - max(1.0, width * scale)) <= 0.5 + 1e-9
    assert abs(fit.resized_height - max(1.0, height * scale)) <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [(0, 480), (640, 0), (-1, 5)])
def test_empty_images_are_refused(size: tuple[int, int]) -> None:
    assert "the image must be at least 1 x 1" in get_refusal(ResizePad.fit, *size)
    assert "the network's input must be" in get_refusal(ResizePad.fit_inside, 640, 480, *size)


# --- projection


def test_projection_by_hand() -> None:
    # 1 m to the right and 0.5 m down at 4 m.
    np.testing.assert_allclose(project([1.0, 0.5, 4.0], K), [610 / 4 + 322.5, 605 / 8 + 236.25])


@pytest.mark.parametrize("z", [0.0, 1e-6, -1.0, math.nan])
def test_points_at_and_behind_the_camera_are_nan(z: float) -> None:
    pixels = project([[0.1, 0.2, z], [0.1, 0.2, 2.0]], K)
    assert np.isnan(pixels[0]).all()
    assert np.isfinite(pixels[1]).all()


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_back_projection_is_the_inverse_of_projection(dtype: type, atol: float) -> None:
    points = make_points(24).reshape(2, 3, 4, 3).astype(dtype)
    skewed = K + 3.0 * SKEW
    pixels = project(points, skewed)
    again = back_project(pixels, points[..., 2], skewed)
    assert pixels.dtype == again.dtype == dtype
    np.testing.assert_allclose(again, points, rtol=0, atol=atol)
    # K⁻¹ [u, v, 1]ᵀ z, as in the specification.
    direct = np.linalg.solve(skewed, np.r_[pixels[1, 2, 3], 1.0]) * points[1, 2, 3, 2]
    np.testing.assert_allclose(again[1, 2, 3], direct, rtol=0, atol=atol)


def test_empties_dtypes_and_wrong_shapes() -> None:
    fit = ResizePad.fit(640, 360)
    for function in (fit.points_to_input, fit.points_to_source):
        assert function(np.zeros((2, 0, 2), np.float32)).shape == (2, 0, 2)
        assert function(np.zeros((3, 2), np.float32)).dtype == np.float32
    assert project(np.zeros((0, 3)), K).shape == (0, 2)
    assert back_project(np.zeros((0, 2)), np.zeros(0), K).shape == (0, 3)
    assert project([1, 2, 4], K).dtype == np.float64
    assert back_project([1, 2], 3, K).shape == (3,)
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        project(np.zeros((5, 2)), K)
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        back_project(np.zeros((5, 3)), np.zeros(5), K)
