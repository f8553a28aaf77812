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

"""Fits the predicted bodies to the encoder's keypoints, in a fixed number of operations per person.

A regressed pose is approximately right, but has errors of about a hand's width in the image. The encoder's keypoints
are accurate in the image, but have no depth. The fit is the maximum a posteriori of both:

    Σ_j ρ(w_j |π(x_j) − u_j|²) + Σ_b |θ_b|² / σ_b² + |t|² / σ_t²  →  min

where π(x_j) are the projected keypoints of the body, u_j those of the encoder, θ_b are rotations of a few bones
(`TURNS`) relative to the predicted pose, and t is a translation of the whole body. The weight w_j grows with the
keypoint's score; Cauchy's ρ limits the effect of keypoints at wrong places. A few Gauss-Newton steps are taken. If b is
an ancestor of the keypoint's bone, ∂x_j/∂θ_b = −[x_j − o_b]×, where o_b is the head of bone b; otherwise it is zero.

All shapes are fixed and no step synchronizes with a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from multihmr2_ros.body import Body, rotations_from_vectors
from multihmr2_ros.network.model import KEYPOINTS, PHENOTYPES, Prediction, back_project

# The rotated bones and the standard deviations of their rotations, rad; parents first, one level after the other.
TURNS = (
    ("root", 0.7),
    ("spine05", 0.2), ("upperleg01.L", 0.3), ("upperleg01.R", 0.3),
    ("upperarm01.L", 0.4), ("upperarm01.R", 0.4), ("lowerleg01.L", 0.4), ("lowerleg01.R", 0.4),
    ("lowerarm01.L", 0.6), ("lowerarm01.R", 0.6),
)  # fmt: skip
LEVELS = (slice(0, 1), slice(1, 4), slice(4, 8), slice(8, 10))
STEPS = 3
# Standard deviations of the body's keypoints across the ray, m. The heads of the bodies do not turn, so that nose, eyes
# and ears say little about the torso.
SIGMA_M, FACE_SIGMA_M = 0.04, 0.07
FACE = 5  # number of keypoints of the face, the first ones in COCO's order
OUTLIER_SIGMAS = 3.0  # scale of Cauchy's loss
TRANSLATION_SIGMA = 0.1  # of each coordinate, relative to the depth of the center
CONFIDENCE_SCORES = (0.12, 0.35)  # keypoint scores that have weight 0 and weight 1
MIN_DEPTH_M = 0.15


class PosedBodies(NamedTuple):
    """n bodies during the fit, camera frame.

    points       (n, 17 + 10, 3) m, the keypoints, then the heads of the rotated bones
    orientation  (n, 10, 3, 3) of the rotated bones, relative to the predicted one
    """

    points: Tensor
    orientation: Tensor


class KeypointFitter(nn.Module):
    """Fits bodies to keypoints; `body` with any mesh."""

    bones: Tensor
    point_bones: Tensor
    segment: Tensor
    is_moved: Tensor
    precision: Tensor
    sigma_m: Tensor

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        bones = [body.bone_labels.index(label) for label, _ in TURNS]
        points = [*body.keypoint_rows, *bones]
        ancestors = [_list_ancestors(body.bone_parents, bone) for bone in points]
        turns = [[turn for turn, bone in enumerate(bones) if bone in above] for above in ancestors]
        segment = [max(rows, default=0) for rows in turns]  # the last rotated bone above; of the root, itself
        buffers = {
            "bones": torch.tensor(bones),
            "point_bones": torch.tensor(points),
            "segment": torch.tensor(segment),
            "is_moved": torch.tensor(
                [[float(turn in rows) for turn in range(len(TURNS))] for rows in turns[:KEYPOINTS]]
            ),
            "sigma_m": torch.tensor([FACE_SIGMA_M] * FACE + [SIGMA_M] * (KEYPOINTS - FACE)),
            "precision": torch.tensor([sigma**-2 for _, sigma in TURNS]).repeat_interleave(3),
        }
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, prediction: Prediction) -> Prediction:
        """Fit rotations and centers; without keypoints, change nothing."""
        if prediction.keypoints is None or prediction.keypoint_score is None:
            return prediction
        batch, people = prediction.score.shape
        rotations, center = prediction.rotations.flatten(0, 1), prediction.center.flatten(0, 1)
        poses = self.body.pose_bones(prediction.shape[..., :PHENOTYPES].flatten(0, 1), rotations)
        heads = poses[..., :3, 3].index_select(1, self.point_bones)
        heads = heads - heads[:, :1] + center[:, None]  # the nose is next to the center vertex
        k = prediction.k[:, None].expand(-1, people, -1, -1).flatten(0, 1)
        confidence = _compute_confidence(prediction.keypoint_score.flatten(0, 1))
        rays = back_project(prediction.keypoints.flatten(0, 1), torch.ones_like(confidence), k)
        fitted = self._minimize(heads, center[:, 2].clamp(min=MIN_DEPTH_M), rays[..., :2], confidence)
        rotations = self.rotate_bones(rotations, poses[..., :3, :3], fitted.orientation)
        center = fitted.points[:, 0]
        return dataclasses.replace(
            prediction, rotations=rotations.unflatten(0, (batch, people)), center=center.unflatten(0, (batch, people))
        )

    def _minimize(self, points: Tensor, depth: Tensor, rays: Tensor, confidence: Tensor) -> PosedBodies:
        """Return the bodies after Gauss-Newton steps.

        points      (n, 17 + 10, 3) m, camera frame, as in `PosedBodies`
        depth       (n,) m, of the centers
        rays        (n, 17, 2) x / z and y / z of the encoder's keypoints
        confidence  (n, 17) in [0, 1]
        """
        bodies = PosedBodies(points, self.body.identity.expand(len(points), len(TURNS), 3, 3))
        inverse_variance = (confidence * depth[:, None] / self.sigma_m).square()  # 1 / variance of x / z
        translation = (TRANSLATION_SIGMA * depth[:, None]).reciprocal().square().expand(-1, 3)
        prior = torch.cat([self.precision.expand(len(points), -1), translation], dim=1)
        total_step = torch.zeros_like(prior)
        for _ in range(STEPS):
            error, jacobian = self.linearize(bodies.points, rays)
            weight = inverse_variance / (1 + inverse_variance * error.square().sum(-1) / OUTLIER_SIGMAS**2)
            weighted = (weight[..., None, None] * jacobian).flatten(1, 2).transpose(1, 2)
            normal = weighted @ jacobian.flatten(1, 2) + torch.diag_embed(prior)
            gradient = (weighted @ error.flatten(1)[..., None])[..., 0] + prior * total_step
            step = solve_positive(normal, -gradient)
            total_step, bodies = total_step + step, self.move(bodies, step)
        return bodies

    def linearize(self, points: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors (n, 17, 2) of x / z and y / z, and their derivatives (n, 17, 2, 33).

        Derivatives by the rotation vectors of the bones (3 · 10, camera frame), then by the translation.
        """
        keypoints, pivots = points[:, :KEYPOINTS], points[:, KEYPOINTS:]
        inverse = keypoints[..., 2:].clamp(min=MIN_DEPTH_M).reciprocal()
        projected = keypoints[..., :2] * inverse
        zero, one = torch.zeros_like(inverse), torch.ones_like(inverse)
        rows = [torch.cat([one, zero, -projected[..., :1]], -1), torch.cat([zero, one, -projected[..., 1:]], -1)]
        by_translation = inverse[..., None] * torch.stack(rows, dim=-2)  # (n, 17, 2, 3)
        lever_arms = (keypoints[:, :, None] - pivots[:, None]) * self.is_moved[..., None]  # (n, 17, 10, 3)
        by_rotation = torch.linalg.cross(lever_arms[:, :, None], by_translation[:, :, :, None])  # (n, 17, 2, 10, 3)
        return projected - rays, torch.cat([by_rotation.flatten(3), by_translation], dim=-1)

    def move(self, bodies: PosedBodies, step: Tensor) -> PosedBodies:
        """Rotate bones about their heads and translate, by a step (n, 33) as in `linearize`."""
        turns = rotations_from_vectors(step[:, :-3].unflatten(1, (len(TURNS), 3)))
        pivots = bodies.points[:, KEYPOINTS:, :, None]
        # Segment b moves as x ↦ R_b x + t_b: first about its own pivot, then as its parent's segment.
        rotation, shift = turns[:, :1], step[:, None, -3:, None] + pivots[:, :1] - turns[:, :1] @ pivots[:, :1]
        for level in LEVELS[1:]:
            parent = self.segment[KEYPOINTS:][level]
            before, parent_shift = rotation.index_select(1, parent), shift.index_select(1, parent)
            after = before @ turns[:, level]
            rotation = torch.cat([rotation, after], dim=1)
            shift = torch.cat([shift, parent_shift + (before - after) @ pivots[:, level]], dim=1)
        point_rotation, point_shift = rotation.index_select(1, self.segment), shift.index_select(1, self.segment)
        points = (point_rotation @ bodies.points[..., None] + point_shift)[..., 0]
        return PosedBodies(points, rotation @ bodies.orientation)

    def rotate_bones(self, rotations: Tensor, orientation: Tensor, turned: Tensor) -> Tensor:
        """Return rotations (n, 163, 3, 3) relative to the parent bones, after the fit.

        orientation (n, 163, 3, 3) of the bones before the fit; turned (n, 10, 3, 3) as in `PosedBodies.orientation`.
        """
        parent_turned = turned.index_select(1, self.segment[KEYPOINTS + 1 :])
        own, local = (values.index_select(1, self.bones[1:]) for values in (orientation, rotations))
        inner = local @ own.transpose(-1, -2) @ parent_turned.transpose(-1, -2) @ turned[:, 1:] @ own
        root = turned[:, :1] @ rotations[:, :1]
        return rotations.index_copy(1, self.bones, torch.cat([root, inner], dim=1))


def _list_ancestors(parents: Sequence[int], bone: int) -> set[int]:
    """Return all bones above a bone."""
    found: set[int] = set()
    while (bone := parents[bone]) >= 0:
        found.add(bone)
    return found


def _compute_confidence(score: Tensor) -> Tensor:
    """Return the weights of keypoints, 0 to 1, from their scores."""
    low, high = CONFIDENCE_SCORES
    return ((score - low) / (high - low)).clamp(0.0, 1.0)


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve A x = b for positive definite A (n, m, m) and b (n, m).

    On a GPU, by elimination without pivoting, because PyTorch's solver synchronizes; for small m only.
    """
    if matrix.device.type == "cpu":
        solution: Tensor = torch.linalg.solve_ex(matrix, right[..., None])[0]
        return solution[..., 0]
    return eliminate(matrix, right)


def eliminate(matrix: Tensor, right: Tensor) -> Tensor:
    size = matrix.shape[-1]
    rows = torch.cat([matrix, right[..., None]], dim=-1)
    for pivot in range(size):
        row = rows[:, pivot] / rows[:, pivot, pivot : pivot + 1]
        rows = rows - rows[:, :, pivot : pivot + 1] * row[:, None]
        rows[:, pivot] = row
    return rows[..., size]
