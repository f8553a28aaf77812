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

"""Meshes with fewer vertices, and their normals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_VERTICES = 1200  # of a mesh; larger ones are simplified
GRID_M = 0.03  # initial cell size of the simplification


def simplify_mesh(
    template: NDArray[np.floating], faces: NDArray[np.integer], max_vertices: int = MAX_VERTICES
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Simplify a mesh by clustering vertices in a grid (Rossignac & Borrel 1993).

    Returns the vertices (v,) that are kept, v ≤ max_vertices, and the faces (f, 3) as indices into this list. Each cell
    keeps its first vertex; the grid gets coarser until they are few enough. Small meshes keep all used vertices.
    """
    used = np.unique(faces)
    size, stands_for = GRID_M, used
    while len(np.unique(stands_for)) > max_vertices:
        cells = np.floor(np.asarray(template)[used] / size).astype(np.int64)
        _, first, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        stands_for = used[first[cell.ravel()]]
        size *= 1.1
    lookup = np.zeros(int(faces.max(initial=0)) + 1, np.int64)
    lookup[used] = stands_for
    corners = lookup[faces]
    is_whole = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    kept, compact = np.unique(corners[is_whole], return_inverse=True)
    return kept, compact.reshape(-1, 3).astype(np.int32)


def compute_vertex_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return unit normals (v, 3): the area-weighted mean of the triangles' normals around each vertex."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, corner], normals[:, axis], len(vertices)).astype(np.float32)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
