"""Tracked boxes: MOT17 (and all of its format) and PoseTrack21."""

from __future__ import annotations

import csv
from configparser import ConfigParser
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.datasets.files import Listing, corners, found, parsed, read_json
from multihmr2_ros.evaluation.metrics.boxes import box_iou
from multihmr2_ros.evaluation.metrics.identity import MIN_IOU, FrameBoxes, without_ignored
from multihmr2_ros.evaluation.metrics.matching import assign

USUAL_FPS = 30.0
PEDESTRIAN = 1
DISTRACTORS = (2, 7, 8, 12)  # person on vehicle, static person, distractor, reflection: neither misses nor false


@dataclass(frozen=True)
class BoxFrame:
    """An image with its boxes. counted: whether there is ground truth at all; distractors, regions (…, 4) px: people
    and places that do not count."""

    image: Path
    stamp_s: float
    counted: bool
    truth: FrameBoxes
    distractors: NDArray[np.float64]
    regions: NDArray[np.float64]

    def counting(self, predicted: FrameBoxes) -> FrameBoxes:
        """The predictions that count: not those of distractors, nor unmatched ones in regions to be ignored."""
        if len(self.distractors):
            every = np.vstack([self.truth.box, self.distractors])
            overlap = box_iou(predicted.box, every)
            pairs = assign(1 - overlap, overlap >= MIN_IOU)
            kept = np.ones(len(predicted.identity), bool)
            kept[pairs[pairs[:, 1] >= len(self.truth.identity), 0]] = False
            predicted = FrameBoxes(predicted.identity[kept], predicted.box[kept])
        return without_ignored(self.truth, predicted, self.regions)


@dataclass(frozen=True)
class BoxSequence:
    name: str
    frames: tuple[BoxFrame, ...]


def mot_sequences(folder: Path) -> Listing[BoxSequence]:
    """MOTChallenge's format: SEQUENCE/seqinfo.ini, SEQUENCE/gt/gt.txt (frame, id, left, top, width, height, considered,
    class, visibility) and the images. Pedestrians that are considered count; boxes begin at 1."""
    for path in found(folder, "**/gt/gt.txt", "sequence"):
        yield path.parents[1].name, partial(parsed, path, partial(_mot_sequence, path))


def _mot_sequence(path: Path) -> BoxSequence:
    sequence = path.parents[1]
    info = ConfigParser()
    info.read(sequence / "seqinfo.ini")
    fps = info.getfloat("Sequence", "frameRate", fallback=USUAL_FPS)
    if not fps > 0:
        raise ValueError(f"frameRate must be above 0, got {fps}")
    with open(path, newline="") as file:
        rows = np.array([[float(cell) for cell in row] for row in csv.reader(file) if row]).reshape(-1, 9)
    frames = []
    images = found(sequence / info.get("Sequence", "imDir", fallback="img1"), "*.*", "image")
    for image in images:
        number = int(image.stem)
        here = rows[rows[:, 0] == number]
        boxes = corners(here[:, 2:6]) - 1.0
        counts = (here[:, 6] != 0) & (here[:, 7] == PEDESTRIAN)
        truth = FrameBoxes(here[counts, 1].astype(np.int64), boxes[counts])
        distractors = boxes[np.isin(here[:, 7], DISTRACTORS)]
        frames.append(BoxFrame(image, number / fps, True, truth, distractors, np.zeros((0, 4))))
    return BoxSequence(sequence.name, tuple(frames))


def posetrack_sequences(folder: Path, split: str = "val") -> Listing[BoxSequence]:
    """PoseTrack21: posetrack_data/SPLIT/*.json (images with polygons to be ignored; annotations with bbox, track_id)
    and images/. A polygon is taken as the box around it. Frames without ground truth are looked at, not scored."""
    for path in found(folder, f"posetrack_data/{split}/*.json", "annotations"):
        yield path.stem, partial(parsed, path, partial(_posetrack_sequence, folder, path))


def _posetrack_sequence(folder: Path, path: Path) -> BoxSequence:
    document = read_json(path)
    people: dict[int, list[tuple[int, list[float]]]] = {}
    for each in document["annotations"]:
        if "bbox" in each:
            people.setdefault(each["image_id"], []).append((each["track_id"], each["bbox"]))
    frames = []
    for index, image in enumerate(sorted(document["images"], key=lambda each: str(each["file_name"]))):
        here = people.get(image["id"], [])
        truth = FrameBoxes(np.array([track for track, _ in here], np.int64), corners([box for _, box in here]))
        polygons = zip(image.get("ignore_regions_x", []), image.get("ignore_regions_y", []), strict=True)
        regions = [(min(x), min(y), max(x), max(y)) for x, y in polygons if len(x)]
        regions_px = np.array(regions, np.float64).reshape(-1, 4)
        file = folder / image["file_name"]
        frames.append(BoxFrame(file, index / USUAL_FPS, bool(here), truth, np.zeros((0, 4)), regions_px))
    return BoxSequence(path.stem, tuple(frames))
