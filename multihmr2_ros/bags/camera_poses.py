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

"""The camera's poses from the TF of a bag: in a fixed frame, and above the ground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.transforms import BagTransforms
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import GroundPlane
from multihmr2_ros.transform_tree import normalize_frame_name


class CameraPoses:
    """Lookup of the camera's pose in a bag's TF. A missing transform is reported, and the pose is then None.

    report: called with each problem, one line.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = path, report
        self._transforms: dict[tuple[str, str], BagTransforms | None] = {}

    def lookup_pose(self, target: str, camera_frame: str, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return the pose (4, 4), m, of camera_frame in target at a stamp.

        None if target is "" or the transform is unknown at the stamp.
        """
        if not target:
            return None
        key = normalize_frame_name(target), normalize_frame_name(camera_frame)
        try:
            if key not in self._transforms:
                self._transforms[key] = None
                self._transforms[key] = BagTransforms(self._path, *key)
            transforms = self._transforms[key]
            return None if transforms is None else transforms.target_from_source(stamp_ns)
        except UserError as error:
            self._report(str(error))
            return None

    def lookup_ground(self, ground_frame: str, camera_frame: str, stamp_ns: int) -> GroundPlane | None:
        """Return the plane z = 0 of ground_frame in the camera's frame, or None (see `lookup_pose`)."""
        pose = self.lookup_pose(ground_frame, camera_frame, stamp_ns)
        if pose is None:
            return None
        try:
            return GroundPlane.from_fixed_frame(pose)
        except UserError as error:
            self._report(f"{error} (--ground-frame {ground_frame})")
            return None
