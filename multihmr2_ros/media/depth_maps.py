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

"""Depth maps in files: .npy, .npz or 16-bit .png."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import check_pixel_count

DEPTH_SUFFIXES = (".npy", ".npz", ".png")
ARRAY_NAME = "depth"  # in an .npz of several arrays


def read_depth_map(path: Path) -> NDArray[Any]:
    """The map (H, W) in a file: uint16 of a 16-bit grey PNG, else float32 or uint16, as stored.

    An .npz has one array, or one called "depth". Raises UserError where the file cannot be read or holds something
    else; nothing in it is executed.
    """
    try:
        values = _read_png(path) if path.suffix.lower() == ".png" else _read_array(path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, KeyError, zipfile.BadZipFile, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the depth map {path} ({reason:.200}); is the file complete?") from None
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu" or values.dtype == np.uint8:
        raise UserError(
            f"a depth map must be (height, width) floats or 16-bit integers, but {path} has {values.dtype} "
            f"{values.shape}; convert it first"
        )
    return values if values.dtype == np.uint16 else values.astype(np.float32)


def _read_png(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        check_pixel_count(path, *image.size)
        return np.asarray(image) if not image.mode.startswith("I") else np.asarray(image).astype(np.uint16)


def _read_array(path: Path) -> NDArray[Any]:
    content = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix.lower() == ".npy" else None)
    if isinstance(content, np.ndarray):
        check_pixel_count(path, *(content.shape[:2] if content.ndim >= 2 else (0, 0)))
        return np.array(content)
    with content:
        names = list(content.files)
        if ARRAY_NAME not in names and len(names) != 1:
            raise UserError(
                f"{path} must have one array, or one called {ARRAY_NAME!r}, but it has {', '.join(names) or 'none'}"
            )
        return np.asarray(content[ARRAY_NAME if ARRAY_NAME in names else names[0]])
