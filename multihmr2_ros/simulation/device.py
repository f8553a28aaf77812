"""Arrays on the renderer's device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import warp as wp


def start_warp() -> None:
    """Starts Warp without its word on standard error that there is no GPU, which no setting of Warp's silences."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def to_device(values: Any, dtype: Any, device: str, dimensions: int = 1) -> Any:
    """A Warp array of the values, also where there are none (Warp cannot tell their shape then)."""
    if not len(values):
        return wp.empty((0,) * dimensions, dtype=dtype, device=device)
    return wp.array(np.ascontiguousarray(values), dtype=dtype, ndim=dimensions, device=device)
