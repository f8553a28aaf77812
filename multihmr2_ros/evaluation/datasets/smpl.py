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

"""What data sets that were annotated with SMPL share. The body model itself is not here, and not needed: joints and
vertices come from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.joints import Floats, Points, make_point_regressor

SMPL_JOINTS, SMPL_VERTICES, SMPL_ROOT = 24, 6890, (0,)


def make_smpl_regressor(regressor: Path | None) -> Points:
    """From Anny's vertices to SMPL's 24 joints and, where the file has their weights, its 6890 vertices."""
    return make_point_regressor(regressor, SMPL_JOINTS, SMPL_VERTICES)


def transform_to_camera(extrinsics: ArrayLike, points: ArrayLike) -> Floats:
    """Points (…, 3) of the world in the camera's frame; extrinsics [R|t] (3, 4) or (4, 4), world → camera."""
    extrinsics = np.asarray(extrinsics, np.float64)
    return np.asarray(points, np.float64) @ extrinsics[:3, :3].T + extrinsics[:3, 3]


def find_complete(joints: Floats) -> NDArray[np.bool_]:
    """(t,): whose joints (t, J, 3) are all there."""
    return np.asarray(np.isfinite(joints).all(axis=(1, 2)), bool)


def check_in_front(joints: Floats, path: Path) -> None:
    """The extrinsics' direction cannot be seen from their numbers, but people behind the camera show that it is not
    the documented one. joints (t, J, 3) m in the camera's frame."""
    if joints.size and not (joints[..., 2] > 0).any():
        raise UserError(
            f"{path}: everybody is behind the camera; its extrinsics must lead from the world to the camera"
        )
