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

"""Rows of people in a Rerun recording: meshes, names, velocities, covariances, skeletons and trails."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.media.mesh_simplification import compute_vertex_normals, simplify_mesh
from multihmr2_ros.media.rerun_rows import RowBuffer
from multihmr2_ros.people import People

Color = tuple[int, int, int]
TRAIL_S = 5.0
TRUTH_COLOR = (60, 60, 60)  # black, the eighth color of Okabe and Ito, lightened so that shading is visible
SKELETON_RADIUS_PX = 1.5
LABEL_ABOVE_M = 0.15
SKELETON_BONES = (
    "spine03", "neck01", "head", "clavicle.L", "upperarm01.L", "lowerarm01.L", "wrist.L", "clavicle.R", "upperarm01.R",
    "lowerarm01.R", "wrist.R", "upperleg01.L", "lowerleg01.L", "foot.L", "upperleg01.R", "lowerleg01.R", "foot.R",
)  # fmt: skip


@dataclass(frozen=True)
class BodyTopology:
    """Constant data of all bodies.

    faces     (F, 3) triangles
    template  (V, 3) m, vertices of a body with its limbs apart, for the simplification of meshes; None: those of the
              first person
    bones     (b, 2) pairs of rows of People.joints, drawn as lines
    """

    faces: NDArray[np.integer]
    template: NDArray[np.floating] | None
    bones: NDArray[np.integer]

    @classmethod
    def from_body(cls, body: Any) -> BodyTopology:
        """Return the topology of a `Body`."""
        return cls(body.faces, body.template, find_bone_pairs(body.bone_labels, body.bone_parents))


@dataclass(frozen=True)
class PeopleEntities:
    """The entities of one set of people, and their look.

    people     entity in the camera's frame, with names, meshes, velocities and covariances below it
    skeletons  entity of the lines over the image
    trails     entity in the world
    color      of all of them; None: the colors of the tracks
    label      first word of the names
    """

    people: str
    skeletons: str
    trails: str
    color: Color | None = None
    label: str = ""


PREDICTED = PeopleEntities("world/camera/people", "world/camera/image/skeletons", "world/trails")
TRUTH = PeopleEntities(
    "world/camera/truth", "world/camera/image/true_skeletons", "world/true_trails", TRUTH_COLOR, "true "
)


class Trails:
    """The positions of each track over the last TRAIL_S seconds. Tracks that end are forgotten."""

    def __init__(self) -> None:
        self._trails: dict[int, deque[tuple[float, NDArray[np.float32]]]] = {}

    def update(self, tracks: list[int], positions: NDArray[np.float32], stamp_s: float) -> list[NDArray[np.float32]]:
        """Return the trail (m, 3) of each track, ending at its position. positions: (n, 3)."""
        self._trails = {track: self._trails.get(track, deque()) for track in tracks}
        for track, position in zip(tracks, positions, strict=True):
            trail = self._trails[track]
            if trail and stamp_s <= trail[-1][0]:
                trail.clear()  # a bag's clock jumped back, or the images have no stamps and are no sequence
            trail.append((stamp_s, position))
            while stamp_s - trail[0][0] > TRAIL_S:
                trail.popleft()
        return [np.array([position for _, position in self._trails[track]]) for track in tracks]


class PeopleRows:
    """Maker of the rows of one set of people. Memory does not grow: trails end, and absent people are cleared."""

    def __init__(self, rr: Any, rows: RowBuffer, topology: BodyTopology, entities: PeopleEntities) -> None:
        self._rr, self._rows, self._entities = rr, rows, entities
        self._topology, self._bones = topology, topology.bones
        self._vertex_count = 0
        if topology.template is not None:
            self._prepare_meshes(topology.template)
        self._meshes: set[str] = set()  # names of the meshes on display
        self._trails = Trails()

    def add(self, people: People, stamp_s: float, world_from_camera: NDArray[np.float64]) -> None:
        """Add the rows of one image. world_from_camera (4, 4): the camera's pose."""
        colors = self._pack_colors(people)
        self._add_skeletons(people, colors)
        self._add_meshes(people, colors)
        self._add_bones(people, colors)
        self._add_names(people, colors)
        self._add_velocities(people, colors)
        self._add_ellipsoids("pelvis_covariances", people.pelvis, people.pelvis_covariance, colors)
        self._add_trails(people, stamp_s, world_from_camera, colors)

    def _pack_colors(self, people: People) -> NDArray[np.uint32]:
        """Return the color of each person (n,) as 0xRRGGBBAA."""
        fixed = self._entities.color
        colors = [get_track_color(track) if fixed is None else fixed for track in people.track_id.tolist()]
        return np.array([red << 24 | green << 16 | blue << 8 | 255 for red, green, blue in colors], np.uint32)

    def _prepare_meshes(self, template: NDArray[np.floating]) -> None:
        self._vertex_count = len(template)
        self._vertices, self._faces = simplify_mesh(template, self._topology.faces)

    def _has_meshes(self, people: People) -> bool:
        """Return whether the people have meshes of the topology."""
        faces, vertices = self._topology.faces, people.vertices
        if not self._vertex_count and len(people) and len(faces) and faces.max() < vertices.shape[1]:
            self._prepare_meshes(vertices[0])
        return bool(self._vertex_count) and vertices.shape[1] == self._vertex_count

    def _add_skeletons(self, people: People, colors: NDArray[np.uint32]) -> None:
        lines, line_colors = self._make_bone_lines(people.joints_2d, colors)
        radii = np.full(len(lines), -SKELETON_RADIUS_PX, np.float32)  # Rerun: negative radii are in UI points
        self._rows.add(self._entities.skeletons, self._rr.LineStrips2D, strips=lines, colors=line_colors, radii=radii)

    def _add_bones(self, people: People, colors: NDArray[np.uint32]) -> None:
        """Add the skeletons in 3D of people without a mesh of this topology."""
        joints = people.joints[:0] if self._has_meshes(people) else people.joints
        lines, line_colors = self._make_bone_lines(joints, colors[: len(joints)])
        self._rows.add(f"{self._entities.people}/bones", self._rr.LineStrips3D, strips=lines, colors=line_colors)

    def _make_bone_lines(
        self, points: NDArray[np.floating], colors: NDArray[np.uint32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
        """Return the bones (m, 2, d) with finite ends, and their colors (m,). points: (n, joints, d)."""
        if points.shape[1] <= self._bones.max(initial=-1):
            return np.zeros((0, 2, points.shape[2]), np.float32), colors[:0]
        lines = points[:, self._bones]
        is_known = np.isfinite(lines).all(axis=(2, 3))
        return lines[is_known].astype(np.float32), np.broadcast_to(colors[:, None], is_known.shape)[is_known]

    def _add_meshes(self, people: People, colors: NDArray[np.uint32]) -> None:
        shown = set()
        if self._has_meshes(people):
            for name, vertices, color in zip(make_entity_names(people), people.vertices, colors, strict=True):
                if np.isfinite(vertices).all():
                    self._add_mesh(name, vertices[self._vertices], int(color))
                    shown.add(name)
        for name in self._meshes - shown:
            self._rows.clear(f"{self._entities.people}/meshes/{name}")
        self._meshes = shown

    def _add_mesh(self, name: str, vertices: NDArray[np.float32], color: int) -> None:
        """Add a mesh; triangles and color, most of its data, only when the person appears."""
        mesh, entity = self._rr.Mesh3D, f"{self._entities.people}/meshes/{name}"
        if name not in self._meshes:
            self._rows.log_constant(entity, mesh.from_fields(triangle_indices=self._faces, albedo_factor=color))
        normals = compute_vertex_normals(vertices, self._faces)
        self._rows.add(entity, mesh, vertex_positions=vertices, vertex_normals=normals)

    def _add_names(self, people: People, colors: NDArray[np.uint32]) -> None:
        tops, surface = np.zeros((len(people), 3), np.float32), people.surface
        for row in range(len(people)):
            points = surface[row] if surface.shape[1] else people.joints[row]
            tops[row] = points[points[:, 1].argmin()] if len(points) else people.pelvis[row]
        labels = [self._entities.label + format_person_label(people, row) for row in range(len(people))]
        above, radii = tops - np.array([0, LABEL_ABOVE_M, 0], np.float32), np.full(len(people), 0.01, np.float32)
        entity = f"{self._entities.people}/names"
        self._rows.add(entity, self._rr.Points3D, positions=above, labels=labels, colors=colors, radii=radii)

    def _add_velocities(self, people: People, colors: NDArray[np.uint32]) -> None:
        """Add velocities as arrows from the pelvises, with the length of one second's path, and their covariances."""
        is_known = np.isfinite(people.velocity).all(axis=1)
        people, colors = people.select(np.flatnonzero(is_known)), colors[is_known]
        velocities, radii = people.velocity.astype(np.float32), np.full(len(people), 0.02, np.float32)
        self._rows.add(
            f"{self._entities.people}/velocities", self._rr.Arrows3D,
            vectors=velocities, origins=people.pelvis, colors=colors, radii=radii,
        )  # fmt: skip
        ends = people.pelvis + people.velocity
        self._add_ellipsoids("velocity_covariances", ends, people.velocity_covariance, colors)

    def _add_ellipsoids(
        self, name: str, centers: NDArray[np.floating], covariances: NDArray[np.float64], colors: NDArray[np.uint32]
    ) -> None:
        """Add the one-sigma ellipsoids of the covariances (n, 3, 3) that are finite and not zero."""
        is_known = np.asarray(np.isfinite(covariances).all(axis=(1, 2)) & covariances.any(axis=(1, 2)), bool)
        half_sizes, quaternions = compute_principal_axes(covariances[is_known])
        self._rows.add(
            f"{self._entities.people}/{name}", self._rr.Ellipsoids3D, half_sizes=half_sizes, quaternions=quaternions,
            centers=centers[is_known].astype(np.float32), colors=colors[is_known],
        )  # fmt: skip

    def _add_trails(
        self, people: People, stamp_s: float, world_from_camera: NDArray[np.float64], colors: NDArray[np.uint32]
    ) -> None:
        is_tracked = people.track_id >= 0
        people, colors = people.select(np.flatnonzero(is_tracked)), colors[is_tracked]
        positions = people.pelvis @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
        lines = self._trails.update(people.track_id.tolist(), positions.astype(np.float32), stamp_s)
        radii = np.full(len(lines), 0.01, np.float32)
        self._rows.add(self._entities.trails, self._rr.LineStrips3D, strips=lines, colors=colors, radii=radii)


def compute_principal_axes(covariances: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return half sizes (n, 3) and quaternions (n, 4; xyzw) of the one-sigma ellipsoids of covariances (n, 3, 3)."""
    from scipy.spatial.transform import Rotation

    if not len(covariances):
        return np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    values, axes = np.linalg.eigh(covariances)
    axes[:, :, 0] *= np.sign(np.linalg.det(axes))[:, None]
    half_sizes = np.sqrt(np.maximum(values, 0)).astype(np.float32)
    return half_sizes, np.asarray(Rotation.from_matrix(axes).as_quat(), np.float32)


def make_entity_names(people: People) -> list[str]:
    """Return each person's name: the track id, or `untracked_ROW`."""
    return [f"untracked_{row}" if track < 0 else str(int(track)) for row, track in enumerate(people.track_id)]


def format_person_label(people: People, row: int) -> str:
    """Return a label of track id, distance of the pelvis and stature: "#3 · 4.2 m · 1.74 m tall"."""
    distance_m, stature_m = float(np.linalg.norm(people.pelvis[row])), float(people.stature[row])
    parts = [] if people.track_id[row] < 0 else [f"#{people.track_id[row]}"]
    parts.append(f"{distance_m:.1f} m")
    if np.isfinite(stature_m):
        parts.append(f"{stature_m:.2f} m tall")
    return " · ".join(parts)


def find_bone_pairs(labels: Sequence[str], parents: Sequence[int]) -> NDArray[np.int64]:
    """Return the lines (b, 2) of a skeleton: SKELETON_BONES, each with its nearest ancestor among them or the root.

    Bones that are not among the labels are left out.
    """
    kept = {0, *(labels.index(label) for label in SKELETON_BONES if label in labels)}
    pairs = []
    for row in sorted(kept - {0}):
        parent = parents[row]
        while parent not in kept:
            parent = parents[parent]
        pairs.append((parent, row))
    return np.array(pairs, np.int64).reshape(-1, 2)
