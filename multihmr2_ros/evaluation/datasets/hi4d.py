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

"""Hi4D: two people in contact, eight fixed cameras; SMPL joints and vertices.

Checked against the data set's dataset.md: files, folders, keys and shapes; against its authors' answer in issue 4 of
its repository: the images have no lens distortion. Assumed, because it is not documented: meters, 30 Hz, and extrinsics
from the world to the camera (an error is raised if all people would be behind the camera).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import SequenceListing, list_files, parse_file
from multihmr2_ros.evaluation.datasets.joints import AnnotatedPeople, CalibratedLens, Floats, JointFrame, JointSequence
from multihmr2_ros.evaluation.datasets.smpl import (
    SMPL_JOINTS,
    SMPL_ROOT,
    SMPL_VERTICES,
    check_in_front,
    find_complete,
    transform_to_camera,
)

FPS = 30.0


def list_hi4d_sequences(folder: Path, camera: str = "") -> SequenceListing[JointSequence]:
    """List the sequences: pair00/NAME/ with meta.npz, cameras/rgb_cameras.npz, images/CAMERA/000001.jpg and
    smpl/000001.npz.

    camera: an id such as "4"; "" for the camera that the data set selects for monocular methods (mono_cam in meta.npz).
    """
    for path in list_files(folder, "pair*/*/cameras/rgb_cameras.npz", "cameras"):
        yield _make_name(path.parents[1]), partial(parse_file, path, partial(_read_sequence, path, camera))


def _read_sequence(path: Path, camera: str) -> JointSequence:
    sequence = path.parents[1]
    chosen = camera or _find_monocular_camera(sequence / "meta.npz")
    with np.load(path, allow_pickle=False) as cameras:
        ids = [str(each) for each in cameras["ids"]]
        if chosen not in ids:
            raise UserError(
                f"expected one of the cameras {', '.join(ids)} of {path}, got {chosen}; choose one with --split"
            )
        row = ids.index(chosen)
        # The data set's description has a typing error in the key; both spellings are accepted.
        intrinsics = cameras["intrinsics"] if "intrinsics" in cameras.files else cameras["intirnsics"]
        lens, extrinsics = (
            CalibratedLens(np.asarray(intrinsics[row], np.float64)),
            np.asarray(cameras["extrinsics"][row]),
        )
    frames = []
    for file in list_files(sequence / "smpl", "*.npz", "people"):
        image = sequence / "images" / chosen / f"{file.stem}.jpg"
        if image.is_file():
            read = partial(parse_file, file, partial(_read_people, file, extrinsics))
            frames.append(JointFrame(int(file.stem) / FPS, image, lens, read))
    if not frames:
        raise UserError(
            f"expected images of camera {chosen} in {sequence / 'images'}, found none; unpack them, or "
            "choose another camera with --split"
        )
    return JointSequence(_make_name(sequence), FPS, SMPL_ROOT, frames)


def _make_name(sequence: Path) -> str:
    return f"{sequence.parent.name}-{sequence.name}"


def _find_monocular_camera(path: Path) -> str:
    def read() -> str:
        with np.load(path, allow_pickle=False) as meta:
            return str(np.asarray(meta["mono_cam"]).item())

    return parse_file(path, read)


def _read_people(file: Path, extrinsics: Any) -> AnnotatedPeople:
    with np.load(file, allow_pickle=False) as content:
        joints: Floats = transform_to_camera(extrinsics, content["joints_3d"].reshape(-1, SMPL_JOINTS, 3))
        vertices = transform_to_camera(extrinsics, content["verts"].reshape(-1, SMPL_VERTICES, 3))
    check_in_front(joints, file)
    return AnnotatedPeople(np.arange(len(joints)), joints, find_complete(joints), vertices)
