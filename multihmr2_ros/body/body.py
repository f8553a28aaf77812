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

"""The body of a person: phenotype and bone rotations → vertices, joints, keypoints and stature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multihmr2_ros.body.anny_model import Mesh, load_anny

# Index of the body's center vertex, which the network locates (spec, "the located point").
CENTER_VERTEX = {"full": 5054, "low": 9}

# Bones whose predicted rotation is replaced by identity: those whose label contains one of these words.
UNPOSED_BONE_WORDS = (
    "jaw", "oris", "levator", "orbicularis", "temporalis", "oculi", "risorius", "special", "toe", "eye", "tongue",
    "neck", "head", "foot", "breast",
)  # fmt: skip

# The 17 keypoints of COCO, in COCO's order; Anny's regressor has more.
COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
# Bones whose heads are within 3 cm (ears: 5 cm) of COCO's keypoints, in COCO's order.
KEYPOINT_BONES = (
    "levator02.L", "eye.L", "eye.R", "temporalis02.L", "temporalis02.R", "upperarm01.L", "upperarm01.R", "lowerarm01.L",
    "lowerarm01.R", "wrist.L", "wrist.R", "upperleg01.L", "upperleg01.R", "lowerleg01.L", "lowerleg01.R", "foot.L",
    "foot.R",
)  # fmt: skip
# Standard deviations of COCO's annotators, as a share of a person's scale (cocodataset.org, "Keypoint Evaluation").
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
AREA_OF_BOX = 0.53  # a person's segmented area in COCO, divided by the area of the box; for people without an area


@dataclass(frozen=True)
class PosedBody:
    """n posed bodies. Meters, in the frame of the root's rotation, with the root bone's head where Anny puts it.

    vertices    (n, V, 3)
    bone_poses  (n, 163, 4, 4) bone frame → body frame; the translations are the bone heads, "joints" in this project
    stature     (n,) standing height in the rest pose
    """

    vertices: Tensor
    bone_poses: Tensor
    stature: Tensor

    @property
    def joints(self) -> Tensor:
        """(n, 163, 3) m, bone heads."""
        return self.bone_poses[..., :3, 3]


class Body(nn.Module):
    """Anny with one mesh: "full" (19,158 vertices, 27,420 triangles) or "low" (615 vertices, 1,226 triangles).

    The first construction on a machine builds Anny's cache (less than a minute, 0.9 GB); later ones take seconds.
    """

    bone_labels: tuple[str, ...]
    bone_parents: tuple[int, ...]
    phenotype_labels: tuple[str, ...]
    keypoint_bones: Tensor
    unposed_bones: Tensor
    identity: Tensor
    surface_vertices: Tensor
    phenotype_anchors: Tensor
    skinning_bones: Tensor
    skinning_weights: Tensor
    skinning_starts: Tensor

    def __init__(self, mesh: Mesh = "full") -> None:
        super().__init__()
        model = load_anny(mesh)
        self.mesh: Mesh = mesh
        self.center_vertex = CENTER_VERTEX[mesh]
        self.bone_labels = tuple(model.bone_labels)
        self.bone_parents = tuple(int(parent) for parent in model.bone_parents)
        self.phenotype_labels = tuple(model.phenotype_labels)
        self.faces = split_quads(model.template_vertices.numpy(), model.faces.numpy())
        self.anny: Any = model
        self._keypoint_weights: NDArray[np.float32] | None = None
        surface = torch.from_numpy(np.unique(self.faces))
        unposed = [any(word in label for word in UNPOSED_BONE_WORDS) for label in self.bone_labels]
        self.register_buffer("surface_vertices", surface, persistent=False)
        self.register_buffer("unposed_bones", torch.tensor(unposed)[:, None, None], persistent=False)
        self.posed_rows = tuple(row for row, is_unposed in enumerate(unposed) if not is_unposed)  # the root's is 0
        self.keypoint_rows = tuple(self.bone_labels.index(label) for label in KEYPOINT_BONES)
        self.register_buffer("keypoint_bones", torch.tensor(self.keypoint_rows), persistent=False)
        self.register_buffer("identity", torch.eye(3), persistent=False)
        self.register_buffer("phenotype_anchors", _read_phenotype_anchors(model), persistent=False)
        skinned_vertices, bones = model.dense_vertex_bone_weights.nonzero(as_tuple=True)
        weights = model.dense_vertex_bone_weights[skinned_vertices, bones]
        starts = torch.searchsorted(skinned_vertices, torch.arange(self.vertex_count))
        self.register_buffer("skinning_bones", bones, persistent=False)
        self.register_buffer("skinning_weights", weights, persistent=False)
        self.register_buffer("skinning_starts", starts, persistent=False)

    @property
    def vertex_count(self) -> int:
        return int(self.anny.template_vertices.shape[0])

    @property
    def template(self) -> NDArray[np.float32]:
        """(V, 3) m, vertices of Anny's template in the rest pose, arms away from the trunk."""
        return np.asarray(self.anny.template_vertices.cpu(), np.float32)

    def forward(self, shape: Tensor, rotations: Tensor) -> PosedBody:
        """Pose n bodies.

        shape      (n, 6) in [0, 1], in the order of phenotype_labels
        rotations  (n, 163, 3, 3) of each bone relative to its parent, in the bone's rest frame; row 0: of the root in
                   the outer frame
        """
        rest = self.anny.get_rest_model(self.compute_blendshape_weights(shape))
        transforms, bone_poses = self._pose_bones_from_rest(rotations, rest["rest_bone_poses"])
        vertices = self._skin_vertices(rest["rest_vertices"], transforms)
        return PosedBody(vertices, bone_poses, self._compute_stature(rest["rest_vertices"]))

    def _skin_vertices(self, rest_vertices: Tensor, transforms: Tensor) -> Tensor:
        """Apply linear blend skinning to vertices (n, V, 3) m with transforms (n, 163, 4, 4) from rest to pose.

        A vertex has three bones on average. On a CPU, summing only these is four to ten times as fast as Anny's product
        with the dense weights (V, 163), which suits a GPU.
        """
        n = len(rest_vertices)
        if n == 0 or rest_vertices.device.type != "cpu":
            skinned: Tensor = self.anny.get_skinned_vertices(rest_vertices, transforms)
            return skinned
        columns = transforms[:, :, :3].permute(1, 0, 3, 2).reshape(len(self.bone_labels), n * 12)
        blended = torch.nn.functional.embedding_bag(
            self.skinning_bones, columns, self.skinning_starts, mode="sum", per_sample_weights=self.skinning_weights
        ).view(self.vertex_count, n, 4, 3)
        x, y, z = rest_vertices.transpose(0, 1).split(1, dim=2)
        first, second, third, translation = blended.unbind(dim=2)
        return (translation + first * x + second * y + third * z).transpose(0, 1).contiguous()

    def pose_bones(self, shape: Tensor, rotations: Tensor) -> Tensor:
        """Return the bone poses (n, 163, 4, 4) of `PosedBody`; arguments as in `forward`. Fast: no vertices."""
        return self._pose_bones_from_rest(rotations, self.compute_rest_bone_poses(shape))[1]

    def _pose_bones_from_rest(self, rotations: Tensor, rest_bone_poses: Tensor) -> tuple[Tensor, Tensor]:
        rotations = torch.where(self.unposed_bones, self.identity, rotations)
        deltas = torch.nn.functional.pad(rotations, (0, 1, 0, 1))  # Anny reads the top 3 × 4 block only
        transforms, bone_poses = self.anny.get_bone_transforms(deltas, rest_bone_poses)
        return transforms, bone_poses

    def compute_rest_bone_poses(self, shape: Tensor) -> Tensor:
        """Return bone poses (n, 163, 4, 4), bone frame → body frame, of bodies of shape (n, 6) in the rest pose.

        Fast: no vertices.

        Anny's rest frame: x left, y to the back, z up, feet flat. The root bone is tilted in it, by 8° to 21° depending
        on the age; so in an upright person its rotation is not exactly −90° about x.
        """
        from anny.skinning import skinning
        from anny.utils import kinematics

        weights = self.compute_blendshape_weights(shape)
        heads, tails = (
            skinning.apply_linear_blendshape(template, blendshapes, weights)
            for template, blendshapes in (
                (self.anny.template_bone_heads, self.anny.bone_heads_blendshapes),
                (self.anny.template_bone_tails, self.anny.bone_tails_blendshapes),
            )
        )
        poses: Tensor = kinematics.get_bone_poses(
            heads,
            tails,
            self.anny.bone_rolls_rotmat,
            y_axis=self.anny.y_axis,
            degenerate_rotation=self.anny.degenerate_rotation,
        )
        return poses

    def compute_stature(self, shape: Tensor) -> Tensor:
        """Return the standing height (n,) m of bodies of shape (n, 6): the extent of the rest pose along z."""
        return self._compute_stature(self.anny.get_rest_vertices(self.compute_blendshape_weights(shape)))

    def _compute_stature(self, rest_vertices: Tensor) -> Tensor:
        height = rest_vertices[:, self.surface_vertices, 2]
        return height.amax(dim=1) - height.amin(dim=1)

    def compute_blendshape_weights(self, shape: Tensor) -> Tensor:
        """Compute Anny's phenotype weights (n, blend shapes) with gathers and hat functions only.

        Anny interpolates each phenotype between equally spaced anchors, so the coefficient of anchor a is
        max(0, 1 − |x − a| / spacing). The weight of a blend shape is the product of the coefficients it depends on.
        """
        anchors, spacing, source, lower, upper = self.phenotype_anchors
        values = torch.cat([shape, shape.new_full((len(shape), 1), 0.5)], dim=1)[:, source.long()]
        values = torch.maximum(torch.minimum(values, upper), lower)
        coefficients = torch.relu(1.0 - (values - anchors).abs() / spacing)
        mask = self.anny.stacked_phenotype_blend_shapes_mask
        weights = torch.where(mask[None] > 0, coefficients[:, None], 1.0).prod(dim=-1)
        projection = self.anny.phenotype_blendshape_projection
        return weights if projection is None else weights @ projection

    def regress_coco_keypoints(self, vertices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Regress COCO keypoints (…, 17, 3) m from vertices (…, 19158, 3) m of the full mesh, with Anny's regressor.

        Raises ValueError for other meshes.
        """
        if self.mesh != "full" or vertices.shape[-2] != self.vertex_count:
            raise ValueError(
                f"COCO keypoints need the 19158 vertices of mesh 'full', got {vertices.shape[-2]} of '{self.mesh}'"
            )
        return np.einsum("kv,...vd->...kd", self.get_coco_keypoint_weights(), vertices)

    def get_coco_keypoint_weights(self) -> NDArray[np.float32]:
        """Return the weights (17, 19158) of Anny's regressor of COCO keypoints, for the vertices of the full mesh."""
        if self._keypoint_weights is None:
            from anny.keypoints import KeypointsRegressor

            regressor = KeypointsRegressor.coco(self.anny, labels=list(COCO_KEYPOINTS))
            self._keypoint_weights = regressor.regression_weights.cpu().numpy()
        return self._keypoint_weights


def rotations_from_vectors(vectors: Tensor) -> Tensor:
    """Convert rotation vectors (…, 3) to matrices (…, 3, 3) by Rodrigues' formula; differentiable at 0, too."""
    angle = (vectors.square().sum(-1) + 1e-12).sqrt()[..., None, None]
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    first = torch.sinc(angle / torch.pi)
    second = 0.5 * torch.sinc(angle / (2 * torch.pi)).square()
    return torch.eye(3, dtype=vectors.dtype, device=vectors.device) + first * skew + second * (skew @ skew)


def split_quads(vertices: NDArray[np.float32], faces: NDArray[np.int64]) -> NDArray[np.int32]:
    """Split quads (F, 4) along the shorter diagonal into triangles (2 F, 3), as Anny does one by one.

    Triangles (F, 3) stay as they are. vertices: (V, 3) m.
    """
    if faces.shape[1] == 3:
        return faces.astype(np.int32)
    a, b, c, d = vertices[faces.T].astype(float)
    split_at_a = np.linalg.norm(a - c, axis=1) < np.linalg.norm(b - d, axis=1)
    triangles = np.where(split_at_a[:, None], faces[:, [0, 1, 2, 2, 3, 0]], faces[:, [0, 1, 3, 3, 1, 2]])
    return triangles.reshape(-1, 3).astype(np.int32)


def _read_phenotype_anchors(model: Any) -> Tensor:
    """Return anchor, spacing of the anchors, column in (shape, 0.5), lower and upper bound of each of Anny's phenotype
    variations, (5, 26).

    Phenotypes that the model does not expose (cup size, firmness, race) have the value 0.5, column 6. The weight of
    each race is its share, 1/3: a hat function of the value 0.5 around an anchor that gives 1/3.
    """
    from anny.models.model_data import PHENOTYPE_VARIATIONS

    rows: list[tuple[float, float, float, float, float]] = []
    labels = list(model.phenotype_labels)
    for phenotype, variations in PHENOTYPE_VARIATIONS.items():
        column = float(labels.index(phenotype)) if phenotype in labels else float(len(labels))
        if phenotype == "race":
            rows += [(0.5 - 2 / 3, 1.0, column, 0.0, 1.0)] * len(variations)
            continue
        anchors = model.anchors[phenotype].tolist()
        spacing = (anchors[-1] - anchors[0]) / (len(anchors) - 1)
        rows += [(anchor, spacing, column, anchors[0], anchors[-1]) for anchor in anchors]
    return torch.tensor(rows, dtype=torch.float32).T.contiguous()
