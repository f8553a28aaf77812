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

"""The worst and the best frames of a sequence: their selection, and their images.

Only these frames are drawn and kept during an evaluation, so the memory does not grow with its length. Both lists
contain at most one of every BLOCK successive frames, because neighboring frames show the same errors.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.scoring import FrameScore
from multihmr2_ros.evaluation.side_by_side import draw_titled_image
from multihmr2_ros.files import WholeFile, atomic_path
from multihmr2_ros.people import People

FILE = "highlights.zip"
WORST, BEST, BLOCK = 20, 5, 10
FULL_ERROR_MM = 1000.0  # a position error of this size counts as much as a missed person
MAX_WIDTH_PX = 480  # of one image, predictions or truth
MAX_BYTES = 70_000  # of both together
QUALITIES = (80, 65, 50, 35)  # JPEG qualities, tried until the image is small enough


def compute_cost(misses: int, false_positives: int, position_errors_mm: NDArray[np.floating]) -> float:
    """Count the errors of a frame: misses, false detections, and each match's position error / FULL_ERROR_MM, at most
    1."""
    return misses + false_positives + _compute_shares(position_errors_mm)


def compute_merit(misses: int, false_positives: int, position_errors_mm: NDArray[np.floating]) -> float:
    """Count the correct people of a frame: the number of matches minus the cost."""
    return len(position_errors_mm) - compute_cost(misses, false_positives, position_errors_mm)


def _compute_shares(position_errors_mm: NDArray[np.floating]) -> float:
    errors = np.array([float(f"{value:.7g}") for value in position_errors_mm])  # rounded as in people.csv
    return float(np.nan_to_num(np.minimum(errors / FULL_ERROR_MM, 1.0), nan=1.0).sum())


class Ranking:
    """The `count` frames of highest value above 0, at most one of every BLOCK successive frames.

    found: block → (value, frame index)
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.found: dict[int, tuple[float, int]] = {}

    def offer(self, index: int, value: float) -> bool:
        """Add a frame if its value is high enough, and return whether it was added. Of equal frames, the first ones
        stay."""
        block = index // BLOCK
        before = self.found.get(block, (0.0, -1))[0]
        if value <= before:
            return False
        if block not in self.found and len(self.found) == self._count:
            lowest = min(self.found, key=lambda key: (self.found[key][0], -key))
            if value <= self.found[lowest][0]:
                return False
            del self.found[lowest]
        self.found[block] = (value, index)
        return True

    @property
    def frames(self) -> list[int]:
        """Frame indices, the highest value first."""
        return [index for _, index in sorted(self.found.values(), key=lambda each: (-each[0], each[1]))]


class HighlightWriter(WholeFile):
    """Writer of FILE: a JPEG <frame index>.jpg of each of these frames, predictions on the left and truth on the right.

    The file is not written for a sequence without images or truth.
    """

    def __init__(self, path: Path, faces: NDArray[np.int32], stack: contextlib.ExitStack) -> None:
        self._path, self._faces = path, faces
        self._rankings = (Ranking(WORST), Ranking(BEST))
        self._images: dict[int, bytes] = {}
        stack.enter_context(self)

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None:
        if score is None or eval_frame.frame is None:
            return
        position_errors_mm = score.errors.get("MRPE", np.zeros(0))
        counts = len(score.misses), len(score.false_positives), position_errors_mm
        values = compute_cost(*counts), compute_merit(*counts)
        kept = [ranking.offer(index, value) for ranking, value in zip(self._rankings, values, strict=True)]
        if any(kept):
            self._images[index] = _encode_jpeg(self._draw_comparison(eval_frame, people))
            chosen = {frame for ranking in self._rankings for frame in ranking.frames}
            self._images = {frame: data for frame, data in self._images.items() if frame in chosen}

    def _draw_comparison(self, eval_frame: EvaluationFrame, people: People) -> NDArray[np.uint8]:
        assert eval_frame.frame is not None
        image = eval_frame.frame.image
        shrink = min(1.0, MAX_WIDTH_PX / image.shape[1])
        size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
        truth = eval_frame.truth
        left = draw_titled_image(eval_frame.frame, people, self._faces, f"predicted: {len(people)}", size)
        right = draw_titled_image(
            eval_frame.frame, truth, self._faces, f"ground truth: {0 if truth is None else len(truth)}", size
        )
        return np.hstack([left, right])

    def close(self) -> None:
        if not self._images:
            return
        with atomic_path(self._path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for index, data in sorted(self._images.items()):
                archive.writestr(zipfile.ZipInfo(f"{index:06d}.jpg"), data)

    def discard(self) -> None:
        self._images.clear()


def read_images(path: Path) -> Mapping[int, bytes]:
    """Read the JPEGs, by frame index; empty if the file is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {int(Path(name).stem): archive.read(name) for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}


def _encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    data = b""
    for quality in QUALITIES:
        _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
        data = encoded.tobytes()
        if len(data) <= MAX_BYTES:
            break
    return data
