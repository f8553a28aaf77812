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

"""People for tests, with all fields filled and consistent."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from multihmr2_ros.people import BONE_COUNT, FULL_VERTEX_COUNT, SURFACE_VERTICES, IntrinsicsSource, People, TrackState


def pinhole(focal: float = 500.0, image_size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """Return intrinsics (3, 3) px with the principal point at the image's center; image_size is (height, width)."""
    return np.array([[focal, 0.0, image_size[1] / 2], [0.0, focal, image_size[0] / 2], [0.0, 0.0, 1.0]])


def make_people(
    n: int,
    *,
    vertices: np.ndarray | None = None,
    pelvis: np.ndarray | None = None,
    k: np.ndarray | None = None,
    image_size: tuple[int, int] = (480, 640),
    seed: int = 0,
    **changes: Any,
) -> People:
    """Return n people at least 3 m in front of the camera, with random joints around the pelvis (n, 3) m.

    vertices (n, V, 3) m: meshes in the camera frame; none by default. Other fields can be set by name; the rest follow
    from these or are random within their range.
    """
    rng = np.random.default_rng(seed)
    k = pinhole(image_size=image_size) if k is None else np.asarray(k, np.float64)
    if pelvis is None:
        pelvis = np.stack([np.linspace(-0.5, 0.5, n), np.zeros(n), 3.0 + np.arange(n)], axis=1)
    rotations = np.linalg.qr(rng.normal(size=(n, BONE_COUNT, 3, 3)))[0]
    rotations *= np.linalg.det(rotations)[..., None, None]
    joints = np.asarray(pelvis)[:, None] + rng.uniform(-0.4, 0.4, (n, BONE_COUNT, 3)) * [1.0, 2.0, 0.5]
    joints[:, 0] = pelvis
    bone_poses = np.zeros((n, BONE_COUNT, 4, 4))
    bone_poses[..., :3, :3], bone_poses[..., 3, 3] = rotations, 1.0
    shape = rng.uniform(0.0, 1.0, (n, 6)).astype(np.float32)
    projected = joints @ k.T
    with np.errstate(divide="ignore", invalid="ignore"):  # tests place people at the camera's origin and at NaN
        joints_2d = projected[..., :2] / projected[..., 2:]
        bone_poses[..., :3, 3] = joints - joints[:, :1]
    vertical_fov = 2.0 * np.arctan(image_size[0] / (2.0 * k[1, 1]))
    fields: dict[str, Any] = {
        "score": np.linspace(0.95, 0.5, n, dtype=np.float32),
        "track_id": np.arange(1, n + 1),
        "track_state": np.full(n, int(TrackState.CONFIRMED)),
        "track_age_s": np.full(n, 1.5),
        "shape": shape,
        "running_shape": shape.copy(),
        "rotations": rotations.astype(np.float32),
        "bone_poses": bone_poses.astype(np.float32),
        "joints": joints.astype(np.float32),
        "joints_2d": joints_2d.astype(np.float32),
        "pelvis": joints[:, 0].astype(np.float32),
        "pelvis_covariance": np.broadcast_to(0.01 * np.eye(3), (n, 3, 3)).copy(),
        "velocity": rng.normal(0.0, 1.0, (n, 3)),
        "velocity_covariance": np.broadcast_to(0.04 * np.eye(3), (n, 3, 3)).copy(),
        "vertices": np.zeros((n, 0, 3), np.float32) if vertices is None else np.asarray(vertices, np.float32),
        "stature": rng.uniform(1.0, 1.9, n).astype(np.float32),
        "track_feature": rng.normal(size=(n, 32)).astype(np.float32),
        "k": k,
        "vertical_fov": float(vertical_fov),
        "predicted_vertical_fov": float(vertical_fov),
        "intrinsics_source": IntrinsicsSource.PREDICTED,
        "velocity_frame": "camera",
        "stamp": 0.25,
        "image_size": image_size,
    }
    return People(**(fields | changes))


def make_full_mesh(n: int, guides_m: float) -> People:
    """Return n people with Anny's full mesh, within 0.4 m of the pelvis, except the vertices that no face uses: they
    are lower, or higher if negative, by guides_m."""
    people = make_people(n)
    offsets = np.random.default_rng(0).uniform(-0.4, 0.4, (n, FULL_VERTEX_COUNT, 3))
    guides = np.setdiff1d(np.arange(FULL_VERTEX_COUNT), SURFACE_VERTICES)
    offsets[:, guides, 1] += guides_m
    return dataclasses.replace(people, vertices=(people.pelvis[:, None] + offsets).astype(np.float32))
