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

"""Colors are sampled on the right parts of the body, and do not depend on the exposure."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from multihmr2_ros.errors import UserError
from multihmr2_ros.network.body_colors import CELL_PX, POINTS, BodyColors
from multihmr2_ros.network.config import NANO, SCRATCH
from multihmr2_ros.network.model import MultiHMR2, intrinsics_from_horizontal_fov
from test.helpers.nano_network import NARROW

RED, BLUE = (200, 40, 40), (40, 40, 200)


def make_person() -> Tensor:
    """Return keypoints (17, 2) px of a person seen from the front in an image of 160 × 192 px."""
    return torch.tensor([
        (80, 20), (84, 16), (76, 16), (88, 20), (72, 20),  # face
        (100, 48), (60, 48), (112, 72), (48, 72), (116, 96), (44, 96),  # shoulders, elbows, wrists
        (92, 100), (68, 100), (92, 140), (68, 140), (92, 176), (68, 176),  # hips, knees, ankles
    ], dtype=torch.float32)  # fmt: skip


def draw_image(upper: tuple[int, int, int], lower: tuple[int, int, int]) -> Tensor:
    """Return an image (1, 3, 192, 160) of one color down to the hips, and of another one below."""
    image = torch.empty(1, 3, 192, 160, dtype=torch.uint8)
    image[:, :, :100] = torch.tensor(upper, dtype=torch.uint8)[:, None, None]
    image[:, :, 100:] = torch.tensor(lower, dtype=torch.uint8)[:, None, None]
    return image


def compute_colors(image: Tensor, keypoints: Tensor) -> Tensor:
    """Return (points, 3) of one person."""
    return BodyColors()(image, keypoints[None, None])[0, 0].unflatten(0, (-1, 3))


def test_every_point_is_a_weighted_mean_of_keypoints() -> None:
    assert len(POINTS) == 24
    for point in POINTS:
        assert sum(point.values()) == pytest.approx(1.0)


def test_torso_and_legs_have_the_colors_of_the_clothes() -> None:
    found = compute_colors(draw_image(RED, BLUE), make_person())
    torso, legs = found[:9], found[9:17]
    assert (torso[:, 1] > 0.5).all()  # red
    assert (legs[:, 2] < -0.5).all()  # blue
    assert torch.allclose(torso, torso[:1].expand_as(torso), atol=1e-4)
    swapped = compute_colors(draw_image(BLUE, RED), make_person())
    assert torch.allclose(swapped[0, 1:], legs[0, 1:], atol=1e-4)


def test_exposure_has_little_effect_and_color_much() -> None:
    dark, bright = ((100, 20, 20), (20, 20, 100)), ((200, 40, 40), (40, 40, 200))
    exposed = (
        (compute_colors(draw_image(*dark), make_person()) - compute_colors(draw_image(*bright), make_person()))
        .abs()
        .max()
    )
    changed = (
        (compute_colors(draw_image(*dark), make_person()) - compute_colors(draw_image(*dark[::-1]), make_person()))
        .abs()
        .max()
    )
    assert exposed < 0.2 * changed


def test_a_mirrored_person_has_mirrored_colors() -> None:
    image = torch.randint(0, 256, (1, 3, 192, 160), dtype=torch.uint8)
    keypoints = make_person()
    mirrored = keypoints.clone()
    mirrored[:, 0] = 160 - mirrored[:, 0]
    found, expected = compute_colors(image.flip(-1), mirrored), compute_colors(image, keypoints)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.0)


def test_people_outside_the_image_have_finite_colors() -> None:
    assert 160 % CELL_PX == 0
    assert compute_colors(draw_image(RED, BLUE), make_person() - 1000).isfinite().all()
    assert compute_colors(torch.zeros(1, 3, 192, 160, dtype=torch.uint8), make_person()).isfinite().all()


def test_tracking_features_depend_on_the_colors_of_the_image_only() -> None:
    torch.manual_seed(0)
    network = MultiHMR2(dataclasses.replace(NANO, body_colors=True, **NARROW)).eval()
    image = torch.randint(0, 256, (1, 3, 192, 256), dtype=torch.uint8)
    k = intrinsics_from_horizontal_fov(torch.tensor([1.0]), 192, 256)
    with torch.inference_mode():
        features = network.extract_features(image)
        given = (k, torch.tensor([True]), 5)
        found = network(image, *given, features=features)
        red = network(image // torch.tensor([1, 4, 4])[:, None, None].to(torch.uint8), *given, features=features)
    assert found.track_feature.shape == (1, 5, NARROW["track_feature_width"])
    assert torch.equal(found.rotations, red.rotations)
    assert not torch.allclose(found.track_feature, red.track_feature)


def test_networks_without_keypoints_have_no_colors() -> None:
    with pytest.raises(UserError, match="body_colors needs encoder movenet"):
        dataclasses.replace(SCRATCH, body_colors=True)
