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

"""Image files as 8-bit RGB arrays."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from multihmr2_ros.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# 300 MB as RGB. Larger claims are more often damaged or hostile headers than photographs.
MAX_PIXELS = 100_000_000


def read_image(path: Path, labeled_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8 RGB in an image file, upright (EXIF orientation applied).

    labeled_size: (width, height) px of the image that labels were made for. Where the image has this size as it is
    stored, it is given as stored: so COCO's labels were made, whatever the EXIF orientation says.

    Grey, palette and CMYK images are converted; transparent pixels are laid over black; 16-bit grey is divided by
    257 and rounded, other 16-bit images keep their high byte (at most one level from that). Of a file with several
    images the first is read.

    Raises UserError where the file is missing, empty, damaged, truncated, not an image, or above MAX_PIXELS.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes); give an image file")
        # Pillow warns of large images, where our own limit decides, and of damaged EXIF data, which it then ignores.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                check_pixel_count(path, *image.size)
                if labeled_size == image.size:
                    return _to_rgb(image, path)
                # The transposed copy keeps no file handle; decoding happens here.
                return _to_rgb(ImageOps.exif_transpose(image), path)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image that can be read; give a PNG, JPEG, BMP, TIFF or WebP file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} claims more than {MAX_PIXELS} pixels; scale it down first") from error
    except Exception as error:  # decoders raise many types on damaged files: SyntaxError, struct.error, EOFError …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the image {path} ({reason}); is the file complete?") from error


def check_pixel_count(path: Path, width: int, height: int) -> None:
    """Raises UserError where an image of width x height px is too large to be decoded safely."""
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path} is {width} x {height} px; at most {MAX_PIXELS} pixels can be read, scale it down first"
        )


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return _sixteen_bit_grey_to_rgb(np.asarray(image), path)
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values; give an image with 8 or 16 bits per channel")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    # A copy: the array must stay writable and must not hang on the image's buffer.
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _sixteen_bit_grey_to_rgb(grey: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{path} holds values outside 0-65535; give an image with 8 or 16 bits per channel")
    eight_bit = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(eight_bit[:, :, None], 3, axis=2)
