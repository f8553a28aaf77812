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

"""EMDB: one person in each sequence, filmed by a moving phone.

Checked against the data set's dataset.md and visualization script: files, folders, keys, shapes, and that the
extrinsics map from the world to the camera. The frame rate, 30 Hz, is taken from the script; it is not documented as
the rate of recording.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import SequenceListing, list_files, parse_file
from multihmr2_ros.evaluation.datasets.joints import AnnotatedPeople, CalibratedLens, Floats, JointFrame, JointSequence
from multihmr2_ros.evaluation.datasets.pickles import read_pickle
from multihmr2_ros.evaluation.datasets.smpl import SMPL_JOINTS, SMPL_ROOT, SMPL_VERTICES, transform_to_camera

FPS = 30.0
PARTS = ("emdb1", "emdb2")
REPROJECTION_SHARE = 0.01  # of the image's height. kp2d are the same joints, projected; only rounding differs


def list_emdb_sequences(
    folder: Path, part: str = "emdb1", *, with_bodies: bool = True
) -> SequenceListing[JointSequence]:
    """List the sequences of EMDB: P0/NAME/P0_NAME_data.pkl and P0/NAME/images/00000.jpg.

    part: "emdb1" or "emdb2". In frames outside of good_frames_mask the person is not required.

    The pickle contains SMPL parameters, neither joints nor vertices. Users with SMPL's license compute these and store
    them beside it as P0_NAME_bodies.npz: joints (n_frames, 24, 3) and, for PVE, vertices (n_frames, 6890, 3), m in the
    world. The file is checked against the pickle's kp2d. Without the file, or if with_bodies is False, only the camera
    is known.
    """
    if part not in PARTS:
        raise UserError(f"--split of EMDB must be {' or '.join(PARTS)}, got {part!r}")
    for path in list_files(folder, "P*/*/*_data.pkl", "sequence"):
        yield _make_name(path), partial(parse_file, path, partial(_read_sequence, path, part, with_bodies))


def _make_name(path: Path) -> str:
    return f"{path.parents[1].name}-{path.parent.name}"


def _read_sequence(path: Path, part: str, with_bodies: bool) -> JointSequence | None:
    data = read_pickle(path)
    if not data[part]:
        return None
    camera = data["camera"]
    lens = CalibratedLens(np.asarray(camera["intrinsics"], np.float64).reshape(3, 3))
    extrinsics = np.asarray(camera["extrinsics"], np.float64).reshape(-1, 4, 4)
    good = np.asarray(data["good_frames_mask"], bool)[: len(extrinsics)]
    if good.shape != (len(extrinsics),):
        raise ValueError(f"good_frames_mask has {good.shape} for {len(extrinsics)} extrinsics")
    bodies = path.with_name(path.name.removesuffix("_data.pkl") + "_bodies.npz")
    images = path.parent / "images"
    name = _make_name(path)
    if not with_bodies or not bodies.is_file():
        missing = f"{bodies} does not exist" if with_bodies else "--regressor is not given"
        limitation = (
            f"EMDB {name}: only the field of view is measured, because {missing}; joints need both (docs/evaluation.md)"
        )
        frames = [JointFrame(index / FPS, images / f"{index:05d}.jpg", lens, None) for index in range(len(extrinsics))]
        return JointSequence(name, FPS, SMPL_ROOT, frames, limitation)
    joints, vertices = parse_file(bodies, partial(_read_bodies, bodies, len(extrinsics)))
    camera_joints = np.stack([transform_to_camera(pose, body) for pose, body in zip(extrinsics, joints, strict=True)])
    _check_projection(
        bodies, project(camera_joints, lens.k), np.asarray(data["kp2d"], np.float64), good, camera["height"]
    )

    def annotated_people(index: int) -> AnnotatedPeople:
        mesh = (
            np.zeros((0, 0, 3)) if vertices is None else transform_to_camera(extrinsics[index], vertices[index])[None]
        )
        return AnnotatedPeople(np.zeros(1, np.int64), camera_joints[index][None], good[index][None], mesh)

    frames = [
        JointFrame(
            index / FPS, images / f"{index:05d}.jpg", lens, partial(parse_file, path, partial(annotated_people, index))
        )
        for index in range(len(extrinsics))
    ]
    return JointSequence(name, FPS, SMPL_ROOT, frames)


def _read_bodies(path: Path, frames: int) -> tuple[Floats, Any]:
    """Read joints (frames, 24, 3) and vertices (frames, 6890, 3); the vertices are None if the file has none."""
    with np.load(path, allow_pickle=False) as content:
        joints = np.asarray(content["joints"], np.float64)
        vertices = content["vertices"] if "vertices" in content.files else None
    for array, points in ((joints, SMPL_JOINTS), (vertices, SMPL_VERTICES)):
        if array is not None and array.shape != (frames, points, 3):
            raise ValueError(f"expected ({frames}, {points}, 3), got {array.shape}")
    return joints, vertices


def _check_projection(path: Path, projected: Any, known: Floats, good: Any, height: int) -> None:
    if not good.any():
        return
    error_px = float(np.median(np.linalg.norm(projected - known, axis=-1)[good]))
    if not error_px <= REPROJECTION_SHARE * int(height):
        raise UserError(
            f"the joints in {path} must project to the dataset's kp2d, got a difference of {error_px:.0f} px; write "
            "SMPL's 24 joints in meters, posed with the pickle's gender, betas, poses_root, poses_body and trans"
        )
