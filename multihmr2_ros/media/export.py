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

"""Writes people and images to files: parameters (.npz), meshes (.glb), images (.png, .jpg)."""

from __future__ import annotations

import io
import json
import logging
import struct
from pathlib import Path

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.people import PER_PERSON_FIELDS, People

# Rotation by 180° about x: camera optical frame (x right, y down, z forward) to glTF's (x right, y up, z backward).
GLTF_FROM_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])
JPEG_QUALITY = 95

logger = logging.getLogger(__name__)


def save_params(path: str | Path, people: People) -> None:
    """Write the parameters of one frame's people to an .npz file that np.load reads with allow_pickle=False.

    Keys: the per-person arrays of `People`; and of the frame k (3, 3) px, vertical_fov rad, intrinsics_source and
    velocity_frame (text), stamp s, image_size (2,) height and width px.
    """
    arrays = {name: getattr(people, name) for name in PER_PERSON_FIELDS}
    arrays["k"] = people.k
    arrays["vertical_fov"] = np.float64(people.vertical_fov)
    arrays["intrinsics_source"] = np.array(people.intrinsics_source.value)
    arrays["velocity_frame"] = np.array(people.velocity_frame)
    arrays["stamp"] = np.float64(people.stamp)
    arrays["image_size"] = np.array(people.image_size, np.int64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def save_meshes(path: str | Path, people: People, faces: NDArray[np.integer]) -> None:
    """Write the people's meshes, faces (F, 3) of people.vertices, to a binary glTF file (.glb), in meters.

    Each person is a node in the track's color, with the name `person_<track_id>`. Without a track, it is
    `person_<row>`, or `untracked_<row>` if another person has the row as track id. The nodes' parent is the node
    `camera`, which transforms the camera optical frame to glTF's y-up frame: viewers show the people upright, seen from
    the camera. Only vertices that faces use are written. Without people, the file has the node `camera` only, so that
    every frame of a video has a file. People with vertices that are not finite are left out, with a warning.

    Raises UserError if the people have no mesh or the file cannot be written.
    """
    if len(people) and people.vertices.shape[1] == 0:
        raise UserError(f"cannot write {path}: the people have no vertices; configure the estimator with a mesh")
    used, compact_faces = np.unique(faces, return_inverse=True)
    compact_faces = compact_faces.reshape(faces.shape)
    scene = trimesh.Scene()
    scene.graph.update("camera", "world", matrix=GLTF_FROM_CAMERA)
    track_ids = people.track_id.tolist()
    for row, (track_id, name) in enumerate(zip(track_ids, _make_node_names(track_ids), strict=True)):
        vertices = people.vertices[row, used]
        if not np.isfinite(vertices).all():
            logger.warning("%s: %s is left out, because its vertices are not all finite", path, name)
            continue
        mesh = trimesh.Trimesh(vertices, compact_faces, process=False, visual=_make_material(name, track_id))
        scene.add_geometry(mesh, node_name=name, geom_name=name, parent_node_name="camera")
    content = scene.export(file_type="glb", include_normals=True) if scene.geometry else _make_empty_glb()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def save_image(path: str | Path, rgb: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) uint8 RGB as .png, .jpg or .jpeg. Raises UserError for other names or failed writes."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"cannot write {path}: images are written as .png, .jpg or .jpeg, not '{suffix}'")
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, content = cv2.imencode(suffix, np.ascontiguousarray(rgb[:, :, ::-1]), options)  # OpenCV's order is BGR
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _make_node_names(track_ids: list[int]) -> list[str]:
    """Return a different name for each person; track id -1: without a track."""
    return [
        f"person_{track_id}" if track_id >= 0 else f"untracked_{row}" if row in track_ids else f"person_{row}"
        for row, track_id in enumerate(track_ids)
    ]


def _make_material(name: str, track_id: int) -> TextureVisuals:
    """Return a matte material in the track's color, converted from sRGB to linear (glTF 2.0, section 3.9.2)."""
    encoded = np.array(get_track_color(track_id)) / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    color = [*linear.tolist(), 1.0]
    return TextureVisuals(
        material=PBRMaterial(name=name, baseColorFactor=color, metallicFactor=0.0, roughnessFactor=0.8)
    )


def _make_empty_glb() -> bytes:
    """Return a glTF scene with the node `camera` only: header and one JSON chunk. trimesh exports no empty scenes."""
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "camera", "matrix": GLTF_FROM_CAMERA.T.ravel().tolist()}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)  # chunks end on a multiple of four bytes
    return struct.pack("<4sII", b"glTF", 2, 20 + len(text)) + struct.pack("<I4s", len(text), b"JSON") + text
