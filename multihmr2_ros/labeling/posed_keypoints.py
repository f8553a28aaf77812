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

"""Computes COCO keypoints from shape and segment orientations, exactly and without a mesh.

A keypoint is a weighted mean of vertices, and a vertex is moved by a weighted mean of bone transforms. So a keypoint is
a sum over bones of rotated offsets that depend on the shape alone: k = Σ_g R_g a_kg + w_kg p_g, with R_g and p_g the
rotation and head of bone g. Only 16 of Anny's bones rotate independently here (as in the simulator,
`simulation.motion.skeleton.compute_bone_rotations`); all others move with their nearest independent ancestor.

Frames: the level frame of a camera has x away from it, y to its left, z up; poses are those of `simulation.pose`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import COCO_KEYPOINTS, Body, rotations_from_vectors
from multihmr2_ros.simulation.motion.pose import SIDES
from multihmr2_ros.simulation.motion.skeleton import HEADING_FROM_REST, SHOULDER_FREE_RAD, SHOULDER_SHARE, SPINE

# Level frame → the camera's optical frame (x right, y down, z away).
CAMERA_FROM_LEVEL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])

LIMB_BONES = tuple(
    f"{bone}.{side[0].upper()}"
    for side in SIDES
    for bone in ("clavicle", "upperarm01", "lowerarm01", "upperleg01", "lowerleg01")
)
TURNING_BONES = ("root", *SPINE, *LIMB_BONES)
END_BONES = ("wrist.L", "foot.L", "wrist.R", "foot.R")

# Phenotypes that keypoints depend on noticeably; the others stay at 0.5.
FITTED_PHENOTYPES = ("gender", "age", "height", "proportions")


class HingedPose(NamedTuple):
    """Poses of n bodies, with hinges for elbows and knees.

    pelvis      (n, 3, 3), in the level frame
    chest       (n, 3) rotation vector, relative to the pelvis
    upper_arms  (n, 2, 3, 3) left and right, relative to the chest
    thighs      (n, 2, 3, 3) left and right, relative to the pelvis
    elbows      (n, 2) rad, 0 straight, positive bent
    knees       (n, 2) rad, 0 straight, positive bent
    """

    pelvis: Tensor
    chest: Tensor
    upper_arms: Tensor
    thighs: Tensor
    elbows: Tensor
    knees: Tensor


@dataclass(frozen=True)
class PosedKeypoints:
    """Keypoints (n, 17, 3) and center (n, 3), the body's center vertex: m, camera axes, from the root bone's head."""

    keypoints: Tensor
    center: Tensor


class KeypointModel:
    """Model of Anny's COCO keypoints and center vertex for shapes and poses."""

    def __init__(self, body: Body) -> None:
        """Prepare the model. body: the full mesh, on which Anny's keypoint regressor is defined."""
        labels = list(body.bone_labels)
        self._row = {label: index for index, label in enumerate((*TURNING_BONES, *END_BONES))}
        self._parents = [_find_turning_ancestor(labels, body.bone_parents, label) for label in TURNING_BONES]
        self._columns = [body.phenotype_labels.index(name) for name in FITTED_PHENOTYPES]
        self._anchors = [body.anny.anchors[name].double() for name in FITTED_PHENOTYPES]
        heads, offsets, weights = _make_tables(body, self._list_corners(body))
        self._heads, self._offsets, self._weights = heads, offsets, weights
        # The position of a bone's head is the sum of the offsets from the root to it.
        chains = torch.eye(len(TURNING_BONES))
        for row, parent in enumerate(self._parents[1:], start=1):
            chains[row] += chains[parent]
        self._step_weights = weights @ chains
        shares = torch.arange(1, len(SPINE) + 1) / len(SPINE)
        self._spine_shares, self._signs = shares[:, None], torch.tensor(list(SIDES.values()))
        names = ("upperarm01", "lowerarm01", "wrist", "upperleg01", "foot")
        self._side_rows = torch.tensor([[self._row[f"{name}.{side[0].upper()}"] for name in names] for side in SIDES])
        # A straight hanging arm with an elbow bending forward, as in simulation.motion.skeleton.
        self._hanging = torch.tensor([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
        self._level_from_rest = torch.from_numpy(HEADING_FROM_REST).float()
        self._camera_from_level = torch.from_numpy(CAMERA_FROM_LEVEL).float()

    def _list_corners(self, body: Body) -> Tensor:
        """Return (C, 6): all combinations of anchors; shapes are interpolated linearly between them, as in Anny."""
        grid = torch.tensor(list(itertools.product(*(anchors.tolist() for anchors in self._anchors))))
        corners = torch.full((len(grid), len(body.phenotype_labels)), 0.5)
        corners[:, self._columns] = grid.float()
        return corners

    def expand_shape(self, phenotypes: Tensor) -> Tensor:
        """Return Anny's shape (n, 6) for the fitted phenotypes (n, 4)."""
        shape = phenotypes.new_full((len(phenotypes), 6), 0.5)
        shape[:, self._columns] = phenotypes
        return shape

    def __call__(self, phenotypes: Tensor, pose: HingedPose) -> PosedKeypoints:
        """Compute the keypoints of n bodies; phenotypes (n, 4): FITTED_PHENOTYPES."""
        corners = self._compute_corner_weights(phenotypes)
        heads = (corners @ self._heads).unflatten(1, (-1, 3))
        offsets = (corners @ self._offsets).view(-1, *self._weights.shape, 3)
        turns = self._compute_turns(pose, heads)
        steps = heads[:, : len(TURNING_BONES)] - heads[:, self._parents]
        steps = (turns[:, self._parents] @ steps[..., None])[..., 0]
        points = torch.einsum("ngij,nkgj->nki", turns, offsets) + self._step_weights @ steps
        points = points @ self._camera_from_level.T
        return PosedKeypoints(points[:, :-1], points[:, -1])

    @torch.no_grad()
    def compute_rotations(self, body: Body, phenotypes: Tensor, pose: HingedPose) -> Tensor:
        """Return `People.rotations` (n, 163, 3, 3): relative to the parent bone, row 0 (root) in the camera frame."""
        rest = body.compute_rest_bone_poses(self.expand_shape(phenotypes))
        turns = self._compute_turns(
            pose, (self._compute_corner_weights(phenotypes) @ self._heads).unflatten(1, (-1, 3))
        )
        rotations = torch.eye(3).repeat(len(phenotypes), len(body.bone_labels), 1, 1)
        for row, label in enumerate(TURNING_BONES):
            index = body.bone_labels.index(label)
            axes = rest[:, index, :3, :3]
            if row == 0:
                rotations[:, index] = self._camera_from_level @ turns[:, row] @ axes
            else:
                rotations[:, index] = axes.mT @ turns[:, self._parents[row]].mT @ turns[:, row] @ axes
        return rotations

    def _compute_corner_weights(self, phenotypes: Tensor) -> Tensor:
        """Return the weights (n, C) of the corners: products of hat functions."""
        weights = phenotypes.new_ones(len(phenotypes), 1)
        for value, anchors in zip(phenotypes.unbind(1), self._anchors, strict=True):
            spacing = float(anchors[1] - anchors[0])
            anchors = anchors.to(value)
            value = value.clamp(float(anchors[0]), float(anchors[-1]))
            hats = torch.relu(1.0 - (value[:, None] - anchors).abs() / spacing)
            weights = (weights[:, :, None] * hats[:, None]).flatten(1)
        return weights

    def _compute_turns(self, pose: HingedPose, heads: Tensor) -> Tensor:
        """Return (n, 16, 3, 3): the independent bones' rotations from the rest pose to the level frame.

        Same computation as in `simulation.motion.skeleton`, for n bodies and both sides at once.
        """
        rest = self._level_from_rest
        pelvis = pose.pelvis[:, None]
        bends = torch.cat([pose.chest[:, None] * self._spine_shares, torch.zeros_like(pose.chest[:, None])], dim=1)
        spine = pelvis @ rotations_from_vectors(bends)  # the pelvis itself comes last
        chest = spine[:, -2:-1]
        upper, thigh = chest @ pose.upper_arms, pelvis @ pose.thighs
        lower, shin = upper @ rotate_about_y(-pose.elbows), thigh @ rotate_about_y(pose.knees)
        shoulder, elbow, wrist, hip, ankle = heads[:, self._side_rows].unbind(2)
        hinge = torch.linalg.cross(elbow - shoulder, wrist - elbow)
        along = torch.stack([elbow - shoulder, wrist - elbow], dim=2)
        hanging = self._hanging @ _make_axes(along, hinge[:, :, None].expand_as(along)).mT
        down = (ankle - hip) @ rest.T
        upright = _rotate_about_x(-torch.atan2(down[..., 1], -down[..., 2])) @ rest
        collar = chest @ _rotate_collar_bones(pose.upper_arms, self._signs) @ rest
        arms = torch.stack([upper, lower], dim=2) @ hanging
        legs = torch.stack([thigh, shin], dim=2) @ upright[:, :, None]
        limbs = torch.cat([collar[:, :, None], arms, legs], dim=2)  # in the order of LIMB_BONES
        return torch.cat([(spine @ rest).roll(1, dims=1), limbs.flatten(1, 2)], dim=1)


def rotate_about_y(angle: Tensor) -> Tensor:
    """Return rotations (…, 3, 3) about y by angles (…) rad."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([cosine, zero, sine, zero, one, zero, -sine, zero, cosine], dim=-1).unflatten(-1, (3, 3))


def _rotate_about_x(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=-1).unflatten(-1, (3, 3))


def _make_axes(along: Tensor, hinge: Tensor) -> Tensor:
    """Return (…, 3, 3) whose columns are along, hinge and the third axis of a right-handed frame."""
    first = torch.nn.functional.normalize(along, dim=-1)
    second = torch.nn.functional.normalize(hinge, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def _rotate_collar_bones(upper_arms: Tensor, signs: Tensor) -> Tensor:
    """Return (n, 2, 3, 3): the collar bones' rotations relative to the chest, for upper arms (n, 2, 3, 3)."""
    direction = -upper_arms[..., 2]
    # [0, 0, −1] × direction; undefined for a vertical arm, where the axis hardly matters.
    x, y, z = direction.unbind(-1)
    axis = torch.stack([y + 1e-6 * signs, -x, torch.zeros_like(x)], dim=-1)
    length = (axis.square().sum(-1) + 1e-12).sqrt()
    raised = torch.relu(torch.atan2(length, -z) - SHOULDER_FREE_RAD)
    return rotations_from_vectors(axis * (SHOULDER_SHARE * raised / length)[..., None])


def _find_turning_ancestor(labels: list[str], parents: tuple[int, ...], label: str) -> int:
    """Return the row in TURNING_BONES of the nearest ancestor in it; 0 for the root itself."""
    index = parents[labels.index(label)]
    while index >= 0 and labels[index] not in TURNING_BONES:
        index = parents[index]
    return TURNING_BONES.index(labels[index]) if index >= 0 else 0


@torch.no_grad()
def _make_tables(body: Body, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each corner bone heads (C, 20 · 3) and keypoint offsets (C, 18 · 16 · 3); bone weights (18, 16)."""
    model, labels = body.anny, list(body.bone_labels)
    mixture = body.compute_blendshape_weights(corners)
    regressor = torch.from_numpy(_read_keypoint_weights(body))
    owner = torch.tensor(
        [
            TURNING_BONES.index(label)
            if label in TURNING_BONES
            else _find_turning_ancestor(labels, body.bone_parents, label)
            for label in labels
        ]
    )
    skin = torch.zeros(body.vertex_count, len(TURNING_BONES))
    skin.index_add_(1, owner, model.dense_vertex_bone_weights)
    rows = [labels.index(label) for label in (*TURNING_BONES, *END_BONES)]
    heads = model.template_bone_heads[rows] + torch.einsum(
        "cb,bgi->cgi", mixture, model.bone_heads_blendshapes[:, rows]
    )
    offsets, weights = [], []
    for weight in regressor:
        used = weight.nonzero()[:, 0]
        share = weight[used, None] * skin[used]
        shapes = torch.einsum("vg,bvi->bgi", share, model.blendshapes[:, used])
        middle = torch.einsum("vg,vi->gi", share, model.template_vertices[used])
        total = share.sum(0)
        offset = middle + torch.einsum("cb,bgi->cgi", mixture, shapes)
        offsets.append(offset - total[:, None] * heads[:, : len(TURNING_BONES)])
        weights.append(total)
    return heads.flatten(1), torch.stack(offsets, dim=1).flatten(1), torch.stack(weights)


def _read_keypoint_weights(body: Body) -> NDArray[np.float32]:
    """Return vertex weights (18, V) of COCO's 17 keypoints and the center vertex."""
    weights = body.get_coco_keypoint_weights()
    assert len(weights) == len(COCO_KEYPOINTS)
    center = np.zeros((1, body.vertex_count), np.float32)
    center[0, body.center_vertex] = 1.0
    return np.concatenate([weights, center])
