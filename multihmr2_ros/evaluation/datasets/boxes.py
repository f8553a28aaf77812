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

"""Data sets with tracked boxes: MOT17 (and MOT16, MOT20, which have its format) and PoseTrack21.

Which boxes of MOTChallenge are scored follows TrackEval (https://github.com/JonathonLuiten/TrackEval), which computes
the published results; test/metrics/test_mot.py compares the two.
"""

from __future__ import annotations

import csv
import re
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import SequenceListing, boxes_to_corners, list_files, parse_file, read_json
from multihmr2_ros.media.images import IMAGE_SUFFIXES
from multihmr2_ros.metrics.boxes import box_iou
from multihmr2_ros.metrics.identity import FrameBoxes, match_boxes, remove_ignored

USUAL_FPS = 30.0
PEDESTRIAN = 1
DISTRACTORS = (2, 7, 8, 12)  # person on vehicle, static person, distractor, reflection: neither misses nor false
NON_MOT_VEHICLE = 6  # a distractor in MOT20
MOT_COLUMNS = 9
COLUMNS = "frame, id, left, top, width, height, considered, class, visibility"


@dataclass(frozen=True)
class BoxFrame:
    """An image with its true boxes.

    counted      whether the image has ground truth
    distractors  (…, 4) px, people that are not scored; predictions of them are ignored
    others       (…, 4) px, annotated boxes that are neither scored people nor distractors
    regions      polygons (k, 2) px; unmatched predictions in them are ignored
    """

    image: Path
    stamp_s: float
    counted: bool
    truth: FrameBoxes
    distractors: NDArray[np.float64]
    regions: tuple[NDArray[np.float64], ...] = ()
    others: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))

    def select_counted(self, predicted: FrameBoxes) -> FrameBoxes:
        """Return the predictions to score: without matches of distractors and unmatched predictions in ignored
        regions."""
        if len(self.distractors):
            every = np.vstack([self.truth.box, self.distractors, self.others])
            pairs = match_boxes(box_iou(every, predicted.box))
            first = len(self.truth.identity)
            is_distractor = (pairs[:, 0] >= first) & (pairs[:, 0] < first + len(self.distractors))
            kept = np.ones(len(predicted.identity), bool)
            kept[pairs[is_distractor, 1]] = False
            predicted = FrameBoxes(predicted.identity[kept], predicted.box[kept])
        return remove_ignored(self.truth, predicted, self.regions)


@dataclass(frozen=True)
class BoxSequence:
    name: str
    frames: tuple[BoxFrame, ...]


def list_mot_sequences(folder: Path) -> SequenceListing[BoxSequence]:
    """List the sequences of a folder in MOTChallenge's format.

    Each is SEQUENCE/seqinfo.ini, SEQUENCE/gt/gt.txt (frame, id, left, top, width, height, considered, class,
    visibility) and the images. Pedestrians with the flag "considered" are scored. Pixel coordinates begin at 1.
    """
    for path in list_files(folder, "**/gt/gt.txt", "sequence"):
        yield path.parents[1].name, partial(parse_file, path, partial(_read_mot_sequence, path))


def _read_mot_sequence(path: Path) -> BoxSequence:
    sequence = path.parents[1]
    info = ConfigParser()
    info.read(sequence / "seqinfo.ini", encoding="utf-8")
    fps = info.getfloat("Sequence", "frameRate", fallback=USUAL_FPS)
    if not fps > 0:
        raise ValueError(f"frameRate must be above 0, got {fps}")
    rows = _read_mot_rows(path)
    distractor_classes = (*DISTRACTORS, NON_MOT_VEHICLE) if _is_mot20(path, info) else DISTRACTORS
    frames = []
    images = list_files(sequence / info.get("Sequence", "imDir", fallback="img1"), "*.*", "image")
    for image in images:
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not image.stem.isdecimal():
            raise UserError(f"{image} must be named after its frame number, such as 000001.jpg; rename it")
        number = int(image.stem)
        here = rows[rows[:, 0] == number]
        boxes = boxes_to_corners(here[:, 2:6]) - 1.0
        counts = (here[:, 6] != 0) & (here[:, 7] == PEDESTRIAN)
        truth = FrameBoxes(here[counts, 1].astype(np.int64), boxes[counts])
        are_distractors = np.isin(here[:, 7], distractor_classes)
        others = boxes[~counts & ~are_distractors]
        frames.append(BoxFrame(image, number / fps, True, truth, boxes[are_distractors], others=others))
    if not frames:
        raise UserError(f"expected images in {images[0].parent}, found none; unpack them")
    return BoxSequence(sequence.name, tuple(frames))


