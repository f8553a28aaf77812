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

"""EMDB, Hi4D and Harmony4D as small folders of their documented formats, and an estimator that returns the truth."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial.transform import Rotation

from multihmr2_ros.camera import project
from multihmr2_ros.people import People
from test.helpers.dataset_factory import (
    HEIGHT,
    WIDTH,
    Estimator,
    K,
    make_joints,
    make_mesh,
    make_people_with_vertices,
    save_image,
)

POINTS = 24 + 6890  # SMPL's joints, followed by its vertices
FRAMES = 3


def save_mesh_regressor(path: Path) -> Path:
    """Save a regressor for which point j is vertex j, for joints and vertices."""
    sparse.save_npz(path, sparse.eye_array(POINTS, 19158, format="csr"))
    return path


def transform_to_world(extrinsics: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return points (…, 3) of the camera frame in the world frame.

    extrinsics (3 or 4, 4): world → camera, possibly with a scale.
    """
    return (camera - extrinsics[:3, 3]) @ np.linalg.inv(extrinsics[:3, :3]).T


def make_transform(angles: list[float], shift: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), shift
    return matrix


def make_displaced_estimator(points: Callable[[int], np.ndarray], shift: list[float]) -> Estimator:
    """Return a prediction of each frame's people (n, P, 3), displaced by shift, with a field of view 2° too large."""

    def found(index: int) -> People:
        people = make_people_with_vertices(make_mesh(np.add(points(index), shift)))
        return dataclasses.replace(people, predicted_vertical_fov=people.vertical_fov + np.radians(2))

    return Estimator(found)


def write_emdb(folder: Path, points: np.ndarray, *, part: str = "emdb1", name: str = "09_outdoor_walk") -> Path:
    """Write one person, points (F, 6914, 3) in the frame of a moving camera, out of view in the last frame."""
    frames = len(points)
    extrinsics = np.stack([make_transform([5.0 * index, 20, 3], [0.1 * index, 0.2, 1.0]) for index in range(frames)])
    world = np.stack([transform_to_world(pose, each) for pose, each in zip(extrinsics, points, strict=True)])
    good = np.ones(frames, bool)
    good[-1] = False
    data = {
        "gender": "female", "name": f"P0_{name}", "emdb1": part == "emdb1", "emdb2": np.bool_(part == "emdb2"),
        "n_frames": frames, "good_frames_mask": good,
        "camera": {"intrinsics": K, "extrinsics": extrinsics, "width": WIDTH, "height": HEIGHT},
        "smpl": {
            "poses_root": np.zeros((frames, 3)), "poses_body": np.zeros((frames, 69)), "trans": np.zeros((frames, 3)),
            "betas": np.zeros(10),
        },
        "kp2d": project(points[:, :24], K),
        "bboxes": {"bboxes": np.zeros((frames, 4)), "invalid_idxs": np.array([frames - 1])},
    }  # fmt: skip
    sequence = folder / "P0" / name
    for index in range(frames):
        save_image(sequence / "images" / f"{index:05d}.jpg")
    (sequence / f"P0_{name}_data.pkl").write_bytes(pickle.dumps(data))
    np.savez(sequence / f"P0_{name}_bodies.npz", joints=world[:, :24], vertices=world[:, 24:].astype(np.float32))
    return sequence


def make_emdb_points() -> np.ndarray:
    return np.stack([np.add(make_joints(1, POINTS)[0], [0.02 * index, 0, 0]) for index in range(FRAMES)])


MONOCULAR_CAMERA, OTHER_CAMERA = 28, 4


