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

"""Logs frames and people for the Rerun viewer (https://rerun.io): image, camera, bodies, trails, velocities.

Entities, below `world`, whose axes are those of the fixed frame (z up) if the camera's pose is known, else those of
the camera's optical frame:

| entity | content |
|---|---|
| camera | the camera's pose; people are below it, in its optical frame |
| camera/image | pinhole camera with K, the image as JPEG; its overlay is in /skeletons |
| camera/depth | depth image, shown as points |
| camera/people | names, velocities (distance in 1 s), one-sigma ellipsoids of both covariances, meshes/ID |
| trails | positions of the pelvises over the last TRAIL_S seconds |
| ground | lines 1 m apart at z = 0 of the fixed frame |

Timelines: `frame`, the number of the frame, and `stamp`, of the image.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.people import People

APPLICATION = "multihmr2"
PEOPLE = "world/camera/people"
Color = tuple[int, int, int]
MISSING = "rerun is not installed: pip install 'multihmr2_ros[view]'"
TRAIL_S = 5.0
EPOCH_S = 1e8  # stamps above this are dates, below it seconds since the start
JPEG_QUALITY = 75
MAX_VERTICES = 1200  # of a mesh; larger ones are simplified
GRID_M = 0.03  # initial cell size of the simplification
GROUND_REACH_M = 10
SKELETON_RADIUS_PX = 1.5
IMAGE_PLANE_M = 0.7  # distance from the camera
LABEL_ABOVE_M = 0.15
EYE_M, TARGET_M = (3.5, -2.5, -2.5), (0.0, 0.3, 3.5)  # at first, in the camera's optical frame: from its side
SKELETON_BONES = (
    "spine03", "neck01", "head", "clavicle.L", "upperarm01.L", "lowerarm01.L", "wrist.L", "clavicle.R", "upperarm01.R",
    "lowerarm01.R", "wrist.R", "upperleg01.L", "lowerleg01.L", "foot.L", "upperleg01.R", "lowerleg01.R", "foot.R",
)  # fmt: skip


@dataclass(frozen=True)
class BodyTopology:
    """Constant data of all bodies.

    faces     (F, 3) triangles
    template  (V, 3) m, vertices of a body with its limbs apart
    bones     (b, 2) pairs of rows of People.joints, drawn as lines
    """

    faces: NDArray[np.integer]
    template: NDArray[np.floating]
    bones: NDArray[np.integer]


@dataclass(frozen=True)
class FrameContext:
    """Data of a frame in addition to the image.

    depth_m            (H, W) float32 m, registered to the image; 0 or NaN where unknown
    fixed_from_camera  (4, 4) pose of the camera in a frame with z up and the ground at z = 0
    """

    depth_m: NDArray[np.float32] | None = None
    fixed_from_camera: NDArray[np.float64] | None = None


NO_CONTEXT = FrameContext()


def import_rerun() -> Any:
    """Import the module rerun. Raises UserError if it is not installed."""
    try:
        import rerun
    except ImportError:
        raise UserError(MISSING) from None
    return rerun


class RerunScene:
    """Writer of frames, in order of time, to a recording stream.

    Memory does not grow with the number of frames: trails end after TRAIL_S, and meshes of absent people are cleared.
    """

    def __init__(self, stream: Any, rig: BodyTopology) -> None:
        self._rr = import_rerun()
        self._stream = stream
        self._vertices, self._faces = simplify_mesh(rig.template, rig.faces)
        self._bones = rig.bones
        self._meshes: set[str] = set()  # names of the meshes on display
        self._trails: dict[str, deque[tuple[float, NDArray[np.float64]]]] = {}
        self._frame = 0
        self._is_fixed: bool | None = None
        self._camera: bytes = b""

    def add(self, frame: Frame, people: People, around: FrameContext = NO_CONTEXT) -> None:
        if frame.lens is not None:  # the viewer's camera is a pinhole camera
            joints_2d = project(people.joints.astype(np.float64), people.k).astype(np.float32)
            frame, people = frame.undistort(), dataclasses.replace(people, joints_2d=joints_2d)
        self._set_time(frame.stamp)
        self._log_world(around)
        self._log_camera(frame, people, around)
        self._log_skeletons(people)
        self._log_meshes(people)
        self._log_names(people)
        self._log_velocities(people)
        self._log_ellipsoids("pelvis_covariances", people.pelvis, people.pelvis_covariance, people)
        self._log_trails(frame.stamp, people, around)
        self._frame += 1

    def _set_time(self, stamp_s: float) -> None:
        self._stream.set_time("frame", sequence=self._frame)
        if stamp_s >= EPOCH_S:
            self._stream.set_time("stamp", timestamp=stamp_s)
        else:
            self._stream.set_time("stamp", duration=stamp_s)

    def _log_world(self, around: FrameContext) -> None:
        """Log axes and ground; again when the fixed frame appears or disappears."""
        rr, is_fixed = self._rr, around.fixed_from_camera is not None
        if is_fixed != self._is_fixed:
            axes = rr.ViewCoordinates.FLU if is_fixed else rr.ViewCoordinates.RDF
            self._stream.log("world", axes)
            self._stream.log("world/ground", _make_ground_lines(rr) if is_fixed else rr.Clear(recursive=True))
        self._is_fixed = is_fixed

    def _log_camera(self, frame: Frame, people: People, around: FrameContext) -> None:
        rr = self._rr
        height, width = frame.image.shape[:2]
        pose = np.eye(4) if around.fixed_from_camera is None else around.fixed_from_camera
        camera = people.k.tobytes() + pose.tobytes() + f"{width}x{height}".encode()
        if camera != self._camera or around.depth_m is not None:
            self._stream.log("world/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
            pinhole = rr.Pinhole(
                image_from_camera=people.k, width=width, height=height, camera_xyz=rr.ViewCoordinates.RDF,
                image_plane_distance=IMAGE_PLANE_M,
            )  # fmt: skip
            self._stream.log("world/camera/image", pinhole)
            if around.depth_m is not None:
                self._stream.log("world/camera/depth", pinhole, rr.DepthImage(around.depth_m, meter=1.0))
            self._camera = camera
        self._stream.log(
            "world/camera/image", rr.EncodedImage(contents=_encode_jpeg(frame.image), media_type="image/jpeg")
        )

    def _log_skeletons(self, people: People) -> None:
        lines, colors = [], []
        if people.joints_2d.shape[1]:
            for points, color in zip(people.joints_2d, _get_colors(people), strict=True):
                seen = points[self._bones][np.isfinite(points[self._bones]).all(axis=(1, 2))]
                lines += list(seen)
                colors += [color] * len(seen)
        strips = self._rr.LineStrips2D(lines, colors=colors, radii=self._rr.Radius.ui_points(SKELETON_RADIUS_PX))
        self._stream.log("world/camera/image/skeletons", strips)

    def _log_meshes(self, people: People) -> None:
        rr, shown = self._rr, set()
        if people.vertices.shape[1] > self._vertices.max(initial=-1):
            for name, vertices, color in zip(
                make_entity_names(people), people.vertices, _get_colors(people), strict=True
            ):
                if np.isfinite(vertices).all():
                    self._log_mesh(f"{PEOPLE}/meshes/{name}", vertices[self._vertices], color)
                    shown.add(name)
        for name in self._meshes - shown:
            self._stream.log(f"{PEOPLE}/meshes/{name}", rr.Clear(recursive=False))
        self._meshes = shown

    def _log_mesh(self, path: str, vertices: NDArray[np.float32], color: Color) -> None:
        """Log a mesh; triangles and color, most of its data, only when the person appears."""
        mesh, normals = self._rr.Mesh3D, compute_vertex_normals(vertices, self._faces)
        if path.rpartition("/")[2] not in self._meshes:
            self._stream.log(path, mesh.from_fields(triangle_indices=self._faces, albedo_factor=color))
        self._stream.log(path, mesh.from_fields(vertex_positions=vertices, vertex_normals=normals))

    def _log_names(self, people: People) -> None:
        tops = np.zeros((len(people), 3), np.float32)
        for row in range(len(people)):
            points = people.vertices[row] if people.vertices.shape[1] else people.joints[row]
            tops[row] = points[points[:, 1].argmin()] if len(points) else people.pelvis[row]
        labels = [format_person_label(people, row) for row in range(len(people))]
        above = tops - np.array([0, LABEL_ABOVE_M, 0], np.float32)
        names = self._rr.Points3D(above, labels=labels, colors=_get_colors(people), radii=0.01)
        self._stream.log(f"{PEOPLE}/names", names)

    def _log_velocities(self, people: People) -> None:
        """Log velocities as arrows from the pelvises, with the length of one second's path, and their covariances."""
        moving = people.select(np.flatnonzero(np.isfinite(people.velocity).all(axis=1)))
        arrows = self._rr.Arrows3D(
            origins=moving.pelvis, vectors=moving.velocity.astype(np.float32), colors=_get_colors(moving), radii=0.02
        )
        self._stream.log(f"{PEOPLE}/velocities", arrows)
        self._log_ellipsoids(
            "velocity_covariances", moving.pelvis + moving.velocity, moving.velocity_covariance, moving
        )

    def _log_ellipsoids(
        self, name: str, centers: NDArray[np.floating], covariances: NDArray[np.float64], people: People
    ) -> None:
        """Log one-sigma ellipsoids of the covariances (n, 3, 3) that are finite."""
        known = np.asarray(np.isfinite(covariances).all(axis=(1, 2)), bool)
        half_sizes, quaternions = compute_principal_axes(covariances[known])
        colors = [color for color, is_known in zip(_get_colors(people), known, strict=True) if is_known]
        ellipsoids = self._rr.Ellipsoids3D(
            centers=centers[known].astype(np.float32), half_sizes=half_sizes, quaternions=quaternions, colors=colors
        )
        self._stream.log(f"{PEOPLE}/{name}", ellipsoids)

    def _log_trails(self, stamp_s: float, people: People, around: FrameContext) -> None:
        pose = np.eye(4) if around.fixed_from_camera is None else around.fixed_from_camera
        places = people.pelvis.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
        names = make_entity_names(people)
        self._trails = {name: self._trails.get(name, deque()) for name in names}
        for name, place in zip(names, places, strict=True):
            trail = self._trails[name]
            if trail and stamp_s < trail[-1][0]:
                trail.clear()  # a bag's clock jumped back
            trail.append((stamp_s, place))
            while stamp_s - trail[0][0] > TRAIL_S:
                trail.popleft()
        lines = [[place for _, place in self._trails[name]] for name in names]
        self._stream.log("world/trails", self._rr.LineStrips3D(lines, colors=_get_colors(people), radii=0.01))


