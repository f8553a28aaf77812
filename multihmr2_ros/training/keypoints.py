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

"""COCO keypoints of the low mesh. Anny's own regressor is defined on the full mesh only."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import Body, rotations_from_vectors
from multihmr2_ros.people import BONE_COUNT, PHENOTYPE_LABELS

FITTED_BODIES = 96
NEIGHBORS = 12
RIDGE = 1e-4


def regress_low_mesh_keypoints(body: Body, vertices: Tensor) -> Tensor:
    """Return keypoints (n, 17, 3) in COCO's order, of low-mesh vertices (n, V, 3), in the vertices' frame and unit.

    The first call fits the weights, which takes a few seconds. Raises ValueError for another mesh.
    """
    if body.mesh != "low":
        raise ValueError(f"expected the mesh 'low', got {body.mesh!r}; use Body.regress_coco_keypoints")
    weights = torch.from_numpy(_fit_low_mesh_weights()).to(vertices)
    return torch.einsum("kv,nvd->nkd", weights, vertices)


@functools.cache
def _fit_low_mesh_weights() -> NDArray[np.float32]:
    """Return weights (17, V) whose rows sum to 1: least squares over random bodies, on the nearest vertices."""
    full, low = Body("full"), Body("low")
    generator = torch.Generator().manual_seed(0)
    shape = torch.rand(FITTED_BODIES, len(PHENOTYPE_LABELS), generator=generator)
    rotations = _sample_random_poses(generator)
    with torch.no_grad():
        keypoints = np.concatenate(
            [
                full.regress_coco_keypoints(full(shape[rows], rotations[rows]).vertices.numpy())
                for rows in torch.arange(FITTED_BODIES).split(16)
            ]
        ).astype(np.float64)
        vertices = low(shape, rotations).vertices.numpy().astype(np.float64)
    weights = np.zeros((keypoints.shape[1], vertices.shape[1]))
    for index in range(keypoints.shape[1]):
        relative = vertices - keypoints[:, index, None]
        near = np.argsort(np.linalg.norm(relative, axis=-1).mean(axis=0))[:NEIGHBORS]
        # Weights w that minimize |Σ w (vertex − keypoint)|² + ridge |w|² with Σ w = 1: proportional to G⁻¹ 1.
        gram = np.einsum("nvd,nwd->vw", relative[:, near], relative[:, near]) / FITTED_BODIES
        solution = np.linalg.solve(gram + RIDGE * np.trace(gram) / NEIGHBORS * np.eye(NEIGHBORS), np.ones(NEIGHBORS))
        weights[index, near] = solution / solution.sum()
    return weights.astype(np.float32)


def _sample_random_poses(generator: torch.Generator) -> Tensor:
    """Draw rotations (n, 163, 3, 3) of about 25° about random axes."""
    return rotations_from_vectors(0.25 * torch.randn(FITTED_BODIES, BONE_COUNT, 3, generator=generator))
