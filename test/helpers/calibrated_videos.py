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

"""Videos of calibrated cameras as small folders, with calibrations as written by Pose2Sim and by Anipose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multihmr2_ros.media.video import VideoWriter

SIZE = (320, 240)
FRAMES = 4
# Calibration as written by Pose2Sim, and by Anipose.
POSE2SIM = """[cam_01]
name = "cam_01"
size = [ 320.0, 240.0]
matrix = [ [ 400.0, 0.0, 160.0], [ 0.0, 400.0, 120.0], [ 0.0, 0.0, 1.0]]
distortions = [ -0.0007, 0.0021, 9.5e-06, 1.07e-05]
rotation = [ 1.68, 1.04, -0.41]
translation = [ 0.32, 0.95, 2.89]
fisheye = false

[metadata]
adjusted = false
error = 0.0
"""
ANIPOSE = """[cam_0]
name = "A"
size = [ 320, 240,]
matrix = [ [ 400.0, 0.0, 160.0,], [ 0.0, 400.0, 120.0,], [ 0.0, 0.0, 1.0,],]
distortions = [ 0.0, 0.0, 0.0, 0.0, 0.0,]
rotation = [ 1.68, 1.04, -0.41,]
translation = [ 0.32, 0.95, 2.89,]

[cam_1]
name = "B"
size = [ 320, 240,]
matrix = [ [ 300.0, 0.0, 160.0,], [ 0.0, 300.0, 120.0,], [ 0.0, 0.0, 1.0,],]
distortions = [ 0.0, 0.0, 0.0, 0.0, 0.0,]
rotation = [ 1.68, 1.04, -0.41,]
translation = [ 0.32, 0.95, 2.89,]

[metadata]
"""


def write_recording(
    folder: Path, calibration: str, size: tuple[int, int] = SIZE, video: str = "videos/cam01.mp4"
) -> Path:
    (folder / "calibration").mkdir(parents=True)
    (folder / "calibration" / "Calib_scene.toml").write_text(calibration)
    write_video(folder / "S00_T01" / video, size)
    return folder


def write_video(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, *size, 30.0) as writer:
        for index in range(FRAMES):
            writer.write(np.full((size[1], size[0], 3), 80, np.uint8), index / 30)