def _read_mot_rows(path: Path) -> NDArray[np.float64]:
    """Read the rows (n, 9) of a gt.txt. Raises UserError for another number of columns."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(line, row) for line, row in enumerate(csv.reader(file), start=1) if row]
    for line, row in rows:
        if len(row) != MOT_COLUMNS:
            more = "; MOT15, with ten columns and no classes, is not supported" if len(row) == 10 else ""
            raise UserError(
                f"{path}, line {line}: expected the {MOT_COLUMNS} columns of MOT17 ({COLUMNS}), got {len(row)} "
                f"columns{more}; give MOT16, MOT17 or MOT20"
            )
    return np.array([[float(cell) for cell in row] for _, row in rows], np.float64).reshape(-1, MOT_COLUMNS)


def _is_mot20(path: Path, info: ConfigParser) -> bool:
    """Return whether a sequence is from MOT20: by its name in seqinfo.ini, else by its folders, the innermost first."""
    names = [info.get("Sequence", "name", fallback=""), *(parent.name for parent in path.resolve().parents)]
    challenges = (re.match(r"mot(\d\d)", name, re.IGNORECASE) for name in names)
    return next((found[1] == "20" for found in challenges if found is not None), False)


def list_posetrack_sequences(folder: Path, split: str = "val") -> SequenceListing[BoxSequence]:
    """List the sequences of PoseTrack21.

    Reads posetrack_data/SPLIT/*.json (images with polygons to be ignored; annotations with bbox, track_id) and images/.
    Frames without ground truth are processed, but not scored.
    """
    for path in list_files(folder, f"posetrack_data/{split}/*.json", "annotations"):
        yield path.stem, partial(parse_file, path, partial(_read_posetrack_sequence, folder, path))


def _read_posetrack_sequence(folder: Path, path: Path) -> BoxSequence:
    document = read_json(path)
    people: dict[int, list[tuple[int, list[float]]]] = {}
    for each in document["annotations"]:
        if "bbox" in each:
            people.setdefault(each["image_id"], []).append((each["track_id"], each["bbox"]))
    frames = []
    for index, image in enumerate(sorted(document["images"], key=lambda each: str(each["file_name"]))):
        here = people.get(image["id"], [])
        truth = FrameBoxes(np.array([track for track, _ in here], np.int64), boxes_to_corners([box for _, box in here]))
        file = folder / image["file_name"]
        frames.append(
            BoxFrame(file, index / USUAL_FPS, bool(here), truth, np.zeros((0, 4)), _read_ignored_regions(image))
        )
    return BoxSequence(path.stem, tuple(frames))


def _read_ignored_regions(image: dict[str, Any]) -> tuple[NDArray[np.float64], ...]:
    """Read the polygons (k, 2) px of an image: lists of x and of y, one for each polygon, or only the lists of one."""
    x, y = (image.get(f"ignore_regions_{axis}") or [] for axis in "xy")
    if x and not isinstance(x[0], list):
        x, y = [x], [y]
    polygons = [np.array(lists, np.float64).T for lists in zip(x, y, strict=True) if len(lists[0])]
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        raise ValueError("the polygons of ignored regions must be finite")
    return tuple(polygons)
