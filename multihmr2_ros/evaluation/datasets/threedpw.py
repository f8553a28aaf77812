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

"""3DPW: people outdoors, filmed by a moving phone; SMPL joints."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from multihmr2_ros.evaluation.datasets.files import SequenceListing, list_files, parse_file
from multihmr2_ros.evaluation.datasets.joints import AnnotatedPeople, CalibratedLens, Floats, JointFrame, JointSequence
from multihmr2_ros.evaluation.datasets.pickles import read_pickle
from multihmr2_ros.evaluation.datasets.smpl import SMPL_JOINTS, SMPL_ROOT

FPS = 30.0


def list_threedpw_sequences(folder: Path, split: str = "test") -> SequenceListing[JointSequence]:
    """List the sequences of 3DPW (from its readme): sequenceFiles/SPLIT/NAME.pkl and imageFiles/NAME/image_00000.jpg.

    jointPositions are SMPL's 24 joints in the world; cam_poses (world → camera) transforms them to the camera. Actors
    are ignored in frames whose camera pose is not aligned to them (campose_valid).
    """
    for path in list_files(folder, f"sequenceFiles/{split}/*.pkl", "sequence"):
        yield path.stem, partial(parse_file, path, partial(_read_sequence, folder, path))


def _read_sequence(folder: Path, path: Path) -> JointSequence:
    data = read_pickle(path)
    lens = CalibratedLens(np.asarray(data["cam_intrinsics"], np.float64).reshape(3, 3))
    poses = np.asarray(data["cam_poses"], np.float64)
    world = np.stack([np.asarray(each).reshape(-1, SMPL_JOINTS, 3)[: len(poses)] for each in data["jointPositions"]])
    valid = np.stack([np.asarray(each, bool)[: len(poses)] for each in data["campose_valid"]])
    if world.shape[1] != len(poses) or valid.shape != world.shape[:2]:
        raise ValueError(f"{len(poses)} cam_poses, but jointPositions {world.shape} and campose_valid {valid.shape}")
    camera: Floats = np.einsum("fij,pfkj->pfki", poses[:, :3, :3], world) + poses[:, None, :3, 3]
    images, identity = folder / "imageFiles" / path.stem, np.arange(len(world))
    frames = [
        JointFrame(
            index / FPS, images / f"image_{index:05d}.jpg", lens,
            partial(parse_file, path, partial(AnnotatedPeople, identity, camera[:, index], valid[:, index])),
        )
        for index in range(len(poses))
    ]  # fmt: skip
    return JointSequence(path.stem, FPS, SMPL_ROOT, frames)
