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

from dataclasses import dataclass

import torch
from torch import Tensor

from multihmr2_ros.body import COCO_SIGMAS, Body
from multihmr2_ros.network.heads import depth_from_nearness
from multihmr2_ros.network.model import PHENOTYPES, MultiHMR2, TrainingOutputs, back_project
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.matching import Matches
from multihmr2_ros.training.targets import Targets

# The angle of a point at the camera's center is undefined; the paper leaves out nearer points.
MIN_DEPTH_M = 0.1
# Distance outside the image, divided by its longer side. Farther true joints would only train extrapolation.
MAX_OUTSIDE = 0.5
MESH_TERMS = frozenset({"vertices", "joints", "reprojection", "keypoint_similarity", "angle"})
SIMILARITY_SOFTENING = 2.0  # factor of COCO's sigmas: keypoints with large errors still have a gradient
MIN_STATURE_M = 0.3
AREA_OF_BOX = 0.53  # a person's area divided by the area of the box


@dataclass(frozen=True)
class MatchedPeople:
    """M matched people, predicted and true; px of the padded input, m in the camera frame.

    image, slot         (M,) indices of the true person in `Targets`
    queries             (M, D)
    location            (M, 2) px, predicted
    log_nearness        (M,), predicted
    k                   (M, 3, 3) px, the intrinsics in use
    center              (M, 3) m, predicted center vertex
    image_size          (height, width) px
    true_*, box, has_*  rows of `Targets`
    """

    image: Tensor
    slot: Tensor
    queries: Tensor
    location: Tensor
    log_nearness: Tensor
    k: Tensor
    center: Tensor
    image_size: tuple[int, int]
    true_location: Tensor
    true_center: Tensor
    true_shape: Tensor
    true_rotations: Tensor
    true_k: Tensor
    true_feature: Tensor
    box: Tensor
    keypoints: Tensor
    keypoint_visible: Tensor
    has_place: Tensor
    has_relative_place: Tensor
    has_body: Tensor
    has_k: Tensor
    has_feature: Tensor

    @property
    def side(self) -> int:
        """The image's longer side, px."""
        return max(self.image_size)


@dataclass(frozen=True)
class PosedPeople:
    """n posed people; m from the pelvis, camera axes.

    vertices       (n, V, 3)
    joints         (n, 163, 3)
    center_offset  (n, 3), the body's center vertex
    """

    vertices: Tensor
    joints: Tensor
    center_offset: Tensor


@dataclass(frozen=True)
class TruePeople:
    """The true bodies of n matched people.

    rows    (n,) rows of `MatchedPeople` with known bodies
    person  the bodies
    places  (n, 3) m, pelvises in the camera frame; valid where has_place
    """

    rows: Tensor
    person: PosedPeople
    places: Tensor


def gather_matched_people(outputs: TrainingOutputs, targets: Targets, matches: Matches) -> MatchedPeople:
    """Gather predictions of the outputs' last layer and targets of the matched people."""
    layer, (image, query, slot) = outputs.layers[-1], (matches.image, matches.query, matches.person)
    location, log_nearness, k = layer.location[image, query], layer.log_nearness[image, query], outputs.k[image]
    depth = depth_from_nearness(log_nearness, k[:, 0, 0])
    return MatchedPeople(
        image=image,
        slot=slot,
        queries=outputs.queries[image, query],
        location=location,
        log_nearness=log_nearness,
        k=k,
        center=back_project(location[:, None], depth[:, None], k)[:, 0],
        image_size=outputs.image_size,
        true_location=targets.location[image, slot],
        true_center=targets.centre[image, slot],
        true_shape=targets.shape[image, slot],
        true_rotations=targets.rotations[image, slot],
        true_k=targets.k[image],
        true_feature=targets.track_feature[image, slot],
        box=targets.box[image, slot],
        keypoints=targets.keypoints[image, slot],
        keypoint_visible=targets.keypoint_visible[image, slot],
        has_place=targets.has_place[image, slot],
        has_relative_place=targets.has_relative_place[image, slot],
        has_body=targets.has_body[image, slot],
        has_k=targets.has_k[image],
        has_feature=targets.has_track_feature[image, slot],
    )


@torch.no_grad()
def pose_true_people(people: MatchedPeople, body: Body) -> TruePeople:
    """Pose the true bodies of the matched people."""
    rows = people.has_body.nonzero()[:, 0]
    person = pose_people(body, people.true_shape[rows], people.true_rotations[rows])
    return TruePeople(rows, person, people.true_center[rows] - person.center_offset)


