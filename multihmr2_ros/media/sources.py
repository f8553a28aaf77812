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

"""Iterators of frames: image files, folders of images, and videos."""

from __future__ import annotations

import logging
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import make_ffmpeg_path
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.images import IMAGE_SUFFIXES, check_pixel_count, read_image

MAX_PIXEL_ASPECT = 8  # anamorphic video has at most 2.4
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")

logger = logging.getLogger(__name__)


class FrameSource(ABC):
    """Frames in order of time. Each iteration starts at the first frame; one iteration runs at a time.

    name         of the results (see `make_source_name`)
    frame_names  of every frame, if known in advance; None: `<name>_<index>`, with at least six digits
    fps          frames per second on average; None for images
    frame_count  as the file states it, or None
    damage       complete after an iteration: one line about lost frames; "" if none were lost

    Closing the source, or leaving its `with` block, ends a running iteration and releases the file.
    """

    name: str = ""
    frame_names: tuple[str, ...] | None = None
    fps: float | None = None
    frame_count: int | None = None
    damage: str = ""
    _running: Generator[Frame, None, None] | None = None

    @abstractmethod
    def _frames(self) -> Generator[Frame, None, None]:
        """Yield the frames, from the first one."""

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        self.damage = ""
        self._running = self._frames()
        return self._running

    def close(self) -> None:
        if self._running is not None:
            self._running.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def make_source_name(path: str | Path) -> str:
    """Return the name of results: a file's name without suffix, or a folder's name ("." and ".." resolved)."""
    path = Path(os.path.abspath(path))
    return path.name if path.is_dir() else path.stem


def open_source(path: str | Path, *, images_per_second: float | None = None) -> FrameSource:
    """Open an image file, the images in a folder (natural order, without subfolders), or a video.

    images_per_second makes the images of a folder a sequence, stamped from 0 s on; without it every image's stamp is 0.
    Video frames have their presentation time stamps, starting at 0 s.

    Raises UserError if path has no readable frames. A damaged image raises it during the iteration; in a folder it is
    left out with a warning.
    """
    path = Path(path)
    if images_per_second is not None and not images_per_second > 0:
        raise UserError(f"images_per_second must be above 0, not {images_per_second}")
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        if is_folder:
            return ImageSource(list_images(path), images_per_second, make_source_name(path))
    except OSError as error:
        raise UserError(
            f"cannot open {path}: {error.strerror}; give an image, a folder of images or a video"
        ) from error
    if not is_file:
        if path.exists():
            raise UserError(f"{path} is a device or a pipe; give a file or a folder")
        raise UserError(f"there is no file or folder {path}; check the path")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource([path], images_per_second, make_source_name(path))
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    known = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
    raise UserError(f"{path} is neither an image nor a video, by its name; expected a name ending in {known}")


class ImageSource(FrameSource):
    """Image files. Frame.name is the stem, or the whole file name if two of the files have the same stem."""

    def __init__(self, paths: list[Path], images_per_second: float | None, name: str) -> None:
        self.name = name
        self.frame_count = len(paths)
        self._paths = paths
        self._seconds_per_image = 0.0 if images_per_second is None else 1.0 / images_per_second
        stems_differ = len({path.stem for path in paths}) == len(paths)
        self.frame_names = tuple(path.stem if stems_differ else path.name for path in paths)

    def _frames(self) -> Generator[Frame, None, None]:
        readable = 0
        for index, (path, name) in enumerate(zip(self._paths, self.frame_names or (), strict=True)):
            try:
                image = read_image(path)
            except UserError as error:
                if len(self._paths) == 1:
                    raise
                logger.warning("image skipped: %s", error)  # continue with the other files
                continue
            readable += 1
            yield Frame(image=image, stamp=index * self._seconds_per_image, name=name)
        count, folder = len(self._paths), self._paths[0].parent
        if readable == 0:
            raise UserError(f"none of the {count} images in {folder} can be read")
        if readable < count:
            self.damage = f"{folder}: {readable} of {count} images could be read"


