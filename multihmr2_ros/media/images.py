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

"""Reads image files as 8-bit RGB arrays, and depth maps (.npy, .npz or 16-bit .png)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from multihmr2_ros.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# 300 MB as RGB. A larger size in a header more often means a damaged or malicious file than a photograph.
MAX_PIXELS = 100_000_000
DEPTH_SUFFIXES = (".npy", ".npz", ".png")
ARRAY_NAME = "depth"  # of the depth map in an .npz file with several arrays


class UnreadableImageError(UserError):
    """An image file that cannot be read."""


def read_image(path: Path, labeled_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8 RGB, upright (EXIF orientation applied).

    labeled_size: (width, height) px of the image that was labeled. If the stored image has this size, the EXIF
    orientation is ignored, as in COCO's labels.

    Gray, palette and CMYK images are converted. Transparent pixels are blended with black. 16-bit gray is divided by
    257 and rounded; other 16-bit images keep their high byte (at most one level different). Of a file with several
    images, the first is read.

    Raises UnreadableImageError for a file that is missing, empty, damaged, truncated, not an image, or above
    MAX_PIXELS.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes); give an image file")
        # Pillow warns about large images (MAX_PIXELS is checked here) and about damaged EXIF data, which it ignores.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # From a path, Pillow maps uncompressed TIFF files into memory, with the wrong width if they are rotated.
            with path.open("rb") as file, Image.open(file) as image:
                check_pixel_count(path, *image.size)
                if labeled_size == image.size:
                    return _to_rgb(image, path)
                # The transposed copy keeps no file handle; this call decodes the image.
                return _to_rgb(ImageOps.exif_transpose(image), path)
    except UserError as error:
        raise UnreadableImageError(str(error)) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{path} is not an image that can be read; give a PNG, JPEG, BMP, TIFF or WebP file"
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{path} has more than {MAX_PIXELS} pixels; scale it down first") from error
    except Exception as error:  # decoders raise many types for damaged files: SyntaxError, struct.error, EOFError …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"cannot read the image {path} ({reason}); is the file complete?") from error


def check_pixel_count(path: Path, width: int, height: int) -> None:
    """Raise UserError if an image of width x height px is too large to be decoded safely."""
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path} is {width} x {height} px; at most {MAX_PIXELS} pixels can be read, scale it down first"
        )


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return _sixteen_bit_gray_to_rgb(np.asarray(image), path)
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values; give an image with 8 or 16 bits per channel")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    # A copy: the array must be writable and must not share the image's buffer.
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _sixteen_bit_gray_to_rgb(gray: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    values = gray.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{path} holds values outside 0-65535; give an image with 8 or 16 bits per channel")
    eight_bit = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(eight_bit[:, :, None], 3, axis=2)


def read_depth_map(path: Path) -> NDArray[Any]:
    """Read the depth map (H, W) of a file: uint16 for 16-bit integers (negative ones: 0), else float32.

    An .npz file must have one array, or one named "depth". No content of the file is executed. Raises UserError for a
    file that cannot be read or has other content.
    """
    try:
        values = _read_png(path) if path.suffix.lower() == ".png" else _read_array(path)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {MAX_PIXELS} pixels; scale it down first") from None
    except Exception as error:  # decoders raise many types for damaged files: zlib.error, BadZipFile, SyntaxError …
        reason = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in reason:  # NumPy's text for any other file, with an advice that is unsafe
            reason = "not an array of numbers in NumPy's format"
        raise UserError(f"cannot read the depth map {path} ({reason:.200}); is the file complete?") from None
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    is_integer = values.dtype.kind in "iu" and values.dtype.itemsize == 2
    if values.ndim != 2 or not values.size or not (is_integer or values.dtype.kind == "f"):
        raise UserError(
            f"a depth map must be (height, width) floats or 16-bit integers, but {path} has {values.dtype} "
            f"{values.shape}; convert it first"
        )
    return values.clip(0).astype(np.uint16) if is_integer else values.astype(np.float32)


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
