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

"""The quantity that a relative depth map is linear in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.depth import MapKind

Array = NDArray[np.float64]
MAX_DEPTH_M = 200.0


def depth_to_value(depth: Array, kind: MapKind) -> Array:
    """Return what the map is linear in, 1 / z or z, for depths z (…) in m."""
    return 1.0 / depth if kind == "inverse" else depth


def value_to_depth(reading: Array, kind: MapKind) -> Array:
    """Return depths (…) in m, at most MAX_DEPTH_M, for 1 / z or z (…)."""
    if kind == "inverse":
        return 1.0 / np.maximum(reading, 1.0 / MAX_DEPTH_M)
    return np.clip(reading, 1.0 / MAX_DEPTH_M, MAX_DEPTH_M)