def write_hi4d(folder: Path, points: np.ndarray, *, key: str = "intrinsics", extrinsics: Any = None) -> Path:
    """Write people with points (F, 2, 6914, 3) in the frame of the monocular camera."""
    sequence = folder / "pair00" / "dance00"
    pose = make_transform([10, 50, 5], [0.3, 0.1, 3.5]) if extrinsics is None else extrinsics
    other = make_transform([0, -90, 0], [0, 0, 3.0])
    (sequence / "cameras").mkdir(parents=True)
    (sequence / "smpl").mkdir()
    cameras: dict[str, Any] = {
        "ids": np.array([OTHER_CAMERA, MONOCULAR_CAMERA]), "extrinsics": np.stack([other[:3], pose[:3]]),
        key: np.stack([2 * K, K]) * [[[1], [1], [0.5]], [[1], [1], [1]]],
        "dist_coeffs": np.full((2, 5), 0.3),
    }  # fmt: skip
    np.savez(sequence / "cameras" / "rgb_cameras.npz", **cameras)
    ids = np.array([[12], [13, 14]], dtype=object)  # a pickled list of lists, which must not be loaded
    np.savez(
        sequence / "meta.npz", start=11, end=13, num_persons=2, genders=np.array(["male", "female"]), contact_ids=ids,
        mono_cam=MONOCULAR_CAMERA, betas=np.zeros((2, 10)),
    )  # fmt: skip
    for index, each in enumerate(points):
        world, name = transform_to_world(pose, each), f"{11 + index:06d}"
        for camera in (OTHER_CAMERA, MONOCULAR_CAMERA):
            save_image(sequence / "images" / str(camera) / f"{name}.jpg")
        np.savez(
            sequence / "smpl" / f"{name}.npz", joints_3d=world[:, :24], verts=world[:, 24:], betas=np.zeros((2, 10)),
            body_pose=np.zeros((2, 69)), global_orient=np.zeros((2, 3)), transl=np.zeros((2, 3)),
            contact=np.zeros((2, 6890)),
        )  # fmt: skip
    return sequence


def make_pair_points() -> np.ndarray:
    """Return two people less than a meter apart, (F, 2, 6914, 3)."""
    pair = make_joints(2, POINTS) * [0.3, 1, 1]
    return np.stack([np.add(pair, [0.02 * index, 0, 0]) for index in range(FRAMES)])


FISHEYE = np.array([0.05, -0.01, 0.002, 0.0])
CAMERAS = f"""# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
# Number of cameras: 2
1 FULL_OPENCV 1408 1408 600 600 704 704 0 0 0 0 0 0 0 0
7 OPENCV_FISHEYE {WIDTH} {HEIGHT} {K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]} {" ".join(map(str, FISHEYE))}
"""


def write_harmony4d(folder: Path, points: np.ndarray, *, glasses: bool, scale: float = 0.4) -> Path:
    """Write people with points (F, 2, 6914, 3) m in the frame of cam02. COLMAP's unit is 1/scale m."""
    sequence = folder / "05_sword" / "001_sword"
    workplace = sequence / "colmap" / "workplace"
    workplace.mkdir(parents=True)
    (workplace / "cameras.txt").write_text(CAMERAS)
    similarity = make_transform([30, -20, 70], [1.0, -2.0, 0.5])
    similarity[:3, :3] *= scale
    pose = make_transform([10, 50, 5], [0.3, 0.1, 1.4])
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    tx, ty, tz = pose[:3, 3]
    lines = [
        "# Image list with two lines of data per image:", "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "#   POINTS2D[] as (X, Y, POINT3D_ID)", "# Number of images: 3, mean observations per image: 0",
        "1 1 0 0 0 0 0 0 1 aria01/00001.jpg", "10.5 20.5 -1 7 8 3",
        f"2 {w} {x} {y} {z} {tx} {ty} {tz} 7 cam02/00001.jpg", "",
        "3 1 0 0 0 0 0 9 7 cam02/09000.jpg", "",
    ]  # fmt: skip
    (workplace / "images.txt").write_text("\n".join(lines) + "\n")
    if glasses:
        (workplace / "colmap_from_aria_transforms.pkl").write_bytes(
            pickle.dumps({"aria01": similarity, "aria02": np.eye(4)})
        )
    else:
        np.save(workplace / "scale.npy", np.linalg.inv(similarity))
    to_camera = pose @ similarity
    (sequence / "processed_data" / "smpl").mkdir(parents=True)
    for index, each in enumerate(points, start=1):
        # Lengths in the camera frame are metric, but the transformation results in COLMAP's unit.
        world = transform_to_world(to_camera, each * scale)
        people = {
            name: {
                "joints": np.vstack([body[:24], np.zeros((21, 3))]), "vertices": body[24:].astype(np.float32),
                "global_orient": np.zeros(3), "transl": np.zeros(3), "body_pose": np.zeros(69), "betas": np.zeros(10),
            }
            for name, body in zip(("aria01", "aria02"), world, strict=True)
        }  # fmt: skip
        np.save(sequence / "processed_data" / "smpl" / f"{index:05d}.npy", np.array(people, dtype=object))
        save_image(sequence / "exo" / "cam02" / "images" / f"{index:05d}.jpg")
    return sequence
