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

"""Intrinsics from a CameraInfo: they are kept even if the distortion cannot be used."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.messages.calibration import Intrinsics, intrinsics_from_info
from multihmr2_ros.people import IntrinsicsSource
from test.helpers.bag_factory import HEIGHT, WIDTH, camera_info

IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
FIVE = [-0.2, 0.03, 0.001, -0.001, 0.01]
FOUR = [-0.01, 0.02, -0.01, 0.003]
EIGHT = [0.1, 0.01, 0.001, 0.002, 0.003, 0.1, 0.02, 0.003]


def make_intrinsics(model: str, d: list[float], **fields: Any) -> Intrinsics:
    info = camera_info(0)
    info.distortion_model, info.d = model, np.array(d, np.float64)
    for name, value in fields.items():
        setattr(info, name, value)
    return intrinsics_from_info(info, IMAGE, rectified=False)


def assert_k_is_used(found: Intrinsics) -> None:
    assert found.source == IntrinsicsSource.K
    assert found.k is not None
    np.testing.assert_array_equal(found.k.ravel(), camera_info(0).k)


@pytest.mark.parametrize(
    "model", ["", "none", "None", "unknown", "plumb_bob", "equidistant", "fisheye", "no such model"]
)
@pytest.mark.parametrize("d", [[], [0.0], [0.0] * 4, [0.0] * 5, [0.0] * 8, [0.0] * 14])
def test_no_coefficients_and_zeros_are_no_distortion_whatever_the_model(model: str, d: list[float]) -> None:
    found = make_intrinsics(model, d)
    assert_k_is_used(found)
    assert (found.problem, found.lens) == ("", None)


@pytest.mark.parametrize(
    ("model", "d", "known_as", "kept"),
    [
        ("plumb_bob", [*FIVE, 0, 0, 0], "plumb_bob", FIVE),  # as published by a driver of depth cameras
        ("plumb_bob", [*FIVE[:4], 0, 0, 0, 0], "plumb_bob", [*FIVE[:4], 0]),
        ("plumb_bob", [*FIVE, *[0] * 9], "plumb_bob", FIVE),
        ("equidistant", [*FOUR, 0], "equidistant", FOUR),
        ("equidistant", [*FOUR, 0, 0, 0, 0], "equidistant", FOUR),
        ("rational_polynomial", [*EIGHT, 0], "rational_polynomial", EIGHT),
        ("rational_polynomial", [*EIGHT, *[0] * 5], "rational_polynomial", [*EIGHT, *[0] * 4]),
        ("fisheye", FOUR, "equidistant", FOUR),
        ("kannala_brandt", FOUR, "equidistant", FOUR),
        ("Kannala-Brandt", [*FOUR, 0], "equidistant", FOUR),
        ("Plumb Bob", FIVE, "plumb_bob", FIVE),
    ],
)
def test_trailing_zeros_and_other_names_change_nothing(
    model: str, d: list[float], known_as: str, kept: list[float]
) -> None:
    found = make_intrinsics(model, d)
    assert_k_is_used(found)
    assert found.problem == ""
    assert found.lens is not None
    assert found.lens.camera.distortion_model == known_as
    np.testing.assert_array_equal(found.lens.camera.distortion, kept)


@pytest.mark.parametrize(
    ("model", "d", "reason"),
    [
        ("", FIVE, "got ''"),
        ("unknown", FIVE, "got 'unknown'"),
        ("None", FOUR, "got 'None'"),
        ("thin_prism", [0.1], "got 'thin_prism'"),
        ("plumb_bob", EIGHT, "must have 4 or 5 coefficients, got 8"),
        ("plumb_bob", [0.1], "got 1"),
        ("fisheye", FIVE, "'fisheye' must have 4 coefficients, got 5"),
        ("equidistant", FOUR[:2], "got 2"),
        ("plumb_bob", [np.nan, 0, 0, 0, 0], "finite"),
        ("none", [np.inf], "finite"),
        ("plumb_bob", [1e7, 0, 0, 0, 0], "within"),
        ("plumb_bob", [1e4, 0, 0, 0, 0], "leaves less than half of the image"),
        ("plumb_bob", [-1e4, 0, 0, 0, 0], "leaves less than half of the image"),
        ("plumb_bob", [0, 0, 9, 9], "leaves less than half of the image"),
        ("equidistant", [-90, 0, 0, 0], "leaves less than half of the image"),
    ],
)
def test_k_is_used_without_an_unusable_distortion_which_is_reported(model: str, d: list[float], reason: str) -> None:
    found = make_intrinsics(model, d)
    assert_k_is_used(found)
    assert found.lens is None
    assert reason in found.problem
    assert found.problem.endswith("; K is used without distortion until camera_info is corrected")
    assert "\n" not in found.problem


def test_folded_corners_are_reported_and_the_distortion_is_used() -> None:
    wide = np.array([30.0, 0, WIDTH / 2, 0, 30.0, HEIGHT / 2, 0, 0, 1])
    found = make_intrinsics("plumb_bob", [-0.3, 0.1, 0, 0, -0.015], k=wide)
    assert found.source == IntrinsicsSource.K
    assert found.lens is not None
    assert re.search("does not map the corners of the image one to one; recalibrate the camera$", found.problem)


def test_a_fisheye_lens_that_sees_beyond_ninety_degrees_is_no_fault() -> None:
    wide = np.array([24.0, 0, WIDTH / 2, 0, 24.0, HEIGHT / 2, 0, 0, 1])  # corners at 2.4 rad
    found = make_intrinsics("equidistant", [0.01, 0, 0, 0], k=wide)
    assert (found.source, found.problem) == (IntrinsicsSource.K, "")
    assert found.lens is not None


def test_a_calibration_without_k_is_still_no_calibration() -> None:
    found = make_intrinsics("no such model", FIVE, k=np.zeros(9))
    assert (found.k, found.source) == (None, IntrinsicsSource.PREDICTED)
    assert "uncalibrated" in found.problem
    other = make_intrinsics("no such model", FIVE, width=640)
    assert (other.k, other.source) == (None, IntrinsicsSource.PREDICTED)
    assert "images of 640 x" in other.problem
