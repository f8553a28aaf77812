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

"""Reader of COLMAP reconstructions in text format (https://colmap.github.io/format.html): cameras.txt and
images.txt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from multihmr2_ros.evaluation.datasets.joints import CalibratedLens, Floats


@dataclass(frozen=True)
class RegisteredImage:
    """A registered image. extrinsics (4, 4): world → camera, in COLMAP's unit of length."""

    name: str
    camera: int
    extrinsics: Floats


def read_fisheye_lenses(path: Path) -> dict[int, CalibratedLens]:
    """Read the cameras of the model OPENCV_FISHEYE from cameras.txt, by their ids."""
    lenses = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            number, model, _, _, *parameters = line.split()
            if model == "OPENCV_FISHEYE":
                fx, fy, cx, cy, *distortion = map(float, parameters)
                k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
                lenses[int(number)] = CalibratedLens(k, np.array(distortion).reshape(4), is_fisheye=True)
    return lenses


def read_registered_images(path: Path) -> Iterator[RegisteredImage]:
    """Yield the images of images.txt. An image has two lines; the second one, with its points, may be empty."""
    with open(path, encoding="utf-8") as file:
        lines = (line for line in file if not line.startswith("#"))
        for line in lines:
            if line.strip():
                _, w, x, y, z, tx, ty, tz, camera, name = line.split(maxsplit=9)
                extrinsics = np.eye(4)
                extrinsics[:3, :3] = Rotation.from_quat([float(each) for each in (x, y, z, w)]).as_matrix()
                extrinsics[:3, 3] = float(tx), float(ty), float(tz)
                yield RegisteredImage(name.strip(), int(camera), extrinsics)
                next(lines, None)
