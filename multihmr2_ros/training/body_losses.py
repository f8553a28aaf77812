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

"""Losses of the matched people's bodies. Only these bodies are posed, which saves time and memory, as in the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from multihmr2_ros.body import AREA_OF_BOX, COCO_SIGMAS, Body
from multihmr2_ros.network.model import PHENOTYPES, MultiHMR2, back_project
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.loss_functions import MIN_DEPTH_M, find_pairs, masked_mean, project
from multihmr2_ros.training.matched_people import MatchedPeople, PosedPeople, TrueBodies, pose_people

# Distance outside the image, divided by its longer side. Farther true joints would only train extrapolation.
MAX_OUTSIDE = 0.5
PROJECTION_TERMS = frozenset({"reprojection", "keypoint_similarity", "angle"})
MESH_TERMS = frozenset({"vertices", "joints"}) | PROJECTION_TERMS
SIMILARITY_SOFTENING = 2.0  # factor of COCO's sigmas: keypoints with large errors still have a gradient
MIN_STATURE_M = 0.3


def compute_body_terms(
    network: MultiHMR2, people: MatchedPeople, true: TrueBodies | None, body: Body, weights: set[str]
) -> dict[str, Tensor]:
    """Return the unweighted terms named in weights: shape, pose, mesh, reprojection and tracking feature.

    true: needed for terms of the mesh and of projections; None leaves them out.
    """
    targets = people.targets
    shape, rotations = network.person(people.queries)
    shape = shape[:, :PHENOTYPES]
    terms = {}
    if "track_feature" in weights and targets.track_feature.shape[-1] and not network.config.body_colors:
        feature_error = (network.person.track_feature(people.queries) - targets.track_feature).abs().mean(-1)
        terms["track_feature"] = masked_mean(feature_error, targets.has_track_feature)
    if "relative_stature" in weights:
        stature, true_stature = body.compute_stature(shape), body.compute_stature(targets.shape)
        terms["relative_stature"] = relative_stature_loss(stature, true_stature, people.image, targets.has_body)
    rows = targets.has_body.nonzero()[:, 0]
    if "shape" in weights:
        terms["shape"] = masked_mean((shape[rows] - targets.shape[rows]).abs())
    columns = network.person.predict_rotation_6d(people.queries[rows])
    terms |= _compute_rotation_terms(rotations[rows], columns, targets.rotations[rows], body, weights)
    if true is not None and weights & MESH_TERMS:
        rows = (targets.has_body | targets.keypoint_visible.any(-1)).nonzero()[:, 0]
        found = pose_people(body, shape[rows], rotations[rows])
        terms |= _compute_mesh_terms(found, rows, people, true, weights)
        if weights & PROJECTION_TERMS:
            terms |= _compute_projection_terms(found, rows, people, true, body, weights)
    return terms


def _compute_rotation_terms(
    rotations: Tensor, columns: Tensor, true_rotations: Tensor, body: Body, weights: set[str]
) -> dict[str, Tensor]:
    """Return the terms of rotations, predicted and true (n, 163, 3, 3), and of predicted columns (n, 163, 3, 2)."""
    posed = (~body.unposed_bones).flatten().nonzero()[1:, 0]  # without the root
    error = (rotations - true_rotations).abs()
    column_error = (columns - true_rotations[..., :2]).square()
    terms = {}
    if "root" in weights:
        terms["root"] = masked_mean(error[:, 0])
    if "pose" in weights:
        terms["pose"] = masked_mean(error[:, posed])
    if "root_columns" in weights:
        terms["root_columns"] = masked_mean(column_error[:, 0])
    if "pose_columns" in weights:
        terms["pose_columns"] = masked_mean(column_error[:, posed])
    return terms


def _compute_mesh_terms(
    found: PosedPeople, rows: Tensor, people: MatchedPeople, true: TrueBodies, weights: set[str]
) -> dict[str, Tensor]:
    """Return the terms of vertices and joints from the pelvis; found: predicted bodies of the given rows of people."""
    with_body = people.targets.has_body[rows].nonzero()[:, 0]
    terms = {}
    if "vertices" in weights:
        terms["vertices"] = masked_mean((found.vertices[with_body] - true.posed.vertices).abs())
    if "joints" in weights:
        terms["joints"] = masked_mean((found.joints[with_body] - true.posed.joints).abs())
    return terms


def _compute_projection_terms(
    found: PosedPeople, rows: Tensor, people: MatchedPeople, true: TrueBodies, body: Body, weights: set[str]
) -> dict[str, Tensor]:
    """Return the terms of joints and keypoints in the image; found: predicted bodies of the given rows of people."""
    targets, terms = people.targets, {}
    pelvis = people.center[rows] - found.center_offset
    with_body = targets.has_body[rows].nonzero()[:, 0]
    joints = found.joints[with_body] + pelvis[with_body, None]
    groups = [_flatten_points(joints, *_project_true_joints(people, true), people.k[true.rows])]
    annotated = targets.keypoint_visible[rows].any(-1).nonzero()[:, 0]
    if len(annotated):
        points = regress_low_mesh_keypoints(body, found.vertices[annotated]) + pelvis[annotated, None]
        annotated_rows = rows[annotated]
        keypoints, visible = targets.keypoints[annotated_rows], targets.keypoint_visible[annotated_rows]
        k, box = people.k[annotated_rows], targets.box[annotated_rows]
        groups.append(_flatten_points(points, keypoints, visible, k))
        if "keypoint_similarity" in weights:
            terms["keypoint_similarity"] = keypoint_similarity_loss(points, keypoints, visible, k, box)
    points, pixels, usable, k = (torch.cat(parts) for parts in zip(*groups, strict=True))
    if "reprojection" in weights:
        terms["reprojection"] = reprojection_loss(points, pixels, usable, k) / people.side
    if "angle" in weights:
        terms["angle"] = angular_loss(points, pixels, usable, k, people.image_size)
    return terms


@torch.no_grad()
def _project_true_joints(people: MatchedPeople, true: TrueBodies) -> tuple[Tensor, Tensor]:
    """Return the pixels (n, 163, 2) of the true bodies' joints, and (n, 163) whether they supervise projections."""
    targets = people.targets
    pixels, ahead = project(true.posed.joints + true.pelvis[:, None], targets.k[true.rows, None])
    is_known = (targets.has_place & targets.has_k)[true.rows, None]
    return pixels, ahead & _is_near_image(pixels, people.image_size) & is_known


