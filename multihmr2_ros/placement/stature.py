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

"""How tall people are at an age, as the body model has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Anny's age phenotype → mean and standard deviation of log stature in m. Sampled from Body.stature over the other
# phenotypes of the simulator's population and an age that is itself uncertain by 0.05; a test samples it anew.
AGE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 1 / 3, 0.4, 0.45, 0.5, 0.55, 0.6, 2 / 3, 0.75, 0.85, 1.0)
LOG_STATURE = (
    -0.367, -0.278, -0.166, -0.062, 0.044, 0.145, 0.277, 0.348, 0.391, 0.429, 0.467, 0.508, 0.541, 0.550, 0.551, 0.549,
)  # fmt: skip
LOG_STATURE_SIGMA = (
    0.113, 0.136, 0.134, 0.132, 0.130, 0.126, 0.106, 0.094, 0.095, 0.088, 0.085, 0.081, 0.079, 0.078, 0.072, 0.073,
)  # fmt: skip


def stature_prior(age: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (n,) of log stature (m) at age phenotypes (n,) in [0, 1]."""
    return np.interp(age, AGE, LOG_STATURE), np.interp(age, AGE, LOG_STATURE_SIGMA)
