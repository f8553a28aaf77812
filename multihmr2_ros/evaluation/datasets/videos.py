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

"""Videos of calibrated cameras in the layout of Pose2Sim and Anipose: the field of view is known, the people are
not."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import SequenceListing, find_files, list_files, parse_file
from multihmr2_ros.evaluation.datasets.joints import NS_PER_S, CalibratedLens
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.media.sources import VIDEO_SUFFIXES, VideoSource
from multihmr2_ros.people import IntrinsicsSource

VIDEO_FOLDERS = ("videos", "videos-raw")


@dataclass(frozen=True)
class VideoCamera:
    """A calibrated camera. size: (width, height) px."""

    name: str
    lens: CalibratedLens
    size: tuple[int, int]


@dataclass
class CalibratedVideo:
    """A video with its camera. size: (width, height) px of the calibration. A video of another size raises an error,
    because it may have been cropped or scaled."""

    name: str
    path: Path
    source: VideoSource
    lens: CalibratedLens
    size: tuple[int, int]
    problems: list[str] = field(default_factory=list)

    @property
    def fps(self) -> float | None:
        return self.source.fps

    @property
    def eval_frame_count(self) -> int | None:
        return self.source.frame_count

    def __iter__(self) -> Iterator[EvaluationFrame]:
        self.problems.clear()
        with self.source as source:
            for frame in source:
                height, width = frame.image.shape[:2]
                if (width, height) != self.size:
                    raise UserError(
                        f"{self.path} must have the size of its calibration, {self.size[0]} x {self.size[1]} px, got "
                        f"{width} x {height} px; calibrate the camera at the size of the video"
                    )
                calibrated = dataclasses.replace(
                    frame,
                    k=self.lens.k,
                    intrinsics_source=IntrinsicsSource.K,
                    lens=self.lens.distortion_of(frame.image),
                )
                yield EvaluationFrame(round(frame.stamp * NS_PER_S), frame=calibrated, is_camera_true=True)
            if source.damage:
                self.problems.append(source.damage)


def list_calibrated_videos(folder: Path) -> SequenceListing[CalibratedVideo]:
    """List every video in a folder named videos (Pose2Sim) or videos-raw (Anipose), with its calibrated camera.

    The cameras are in the only calibration file, *alib*.toml, one table each: name, size, matrix, distortions, fisheye.
    A video's camera is the one with the same name, else the one with the same number or letter after "cam": cam_01 or
    int_cam01_img is the camera of videos/cam01.mp4, A is the camera of videos-raw/walk-camA.avi.
    """
    calibrations = list_files(folder, "**/*[cC]alib*.toml", "calibration")
    if len(calibrations) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in calibrations)
        raise UserError(f"expected one calibration in {folder}, got {listed}; give the folder of one recording")
    path = calibrations[0]
    cameras = parse_file(path, partial(_read_cameras, path))
    files = sorted(file for name in VIDEO_FOLDERS for file in find_files(folder, f"**/{name}/*"))
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise UserError(f"expected videos/*.mp4 in {folder}, found none; give the folder of a recording")
    for video in videos:
        parts = [part for part in video.relative_to(folder).with_suffix("").parts if part not in VIDEO_FOLDERS]
        yield "-".join(parts), partial(_open_video, "-".join(parts), video, path, cameras)


def _open_video(name: str, video: Path, calibration: Path, cameras: list[VideoCamera]) -> CalibratedVideo:
    same = [camera for camera in cameras if camera.name == video.stem]
    same = same or [camera for camera in cameras if find_camera_marks(camera.name) == find_camera_marks(video.stem)]
    if len(same) != 1:
        known = ", ".join(repr(camera.name) for camera in cameras) or "none"
        raise UserError(
            f"{calibration} must have one camera with the name of {video}, or with the same number or letter after "
            f"cam, got {len(same)} of {known}; use the same name for both, such as cam01"
        )
    return CalibratedVideo(name, video, VideoSource(video, square_pixels=False), same[0].lens, same[0].size)


def find_camera_marks(name: str) -> set[str]:
    """Return the numbers and letters after "cam" in the name of a camera or video, or the whole name if there are
    none."""
    marks = re.findall(r"cam(?:era)?[ _-]?(\d+|[a-z])(?![a-z0-9])", name.lower()) or [name.lower()]
    return {mark.lstrip("0") if mark.isdecimal() else mark for mark in marks}


def _read_cameras(path: Path) -> list[VideoCamera]:
    cameras = []
    for table, camera in _read_toml(path).items():
        if table == "metadata":
            continue
        lens = CalibratedLens(
            np.array(camera["matrix"], np.float64).reshape(3, 3),
            np.array(camera["distortions"], np.float64).ravel(),
            bool(camera.get("fisheye", False)),
        )
        width, height = (int(side) for side in camera["size"])
        cameras.append(VideoCamera(str(camera.get("name", table)), lens, (width, height)))
    return cameras


def _read_toml(path: Path) -> dict[str, Any]:
    for name in ("tomllib", "tomli"):
        try:
            module: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        content: dict[str, Any] = module.loads(path.read_text(encoding="utf-8"))
        return content
    raise UserError("reading a .toml calibration needs Python 3.11 or tomli: pip install tomli")
