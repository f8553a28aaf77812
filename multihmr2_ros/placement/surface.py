"""The visible surfaces of the people of a picture, as a few hundred points a person and a coarse depth buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

NEAREST_DEPTH_M = 0.1
CELLS_ACROSS = 64  # of the depth buffer, over the picture's longer side
SELF_HIDDEN_M = 0.15  # behind the body's own nearest surface: another limb's far side, not the same limb's relief


@dataclass(frozen=True, eq=False)
class BodySurface:
    """Triangles that stand for the whole surface of a mesh of vertex_count vertices, each for about the same area.

    triangles (3, S): corners, as indices of vertices. outer (U,): every vertex that any face uses.
    spacing_m: side of the square that one triangle stands for, of a body of the mesh's size.
    """

    vertex_count: int
    triangles: Indices
    outer: Indices
    spacing_m: float

    @classmethod
    def of_mesh(cls, faces: NDArray[np.int32], vertices: NDArray[np.floating], samples: int = 160) -> BodySurface:
        """Chosen at equal steps of area over faces (F, 3) of a mesh with vertices (V, 3) m."""
        corners = vertices[faces]
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        total = np.cumsum(area)
        steps = (np.arange(samples) + 0.5) / samples * total[-1]
        chosen = np.unique(np.searchsorted(total, steps))
        spacing = float(np.sqrt(total[-1] / len(chosen)))
        return cls(len(vertices), faces[chosen].T.astype(np.int64), np.unique(faces).astype(np.int64), spacing)


class Points(NamedTuple):
    """The m points of all people's surfaces that face the camera, people in order.

    person (m,) rows, ascending. offset (m, 3): from the pelvis, of the body as the network predicted it, m.
    facing (m,): cosine between the surface's normal and the ray to the camera, so what is seen of the area.
    """

    person: Indices
    offset: Array
    facing: Array


def facing_points(vertices: Array, pelvis: Array, surface: BodySurface) -> Points:
    """Of meshes (n, V, 3) with pelvises (n, 3), camera frame, m. Outward normals come by the faces' orientation."""
    first, second, third = (vertices[:, corner] for corner in surface.triangles)
    centroid = (first + second + third) * np.float32(1 / 3)
    one, other = (second - first), (third - first)
    normal = np.empty_like(one)
    for axis in range(3):  # np.cross takes three times as long
        a, b = (axis + 1) % 3, (axis + 2) % 3
        normal[..., axis] = one[..., a] * other[..., b] - one[..., b] * other[..., a]
    towards = -np.einsum("nsi,nsi->ns", normal, centroid)
    size = np.einsum("nsi,nsi->ns", normal, normal) * np.einsum("nsi,nsi->ns", centroid, centroid)
    with np.errstate(invalid="ignore"):
        seen = towards > 0
    person, sample = np.nonzero(seen)
    facing = towards[person, sample] / np.sqrt(size[person, sample])
    return Points(person, centroid[person, sample] - pelvis[person], facing)


class Sight(NamedTuple):
    """What the picture shows of m points.

    pixel (m,): row · width + column. inside (m,): whether the point is in the picture. others_depth (m,): m, of the
    nearest surface of anybody else there, infinite where there is none. before_self (m,): whether no other part of
    the same body is far before the point.
    """

    pixel: Indices
    inside: NDArray[np.bool_]
    others_depth: Array
    before_self: NDArray[np.bool_]


class View:
    """A coarse depth buffer per person, of a picture of size (height, width) px with intrinsics k (3, 3).

    It is made of points (m, 3) m of the rows person (m,) of n people; every point covers the square of spacing_m that
    it stands for, so that near bodies have no gaps.
    """

    def __init__(
        self, points: Array, person: Indices, n: int, k: NDArray[np.float64], size: tuple[int, int], spacing_m: float
    ) -> None:
        self.k, self.size = k.astype(np.float32), size
        self.side = max(4, -(-max(size) // CELLS_ACROSS))
        self.down, self.across = (-(-length // self.side) for length in size)
        u, v, depth = self._project(points)
        reach = np.float32(0.5 * spacing_m) * self.k[0, 0] / depth
        nearest = np.full(n * self.down * self.across, np.inf, np.float32)
        first = person * (self.down * self.across)
        columns = [self._index(u + side, self.across) for side in (-reach, reach)]
        for row in (first + self._index(v + side, self.down) * self.across for side in (-reach, reach)):
            for column in columns:
                np.minimum.at(nearest, row + column, depth)
        self.nearest = nearest.reshape(n, -1)
        self.others = _least_of_others(self.nearest)

    def sight(self, points: Array, person: Indices) -> Sight:
        """Of points (m, 3) m of the rows person (m,)."""
        height, width = self.size
        u, v, depth = self._project(points)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (points[:, 2] > NEAREST_DEPTH_M)
        column = np.clip(u, 0, width - 1).astype(np.int64)
        row = np.clip(v, 0, height - 1).astype(np.int64)
        cell = self._index(v, self.down) * self.across + self._index(u, self.across)
        return Sight(
            pixel=row * width + column,
            inside=inside,
            others_depth=self.others[person, cell],
            before_self=depth < self.nearest[person, cell] + SELF_HIDDEN_M,
        )

    def _project(self, points: Array) -> tuple[Array, Array, Array]:
        x, y = points[:, 0], points[:, 1]
        depth = np.maximum(points[:, 2], np.float32(NEAREST_DEPTH_M))
        k = self.k
        return (k[0, 0] * x + k[0, 1] * y) / depth + k[0, 2], k[1, 1] * y / depth + k[1, 2], depth

    def _index(self, coordinate: Array, count: int) -> Indices:
        """Of the cell, of `count` ones, at a coordinate (m,) px; what is outside the picture goes to its border."""
        return np.minimum(np.maximum(coordinate / np.float32(self.side), 0), count - 1).astype(np.int64)


def _least_of_others(nearest: Array) -> Array:
    """(n, C): for every row of depths (n, C) the least of the other rows."""
    if len(nearest) == 1:
        return np.full_like(nearest, np.inf)
    first = nearest.min(axis=0)
    is_first = nearest == first
    second = np.where(is_first, np.float32(np.inf), nearest).min(axis=0)
    return np.where(is_first, second, first)
