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

"""Parts of the body losses: rays and angles, reprojection, keypoints, and gradients through the body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.network.heads import rotations_from_6d
from multihmr2_ros.training.body_losses import (
    angular_loss,
    compute_diagonal_fov,
    keypoint_similarity_loss,
    reprojection_loss,
)
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.loss_functions import project
from multihmr2_ros.training.matched_people import pose_people

SIZE = (192, 256)
K = torch.tensor([[200.0, 0, 128], [0, 210, 96], [0, 0, 1]], dtype=torch.float64)[None]


def test_angle_is_an_angle_everywhere() -> None:
    """Compared with the arc cosine; at the ray itself, behind the camera and at its center the gradient is finite."""
    points = torch.tensor([[0.5, -0.2, 2], [1, 1, 1], [0.3, 0.1, -1]], dtype=torch.float64)
    pixels = torch.tensor([[100, 90], [250, 20], [128, 96]], dtype=torch.float64)
    usable, k = torch.ones(3, dtype=torch.bool), K.expand(3, 3, 3)
    rays = np.linalg.solve(K[0].numpy(), np.c_[pixels.numpy(), np.ones(3)].T).T
    cosine = (points.numpy() * rays).sum(1) / np.linalg.norm(points, axis=1) / np.linalg.norm(rays, axis=1)
    diagonal = 2 * np.arctan(np.hypot(128 / 200, 96 / 210))
    np.testing.assert_allclose(compute_diagonal_fov(K, SIZE), diagonal)
    expected = np.arccos(cosine).mean() / diagonal
    assert float(angular_loss(points, pixels, usable, k, SIZE)) == pytest.approx(expected, rel=1e-6)

    hard = torch.tensor([[0, 0, 3], [0, 0, -3], [0, 0, 0], [0.05, 0, 0.05]], dtype=torch.float64, requires_grad=True)
    middle = torch.tensor([[128.0, 96]], dtype=torch.float64).expand(4, 2)
    loss = angular_loss(hard, middle, torch.ones(4, dtype=torch.bool), K.expand(4, 3, 3), SIZE)
    assert float(loss.detach()) == pytest.approx(np.pi / diagonal / 2, rel=1e-5), "points within 0.1 m do not count"
    loss.backward()
    assert hard.grad is not None
    assert hard.grad.isfinite().all()
    assert not hard.grad[2:].any()


def test_points_behind_the_camera_have_no_reprojection() -> None:
    points = torch.tensor([[0.0, 0, 2], [1, 1, -2], [1, 1, 0]], dtype=torch.float64, requires_grad=True)
    pixels, k = torch.tensor([[138.0, 96]], dtype=torch.float64).expand(3, 2), K.expand(3, 3, 3)
    loss = reprojection_loss(points, pixels, torch.ones(3, dtype=torch.bool), k)
    assert float(loss.detach()) == pytest.approx(10)
    loss.backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert not points.grad[1:].any()
    seen, ahead = project(points.detach(), k)
    np.testing.assert_array_equal(ahead, [True, False, False])
    np.testing.assert_allclose(seen[0], [128, 96])


def test_keypoints_of_the_low_mesh_are_those_of_the_full_one(body: Body) -> None:
    torch.manual_seed(11)
    full = Body("full")
    shape = 0.1 + 0.8 * torch.rand(8, 6)
    rotations = rotations_from_6d(torch.eye(3)[:, :2] + 0.15 * torch.randn(8, 163, 3, 2))
    expected = full.regress_coco_keypoints(full(shape, rotations).vertices.numpy())
    found = regress_low_mesh_keypoints(body, body(shape, rotations).vertices).numpy()
    error = np.linalg.norm(found - expected, axis=-1)
    assert error.mean() < 0.006
    assert error.max() < 0.04
    moved = regress_low_mesh_keypoints(body, body(shape, rotations).vertices + torch.tensor([1.0, 2, 3])).numpy()
    np.testing.assert_allclose(moved - found, np.broadcast_to([1.0, 2, 3], found.shape), atol=1e-5)
    with pytest.raises(ValueError, match="low"):
        regress_low_mesh_keypoints(full, torch.zeros(1, 19158, 3))


def test_the_body_is_differentiable() -> None:
    torch.manual_seed(4)
    precise_body = Body("low").double()
    shape = (0.3 + 0.4 * torch.rand(1, 6, dtype=torch.float64)).requires_grad_()
    columns = (torch.eye(3, dtype=torch.float64)[:, :2] + 0.2 * torch.randn(1, 163, 3, 2)).requires_grad_()

    def probe() -> Tensor:
        found = pose_people(precise_body, shape, rotations_from_6d(columns))
        return (found.vertices[:, ::7] * weights).sum() + found.joints.square().sum()

    weights = torch.randn(1, 88, 3, dtype=torch.float64)
    for leaf, gradient in zip((shape, columns), torch.autograd.grad(probe(), (shape, columns)), strict=True):
        direction = torch.randn_like(leaf)
        with torch.no_grad():
            leaf += 1e-6 * direction
            above = probe()
            leaf -= 2e-6 * direction
            below = probe()
            leaf += 1e-6 * direction
        assert float((gradient * direction).sum()) == pytest.approx(float(above - below) / 2e-6, rel=1e-5)


def test_keypoint_similarity_is_cocos_with_larger_sigmas() -> None:
    k = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]])
    points = torch.zeros(1, 17, 3)
    points[..., 2] = 2.0
    pixels, visible = torch.full((1, 17, 2), 50.0), torch.ones(1, 17, dtype=torch.bool)
    box = torch.tensor([[0.0, 0, 40, 100]])
    assert keypoint_similarity_loss(points, pixels, visible, k, box) == 0
    pixels[0, 5, 0] += 10
    expected = (1 - np.exp(-100 / (2 * 0.53 * 4000 * (2 * 2 * 0.079) ** 2))) / 17
    np.testing.assert_allclose(keypoint_similarity_loss(points, pixels, visible, k, box), expected, rtol=1e-5)
    exact = points.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda found: keypoint_similarity_loss(found, pixels.double(), visible, k.double(), box.double()), exact
    )
    visible[0, 5] = False
    assert keypoint_similarity_loss(points, pixels, visible, k, box) == 0
