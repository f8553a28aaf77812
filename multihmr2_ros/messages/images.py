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

"""Decoding of image messages to (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

import re
import struct
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.image import ImageError
from rosbags.image.image import convert_color, to_cvtype

from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.conversion_packages import get_converter

ENCODINGS = (
    "rgb8", "bgr8", "rgba8", "bgra8", "mono8", "rgb16", "bgr16", "rgba16", "bgra16", "mono16",
    "yuv422", "yuv422_yuy2", "uyvy", "yuyv",
    "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8",
    "bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16",
)  # fmt: skip

# An 8K video has 33 million. A damaged or hostile message may state any size in a few bytes; decoding an image of
# this size takes up to 0.4 GB.
MAX_PIXELS = 1 << 25
MAX_SCANS = 64  # of a progressive JPEG, which has about ten; each scan is a pass over all pixels
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of segments that contain the size
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in compressed pixels, FF 00 is a byte, FF D0 to D7 restart
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


def image_from_ros(message: Any) -> NDArray[np.uint8]:
    """Decode a sensor_msgs/Image to (H, W, 3) uint8 RGB.

    16-bit values keep their high byte (cv_bridge rounds, so its values may be 1 higher). Raises UserError for encodings
    that are not a color or gray image (depth, float), and for sizes that do not fit.
    """
    if message.encoding not in ENCODINGS:
        raise UserError(f"image encoding must be one of {', '.join(ENCODINGS)}, got {message.encoding!r}; convert it")
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1:
        raise UserError(f"an image must have at least 1 x 1 px, got {width} x {height}; check the camera driver")
    _check_pixel_count(width, height)
    _, _, type_name, channels = to_cvtype(message.encoding)
    dtype = np.dtype(type_name).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes or len(message.data) != step * height:
        raise UserError(
            f"a {width} x {height} {message.encoding} image must have {height} rows of at least {row_bytes} bytes, got "
            f"step {step} and {len(message.data)} bytes in all; check the camera driver"
        )
    # cv_bridge needs rows of whole pixels, and for swapped byte order a function that NumPy 2 does not have.
    is_plain = step % (channels * dtype.itemsize) == 0 and not message.is_bigendian
    if is_plain and _is_converted_by_cv_bridge(message.encoding):
        try:
            return _decode_with_cv_bridge(message)
        except Exception:  # exceptions of C++ and OpenCV; the image's error is raised below
            pass
    try:
        return _decode_image(message)
    except (ImageError, cv2.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot convert a {width} x {height} {message.encoding} image ({reason}); convert it"
        ) from error


def _decode_image(message: Any) -> NDArray[np.uint8]:
    _, _, type_name, channels = to_cvtype(message.encoding)
    dtype = np.dtype(type_name).newbyteorder(">" if message.is_bigendian else "<")
    height, width = message.height, message.width
    rows = np.frombuffer(message.data, np.uint8).reshape(height, message.step)[:, : width * channels * dtype.itemsize]
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(convert_color(pixels, message.encoding, "rgb8"), np.uint8)


def _decode_with_cv_bridge(message: Any) -> NDArray[np.uint8]:
    wanted = "passthrough" if message.encoding == "rgb8" else "rgb8"
    return np.ascontiguousarray(get_converter("cv_bridge").imgmsg_to_cv2(message, wanted), np.uint8)


@cache
def _is_converted_by_cv_bridge(encoding: str) -> bool:
    """Return whether cv_bridge is used and decodes an encoding correctly: its encodings differ between
    distributions."""
    if get_converter("cv_bridge") is None:
        return False
    height, width = 4, 6
    _, _, type_name, channels = to_cvtype(encoding)
    step = (width + 1) * channels * np.dtype(type_name).itemsize
    values = np.random.default_rng(0).integers(0, 256, height * step, np.uint8).tobytes()
    sample = SimpleNamespace(height=height, width=width, step=step, encoding=encoding, is_bigendian=0, data=values)
    try:
        theirs = _decode_with_cv_bridge(sample).astype(int)
    except Exception:  # exceptions of C++ and OpenCV
        return False
    ours = _decode_image(sample).astype(int)
    return theirs.shape == ours.shape and bool(np.abs(theirs - ours).max() <= 1)


def compressed_image_from_ros(message: Any) -> NDArray[np.uint8]:
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG) to (H, W, 3) uint8 RGB. EXIF orientation is not applied.

    Bayer images are interpolated if `format` names the pattern, as image_transport writes it: "bayer_rggb8; png
    compressed ". Raises UserError for damaged or truncated data, and for sizes above MAX_PIXELS, before memory is
    allocated.
    """
    data = bytes(message.data)
    is_cut_off = False
    if data.startswith(JPEG_START):
        # OpenCV fills the missing part of a JPEG with gray. Bytes after its end do not belong to it: padding, the
        # separator of a stream, data of the camera maker.
        end = _find_jpeg_end(data)
        is_cut_off, data = end is None, data[:end]
    size = None if is_cut_off else read_stated_size(data)
    pixels = None
    if size is not None:
        _check_pixel_count(*size)
        try:
            mosaic = _decode_mosaic(message.format, data)
            if mosaic is not None:
                return mosaic
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except (ImageError, cv2.error):
            pixels = None
    if pixels is None:
        reason = "it is cut off" if is_cut_off else f"format {message.format!r:.40}, {len(data)} bytes"
        raise UserError(f"a compressed image must be a complete JPEG or PNG, but it cannot be decoded ({reason})")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _decode_mosaic(image_format: str, data: bytes) -> NDArray[np.uint8] | None:
    """Decode a compressed Bayer image to (H, W, 3) uint8 RGB; None if it is not one.

    If `format` also names a target ("compressed mono8"), image_transport has converted the image before compression.
    """
    encoding, _, compression = image_format.partition(";")
    if not (encoding.startswith("bayer_") and encoding in ENCODINGS and compression.split()[-1:] == ["compressed"]):
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 2:
        return None
    pattern = encoding.removesuffix("16").removesuffix("8")
    return np.asarray(convert_color(pixels, f"{pattern}{8 * pixels.itemsize}", "rgb8"), np.uint8)


