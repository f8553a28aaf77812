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

"""The quantity in which a relative depth map is linear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.depth import MapKind

Array = NDArray[np.float64]
MAX_DEPTH_M = 200.0


def depth_to_value(depth: Array, kind: MapKind) -> Array:
    """Convert depths z (…) in m to the quantity in which the map is linear, 1 / z or z."""
    return 1.0 / depth if kind == "inverse" else depth


def value_to_depth(reading: Array, kind: MapKind) -> Array:
    """Convert 1 / z or z (…) to depths (…) in m, at most MAX_DEPTH_M."""
    if kind == "inverse":
        return 1.0 / np.maximum(reading, 1.0 / MAX_DEPTH_M)
    return np.clip(reading, 1.0 / MAX_DEPTH_M, MAX_DEPTH_M)
