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

"""Errors of velocities, and true velocities from true positions, in meters per second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.metrics.boxes import FloatArray


def velocity_error(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    """Return the length (n,) m/s of the difference of velocities (n, 3), both in one frame; NaN if either is
    unknown."""
    return np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(true, np.float64), axis=-1)


def central_difference(before: FloatArray, after: FloatArray, before_s: float, after_s: float) -> NDArray[np.float64]:
    """Return the mean velocity (n, 3) m/s between positions (n, 3) m of the same points at two stamps (s).

    NaN if a position is NaN, and for all points unless after_s is later than before_s. As the velocity at the middle of
    the two stamps, its error is of second order in their difference.
    """
    shift = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return shift / (after_s - before_s) if after_s > before_s else np.full(shift.shape, np.nan)
