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

"""Inputs for `multihmr2 run` and its result files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from multihmr2_ros.media.video import VideoWriter


def make_image(width: int = 96, height: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_image(path: Path, **size: int) -> Path:
    Image.fromarray(make_image(**size)).save(path)
    return path


def save_video(path: Path, frames: int = 5) -> Path:
    with VideoWriter(path, 96, 64, fps=10) as video:
        for index in range(frames):
            video.write(make_image(seed=index), index / 10)
    return path


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_image_sizes(folder: Path) -> list[list[int]]:
    return [np.load(path)["image_size"].tolist() for path in sorted(folder.glob("*.npz"))]


def read_video_sizes(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        return [(frame.height, frame.width) for frame in container.decode(video=0)]
