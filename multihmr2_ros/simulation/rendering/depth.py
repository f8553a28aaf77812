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

"""Depth images as cameras deliver them: whole millimetres, 0 where nothing was measured."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FARTHEST_MM = 65535
# A stereo camera like those on robots: the noise grows with the square of the depth, and the range is bounded.
NOISE_AT_1M_M = 0.0015
NEAREST_M, FARTHEST_M = 0.3, 10.0
EDGE_RATIO = 1.06  # of neighbouring depths, from where on a pixel sees two surfaces
SPECKLE_CELLS_PX = 6
SPECKLE_SHARE = 0.012


def exact_depth(depth_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    """(H, W) mm of a depth (H, W) m, infinite where nothing is."""
    millimetres = np.rint(np.where(np.isfinite(depth_m), depth_m, 0.0) * 1000.0)
    return np.where(millimetres <= FARTHEST_MM, millimetres, 0).astype(np.uint16)


def measured_depth(depth_m: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.uint16]:
    """(H, W) mm with noise, and with holes at outlines, in patches, and beyond the sensor's range."""
    finite = np.where(np.isfinite(depth_m), depth_m, np.float32(1e3))
    noise = NOISE_AT_1M_M * finite**2 * generator.standard_normal(depth_m.shape, np.float32)
    lost = (finite < NEAREST_M) | (finite > FARTHEST_M)
    window = np.ones((3, 3), np.uint8)
    lost |= cv2.dilate(finite, window) > EDGE_RATIO * cv2.erode(finite, window)
    height, width = depth_m.shape
    cells = (-(-height // SPECKLE_CELLS_PX), -(-width // SPECKLE_CELLS_PX))
    patches = cv2.resize(generator.random(cells, np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    lost |= patches < np.quantile(patches, SPECKLE_SHARE)
    return np.where(lost, np.uint16(0), exact_depth(np.asarray(finite + noise, np.float32)))
