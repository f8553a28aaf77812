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

"""Writes video files that browsers and OpenCV can play, each frame at its own time."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import (
    WholeFile,
    describe_write_error,
    make_ffmpeg_path,
    make_temporary_path,
    remove_temporary,
)

ENCODER: Final = "libx264"
# No B-frames: with irregular stamps, the file's duration would be too short, and players would cut the end.
ENCODER_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
TIME_BASE = Fraction(1, 90_000)
MIN_STEP_S, MAX_STEP_S = 1e-4, 3600.0  # nine ticks; an .mp4 file cannot hold more than 13 h
# Codes of ITU-T H.273. Readers that ignore the tags also assume the BT.601 matrix (OpenCV before 5).
BT709_PRIMARIES, BT709_TRANSFER, BT601_MATRIX, LIMITED_RANGE = 1, 1, 6, 1


def fit_image(rgb: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Fit an image (H, W, 3) uint8 into (height, width, 3): scaled uniformly, centered, with black borders."""
    if rgb.shape[:2] == (height, width):
        return rgb
    scale = min(height / rgb.shape[0], width / rgb.shape[1])
    size = (max(1, min(width, round(scale * rgb.shape[1]))), max(1, min(height, round(scale * rgb.shape[0]))))
    scaled = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    fitted = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    fitted[top : top + size[1], left : left + size[0]] = scaled
    return fitted


class VideoClock:
    """The times of images in a video, from 0 s on, by their stamps.

    Images without stamps, and images after which a clock jumped, are placed one frame period after the previous image.

    fps         frames per second on average
    max_step_s  largest difference of two stamps that is not a jump
    """

    def __init__(self, fps: float, max_step_s: float = MAX_STEP_S) -> None:
        self._period_s = min(max(1 / fps, MIN_STEP_S), max_step_s)
        self._max_step_s = max_step_s
        self._time_s = 0.0
        self._last_stamp_s: float | None = None

    def to_time(self, stamp_s: float) -> float:
        """Return the time (s) of the next image."""
        if self._last_stamp_s is not None:
            step_s = stamp_s - self._last_stamp_s
            self._time_s += step_s if MIN_STEP_S < step_s < self._max_step_s else self._period_s
        self._last_stamp_s = stamp_s
        return self._time_s


class VideoWriter(WholeFile):
    """Writer of an H.264 .mp4 file (yuv420p, index first); a context manager. Without frames, no file is written.

    width, height  px of the images; odd sizes are made even by repeating the last column or row
    fps            expected rate. Each frame is shown at its own stamp; the last one for 1 / fps seconds

    Raises UserError if the file cannot be written or PyAV has no H.264 encoder.
    """

    def __init__(self, path: str | Path, width: int, height: int, fps: float) -> None:
        if not 0.0 < fps < float("inf"):
            raise UserError(f"a video needs a frame rate above 0 fps, not {fps}")
        if ENCODER not in av.codec.codecs_available:
            raise UserError(f"cannot write {path}: this PyAV has no {ENCODER} encoder; install PyAV's own wheel (pip)")
        self._path = Path(path)
        self._size = (height, width)
        self._temporary = make_temporary_path(self._path)
        self._first_stamp_s = 0.0
        self._last_ticks = -1
        try:
            self._container = av.open(
                make_ffmpeg_path(self._temporary), "w", format="mp4", options={"movflags": "faststart"}
            )
            self._stream = self._add_stream(Fraction(min(fps, 1 / MIN_STEP_S)).limit_denominator(1001))
            self._container.start_encoding()
        except (av.FFmpegError, OSError) as error:
            remove_temporary(self._temporary)
            raise describe_write_error(self._path, error) from error

    def _add_stream(self, fps: Fraction) -> av.VideoStream:
        height, width = self._size
        stream = self._container.add_stream(ENCODER, rate=fps, options=ENCODER_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        encoder = stream.codec_context
        encoder.time_base = TIME_BASE
        encoder.color_primaries, encoder.color_trc = BT709_PRIMARIES, BT709_TRANSFER
        encoder.colorspace, encoder.color_range = BT601_MATRIX, LIMITED_RANGE
        return stream

    def write(self, rgb: NDArray[np.uint8], stamp_s: float) -> None:
        """Add an image (height, width, 3) uint8 RGB, shown from stamp_s (s) on; stamps must increase.

        The video begins at the first stamp. Stamps are rounded to 1/90000 s.
        """
        if rgb.shape != (*self._size, 3):
            raise UserError(f"{self._path} takes images of shape {(*self._size, 3)}, not {rgb.shape}")
        if self._last_ticks < 0:
            self._first_stamp_s = stamp_s
        ticks = round((stamp_s - self._first_stamp_s) / float(TIME_BASE))
        if ticks <= self._last_ticks:
            last_s = self._first_stamp_s + float(self._last_ticks * TIME_BASE)
            raise UserError(f"{self._path}: stamps must increase, but {stamp_s} s came after {last_s} s")
        height, width = self._size
        even = np.asarray(cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
        frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = ticks, TIME_BASE
        self._encode(frame)
        self._last_ticks = ticks

    def _encode(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame; None flushes the encoder."""
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise describe_write_error(self._path, error) from error

    def close(self) -> None:
        if self._last_ticks < 0:
            self.discard()
            return
        try:
            self._encode(None)
            self._container.close()
            os.replace(self._temporary, self._path)
        except (av.FFmpegError, OSError) as error:
            raise describe_write_error(self._path, error) from error
        finally:
            remove_temporary(self._temporary)

    def discard(self) -> None:
        with contextlib.suppress(av.FFmpegError, OSError):  # the unfinished file is removed anyway
            self._container.close()
        remove_temporary(self._temporary)
