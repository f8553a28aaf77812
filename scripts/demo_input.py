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

"""Writes the bag that `make demo` plays: a camera's images of people, simulated or from a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from multihmr2_ros.bags.camera import COMPRESSED_IMAGES as IMAGES
from multihmr2_ros.bags.camera import CameraBag
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.cli.main import main as multihmr2
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.sources import FrameSource, open_source

START_NS = 1_700_000_000_000_000_000  # start of the recording; the player shifts it to the present
SIMULATE = "--seconds 8 --rate 10 --size 640x480 --people 3 4 --format jpeg --vertices none --seed 18"
VIDEO_SECONDS, VIDEO_WIDTH = 20, 1280  # used part of a video, and its largest width in px


def write_simulated_people(path: Path) -> int:
    """Write a bag with `multihmr2 simulate`, without external data; return the number of images."""
    if multihmr2(["simulate", "--out", str(path), *SIMULATE.split()]):
        raise UserError("the simulation failed; see the line above")
    with BagReader(path) as bag:
        return bag.topics[IMAGES].count


def open_video(path: Path) -> FrameSource:
    """Open a video. Raises UserError if it is missing, damaged, or not a video."""
    source = open_source(path)
    if source.fps is None:
        raise UserError(f"VIDEO must be a video, got images: {path}; give a video file such as .mp4")
    return source


def write_video(video: FrameSource, path: Path) -> int:
    """Write a bag with the first VIDEO_SECONDS of a video, at most VIDEO_WIDTH px wide; return the number of images.

    The bag has no camera_info: the network predicts the field of view.
    """
    count = 0
    with video as source, BagWriter(path) as writer:
        bag = CameraBag(writer)
        for frame in source:
            if frame.stamp > VIDEO_SECONDS:
                break
            height, width = frame.image.shape[:2]
            scale = min(1.0, VIDEO_WIDTH / width)
            size = (round(width * scale), round(height * scale))
            image = frame.image if scale == 1.0 else cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
            bag.write_image(np.asarray(image, np.uint8), START_NS + round(frame.stamp * 1e9), as_jpeg=True)
            count += 1
        if source.damage:
            print(f"   {source.damage}", flush=True)
    return count
