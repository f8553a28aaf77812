"""Videos of calibrated cameras, as Pose2Sim and Anipose lay them out: the field of view is known, people are not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import found, parsed
from multihmr2_ros.evaluation.datasets.joints import NS, Lens
from multihmr2_ros.evaluation.moments import Moment
from multihmr2_ros.media.sources import VIDEO_SUFFIXES, VideoSource
from multihmr2_ros.people import Frame, IntrinsicsSource


@dataclass
class CalibratedVideo:
    """size: (width, height) px that was calibrated; videos of another one are refused, as it cannot be known whether
    they were cut or scaled. fps and moment_count: as the file states them."""

    name: str
    path: Path
    lens: Lens
    size: tuple[int, int]
    fps: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def moment_count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[Moment]:
        self.problems.clear()
        with VideoSource(self.path) as source:
            self.fps = source.fps
            for frame in source:
                height, width = frame.image.shape[:2]
                if (width, height) != self.size:
                    raise UserError(
                        f"{self.path} is {width} × {height} px, but its camera was calibrated for {self.size[0]} × "
                        f"{self.size[1]} px; calibrate it for the video as it is"
                    )
                straight = Frame(
                    self.lens.straighten(frame.image), stamp=frame.stamp, k=self.lens.k,
                    intrinsics_source=IntrinsicsSource.K, name=frame.name,
                )  # fmt: skip
                yield Moment(round(frame.stamp * NS), frame=straight, is_camera_true=True)
            if source.damage:
                self.problems.append(source.damage)


def calibrated_videos(folder: Path) -> Iterator[CalibratedVideo]:
    """Every video in a folder named videos, with the camera of the same number of the one calibration *alib*.toml:
    cam_01 or int_cam01_img is the camera of videos/cam01.mp4. A table a camera: size, matrix, distortions, fisheye."""
    calibrations = found(folder, "**/*[cC]alib*.toml", "calibration")
    if len(calibrations) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in calibrations)
        raise UserError(f"{folder} must have one calibration, got {listed}; give the folder of one recording")
    path = calibrations[0]
    cameras = parsed(path, partial(_cameras, path))
    videos = [each for each in found(folder, "**/videos/*", "video") if each.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise UserError(f"no video in {folder}: expected videos/*.mp4; give the folder as it was recorded")
    for video in videos:
        if _number(video.stem) not in cameras:
            raise UserError(f"{path} has no camera of the number of {video}; name both alike, such as cam01")
        lens, size = cameras[_number(video.stem)]
        parts = [part for part in video.relative_to(folder).with_suffix("").parts if part != "videos"]
        yield CalibratedVideo("-".join(parts), video, lens, size)


def _cameras(path: Path) -> dict[int, tuple[Lens, tuple[int, int]]]:
    cameras = {}
    for table, camera in _toml(path).items():
        if table == "metadata":
            continue
        lens = Lens(
            np.array(camera["matrix"], np.float64).reshape(3, 3),
            np.array(camera["distortions"], np.float64).ravel(),
            bool(camera.get("fisheye", False)),
        )
        width, height = (int(side) for side in camera["size"])
        number = _number(str(camera.get("name", table)))
        if number in cameras:
            raise ValueError(f"two cameras have the number {number}")
        cameras[number] = lens, (width, height)
    return cameras


def _number(name: str) -> int:
    """The last number in the name of a camera or video; -1 without one."""
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else -1


def _toml(path: Path) -> dict[str, Any]:
    for name in ("tomllib", "tomli"):
        try:
            module: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        content: dict[str, Any] = module.loads(path.read_text())
        return content
    raise UserError("reading a .toml calibration needs Python 3.11 or tomli; type: pip install tomli")
