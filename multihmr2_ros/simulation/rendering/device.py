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

"""Arrays on the renderer's device."""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp


def to_device(values: Any, dtype: Any, device: str, dimensions: int = 1) -> Any:
    """A Warp array of the values, also where there are none (Warp cannot tell their shape then)."""
    if not len(values):
        return wp.empty((0,) * dimensions, dtype=dtype, device=device)
    return wp.array(np.ascontiguousarray(values), dtype=dtype, ndim=dimensions, device=device)
