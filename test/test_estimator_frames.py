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

"""Frames as input of an estimator: their fields, lenses and intrinsics."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from multihmr2_ros import Estimator, Frame, IntrinsicsSource, UserError
from multihmr2_ros.camera import CameraModel, compute_undistortion_maps, distort_points
from multihmr2_ros.depth import RelativeDepthMap
from multihmr2_ros.frame import GroundPlane, IntrinsicsChoice
from multihmr2_ros.lens import LensDistortion
from multihmr2_ros.people import People
from test.helpers.small_estimator import make_estimator, make_image

LENS = CameraModel(
    np.array([[250.0, 0, 160], [0, 255.0, 120], [0, 0, 1]]), np.array([-0.2, 0.03, 0.01, -0.01, 0.0]), "plumb_bob",
    320, 240,
)  # fmt: skip


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return make_estimator()


def assert_same_people(found: People, expected: People) -> None:
    for field in dataclasses.fields(People):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(a, b, err_msg=field.name)


def test_a_frame_and_its_fields_as_arguments_are_the_same() -> None:
    pose, ground = np.eye(4), GroundPlane(np.array([0.0, -1.0, 0.0]), -1.5)
    depth = np.full((240, 320), 3.0, np.float32)
    by_frame, by_arguments = (make_estimator() for _ in range(2))
    for index in range(3):
        image = make_image(320, 240)
        frame = Frame(
            image, index / 10, LENS.k, IntrinsicsSource.P, depth=depth, ground=ground, fixed_from_camera=pose,
            fixed_frame="odom",
        )  # fmt: skip
        expected = by_arguments.step(
            image, LENS.k, index / 10, intrinsics_source=IntrinsicsSource.P, depth=depth, ground=ground,
            fixed_from_camera=pose, fixed_frame="odom",
        )  # fmt: skip
        found = by_frame.step(frame)
        assert_same_people(found, expected)
    assert (found.intrinsics_source, found.velocity_frame) == (IntrinsicsSource.P, "fixed")
    assert found.placement_cue is not None


@pytest.mark.parametrize("given", [False, True], ids=["predicted K", "given K"])
@pytest.mark.parametrize("kind", ["m", "mm", "relative", "none"])
def test_a_lens_is_taken_out_of_image_and_depth_and_put_into_joints_2d(given: bool, kind: str) -> None:
    """The results equal those by hand: image and depth undistorted by OpenCV, then points distorted again."""
    k = LENS.k if given else None
    image = make_image(320, 240)
    rows = np.linspace(2.0, 4.0, 240)[:, None] * np.ones((1, 320))
    values = (1000 * rows).astype(np.uint16) if kind == "mm" else rows.astype(np.float32)
    straight = cv2.remap(image, *compute_undistortion_maps(LENS), cv2.INTER_LINEAR)
    lens = LensDistortion(LENS)
    straight_values = lens.undistort_depth(values, hole=np.nan if kind == "relative" else 0)
    depth: Any = values if kind != "none" else None
    by_hand: Any = straight_values if kind != "none" else None
    if kind == "relative":
        depth, by_hand = RelativeDepthMap(values, "depth"), RelativeDepthMap(straight_values, "depth")
    found, ideal = (make_estimator() for _ in range(2))
    expected = ideal.step(straight, k, depth=by_hand)
    expected = dataclasses.replace(expected, joints_2d=distort_points(expected.joints_2d, LENS).astype(np.float32))
    people = found.step(Frame(image, k=k, lens=lens, depth=depth))
    assert_same_people(people, expected)
    assert (people.placement_cue is None) == (kind == "none")


def test_a_lens_of_another_size_is_refused(estimator: Estimator) -> None:
    with pytest.raises(UserError, match=r"calibrated for images of 320 x 240 px, got an image of 64 x 48 px"):
        estimator.step(Frame(make_image(64, 48), lens=LensDistortion(LENS)))


def test_intrinsics_that_a_user_chooses() -> None:
    frame = Frame(make_image(64, 48), k=LENS.k, intrinsics_source=IntrinsicsSource.P, lens=LensDistortion(LENS))
    assert IntrinsicsChoice().apply(frame) is frame
    predicted = IntrinsicsChoice("predicted", k=LENS.k).apply(frame)
    assert (predicted.k, predicted.intrinsics_source) == (None, IntrinsicsSource.PREDICTED)
    k = np.diag([50.0, 50.0, 1.0])
    for choice, focal in ((IntrinsicsChoice(k=k), 50.0), (IntrinsicsChoice(vertical_fov_rad=np.pi / 2), 24.0)):
        chosen = choice.apply(frame)
        assert chosen.k is not None
        assert chosen.k[1, 1] == pytest.approx(focal)
        assert chosen.intrinsics_source is IntrinsicsSource.PARAMETER
        assert chosen.lens is frame.lens


@pytest.mark.parametrize("others", [{"k": np.eye(3)}, {"stamp": 1.0}, {"depth": np.ones((240, 320))}])
def test_a_frame_with_other_arguments_is_refused(estimator: Estimator, others: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="a Frame has its own k, stamp"):
        estimator.step(Frame(make_image(320, 240)), **others)
