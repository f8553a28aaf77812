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

"""Bodies fitted to keypoints: derivatives, consistency of rotations and points, accuracy, and robustness."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multihmr2_ros.body import rotations_from_vectors
from multihmr2_ros.network import keypoint_fitting
from multihmr2_ros.network.heads import rotations_from_6d
from multihmr2_ros.network.keypoint_fitting import TURNS, KeypointFitter, PosedBodies, eliminate, solve_positive
from multihmr2_ros.network.model import KEYPOINTS, Prediction
from multihmr2_ros.training.lifting import KeypointBatches, make_pose_bank
from test.helpers.training_samples import body

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fitter() -> KeypointFitter:
    return KeypointFitter(body())


def _make_prediction(count: int, seed: int = 4) -> tuple[Prediction, torch.Tensor]:
    """Return a prediction of people with errors, with their true keypoints as input, and the true joints."""
    generator = torch.Generator().manual_seed(seed)
    bank = make_pose_bank(body(), count, None, seed)
    batch = KeypointBatches(bank, 384, count, seed)[0]
    true_rotations = rotations_from_6d(batch.rotations[..., :2])  # stored in half precision
    posed = body()(batch.shape, true_rotations)
    offset = posed.joints[:, body().keypoint_bones[0]]
    center = torch.randn(count, 3, generator=generator) * 0.5 + torch.tensor([0.0, 0, 4.0])
    joints = posed.joints - offset[:, None] + center[:, None]
    points = joints[:, body().keypoint_bones]
    k = torch.tensor([[300.0, 0, 192], [0, 300, 144], [0, 0, 1]])
    pixels = points @ k.T
    off = rotations_from_vectors(0.2 * torch.randn(count * 163, 3, generator=generator)).unflatten(0, (count, 163))
    wrong = true_rotations.clone()
    turned = [body().bone_labels.index(label) for label, _ in TURNS]
    wrong[:, turned] = wrong[:, turned] @ off[:, turned]
    said = center * torch.tensor([1.0, 1.0, 1.06]) + torch.tensor([0.06, -0.04, 0.0])
    one = torch.ones(1, count)
    prediction = Prediction(
        torch.ones(1), k[None], one, one[..., None].expand(-1, -1, 2), one, one, said[None], batch.shape[None],
        wrong[None], torch.zeros(1, count, 4), (pixels[..., :2] / pixels[..., 2:])[None], torch.ones(1, count, 17),
    )  # fmt: skip
    return prediction, joints


def _compute_keypoints(prediction: Prediction) -> torch.Tensor:
    """Return the keypoints (n, 17, 3) m of the predicted bodies."""
    bones = body().pose_bones(prediction.shape[0], prediction.rotations[0])[:, body().keypoint_bones, :3, 3]
    return bones - bones[:, :1] + prediction.center[0, :, None]


def test_bodies_are_fitted_to_their_keypoints(fitter: KeypointFitter) -> None:
    prediction, joints = _make_prediction(12)
    true = joints[:, body().keypoint_bones]
    before, after = _compute_keypoints(prediction), _compute_keypoints(fitter(prediction))

    def pixels(points: torch.Tensor) -> torch.Tensor:
        return 300 * points[..., :2] / points[..., 2:]

    was, now = ((pixels(points) - pixels(true)).norm(dim=-1).mean() for points in (before, after))
    assert now < 0.25 * was
    was, now = (((points - points[:, :1]) - (true - true[:, :1])).norm(dim=-1).mean() for points in (before, after))
    assert now < 0.8 * was
    rotations = fitter(prediction).rotations
    identity = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.transpose(-1, -2), identity, atol=1e-4, rtol=0)


def test_bodies_that_fit_stay_and_so_do_those_without_keypoints(fitter: KeypointFitter) -> None:
    prediction, _ = _make_prediction(6)
    unseen = dataclasses.replace(prediction, keypoint_score=torch.full((1, 6, 17), 0.05))
    left = fitter(unseen)
    torch.testing.assert_close(left.rotations, prediction.rotations, atol=1e-4, rtol=0)
    torch.testing.assert_close(left.center, prediction.center, atol=1e-4, rtol=0)
    fitted = fitter(prediction)
    again = fitter(fitted)
    assert (_compute_keypoints(again) - _compute_keypoints(fitted)).norm(dim=-1).mean() < 0.03
    blank = dataclasses.replace(prediction, keypoints=None, keypoint_score=None)
    assert fitter(blank) is blank
    behind = dataclasses.replace(prediction, center=-prediction.center)
    assert fitter(behind).rotations.isfinite().all()


def test_a_wrong_keypoint_has_little_effect_on_the_others(fitter: KeypointFitter) -> None:
    prediction, _ = _make_prediction(8)
    assert prediction.keypoints is not None
    wrong = prediction.keypoints.clone()
    wrong[:, :, 10] += 150.0  # px, the right wrist
    expected, found = (
        _compute_keypoints(fitter(dataclasses.replace(prediction, keypoints=kp)))
        for kp in (prediction.keypoints, wrong)
    )
    others = [row for row in range(KEYPOINTS) if row not in (8, 10)]
    assert (found - expected)[:, others].norm(dim=-1).mean() < 0.03


def test_derivatives_are_those_of_the_movement(fitter: KeypointFitter) -> None:
    """Central differences of the projected keypoints after small steps."""
    _, joints = _make_prediction(3)
    points = joints.index_select(1, fitter.point_bones).double()
    bodies = PosedBodies(points, torch.eye(3, dtype=torch.float64).expand(3, len(TURNS), 3, 3))
    rays = torch.zeros(3, KEYPOINTS, 2, dtype=torch.float64)
    _, jacobian = fitter.linearize(points, rays)
    for column in range(jacobian.shape[-1]):
        step = torch.zeros(3, jacobian.shape[-1], dtype=torch.float64)
        step[:, column] = 1e-5
        late, early = (fitter.linearize(fitter.move(bodies, sign * step).points, rays)[0] for sign in (1, -1))
        torch.testing.assert_close((late - early) / 2e-5, jacobian[..., column], atol=1e-6, rtol=1e-4)


def test_rotations_give_the_fitted_points(fitter: KeypointFitter) -> None:
    prediction, _ = _make_prediction(4)
    generator = torch.Generator().manual_seed(5)
    rotations, shape = prediction.rotations[0], prediction.shape[0]
    poses = body().pose_bones(shape, rotations)
    points = poses[..., :3, 3].index_select(1, fitter.point_bones)
    moved = PosedBodies(points, torch.eye(3).expand(4, len(TURNS), 3, 3))
    for _ in range(2):
        moved = fitter.move(moved, 0.3 * torch.randn(4, 3 * len(TURNS) + 3, generator=generator))
    turned = fitter.rotate_bones(rotations, poses[..., :3, :3], moved.orientation)
    heads = body().pose_bones(shape, turned)[..., :3, 3].index_select(1, fitter.point_bones)
    torch.testing.assert_close(heads - heads[:, :1], moved.points - moved.points[:, :1], atol=1e-5, rtol=0)


def test_small_systems_are_solved() -> None:
    root = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix, right = root @ root.transpose(1, 2) + torch.eye(6), torch.ones(5, 6, dtype=torch.float64)
    for solve in (solve_positive, eliminate):
        torch.testing.assert_close(solve(matrix, right), torch.linalg.solve(matrix, right))


def test_the_solver_of_gpus_gives_the_same_bodies(fitter: KeypointFitter, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, _ = _make_prediction(8)
    expected = _compute_keypoints(fitter(prediction))
    monkeypatch.setattr(keypoint_fitting, "solve_positive", eliminate)
    torch.testing.assert_close(_compute_keypoints(fitter(prediction)), expected, atol=1e-3, rtol=0)
