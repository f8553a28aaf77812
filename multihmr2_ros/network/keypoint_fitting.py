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
are accurate in the image, but have no depth. Therefore:

1. The rigid body (root rotation ω and center c) takes two Gauss-Newton steps on the keypoints of head and torso, with
   the network's root rotation and position as prior.
2. From the torso outward, the end of each bone of length ℓ moves to an intersection of its keypoint's ray with the
   sphere of radius ℓ around the bone's start. Of two intersections, the one nearer to the predicted end is used; if
   there is none, the sphere's point nearest to the ray. The bone rotates by the smallest angle.
3. Keypoints of low score have no effect.

All shapes are fixed and no step synchronizes with a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from multihmr2_ros.body import Body, rotations_from_vectors
from multihmr2_ros.network.model import PHENOTYPES, Prediction, back_project

# COCO's keypoints of head and torso.
RIGID = (0, 1, 2, 3, 4, 5, 6, 11, 12)
# Keypoints at the start and at the end of the rotated bones, from the torso outward; both arms and both legs at once.
# The heads of the rotated bones (`Body.keypoint_bones`) are the starts.
LIMBS = (((5, 6, 11, 12), (7, 8, 13, 14)), ((7, 8, 13, 14), (9, 10, 15, 16)))
STEPS = 2
KEYPOINT_SIGMA_M = 0.08  # of a keypoint on the rigid body, across the ray
ROOT_SIGMA_RAD = 0.25
DEPTH_SIGMA_RATIO = 0.1
PLACE_SIGMA_RATIO = 0.03
SEEN_SCORE = (0.12, 0.35)  # keypoint scores that have weight 0 and weight 1
MIN_DEPTH_M = 0.15
MAX_TURN_RAD = 2.0


def fit_to_keypoints(body: Body, prediction: Prediction) -> Prediction:
    """Fit root rotations, limb rotations and centers to the keypoints; without keypoints, change nothing."""
    if prediction.keypoints is None or prediction.keypoint_score is None:
        return prediction
    batch, people = prediction.score.shape
    rotations = prediction.rotations.flatten(0, 1)
    bones = body.pose_bones(prediction.shape[..., :PHENOTYPES].flatten(0, 1), rotations)
    points = bones[..., :3, 3].index_select(1, body.keypoint_bones)
    center = prediction.center.flatten(0, 1)
    points = points - points[:, :1]  # relative to the nose, which is next to the center vertex
    k = prediction.k[:, None].expand(-1, people, -1, -1).flatten(0, 1)
    seen = _compute_confidence(prediction.keypoint_score.flatten(0, 1))
    rays = back_project(prediction.keypoints.flatten(0, 1), torch.ones_like(seen), k)[..., :2]  # x / z and y / z
    turn, center = _fit_rigid(points, center, rays, seen)
    points = points @ turn.transpose(1, 2) + center[:, None]
    rotations = rotations.clone()
    rotations[:, 0] = turn @ rotations[:, 0]
    _rotate_limbs(body, rotations, turn[:, None] @ bones[..., :3, :3], points, rays, seen)
    return dataclasses.replace(
        prediction, rotations=rotations.unflatten(0, (batch, people)), center=center.unflatten(0, (batch, people))
    )


def _compute_confidence(score: Tensor) -> Tensor:
    """Return the weights of keypoints, 0 to 1, from their scores."""
    low, high = SEEN_SCORE
    return ((score - low) / (high - low)).clamp(0.0, 1.0)


