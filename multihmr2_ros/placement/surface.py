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

"""Visible surfaces of the people of an image: a few hundred points per person and a coarse depth buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

NEAREST_DEPTH_M = 0.1
CELLS_ACROSS = 64  # of the depth buffer, along the image's longer side
BESIDE_CELLS = 2  # distance between a person's outline and the pixels beside it
SELF_HIDDEN_M = 0.15  # farther behind the body's own nearest surface, a point is on another limb and hidden


@dataclass(frozen=True, eq=False)
class BodySurface:
    """Sample of S triangles of a mesh; each represents about the same area of the surface.

    vertex_count  number of vertices of the mesh, V
    triangles     (3, S) vertex indices of the corners
    left_out      (U,) infinity for vertices that no face uses, else 0; U − 1 is the last vertex that a face uses
    spacing_m     m, side of the square that one triangle represents on a body of the mesh's size
    """

    vertex_count: int
    triangles: Indices
    left_out: Array
    spacing_m: float

    @classmethod
    def from_mesh(cls, faces: NDArray[np.int32], vertices: NDArray[np.floating], samples: int = 160) -> BodySurface:
        """Choose triangles at equal steps of area over faces (F, 3) of a mesh with vertices (V, 3) m."""
        corners = vertices[faces]
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        total = np.cumsum(area)
        steps = (np.arange(samples) + 0.5) / samples * total[-1]
        chosen = np.unique(np.searchsorted(total, steps))
        spacing = float(np.sqrt(total[-1] / len(chosen)))
        left_out = np.full(faces.max() + 1, np.inf, np.float32)
        left_out[faces] = 0
        return cls(len(vertices), faces[chosen].T.astype(np.int64), left_out, spacing)

    def find_lowest(self, vertices: Array, up: NDArray[np.floating]) -> Indices:
        """Return the index (n,) of the surface vertex that is lowest along up (3,) in meshes (n, V, 3)."""
        heights = vertices[:, : len(self.left_out)] @ up.astype(np.float32)
        heights += self.left_out  # takes a third of the time of copying the used heights
        return heights.argmin(axis=1)


class SurfacePoints(NamedTuple):
    """The m surface points of all people that face the camera, ordered by person.

    person  (m,) row of the person, ascending
    offset  (3, m) m, relative to the pelvis, on the body as predicted by the network
    facing  (m,) cosine of the angle between surface normal and ray to the camera: the visible fraction of the area
    """

    person: Indices
    offset: Array
    facing: Array


def find_facing_points(vertices: Array, pelvis: Array, surface: BodySurface) -> SurfacePoints:
    """Return the points that face the camera, of meshes (n, V, 3) m with pelvises (n, 3) m, camera frame.

    The orientation of the faces defines the outward normals. Arrays inside are (3, n, S), axes x, y, z first: NumPy is
    fast along many samples and slow along three axes.
    """
    corners = vertices.take(surface.triangles, axis=1)
    first, second, third = np.ascontiguousarray(corners.transpose(1, 3, 0, 2))
    centroid = (first + second + third) * np.float32(1 / 3)
    one, other = (second - first), (third - first)
    normal = np.empty_like(one)
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        normal[axis] = one[a] * other[b] - one[b] * other[a]
    towards = -(normal * centroid).sum(axis=0)
    size = (normal * normal).sum(axis=0) * (centroid * centroid).sum(axis=0)
    with np.errstate(invalid="ignore"):
        seen = towards > 0
    chosen = np.flatnonzero(seen)
    person = chosen // seen.shape[1]
    facing = towards.take(chosen) / np.sqrt(size.take(chosen))
    return SurfacePoints(person, centroid.reshape(3, -1).take(chosen, axis=1) - pelvis.T.take(person, axis=1), facing)


class ProjectedPoints(NamedTuple):
    """Image positions u, v (m,) px of m points, and their depth (m,) m, at least NEAREST_DEPTH_M."""

    u: Array
    v: Array
    depth: Array


class Visibility(NamedTuple):
    """Visibility of m points in the image.

    pixel          (m,) row · width + column
    inside         (m,) whether the point is inside the image
    others_depth   (m,) m, depth of the nearest surface of any other person at the pixel, infinity without one
    before_self    (m,) whether no other part of the same body hides the point
    before_others  (m,) whether no other person hides the point
    """

    pixel: Indices
    inside: NDArray[np.bool_]
    others_depth: Array
    before_self: NDArray[np.bool_]
    before_others: NDArray[np.bool_]


class PersonDepthBuffers:
    """Coarse depth buffers, one per person, of an image.

    points (3, m)   m, camera frame; each covers a square of side spacing_m, so that near bodies have no gaps
    person (m,)     rows of the n people
    k (3, 3)        px
    size            (height, width) px of the image

    The attribute `pixels` has the image positions of the points.
    """

    def __init__(
        self, points: Array, person: Indices, n: int, k: NDArray[np.float64], size: tuple[int, int], spacing_m: float
    ) -> None:
        self.k, self.size = k.astype(np.float32), size
        self.side = max(4, -(-max(size) // CELLS_ACROSS))
        self.down, self.across = (-(-length // self.side) for length in size)
        self.pixels = self.project(points)
        u, v, depth = self.pixels
        reach = np.float32(0.5 * spacing_m) * self.k[0, 0] / depth
        sides = np.stack([-reach, reach])
        column = _to_index((u + sides) / np.float32(self.side), self.across)
        row = _to_index((v + sides) / np.float32(self.side), self.down)
        cells = person * (self.down * self.across) + row[:, None] * self.across + column
        nearest = np.full(n * self.down * self.across, np.inf, np.float32)
        for corner in cells.reshape(4, -1):
            np.minimum.at(nearest, corner, depth)
        self.nearest = nearest.reshape(n, -1)

    def compute_visibility(self, pixels: ProjectedPoints, person: Indices) -> Visibility:
        """Return the visibility of points at pixels (m,) that belong to the rows person (m,)."""
        height, width = self.size
        u, v, depth = pixels
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth > np.float32(NEAREST_DEPTH_M))
        row, column = _to_index(v, height), _to_index(u, width)
        cell = row // self.side * self.across + column // self.side
        nearest, points = self.nearest.take(cell, axis=1), np.arange(len(person))
        before_self = depth < nearest[person, points] + SELF_HIDDEN_M
        nearest[person, points] = np.inf
        others_depth = nearest.min(axis=0)
        return Visibility(row * width + column, inside, others_depth, before_self, depth < others_depth)

    def find_cells_beside(self) -> tuple[Indices, Indices]:
        """Return c pixels (row · width + column) left and right of people, and the rows (c,) of these people.

        The pixels show no person. They are two cells away from the person, because outlines are not exact.
        """
        own = np.isfinite(self.nearest).reshape(-1, self.down, self.across)
        padded = np.pad(own, ((0, 0), (0, 0), (BESIDE_CELLS, BESIDE_CELLS)))
        occupied = np.pad(own.max(axis=0), ((0, 0), (1, 1)))
        taken = occupied[:, :-2] | occupied[:, 1:-1] | occupied[:, 2:]
        near = (padded[..., : -2 * BESIDE_CELLS] | padded[..., 2 * BESIDE_CELLS :]) & ~taken
        person, row, column = np.nonzero(near)
        half, (height, width) = self.side // 2, self.size
        pixel = np.minimum(row * self.side + half, height - 1) * width
        return pixel + np.minimum(column * self.side + half, width - 1), person

    def project(self, points: Array) -> ProjectedPoints:
        """Project points (3, m) m, camera frame."""
        x, y, z = points
        depth = np.maximum(z, np.float32(NEAREST_DEPTH_M))
        k = self.k
        return ProjectedPoints((k[0, 0] * x + k[0, 1] * y) / depth + k[0, 2], k[1, 1] * y / depth + k[1, 2], depth)


def _to_index(coordinate: Array, count: int) -> Indices:
    """Return the indices (…), 0 to count − 1, of the pixels or cells at coordinates (…), clamped to the image."""
    return np.minimum(np.maximum(coordinate, 0), count - 1).astype(np.int64)