def compute_body_terms(
    network: MultiHMR2, people: MatchedPeople, true: TruePeople | None, body: Body, weights: set[str]
) -> dict[str, Tensor]:
    """Return the unweighted terms named in weights: shape, pose, mesh, reprojection and tracking feature.

    true: needed for terms of the mesh and of projections; None leaves them out.
    """
    with_keypoints = people.keypoint_visible.any(-1)
    shape, rotations = network.person(people.queries)
    shape = shape[:, :PHENOTYPES]
    terms = {}
    if "track_feature" in weights and people.true_feature.shape[-1] and not network.config.body_colors:
        feature_error = (network.person.track_feature(people.queries) - people.true_feature).abs().mean(-1)
        terms["track_feature"] = masked_mean(feature_error, people.has_feature)
    rows = people.has_body.nonzero()[:, 0]
    found, wanted = rotations[rows], people.true_rotations[rows]
    if "relative_stature" in weights:
        terms["relative_stature"] = relative_stature_loss(
            body.compute_stature(shape), body.compute_stature(people.true_shape), people.image, people.has_body
        )
    if "shape" in weights:
        terms["shape"] = masked_mean((shape[rows] - people.true_shape[rows]).abs())
    posed = (~body.unposed_bones).flatten().nonzero()[1:, 0]
    error = (found - wanted).abs()
    if "root" in weights:
        terms["root"] = masked_mean(error[:, 0])
    if "pose" in weights:
        terms["pose"] = masked_mean(error[:, posed])
    column_error = (network.person.predict_rotation_6d(people.queries[rows]) - wanted[..., :2]).square()
    if "root_columns" in weights:
        terms["root_columns"] = masked_mean(column_error[:, 0])
    if "pose_columns" in weights:
        terms["pose_columns"] = masked_mean(column_error[:, posed])
    if true is not None and weights & MESH_TERMS:
        either = (people.has_body | with_keypoints).nonzero()[:, 0]
        terms |= _compute_mesh_terms(
            pose_people(body, shape[either], rotations[either]), either, people, true, body, weights
        )
    return terms


def _compute_mesh_terms(
    found: PosedPeople, rows: Tensor, people: MatchedPeople, true: TruePeople, body: Body, weights: set[str]
) -> dict[str, Tensor]:
    """Return the terms that need posed bodies; found: the predicted bodies of the given rows of people."""
    with_body = people.has_body[rows].nonzero()[:, 0]
    truth_rows = true.rows
    terms = {}
    if "vertices" in weights:
        terms["vertices"] = masked_mean((found.vertices[with_body] - true.person.vertices).abs())
    if "joints" in weights:
        terms["joints"] = masked_mean((found.joints[with_body] - true.person.joints).abs())
    if not weights & {"reprojection", "keypoint_similarity", "angle"}:
        return terms
    places = people.center[rows] - found.center_offset
    with torch.no_grad():
        true_joints = true.person.joints + true.places[:, None]
        pixels, ahead = project(true_joints, people.true_k[truth_rows, None])
        usable = ahead & _is_near_image(pixels, people.image_size)
        usable &= (people.has_place & people.has_k)[truth_rows, None]
    groups = [_flatten_points(found.joints[with_body] + places[with_body, None], pixels, usable, people.k[truth_rows])]
    annotated = people.keypoint_visible[rows].any(-1).nonzero()[:, 0]
    if len(annotated):
        annotated_rows = rows[annotated]
        points = regress_low_mesh_keypoints(body, found.vertices[annotated]) + places[annotated, None]
        keypoints, visible = people.keypoints[annotated_rows], people.keypoint_visible[annotated_rows]
        k, box = people.k[annotated_rows], people.box[annotated_rows]
        groups.append(_flatten_points(points, keypoints, visible, k))
        if "keypoint_similarity" in weights:
            terms["keypoint_similarity"] = keypoint_similarity_loss(points, keypoints, visible, k, box)
    points, pixels, usable, k = (torch.cat(parts) for parts in zip(*groups, strict=True))
    if "reprojection" in weights:
        terms["reprojection"] = reprojection_loss(points, pixels, usable, k) / people.side
    if "angle" in weights:
        terms["angle"] = angular_loss(points, pixels, usable, k, people.image_size)
    return terms


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


def find_pairs(image: Tensor, known: Tensor) -> Tensor:
    """Return (M, M) bool, above the diagonal: pairs of people of the same image (M,), both known (M,) bool."""
    return ((image[:, None] == image) & known[:, None] & known).triu(diagonal=1)


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


def project(points: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Project points (…, 3) m with k (…, 3, 3), upper triangular.

    Returns pixels (…, 2), and whether the points are more than 0.1 m in front of the camera (…) bool. Others are
    projected as if they were at that depth.
    """
    depth = points[..., 2].clamp(min=MIN_DEPTH_M)
    x, y = points[..., 0] / depth, points[..., 1] / depth
    u = k[..., 0, 0] * x + k[..., 0, 1] * y + k[..., 0, 2]
    v = k[..., 1, 1] * y + k[..., 1, 2]
    return torch.stack([u, v], dim=-1), points[..., 2] > MIN_DEPTH_M


def _is_near_image(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    size = pixels.new_tensor([image_size[1], image_size[0]])
    margin = MAX_OUTSIDE * max(image_size)
    return ((pixels > -margin) & (pixels < size + margin)).all(-1)


def pose_people(body: Body, shape: Tensor, rotations: Tensor) -> PosedPeople:
    """Pose bodies of shape (n, 6) and rotations (n, 163, 3, 3), with the pelvis as the origin."""
    posed = body(shape, rotations)
    pelvis = posed.joints[:, :1]
    vertices = posed.vertices - pelvis
    return PosedPeople(vertices, posed.joints - pelvis, vertices[:, body.center_vertex])


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


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of the values where the mask is true; 0, with a gradient of 0, if there are none."""
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
