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

"""A video of the predictions beside the truth."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.scoring import FrameScore, project_joints
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.media.video import VideoClock, VideoWriter, fit_image
from multihmr2_ros.people import People

USUAL_FPS = 10.0
MAX_PAUSE_S = 10.0  # longer pauses between images are left out
TITLE_SCALE = 720.0  # image height (px) at which the titles have scale 1 in OpenCV
MAX_PIXELS_WIDE = 1280  # of one image; two of them fit on a screen


class ComparisonVideo:
    """Writer of a video with predictions and truth. The file is complete when the stack closes.

    Each half has the first image's size, reduced to at most MAX_PIXELS_WIDE.
    """

    def __init__(self, path: Path, faces: NDArray[np.int32], fps: float | None, stack: contextlib.ExitStack) -> None:
        self._path, self._faces, self._stack = path, faces, stack
        self._fps = fps or USUAL_FPS
        self._video: VideoWriter | None = None
        self._size = (0, 0)
        self._clock = VideoClock(self._fps, MAX_PAUSE_S)

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None:
        if eval_frame.frame is None:
            return
        image = eval_frame.frame.image
        if self._video is None:
            height, width = image.shape[:2]
            shrink = min(1.0, MAX_PIXELS_WIDE / width)
            self._size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            self._video = self._stack.enter_context(
                VideoWriter(self._path, 2 * self._size[0], self._size[1], self._fps)
            )
        left = self._draw_image(eval_frame.frame, people, f"predicted: {len(people)}")
        right = self._draw_image(
            eval_frame.frame,
            eval_frame.truth,
            "no ground truth" if eval_frame.truth is None else f"ground truth: {len(eval_frame.truth)}",
        )
        time_s = self._clock.to_time(eval_frame.stamp_ns * 1e-9)
        self._video.write(np.ascontiguousarray(np.hstack([left, right])), time_s)

    def _draw_image(self, frame: Frame, people: People | None, title: str) -> NDArray[np.uint8]:
        return draw_titled_image(frame, people, self._faces, title, self._size)


def draw_titled_image(
    frame: Frame, people: People | None, faces: NDArray[np.int32], title: str, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Draw people and a title on a copy (height, width, 3) of a frame's image.

    frame   with the image
    people  None: no people are drawn
    faces   (F, 3) triangles. People without a mesh, or with a mesh of other faces, are drawn as boxes
    title   text at the top
    size    (width, height) px of the copy
    """
    image = frame.image
    if people is not None:
        if people.surface.shape[1] != np.count_nonzero(np.bincount(faces.ravel())):
            joints_2d = frame.points_as_recorded(project_joints(people))
            people = dataclasses.replace(people, vertices=people.vertices[:, :0], joints_2d=joints_2d)
        image = draw_people(image, people, faces, distort=frame.distort)
    titled = fit_image(image, size[1], size[0])
    if titled is frame.image:
        titled = image.copy()  # because the title is drawn on it
    scale = max(0.4, size[1] / TITLE_SCALE)
    (width, height), below = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    cv2.rectangle(titled, (0, 0), (width + 8, height + below + 6), (0, 0, 0), cv2.FILLED)
    origin = (4, height + 4)
    cv2.putText(titled, title, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(titled, np.uint8)
