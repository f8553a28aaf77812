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

"""MoveNet MultiPose, for comparison with Multi-HMR 2 in the table of `real_pictures.py`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from real_detection import Found
from torch.nn import functional

from multihmr2_ros.camera import ResizePad
from multihmr2_ros.metrics.boxes import points_to_boxes
from multihmr2_ros.network.movenet import load_encoder
from multihmr2_ros.network.proposals import PATCH_PX, KeypointEncoder

INPUT_PX = 384
MAX_PEOPLE = 20
COLOR = (255, 160, 0)


class MoveNetFinder:
    """Detector with MoveNet's own decoding: the score of the center, 17 keypoints, and the box around these."""

    def __init__(self, weights: Path, input_size: int | None, least_score: float) -> None:
        self.encoder = KeypointEncoder(MAX_PEOPLE).eval()
        load_encoder(self.encoder.movenet, weights)
        self.input_size = input_size or INPUT_PX
        self.least_score = least_score
        self._found = Found(np.zeros(0), np.zeros((0, 4)), np.zeros((0, 17, 2)))

    def find(self, image: NDArray[np.uint8]) -> Found:
        height, width = image.shape[:2]
        resize = ResizePad.fit(width, height, self.input_size, PATCH_PX)
        with torch.inference_mode():
            features = self.encoder(prepare(image, resize))
        keypoints = resize.points_to_source(features.keypoints[0].numpy().astype(np.float64))
        box = np.clip(points_to_boxes(keypoints), 0, [width, height, width, height])
        score = features.center_logit[0].sigmoid().numpy().astype(np.float64)
        self._found = Found(score, box, np.asarray(keypoints, np.float64)).above(self.least_score)
        return self._found

    def draw(self, image: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
        """Draw the people of the last image with a score above the threshold."""
        drawn = np.array(image)
        found = self._found.above(threshold)
        for box, keypoints in zip(found.box.round().astype(int).tolist(), found.keypoints, strict=True):
            cv2.rectangle(drawn, box[:2], box[2:], COLOR, 2)
            for point in keypoints.round().astype(int).tolist():
                cv2.circle(drawn, point, 3, COLOR, -1)
        return drawn


def prepare(image: NDArray[np.uint8], resize: ResizePad) -> torch.Tensor:
    """Return the image resized and padded with black, (1, 3, H, W) in [−1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    pixels = functional.interpolate(
        pixels, (resize.resized_height, resize.resized_width), mode="bicubic", antialias=True
    )
    right = resize.padded_width - resize.resized_width - resize.pad_left
    bottom = resize.padded_height - resize.resized_height - resize.pad_top
    return functional.pad(pixels, (resize.pad_left, right, resize.pad_top, bottom)) / 127.5 - 1.0
