"""How well a checkpoint finds people in pictures of real people: the figures of a model card.

    python scripts/real_pictures.py ../shared/data/real --checkpoint nano

The folder holds COCO pictures with boxes (Deci-AI_super-gradients, open-mmlab_mmpose) and a video in which people
appear one at a time, with the intervals of their presence (intel-iot-devkit_sample-videos, derived/weak). Fields of
view of the calibrated videos: `multihmr2 evaluate --dataset calibrated-videos` (docs/evaluation.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.evaluation.metrics.boxes import area, box_iou, boxes_of_points, intersection
from multihmr2_ros.evaluation.metrics.detection import DetectionCounts
from multihmr2_ros.evaluation.metrics.matching import assign
from multihmr2_ros.media.images import read_image
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.media.sources import open_source
from multihmr2_ros.people import People

COCO = (
    (
        "Deci-AI_super-gradients/pose_minicoco/annotations/person_keypoints_train2017.json",
        "Deci-AI_super-gradients/pose_minicoco/images/train2017",
    ),
    ("open-mmlab_mmpose/coco/test_coco.json", "open-mmlab_mmpose/coco"),
)
PRESENCE = "derived/weak/intel_one-by-one.json"
LEAST_HEIGHT_PX = 48.0
LEAST_IOU = 0.5
IGNORED_SHARE = 0.5  # of an unmatched box inside an ignored one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", default="nano")
    parser.add_argument("--score-threshold", type=float, default=EstimatorConfig().score_threshold)
    parser.add_argument("--overlays", type=Path, help="folder for the pictures with the meshes drawn over them")
    args = parser.parse_args()
    try:
        config = EstimatorConfig(score_threshold=args.score_threshold, mesh="low")
        estimator = Estimator.load(args.checkpoint, device="cpu", config=config)
        for labels, images in COCO:
            counts = coco_counts(estimator, args.data / images, args.data / labels, args.overlays)
            people = counts.true_positives + counts.false_negatives
            print(f"{labels}: {people} people, recall {counts.recall:.3f}, precision {counts.precision:.3f}")
        print(presence(estimator, args.data, args.data / PRESENCE, args.overlays))
    except (UserError, OSError) as error:
        print(f"real_pictures: {error}", file=sys.stderr)
        return 2
    return 0


def coco_counts(estimator: Estimator, images: Path, labels: Path, overlays: Path | None) -> DetectionCounts:
    """Finds by the intersection over union of boxes. Small people and crowds are ignored: nobody must find them."""
    content = json.loads(labels.read_text())
    counts = DetectionCounts()
    for entry in content["images"]:
        image = read_image(images / entry["file_name"])
        people = [annotation for annotation in content["annotations"] if annotation["image_id"] == entry["id"]]
        box = np.array([person["bbox"] for person in people], float).reshape(-1, 4)
        box[:, 2:] += box[:, :2]
        ignored = np.array([bool(person["iscrowd"]) for person in people], bool)
        ignored |= box[:, 3] - box[:, 1] < LEAST_HEIGHT_PX
        estimator.reset()
        found = estimator.step(image)
        counts += box_counts(projected_boxes(found), box, ignored)
        save_overlay(overlays, entry["file_name"], image, found, estimator)
    return counts


def box_counts(found: NDArray[np.float64], box: NDArray[np.float64], ignored: NDArray[np.bool_]) -> DetectionCounts:
    """Counts of one picture: boxes found (n, 4), true (t, 4), and which of the true ones are ignored (t,)."""
    overlap = box_iou(found, box)
    pairs = assign(-overlap, overlap >= LEAST_IOU)
    hits = int((~ignored[pairs[:, 1]]).sum())
    unmatched = np.setdiff1d(np.arange(len(found)), pairs[:, 0])
    covered = intersection(found[unmatched], box[ignored]).max(axis=1, initial=0)
    false = int((covered <= IGNORED_SHARE * area(found[unmatched])).sum())
    return DetectionCounts(hits, false, int((~ignored).sum()) - hits)


def presence(estimator: Estimator, data: Path, labels: Path, overlays: Path | None) -> str:
    """Shares of a video's frames: with somebody found while one person is there, and while nobody is."""
    content = json.loads(labels.read_text())
    there = np.zeros(content["n_frames"], bool)
    for track in content["tracks"]:
        first, last = track["frames"]
        there[first : last + 1] = True
    estimator.reset()
    found = np.zeros(len(there), bool)
    with open_source(data / content["video"]) as frames:
        for number, frame in zip(range(len(there)), frames, strict=False):
            people = estimator.step(frame.image, stamp=frame.stamp)
            found[number] = len(people) > 0
            if number % 100 == 0:
                save_overlay(overlays, f"{labels.stem}_{number:05d}.jpg", frame.image, people, estimator)
    return (
        f"{content['video']}: somebody found in {found[there].mean():.3f} of {there.sum()} frames with a person, "
        f"and in {found[~there].mean():.3f} of {(~there).sum()} without"
    )


def projected_boxes(people: People) -> NDArray[np.float64]:
    """(n, 4) px, of the meshes' vertices, cut off at the picture's borders."""
    boxes = boxes_of_points(project(people.vertices, people.k))
    height, width = people.image_size
    return np.clip(boxes, 0, [width, height, width, height])


def save_overlay(
    folder: Path | None, name: str, image: NDArray[np.uint8], people: People, estimator: Estimator
) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_people(image, people, estimator.faces)).save(folder / name)


if __name__ == "__main__":
    sys.exit(main())