def _get_colors(people: People) -> list[Color]:
    return [get_track_color(int(track_id)) for track_id in people.track_id]


def compute_principal_axes(covariances: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return half sizes (n, 3) and quaternions (n, 4; xyzw) of the one-sigma ellipsoids of covariances (n, 3, 3)."""
    from scipy.spatial.transform import Rotation

    if not len(covariances):
        return np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    values, axes = np.linalg.eigh(covariances)
    axes[:, :, 0] *= np.sign(np.linalg.det(axes))[:, None]
    half_sizes = np.sqrt(np.maximum(values, 0)).astype(np.float32)
    return half_sizes, np.asarray(Rotation.from_matrix(axes).as_quat(), np.float32)


def make_layout() -> Any:
    """Return the viewer's blueprint: the image with its overlay on the left, the 3D scene on the right."""
    from rerun import blueprint

    return blueprint.Blueprint(
        blueprint.Horizontal(
            blueprint.Spatial2DView(origin="world/camera/image", name="image"),
            blueprint.Spatial3DView(
                origin="world",
                name="people in 3D",
                background=[255, 255, 255],
                eye_controls=blueprint.EyeControls3D(position=EYE_M, look_target=TARGET_M, eye_up=[0, -1, 0]),
            ),
            column_shares=[2, 3],
        ),
        blueprint.TimePanel(state="collapsed", timeline="stamp"),
        blueprint.SelectionPanel(state="collapsed"),
        blueprint.BlueprintPanel(state="collapsed"),
    )


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
    """Return the lines (b, 2) of a skeleton: SKELETON_BONES, each with its nearest ancestor among them or the root."""
    kept = {0, *(labels.index(label) for label in SKELETON_BONES)}
    pairs = []
    for row in sorted(kept - {0}):
        parent = parents[row]
        while parent not in kept:
            parent = parents[parent]
        pairs.append((parent, row))
    return np.array(pairs, np.int64).reshape(-1, 2)


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


def _make_ground_lines(rr: Any) -> Any:
    reach = GROUND_REACH_M
    lines = [line for at in range(-reach, reach + 1) for line in _make_cross(float(at), reach)]
    return rr.LineStrips3D(lines, colors=[[170, 170, 170]], radii=0.005)


def _make_cross(at: float, reach: float) -> Iterator[list[list[float]]]:
    yield [[at, -reach, 0.0], [at, reach, 0.0]]
    yield [[-reach, at, 0.0], [reach, at, 0.0]]


def _encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