def _check_pixel_count(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            f"an image may have at most {MAX_PIXELS} pixels, got {width} x {height}; check the camera driver"
        )


def read_stated_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height (px) from the header of a PNG or JPEG; None for other or damaged data."""
    if data.startswith(PNG_START):
        is_whole = data[12:16] == b"IHDR" and _has_whole_chunks(data)
        return struct.unpack_from(">II", data, 16) if is_whole else None
    if not data.startswith(JPEG_START) or data.count(JPEG_SCAN) > MAX_SCANS:
        return None
    offset = 2
    while offset + 9 <= len(data):
        if data[offset] != 0xFF:  # stray bytes, which decoders skip
            offset += 1
            continue
        marker = data[offset + 1]
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, offset + 5)
            return width, height
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in JPEG_BARE:
            offset += 2
        else:
            offset += 2 + struct.unpack_from(">H", data, offset + 2)[0]
    return None


def _find_jpeg_end(data: bytes) -> int | None:
    """Return the position after a JPEG's end marker; None if it has none. Markers within segments (of a preview) are
    skipped."""
    offset = 2
    while offset + 2 <= len(data):
        if data[offset] != 0xFF:  # compressed pixels, or stray bytes: continue at the next marker
            found = JPEG_MARKER.search(data, offset)
            if found is None:
                return None
            offset = found.start()
        marker = data[offset + 1]
        if marker == JPEG_END[1]:
            return offset + 2
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in JPEG_BARE or marker == 0:
            offset += 2
        elif offset + 4 <= len(data):
            offset += 2 + struct.unpack_from(">H", data, offset + 2)[0]
        else:
            return None
    return None


def _has_whole_chunks(data: bytes) -> bool:
    """Return whether the data contains every chunk of a PNG up to its end: OpenCV allocates the size stated in a
    chunk."""
    offset = len(PNG_START)
    while offset + 12 <= len(data):  # length, name, content, checksum
        length, name = struct.unpack_from(">I4s", data, offset)
        offset += 12 + length
        if name == b"IEND":
            return offset <= len(data)
    return False