class VideoSource(FrameSource):
    """A video file. Frame.name is `<name>_<index:06d>`.

    Images are upright (display matrix applied) and have square pixels, as in video players; square_pixels=False keeps
    the stored pixels, as OpenCV does. Frames that cannot be decoded completely are left out; `damage` gives their
    number, and whether the video ends early.
    """

    def __init__(self, path: Path, *, square_pixels: bool = True) -> None:
        self._path = path
        self._square_pixels = square_pixels
        self.name = make_source_name(path)
        with self._open() as container:
            stream = container.streams.video[0]
            check_pixel_count(path, stream.codec_context.width, stream.codec_context.height)
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
            self.frame_count = stream.frames or None

    def _open(self) -> av.container.InputContainer:
        try:
            if self._path.stat().st_size == 0:
                raise UserError(f"{self._path} is empty (0 bytes); give a video file")
            container = av.open(
                make_ffmpeg_path(self._path), metadata_errors="replace"
            )  # titles in old files are seldom UTF-8
        except (av.FFmpegError, OSError) as error:
            reason = error.strerror or type(error).__name__
            raise UserError(f"cannot read the video {self._path} ({reason}); is the file a complete video?") from error
        if not container.streams.video or container.streams.video[0].codec_context is None:
            container.close()
            raise UserError(f"{self._path} has no video stream that can be decoded; give a video file")
        return container

    def _frames(self) -> Generator[Frame, None, None]:
        period_s = 1.0 / (self.fps or 30.0)
        clock = _StampClock(period_s)
        index = 0
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # with frame threads, a damaged packet also loses frames around it
            decoder = _Decoder(container, stream, period_s)
            for decoded in decoder:
                image = self._to_image(decoded, stream)
                yield Frame(
                    image=image, stamp=clock.to_stamp(_get_time_s(decoded, stream)), name=f"{self.name}_{index:06d}"
                )
                index += 1
            stated_s, from_zero = _read_duration_s(container, stream)
            missing_s = stated_s - (decoder.end_s if from_zero else decoder.duration_s)
        if index == 0:
            raise UserError(f"no frame of the video {self._path} can be decoded; is the file complete?")
        losses = []
        if decoder.damaged:
            losses.append(f"{decoder.damaged} damaged left out")
        if missing_s > 0.5 * period_s:  # containers round times
            losses.append(f"the video ends {missing_s:.2f} s early")
        if losses:
            self.damage = f"{self._path}: {index} frames could be read; {', '.join(losses)}"

    def _to_image(self, decoded: av.VideoFrame, stream: av.VideoStream) -> NDArray[np.uint8]:
        """Convert to (H, W, 3), upright, with square pixels if requested."""
        aspect = _read_pixel_aspect(stream) if self._square_pixels else 1.0
        width, height = _compute_square_size(decoded.width, decoded.height, aspect)
        check_pixel_count(self._path, width, height)
        if (width, height) == (decoded.width, decoded.height):
            image = np.asarray(decoded.to_ndarray(format="rgb24"), np.uint8)
        else:
            check_pixel_count(self._path, decoded.width, decoded.height)
            stored = np.asarray(decoded.to_ndarray(format="rgb24"), np.uint8)
            image = np.asarray(cv2.resize(stored, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        return apply_display_matrix(image, _read_display_matrix(decoded))


class _Decoder:
    """The complete images of a video stream, in order of presentation.

    damaged: packets and images that could not be decoded completely. duration_s: from the start of the first packet to
    the end of the last; end_s: the latter, from the container's 0 on; all up to the current position of the iteration.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, period_s: float) -> None:
        self._container = container
        self._stream = stream
        self._period_s = period_s
        self.damaged = 0
        self._start_s = math.inf
        self.end_s = -math.inf

    @property
    def duration_s(self) -> float:
        return self.end_s - self._start_s

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for packet in self._read_packets():
            try:
                decoded_frames = self._stream.decode(packet)
            except av.FFmpegError:
                self.damaged += 1
                continue
            whole = [decoded for decoded in decoded_frames if not decoded.is_corrupt]
            self.damaged += len(decoded_frames) - len(whole)
            yield from whole

    def _read_packets(self) -> Iterator[av.Packet | None]:
        """Yield the stream's packets, then None, which flushes the decoder."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self._measure(packet)
                    yield packet
        except av.FFmpegError:
            self.damaged += 1
        yield None

    def _measure(self, packet: av.Packet) -> None:
        if packet.pts is not None and packet.time_base is not None:
            start_s = float(packet.pts * packet.time_base)
            lasts_s = float(packet.duration * packet.time_base) if packet.duration else self._period_s
            self._start_s = min(self._start_s, start_s)
            self.end_s = max(self.end_s, start_s + lasts_s)


class _StampClock:
    """Presentation times as strictly increasing stamps from 0 s on.

    An image without a time, or with one not after the previous image's time (both happen in damaged files and old AVI),
    is placed one frame period after the previous image.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._first_s: float | None = None
        self._last_s = 0.0

    def to_stamp(self, time_s: float | None) -> float:
        if self._first_s is None:
            self._first_s = time_s or 0.0
            return self._last_s
        stamp = -1.0 if time_s is None else time_s - self._first_s
        self._last_s = stamp if stamp > self._last_s else self._last_s + self._period_s
        return self._last_s


def _get_time_s(decoded: av.VideoFrame, stream: av.VideoStream) -> float | None:
    """Return the presentation time in s, or None; decoded.time is unset for the last images of the decoder."""
    if decoded.pts is None or stream.time_base is None:
        return None
    return float(decoded.pts * stream.time_base)


def _read_duration_s(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[float, bool]:
    """Return the duration of the video in s according to the file (0 if unknown), and its reference.

    The reference is true if the duration counts from the container's 0, which may be before the start of the video, and
    false if it counts from the start of the video itself.
    """
    if container.format.name == "avi" and stream.average_rate:
        # The duration of a truncated AVI is that of the remaining part; the header still has the full frame count.
        return float(stream.frames / stream.average_rate), False
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base), False
    is_matroska = "matroska" in container.format.name
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska, per stream
    if tag is not None:
        hours, minutes, seconds = map(float, tag.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds, is_matroska  # FFmpeg writes the end time
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base, is_matroska
    return 0.0, False


def _read_pixel_aspect(stream: av.VideoStream) -> float:
    """Return width over height of a pixel; 1 if the file has no ratio, or one outside of 1/8 to 8."""
    for ratio in (stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio):
        if ratio:
            return float(ratio) if 1 / MAX_PIXEL_ASPECT <= ratio <= MAX_PIXEL_ASPECT else 1.0
    return 1.0


def _compute_square_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """Return width and height (px) with square pixels: one side is enlarged, so that no detail is lost."""
    if pixel_aspect >= 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def _read_display_matrix(decoded: av.VideoFrame) -> NDArray[np.int32] | None:
    side_data: Any = decoded.side_data  # a Mapping, not the TypedDict of PyAV's stubs
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    return None if matrix is None else np.frombuffer(matrix, np.int32).reshape(3, 3)


def apply_display_matrix(image: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """Rotate and mirror an image (H, W, 3) by a video's display matrix (3, 3); None leaves it unchanged.

    The matrix maps a pixel (p, q) to (a p + c q, b p + d q) with a, b = matrix[0, :2] and c, d = matrix[1, :2]
    (FFmpeg, libavutil/display.h). Only quarter turns and mirrors occur in practice; all others are rounded to one.
    """
    if matrix is None:
        return image
    (a, b), (c, d) = np.asarray(matrix, np.float64)[:2, :2]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        horizontal, vertical = a, d
    else:
        image = image.transpose(1, 0, 2)
        horizontal, vertical = c, b
    if horizontal < 0:
        image = image[:, ::-1]
    if vertical < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def list_images(folder: Path) -> list[Path]:
    """List the image files of a folder, without hidden ones, img2 before img10. Raises UserError if there are none."""
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not paths:
        raise UserError(
            f"the folder {folder} holds no images; expected files ending in {' '.join(IMAGE_SUFFIXES)}; give each "
            "video by its own path"
        )
    return sorted(paths, key=lambda path: _make_natural_key(path.name))


def _make_natural_key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key: numbers in names by value, numbers before letters, then the name (01 before 1)."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], name
