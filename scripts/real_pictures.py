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

"""Evaluate checkpoints on images of real people, and print the figures of a model card in one table.

    python scripts/real_pictures.py DATA --checkpoint nano --checkpoint my.safetensors --json figures.json

One column per checkpoint, which is a name or a file; --movenet adds MoveNet MultiPose if applicable. DATA contains the
folders `real` and `people`. Parts:

coco      annotated COCO images (Deci-AI_super-gradients, open-mmlab_mmpose), people of 60 px or more
people    the tenth of DATA/people that is held out in training (`--hold-out 0.1`), people of 40 px or more
presence  a video in which six people appear one at a time (intel-iot-devkit_sample-videos): detections, and whether
          each person keeps one track id
videos    one man in the images of two calibrated cameras (perfanalytics_pose2sim): pose, distance, field of view
mot       short parts of MOT17 (mikel-brostrom_boxmot): track ids

Recall and precision are computed at the score threshold; --json writes them for other thresholds, too. See
real_detection.py for ignored people. OKS is the mean over detected people with annotated keypoints. MPJPE is the error
of the 13 joints that COCO and the triangulation have in common: nose, shoulders, elbows, wrists, hips, knees, ankles;
the pelvis is the middle of the hips.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from real_detection import AnnotatedImage, Score, read_annotated_images, score_image
from real_finders import MeshFinder, load_estimator
from real_movenet import MoveNetFinder
from real_table import Figures, summary, table, write_json
from real_videos import CalibratedVideo, Presence, VideoErrors, measure_video, watch

from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.evaluation.datasets import MOT
from multihmr2_ros.evaluation.datasets.files import list_files
from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.images import read_image
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.metrics.identity import IdentityCounts
from multihmr2_ros.people import People
from multihmr2_ros.weights import resolve_checkpoint

COCO = {
    "Deci-AI_super-gradients": (
        "pose_minicoco/annotations/person_keypoints_train2017.json",
        "pose_minicoco/images/train2017",
    ),
    "open-mmlab_mmpose": ("coco/test_coco.json", "coco"),
}
COCO_HEIGHT_PX, PEOPLE_HEIGHT_PX = 60.0, 40.0
HELD_OUT_SHARE = 0.1
MOVENET = "MoveNet MultiPose"
PRESENCE = "derived/weak/intel_one-by-one.json"
CALIBRATED = "derived/pose2sim"
CALIBRATED_EVERY = 4  # every fourth of 60 frames per second
MOT_PARTS = "mikel-brostrom_boxmot/MOT17-mini"
CURVE = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))  # score thresholds


@dataclass
class Column:
    """A checkpoint and the settings of its evaluation. every: every n-th frame of the long video is used."""

    name: str
    checkpoint: str
    data: Path
    input_size: int | None
    score_threshold: float
    every: int
    overlays: Path | None

    parts: ClassVar = ("coco", "people", "presence", "videos", "mot")

    @cached_property
    def finder(self) -> Any:
        """Detector for unrelated images, without tracking."""
        return MeshFinder(self.checkpoint, self.input_size, min(CURVE[0], self.score_threshold))

    @cached_property
    def tracking(self) -> Estimator:
        config = EstimatorConfig(score_threshold=self.score_threshold, mesh="low")
        return load_estimator(self.checkpoint, self.input_size, config)

    def show(self, part: str, name: str, draw: Callable[[], NDArray[np.uint8]]) -> None:
        if self.overlays is not None:
            path = self.overlays / self.name / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw()).save(path)

    def show_frame(self, part: str, frame: Frame, people: People) -> None:
        self.show(part, f"{frame.name}.jpg", lambda: draw_people(frame.image, people, self.finder.estimator.faces))


class MoveNetColumn(Column):
    """MoveNet MultiPose, with its weights file as the checkpoint: keypoints in images, no bodies, no tracks."""

    parts: ClassVar = ("coco", "people")

    @cached_property
    def finder(self) -> Any:
        return MoveNetFinder(Path(self.checkpoint), self.input_size, min(CURVE[0], self.score_threshold))


def main() -> int:
    args = parse()
    columns: dict[str, list[Figures]] = {}
    problems: dict[str, None] = {}
    try:
        names = column_names(args.checkpoint)
        for checkpoint in args.checkpoint:
            resolve_checkpoint(checkpoint)
        if args.json is not None and not args.json.parent.is_dir():
            raise UserError(f"the folder {args.json.parent} of {args.json.name} does not exist: create it first")
        jobs = [(Column, name, file) for name, file in zip(names, args.checkpoint, strict=True)]
        jobs += [(MoveNetColumn, MOVENET, args.movenet)] if args.movenet else []
        for kind, name, checkpoint in jobs:
            column = kind(name, checkpoint, args.data, args.input_size, args.score_threshold, args.every, args.overlays)
            columns[name] = measure(column, args.parts, problems)
        if args.json is not None:
            write_json(args.json, columns, {"score_threshold": args.score_threshold, "input_size": args.input_size})
    except UserError as error:
        problems[str(error)] = None
    if any(columns.values()):
        print(table(columns))
    for problem in problems:
        print(f"real_pictures: {problem}", file=sys.stderr)
    return 2 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains `real` and `people`")
    parser.add_argument("--checkpoint", action="append", help="weights: a name or a file (default: nano)")
    parser.add_argument(
        "--movenet", metavar="FILE", help="MoveNet MultiPose's weights, from scripts/convert_movenet.py"
    )
    parser.add_argument(
        "--parts", type=parts, default=tuple(PARTS), help=f"comma-separated parts (default: {','.join(PARTS)})"
    )
    parser.add_argument("--score-threshold", type=float, default=EstimatorConfig().score_threshold)
    parser.add_argument("--input-size", type=int, metavar="PX", help="longest side of the network's input")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="use every Nth frame of the long video (default: 1)"
    )
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="folder for images with projected meshes")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="file for all results, with precision and recall over the threshold"
    )
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or ["nano"]
    if args.every < 1:
        parser.error(f"--every must be at least 1, got {args.every}")
    return args


def parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected parts of {','.join(PARTS)}, got {unknown[0]!r}")
    return chosen


def column_names(checkpoints: list[str]) -> list[str]:
    """Return a name per checkpoint: the file's stem, preceded by the folder's name if stems are equal."""
    paths = [Path(checkpoint) for checkpoint in checkpoints]
    stems = [path.stem for path in paths]
    names = [
        path.stem if stems.count(path.stem) == 1 else f"{path.absolute().parent.name}-{path.stem}" for path in paths
    ]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"two checkpoints would have columns of the name {repeated[0]}; rename one")
    return names


def measure(column: Column, chosen: tuple[str, ...], problems: dict[str, None]) -> list[Figures]:
    """Measure the chosen parts. If a part fails, its problem is stored and the others are measured."""
    figures: list[Figures] = []
    for part in (part for part in chosen if part in column.parts):
        begin_s = time.perf_counter()
        blocks: list[Figures] = []
        try:
            blocks = PARTS[part](column)
        except (UserError, OSError) as error:
            problems[str(error)] = None
        print(f"{column.name}: {part}, {time.perf_counter() - begin_s:.0f} s", file=sys.stderr)
        for block in blocks:  # printed now, because the table is printed after all measurements
            print(f"  {block.title}: {summary(block)}", file=sys.stderr)
        figures += blocks
    return figures


def measure_coco(column: Column) -> list[Figures]:
    sets = {}
    for name, (labels, images) in COCO.items():
        folder = column.data / "real" / name
        sets[name] = read_annotated_images(folder / labels, folder / images, least_height_px=COCO_HEIGHT_PX)
    scores = {name: score_images(column, "coco", annotated_images) for name, annotated_images in sets.items()}
    together = {threshold: sum((scores[name][threshold] for name in sets), Score()) for threshold in thresholds(column)}
    count = sum(map(len, sets.values()))
    blocks = [detection_figures(f"COCO, {len(sets[name])} images of {name}", column, scores[name]) for name in sets]
    return [detection_figures(f"COCO, {count} images", column, together), *blocks]


def measure_people(column: Column) -> list[Figures]:
    folder = column.data / "people"
    annotated_images = read_annotated_images(
        folder / "person_keypoints.json", folder / "images",
        least_height_px=PEOPLE_HEIGHT_PX, hash_below=HELD_OUT_SHARE, agreed=True, silhouettes=False,
    )  # fmt: skip
    title = f"people, {len(annotated_images)} held-out images"
    return [detection_figures(title, column, score_images(column, "people", annotated_images))]


def thresholds(column: Column) -> tuple[float, ...]:
    return tuple(sorted({*CURVE, column.score_threshold}))


def score_images(column: Column, part: str, annotated_images: list[AnnotatedImage]) -> dict[float, Score]:
    """Return score threshold → score of all images."""
    scores = dict.fromkeys(thresholds(column), Score())
    for annotated in annotated_images:
        image = read_image(annotated.path)
        found = column.finder.find(image)
        for threshold in scores:
            scores[threshold] += score_image(found.above(threshold), annotated)
        column.show(part, annotated.path.name, partial(column.finder.draw, image, column.score_threshold))
    return scores


def detection_figures(title: str, column: Column, scores: dict[float, Score]) -> Figures:
    score = scores[column.score_threshold]
    values = {
        "recall %": 100 * score.counts.recall,
        "precision %": 100 * score.counts.precision,
        "OKS of those found": score.mean_similarity,
    }
    curve = [
        {
            "threshold": threshold,
            "recall": scores[threshold].counts.recall,
            "precision": scores[threshold].counts.precision,
            "oks": scores[threshold].mean_similarity,
        }
        for threshold in scores
    ]
    return Figures(f"{title}, {score.people} people", values, {"curve": curve})


def measure_presence(column: Column) -> list[Figures]:
    presence = Presence.read(column.data / "real" / PRESENCE, column.data / "real")
    times = watch(column.tracking, presence, column.every, partial(column.show_frame, "presence"))
    values, each = times.compute_metrics()
    there, empty = sum(count for who, count in times.frames.items() if who is not None), times.frames[None]
    title = f"one-by-one video, {looked_at(column.every)}: {there} with one of {len(each)} people, {empty} without"
    return [Figures(title, values, {"people": each})]


def measure_videos(column: Column) -> list[Figures]:
    """Measure all frames of all videos together; --json also has each video."""
    each = {}
    for labels in list_files(column.data / "real" / CALIBRATED, "*.json", "camera"):
        video = CalibratedVideo.read(labels, column.data / "real")
        show = partial(column.show_frame, "videos")
        each[labels.stem] = measure_video(
            column.finder.estimator, video, column.score_threshold, CALIBRATED_EVERY, show
        )
    together = sum(each.values(), VideoErrors())
    title = f"calibrated videos, {looked_at(CALIBRATED_EVERY)} of {len(each)} cameras: {together.frames}"
    return [
        Figures(title, together.compute_metrics(), {name: errors.compute_metrics() for name, errors in each.items()})
    ]


def looked_at(every: int) -> str:
    return "every frame" if every == 1 else f"one frame in {every}"


def measure_mot(column: Column) -> list[Figures]:
    results = evaluate_dataset(DatasetJob(MOT, column.data / "real" / MOT_PARTS, Path()), column.tracking)
    problems = [problem for result in results for problem in result.problems]
    if problems:
        raise UserError(problems[0])
    counts = sum((result.totals.identity or IdentityCounts() for result in results), IdentityCounts())
    frames = sum(result.totals.frames for result in results)
    each = {result.name: {"IDF1 %": 100 * result.totals.identity.idf1} for result in results if result.totals.identity}
    title = f"MOT17, parts of {len(results)} sequences, {frames} frames, {counts.truth} boxes"
    return [Figures(title, {"IDF1 %": 100 * counts.idf1, "MOTA %": 100 * counts.mota}, each)]


PARTS: dict[str, Callable[[Column], list[Figures]]] = {
    "coco": measure_coco,
    "people": measure_people,
    "presence": measure_presence,
    "videos": measure_videos,
    "mot": measure_mot,
}


if __name__ == "__main__":
    sys.exit(main())
