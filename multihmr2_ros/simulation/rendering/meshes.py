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

"""Meshes of posed people for ray casting: bodies and garments with ray-casting trees built once, then refitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import warp as wp
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from multihmr2_ros.simulation.rendering import kernels


def to_device(values: Any, dtype: Any, device: str, dimensions: int = 1) -> Any:
    """Convert the values to a Warp array, also if empty (Warp cannot derive their shape then)."""
    if not len(values):
        return wp.empty((0,) * dimensions, dtype=dtype, device=device)
    return wp.array(np.ascontiguousarray(values), dtype=dtype, ndim=dimensions, device=device)


class MeshTopology:
    """A mesh of fixed topology, with all data that do not depend on the pose.

    rest (V, 3) float32: positions in the rest pose of the average body; triangles (t, 3) int32.
    """

    def __init__(self, rest: NDArray[np.float32], triangles: NDArray[np.int32], device: str) -> None:
        self.rest = np.ascontiguousarray(rest, np.float32)
        self.triangles = np.ascontiguousarray(triangles, np.int32)
        self.used = np.unique(triangles)
        self.device = device
        count = len(triangles)
        incidence = coo_matrix(
            (np.ones(3 * count, np.int8), (self.triangles.ravel(), np.repeat(np.arange(count), 3))),
            shape=(len(rest), count),
        ).tocsr()
        self.triangle_array = to_device(self.triangles.ravel(), wp.int32, device)
        self.first = to_device(incidence.indptr.astype(np.int32), wp.int32, device)
        self.around = to_device(incidence.indices.astype(np.int32), wp.int32, device)


class RayCastMesh:
    """One copy of a surface, in one pose at a time."""

    def __init__(self, surface: MeshTopology) -> None:
        self.surface = surface
        points = to_device(surface.rest, wp.vec3, surface.device)
        indices = to_device(surface.triangles.ravel(), wp.int32, surface.device)
        self.mesh = wp.Mesh(points, indices)
        self.hidden = np.zeros(len(surface.triangles), bool)

    def pose(self, vertices: NDArray[np.float32], hidden: NDArray[np.bool_], normals: Any) -> None:
        """Move to vertices (V, 3), leave out the hidden (t,) triangles, and write the vertex normals (V,)."""
        surface = self.surface
        if (self.hidden is None) != (hidden is None) or (
            hidden is not None and not np.array_equal(hidden, self.hidden)
        ):
            triangles = surface.triangles
            if hidden is not None:  # rays never hit a triangle without area
                triangles = np.where(hidden[:, None], triangles[:, :1], triangles)
            self.mesh.indices.assign(np.ascontiguousarray(triangles).ravel())
            self.hidden = hidden
        self.mesh.points.assign(np.ascontiguousarray(vertices, np.float32))
        self.mesh.refit()
        wp.launch(
            kernels.compute_vertex_normals,
            dim=len(surface.rest),
            inputs=[self.mesh.points, surface.triangle_array, surface.first, surface.around, normals],
            device=surface.device,
        )


@dataclass(frozen=True, eq=False)
class PosedMesh:
    """A posed mesh of the person in row `person`, with t triangles, for ray casting.

    material (t,), second_material (t,): rows of the material table; the second applies where the barycentric
    interpolation of border (t, 3) is below 0. hidden (t,): triangles to leave out.
    """

    surface: MeshTopology
    person: int
    vertices: NDArray[np.float32]
    material: NDArray[np.int32]
    second_material: NDArray[np.int32]
    border: NDArray[np.float32]
    hidden: NDArray[np.bool_]


class MeshPool:
    """A pool of ray-casting meshes, reused from image to image.

    It grows to the largest number of each surface needed at once.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._free: dict[MeshTopology, list[RayCastMesh]] = {}

    def cast(self, posed: list[PosedMesh]) -> tuple[Any, list[RayCastMesh]]:
        """Return the kernels' MeshArrays and the meshes behind it, which must live as long as it is used."""
        taken: dict[MeshTopology, int] = {}
        used: list[RayCastMesh] = []
        vertex_start = np.cumsum([0] + [len(mesh.surface.rest) for mesh in posed])
        triangle_start = np.cumsum([0] + [len(mesh.surface.triangles) for mesh in posed])
        normals = wp.empty(max(int(vertex_start[-1]), 1), dtype=wp.vec3, device=self.device)
        for mesh, start, end in zip(posed, vertex_start[:-1], vertex_start[1:], strict=True):
            copies = self._free.setdefault(mesh.surface, [])
            index = taken.get(mesh.surface, 0)
            taken[mesh.surface] = index + 1
            if index == len(copies):
                copies.append(RayCastMesh(mesh.surface))
            copies[index].pose(mesh.vertices, mesh.hidden, normals[int(start) : int(end)])
            used.append(copies[index])
        meshes = kernels.MeshArrays()
        meshes.count = len(posed)
        meshes.mesh = to_device([mesh.mesh.id for mesh in used], wp.uint64, self.device)
        meshes.person = to_device([mesh.person for mesh in posed], wp.int32, self.device)
        meshes.sphere = to_device([_compute_bounding_sphere(mesh) for mesh in posed], wp.vec4, self.device)
        meshes.vertex_start = to_device(vertex_start, wp.int32, self.device)
        meshes.triangle_start = to_device(triangle_start, wp.int32, self.device)
        meshes.normal = normals
        meshes.rest = self._join([mesh.surface.rest for mesh in posed], wp.vec3)
        meshes.material = self._join([mesh.material for mesh in posed], wp.int32)
        meshes.second_material = self._join([mesh.second_material for mesh in posed], wp.int32)
        meshes.border = self._join([mesh.border for mesh in posed], wp.vec3)
        return meshes, used

    def _join(self, arrays: list[Any], dtype: Any) -> Any:
        return to_device(np.concatenate(arrays) if arrays else [], dtype, self.device)


def _compute_bounding_sphere(mesh: PosedMesh) -> NDArray[np.float32]:
    """Return center and radius (4,) of the sphere around the vertices' bounding box."""
    by_axis = np.ascontiguousarray(mesh.vertices.T)  # many times faster to reduce than the rows
    low, high = by_axis.min(axis=1), by_axis.max(axis=1)
    return np.array([*(low + high) / 2.0, np.linalg.norm(high - low) / 2.0 + 1e-3], np.float32)
