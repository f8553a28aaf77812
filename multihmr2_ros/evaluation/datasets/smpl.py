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

"""Helpers for data sets with SMPL annotations. The body model is not needed: joints and vertices come from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.joints import Floats, Points, make_point_regressor

SMPL_JOINTS, SMPL_VERTICES, SMPL_ROOT = 24, 6890, (0,)


def make_smpl_regressor(regressor: Path | None) -> Points:
    """Return a function from Anny's vertices to SMPL's 24 joints and, if the file has their weights, its 6890
    vertices."""
    return make_point_regressor(regressor, SMPL_JOINTS, SMPL_VERTICES)


def transform_to_camera(extrinsics: ArrayLike, points: ArrayLike) -> Floats:
    """Transform points (…, 3) from the world to the camera's frame; extrinsics [R|t] (3, 4) or (4, 4), world →
    camera."""
    extrinsics = np.asarray(extrinsics, np.float64)
    return np.asarray(points, np.float64) @ extrinsics[:3, :3].T + extrinsics[:3, 3]


def find_complete(joints: Floats) -> NDArray[np.bool_]:
    """Return (t,) whether all joints of each person, (t, J, 3), are finite."""
    return np.asarray(np.isfinite(joints).all(axis=(1, 2)), bool)


def check_in_front(joints: Floats, path: Path) -> None:
    """Raise UserError if all people are behind the camera, because the extrinsics then have the opposite direction.

    joints: (t, J, 3) m in the camera's frame. path: the file, for the message.
    """
    if joints.size and not (joints[..., 2] > 0).any():
        raise UserError(
            f"{path}: all people are behind the camera; the extrinsics must transform from the world to the camera"
        )