def _fit_rigid(points: Tensor, center: Tensor, rays: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return a rotation (n, 3, 3) about the center, and the center (n, 3) m, by Gauss-Newton steps.

    points (n, 17, 3) m, relative to the center; rays (n, 17, 2) x / z and y / z; seen (n, 17) weights.
    """
    points, rays, seen = (_take_rows(value, RIGID) for value in (points, rays, seen))
    start = center
    depth = start[:, 2].clamp(min=MIN_DEPTH_M)
    weight = (seen * depth[:, None] / KEYPOINT_SIGMA_M).square()  # of a residual of x / z
    across = (PLACE_SIGMA_RATIO * depth).reciprocal().square()
    prior = torch.stack([*[torch.full_like(depth, ROOT_SIGMA_RAD**-2)] * 3, across, across, across], dim=-1)
    prior[:, 5] = (DEPTH_SIGMA_RATIO * depth).reciprocal().square()
    turn = torch.eye(3, device=center.device, dtype=center.dtype).expand(len(center), 3, 3)
    spun = torch.zeros_like(center)  # the rotation so far, as the sum of its small steps
    for _ in range(STEPS):
        turned = points @ turn.transpose(1, 2)
        placed = turned + center[:, None]
        inverse = placed[..., 2:].clamp(min=MIN_DEPTH_M).reciprocal()
        error = placed[..., :2] * inverse - rays  # (n, K, 2)
        zero, one = torch.zeros_like(inverse), torch.ones_like(inverse)
        along = -placed[..., :2] * inverse
        by_place = inverse[..., None] * torch.stack(
            [torch.cat([one, zero, along[..., :1]], -1), torch.cat([zero, one, along[..., 1:]], -1)], dim=-2
        )  # (n, K, 2, 3)
        by_turn = torch.linalg.cross(turned[:, :, None].expand_as(by_place), by_place)
        jacobian = torch.cat([by_turn, by_place], dim=-1).flatten(1, 2)  # (n, 2K, 6)
        weights = weight[..., None].expand(-1, -1, 2).flatten(1)[..., None]
        normal = jacobian.transpose(1, 2) @ (weights * jacobian) + torch.diag_embed(prior)
        gone = torch.cat([spun, center - start], dim=-1)
        right = -(jacobian.transpose(1, 2) @ (weights * error.flatten(1)[..., None]))[..., 0] - prior * gone
        step = solve_positive(normal, right)
        turn = rotations_from_vectors(step[:, :3]) @ turn
        spun, center = spun + step[:, :3], center + step[:, 3:]
        center = torch.cat([center[:, :2], center[:, 2:].clamp(min=MIN_DEPTH_M)], dim=-1)
    return turn, center


def _rotate_limbs(
    body: Body, rotations: Tensor, orientation: Tensor, points: Tensor, rays: Tensor, seen: Tensor
) -> None:
    """Rotate the limbs toward their keypoints, in place.

    rotations    (n, 163, 3, 3) of the bones relative to their parents
    orientation  (n, 163, 3, 3) of the bones in the camera frame
    points       (n, 17, 3) m, keypoints of the bodies, camera frame
    rays         (n, 17, 2) x / z and y / z of the encoder's keypoints
    seen         (n, 17) weights
    """
    place = _take_rows(points, LIMBS[0][0])
    before: Tensor | None = None  # rotation of the bones nearer to the torso
    for starts, ends in LIMBS:
        bones = [body.keypoint_rows[start] for start in starts]
        vector = _take_rows(points, ends) - _take_rows(points, starts)  # (n, 4, 3)
        own = _take_rows(orientation, bones)
        if before is not None:
            vector, own = (before @ vector[..., None])[..., 0], before @ own
        share = (_take_rows(seen, starts) * _take_rows(seen, ends)).clamp(max=1.0)
        turn = _compute_shortest_rotation(vector, _intersect_sphere(place, vector, _take_rows(rays, ends)), share)
        place = place + (turn @ vector[..., None])[..., 0]
        turned = _take_rows(rotations, bones) @ own.transpose(2, 3) @ turn @ own
        for row, bone in enumerate(bones):
            rotations[:, bone] = turned[:, row]
        before = turn if before is None else turn @ before


def _take_rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Select rows of values (n, m, …) → (n, rows, …). (Indexing with a list would synchronize with the GPU.)"""
    return torch.stack([values[:, row] for row in rows], dim=1)


def _intersect_sphere(start: Tensor, vector: Tensor, ray: Tensor) -> Tensor:
    """Return vectors (…, 3) from the start (…, 3) to the ray (…, 2), with the length of `vector` (…, 3).

    The vectors end at the intersection of ray and sphere that is nearer to the end of `vector`; if there is none, at
    the sphere's point nearest to the ray.
    """
    direction = functional.normalize(torch.cat([ray, torch.ones_like(ray[..., :1])], dim=-1), dim=-1)
    length = vector.norm(dim=-1, keepdim=True)
    nearest = (direction * start).sum(-1, keepdim=True)  # along the ray
    apart = (start.square().sum(-1, keepdim=True) - nearest.square()).clamp(min=0.0)
    half = (length.square() - apart).clamp(min=0.0).sqrt()
    said = ((start + vector) * direction).sum(-1, keepdim=True)
    along = nearest + torch.where(said > nearest, half, -half)
    return functional.normalize(along * direction - start, dim=-1) * length


def _compute_shortest_rotation(vector: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """Return rotations (…, 3, 3) from vector toward target, by a share (…,) of the angle, at most MAX_TURN_RAD."""
    axis = torch.linalg.cross(vector, target)
    sine, cosine = axis.norm(dim=-1), (vector * target).sum(-1)
    angle = torch.atan2(sine, cosine).clamp(max=MAX_TURN_RAD) * share
    return rotations_from_vectors(functional.normalize(axis, dim=-1) * angle[..., None])


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve A x = b for positive definite A (n, m, m) and b (n, m), by elimination without pivoting, for small m only.

    (PyTorch's solver synchronizes with the GPU.)
    """
    size = matrix.shape[-1]
    rows = torch.cat([matrix, right[..., None]], dim=-1)
    for pivot in range(size):
        row = rows[:, pivot] / rows[:, pivot, pivot : pivot + 1]
        rows = rows - rows[:, :, pivot : pivot + 1] * row[:, None]
        rows[:, pivot] = row
    return rows[..., size]
