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

"""Hi4D: two people in contact, eight fixed cameras; SMPL's joints and vertices.

Checked against the data set's own dataset.md: files, folders, keys and shapes; against its authors' answer in issue 4
of its repository: the images have no distortion left. Not stated there, and so assumed: metres, 30 Hz, and extrinsics
that lead from the world to the camera (refused where everybody would be behind it).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import Listing, found, parsed
from multihmr2_ros.evaluation.datasets.joints import Actors, Floats, JointFrame, JointSequence, Lens
from multihmr2_ros.evaluation.datasets.smpl import (
    SMPL_JOINTS,
    SMPL_ROOT,
    SMPL_VERTICES,
    are_known,
    in_camera,
    require_in_front,
)

FPS = 30.0


def hi4d_sequences(folder: Path, camera: str = "") -> Listing[JointSequence]:
    """pair00/NAME/ with meta.npz, cameras/rgb_cameras.npz, images/CAMERA/000001.jpg and smpl/000001.npz.

    camera: an id such as "4"; "" for the one that the data set names for monocular methods (meta's mono_cam).
    """
    for path in found(folder, "pair*/*/cameras/rgb_cameras.npz", "cameras"):
        yield _name(path.parents[1]), partial(parsed, path, partial(_sequence, path, camera))


def _sequence(path: Path, camera: str) -> JointSequence:
    sequence = path.parents[1]
    chosen = camera or _monocular_camera(sequence / "meta.npz")
    with np.load(path, allow_pickle=False) as cameras:
        ids = [str(each) for each in cameras["ids"]]
        if chosen not in ids:
            raise UserError(f"{path} has the cameras {', '.join(ids)}, not {chosen}; choose one with --split")
        row = ids.index(chosen)
        # The data set's description spells the key wrongly; either is read.
        intrinsics = cameras["intrinsics"] if "intrinsics" in cameras.files else cameras["intirnsics"]
        lens, extrinsics = Lens(np.asarray(intrinsics[row], np.float64)), np.asarray(cameras["extrinsics"][row])
    frames = []
    for file in found(sequence / "smpl", "*.npz", "people"):
        image = sequence / "images" / chosen / f"{file.stem}.jpg"
        if image.is_file():
            read = partial(parsed, file, partial(_actors, file, extrinsics))
            frames.append(JointFrame(int(file.stem) / FPS, image, lens, read))
    if not frames:
        raise UserError(f"no image of camera {chosen} in {sequence / 'images'}; unpack it, or choose one with --split")
    return JointSequence(_name(sequence), FPS, SMPL_ROOT, frames)


def _name(sequence: Path) -> str:
    return f"{sequence.parent.name}-{sequence.name}"


def _monocular_camera(path: Path) -> str:
    def read() -> str:
        with np.load(path, allow_pickle=False) as meta:
            return str(np.asarray(meta["mono_cam"]).item())

    return parsed(path, read)


def _actors(file: Path, extrinsics: Any) -> Actors:
    with np.load(file, allow_pickle=False) as content:
        joints: Floats = in_camera(extrinsics, content["joints_3d"].reshape(-1, SMPL_JOINTS, 3))
        vertices = in_camera(extrinsics, content["verts"].reshape(-1, SMPL_VERTICES, 3))
    require_in_front(joints, file)
    return Actors(np.arange(len(joints)), joints, are_known(joints), vertices)