def _flatten_points(points: Tensor, pixels: Tensor, usable: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Flatten (n, J, …) points, pixels and masks, and repeat cameras (n, 3, 3), to n · J rows of one point each."""
    cameras = k[:, None].expand(-1, points.shape[1], -1, -1)
    return points.flatten(0, 1), pixels.flatten(0, 1), usable.flatten(0, 1), cameras.flatten(0, 1)


def keypoint_similarity_loss(points: Tensor, pixels: Tensor, visible: Tensor, k: Tensor, box: Tensor) -> Tensor:
    """Return the mean of 1 − COCO's object keypoint similarity, with softened sigmas.

    points   (n, 17, 3) m, camera frame, predicted
    pixels   (n, 17, 2) px, true
    visible  (n, 17) bool
    k        (n, 3, 3) px
    box      (n, 4) px, which determines the scale
    """
    projected, ahead = project(points, k[:, None])
    area = AREA_OF_BOX * (box[:, 2:] - box[:, :2]).clamp(min=1.0).prod(-1)
    sigma = SIMILARITY_SOFTENING * pixels.new_tensor(COCO_SIGMAS)
    exponent = (projected - pixels).square().sum(-1) / (2 * area[:, None] * (2 * sigma).square())
    return masked_mean(1 - torch.exp(-exponent), visible & ahead)


def relative_stature_loss(stature: Tensor, true_stature: Tensor, image: Tensor, known: Tensor) -> Tensor:
    """Return the L1 error of log(Hᵢ / Hⱼ) over all pairs of people of one image; statures (M,) m."""
    pairs = find_pairs(image, known)
    error = stature.log() - true_stature.clamp(min=MIN_STATURE_M).log()
    return masked_mean((error[:, None] - error).abs(), pairs)


def reprojection_loss(points: Tensor, pixels: Tensor, usable: Tensor, k: Tensor) -> Tensor:
    """Return the L1 error, px, of points (N, 3) m projected with k (N, 3, 3) from pixels (N, 2), if usable (N,).

    Points that are not in front of the camera have no projection and contribute to the angular loss only.
    """
    projected, ahead = project(points, k)
    return masked_mean((projected - pixels).abs().sum(-1), usable & ahead)


def angular_loss(points: Tensor, pixels: Tensor, usable: Tensor, k: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the mean angle between points (N, 3) m and the rays of pixels (N, 2), divided by the diagonal field of
    view (paper equation 2).

    Unlike a projection, it is defined everywhere except at the camera's center.
    """
    ones = torch.ones_like(pixels[:, 0])
    ray = back_project(pixels[:, None], ones[:, None], k)[:, 0]
    # atan2 keeps precision and gradient where the arc cosine loses both; 1e-12 keeps the gradient of the root finite.
    across = (torch.linalg.cross(points, ray).square().sum(-1) + 1e-12).sqrt()
    angle = torch.atan2(across, (points * ray).sum(-1))
    usable = usable & (points.detach().norm(dim=-1) > MIN_DEPTH_M)
    return masked_mean(angle / compute_diagonal_fov(k, image_size).detach(), usable)


def compute_diagonal_fov(k: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the angle (N,) rad between opposite corners of an image (height, width) px with k (N, 3, 3)."""
    height, width = image_size
    return 2 * torch.atan(0.5 * torch.hypot(width / k[:, 0, 0], height / k[:, 1, 1]))


def _is_near_image(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    size = pixels.new_tensor([image_size[1], image_size[0]])
    margin = MAX_OUTSIDE * max(image_size)
    return ((pixels > -margin) & (pixels < size + margin)).all(-1)


def compute_consistency_terms(
    network: MultiHMR2, people: MatchedPeople, reference: MultiHMR2, reference_people: MatchedPeople, body: Body
) -> dict[str, Tensor]:
    """Return the terms of stage b, for people matched by both models.

    Squared distance to a frozen model's rotations, and to its joints from the pelvis (m²).
    """
    same = (people.image[:, None] == reference_people.image) & (people.slot[:, None] == reference_people.slot)
    ours, theirs = same.nonzero(as_tuple=True)
    shape, rotations = network.person(people.queries[ours])
    found = pose_people(body, shape[:, :PHENOTYPES], rotations)
    with torch.no_grad():
        shape, frozen_rotations = reference.person(reference_people.queries[theirs])
        frozen = pose_people(body, shape[:, :PHENOTYPES], frozen_rotations)
    posed = (~body.unposed_bones).flatten().nonzero()[:, 0]
    return {
        "consistency_pose": masked_mean((rotations[:, posed] - frozen_rotations[:, posed]).square()),
        "consistency_joints": masked_mean((found.joints - frozen.joints).square().sum(-1)),
    }
