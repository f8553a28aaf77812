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
