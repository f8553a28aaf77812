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

"""CMU Panoptic: groups of people in a dome of cameras; 19 joints.

Checked against the README of panoptic-toolbox: files and folders, frame rate, joints19 as x, y, z, confidence, and the
order of the joints. Assumed, because it is not documented: centimeters; R, t map from the world to the camera; distCoef
in OpenCV's order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import SequenceListing, list_files, parse_file, read_json
from multihmr2_ros.evaluation.datasets.joints import (
    AnnotatedPeople,
    CalibratedLens,
    Floats,
    JointFrame,
    JointSequence,
    Points,
)

JOINTS, ROOT = 19, (2,)  # the root: the center of the body, between the hips
FPS = 29.97
M_PER_CM = 0.01
MIN_CONFIDENCE = 0.1
# Neck and center are the means of shoulders and hips; the others are COCO's keypoints, in the data set's order.
FROM_COCO = (
    (5, 6), (0,), (11, 12), (5,), (7,), (9,), (11,), (13,), (15,), (6,), (8,), (10,), (12,), (14,), (16,), (1,), (3,),
    (2,), (4,),
)  # fmt: skip


def list_panoptic_sequences(folder: Path, camera: str = "00_16") -> SequenceListing[JointSequence]:
    """List the sequences: NAME/calibration_NAME.json, NAME/hdPose3d_stage1_coco19/body3DScene_00000000.json and
    NAME/hdImgs/CAMERA/CAMERA_00000000.jpg.

    Joints of low confidence are unknown, and so are people with any such joint.
    """
    for path in list_files(folder, "*/calibration_*.json", "sequence"):
        yield path.parent.name, partial(parse_file, path, partial(_read_sequence, path, camera))


def _read_sequence(path: Path, camera: str) -> JointSequence:
    sequence = path.parent
    cameras = [each for each in read_json(path)["cameras"] if each["name"] == camera]
    if not cameras:
        raise UserError(f"{path} has no camera {camera}; choose one with --split")
    k, rotation = (np.array(cameras[0][name], np.float64).reshape(3, 3) for name in ("K", "R"))
    shift_cm = np.array(cameras[0]["t"], np.float64).reshape(3)
    lens = CalibratedLens(k, np.array(cameras[0]["distCoef"], np.float64).ravel())
    frames = []
    for file in list_files(sequence / "hdPose3d_stage1_coco19", "body3DScene_*.json", "people"):
        number = file.stem.removeprefix("body3DScene_")
        image = sequence / "hdImgs" / camera / f"{camera}_{number}.jpg"
        if image.is_file():  # users may extract only every n-th image
            read = partial(parse_file, file, partial(_read_people, file, rotation, shift_cm))
            frames.append(JointFrame(int(number) / FPS, image, lens, read))
    if not frames:
        raise UserError(
            f"expected images of camera {camera} in {sequence / 'hdImgs'}, found none; extract them, or choose another "
            "camera with --split"
        )
    return JointSequence(sequence.name, FPS, ROOT, frames)


def _read_people(file: Path, rotation: Floats, shift_cm: Floats) -> AnnotatedPeople:
    bodies = read_json(file)["bodies"]
    joints = np.array([body["joints19"] for body in bodies], np.float64).reshape(-1, JOINTS, 4)
    positions = M_PER_CM * (joints[..., :3] @ rotation.T + shift_cm)
    positions[joints[..., 3] < MIN_CONFIDENCE] = np.nan
    identity = np.array([body["id"] for body in bodies], np.int64)
    return AnnotatedPeople(identity, positions, np.isfinite(positions).all(axis=(1, 2)))


def make_joint_regressor(coco_keypoints: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Points:
    """Return a function that computes the 19 joints from the mesh's COCO keypoints."""

    def joints(vertices: NDArray[np.float32]) -> Floats:
        keypoints = coco_keypoints(vertices).astype(np.float64)
        return np.stack([keypoints[:, list(rows)].mean(axis=1) for rows in FROM_COCO], axis=1)

    return joints
