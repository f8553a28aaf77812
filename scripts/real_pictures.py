"""How well checkpoints find people in pictures of real people: the figures of a model card, in one table.

    python scripts/real_pictures.py DATA --checkpoint nano --checkpoint my.safetensors --json figures.json

A column a checkpoint, a name or a file. DATA holds the folders `real` and `people`; parts:

coco      annotated COCO pictures (Deci-AI_super-gradients, open-mmlab_mmpose), people of 60 px or more
people    the tenth of DATA/people that training leaves out (`--hold-out 0.1`), people of 40 px or more

Recall and precision at the score threshold; --json has them for other thresholds, too. real_detection.py says who
counts. OKS is the mean over those who were found and have keypoints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from real_detection import Picture, Score, read_pictures, score_picture
from real_finders import MeshFinder

from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.media.files import atomic_path
from multihmr2_ros.media.images import read_image
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
CURVE = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))  # score thresholds
DIGITS = {"%": 1, "mm": 0, "°": 1}  # by the unit after a figure's name; 2 without one


@dataclass(frozen=True)
class Figures:
    """A block of the table: its figures by name, the unit after it, and what --json has besides."""

    title: str
    values: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Column:
    """A checkpoint, and how it is to be measured."""

    name: str
    checkpoint: str
    data: Path
    input_size: int | None
    score_threshold: float
    overlays: Path | None

    @cached_property
    def finder(self) -> MeshFinder:
        return MeshFinder(self.checkpoint, self.input_size, min(CURVE[0], self.score_threshold))

    def overlay(self, part: str, name: str) -> Path | None:
        return None if self.overlays is None else self.overlays / self.name / part / name


def main() -> int:
    args = parse()
    names = column_names(args.checkpoint)
    columns: dict[str, list[Figures]] = {}
    problems: dict[str, None] = {}
    try:
        for checkpoint in args.checkpoint:
            resolve_checkpoint(checkpoint)
        for name, checkpoint in zip(names, args.checkpoint, strict=True):
            column = Column(name, checkpoint, args.data, args.input_size, args.score_threshold, args.overlays)
            columns[name] = measure(column, args.parts, problems)
        if args.json is not None:
            write_json(args.json, columns, args)
    except UserError as error:
        problems[str(error)] = None
    if any(columns.values()):
        print(table(columns))
    for problem in problems:
        print(f"real_pictures: {problem}", file=sys.stderr)
    return 2 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds `real` and `people`")
    parser.add_argument("--checkpoint", action="append", help="weights: a name or a file (default: nano)")
    parser.add_argument("--parts", type=parts, default=tuple(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--score-threshold", type=float, default=EstimatorConfig().score_threshold)
    parser.add_argument("--input-size", type=int, metavar="PX", help="longest side of what the network sees")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="for the pictures with the meshes drawn over them")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="all figures, and precision and recall over the threshold"
    )
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or ["nano"]
    return args


def parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(PARTS)}, got {unknown[0]!r}")
    return chosen


def column_names(checkpoints: list[str]) -> list[str]:
    """A file's stem, with its folder where stems are the same."""
    stems = [Path(checkpoint).stem for checkpoint in checkpoints]
    return [stem if stems.count(stem) == 1 else checkpoint for stem, checkpoint in zip(stems, checkpoints, strict=True)]


def measure(column: Column, chosen: tuple[str, ...], problems: dict[str, None]) -> list[Figures]:
    """A part that cannot be measured must not cost the others."""
    figures: list[Figures] = []
    for part in chosen:
        begin_s = time.perf_counter()
        try:
            figures += PARTS[part](column)
        except UserError as error:
            problems[str(error)] = None
        print(f"{column.name}: {part}, {time.perf_counter() - begin_s:.0f} s", file=sys.stderr)
    return figures


def measure_coco(column: Column) -> list[Figures]:
    sets = {}
    for name, (labels, images) in COCO.items():
        folder = column.data / "real" / name
        sets[name] = read_pictures(folder / labels, folder / images, least_height_px=COCO_HEIGHT_PX)
    scores = {name: score_pictures(column, "coco", pictures) for name, pictures in sets.items()}
    together = {threshold: sum((scores[name][threshold] for name in sets), Score()) for threshold in thresholds(column)}
    count = sum(map(len, sets.values()))
    blocks = [detection_figures(f"COCO, {len(sets[name])} pictures of {name}", column, scores[name]) for name in sets]
    return [detection_figures(f"COCO, {count} pictures", column, together), *blocks]


def measure_people(column: Column) -> list[Figures]:
    folder = column.data / "people"
    pictures = read_pictures(
        folder / "person_keypoints.json", folder / "images",
        least_height_px=PEOPLE_HEIGHT_PX, hash_below=HELD_OUT_SHARE, agreed=True,
    )  # fmt: skip
    title = f"people, {len(pictures)} pictures held out"
    return [detection_figures(title, column, score_pictures(column, "people", pictures))]


def thresholds(column: Column) -> tuple[float, ...]:
    return tuple(sorted({*CURVE, column.score_threshold}))


def score_pictures(column: Column, part: str, pictures: list[Picture]) -> dict[float, Score]:
    """By score threshold."""
    scores = dict.fromkeys(thresholds(column), Score())
    for picture in pictures:
        image = read_image(picture.path)
        found = column.finder.find(image)
        for threshold in scores:
            scores[threshold] += score_picture(found.above(threshold), picture)
        overlay = column.overlay(part, picture.path.name)
        if overlay is not None:
            overlay.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(column.finder.draw(image, column.score_threshold)).save(overlay)
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


PARTS: dict[str, Callable[[Column], list[Figures]]] = {"coco": measure_coco, "people": measure_people}


def table(columns: dict[str, list[Figures]]) -> str:
    """Markdown: a row a figure, a column a checkpoint; – where it could not be measured."""
    blocks: dict[str, dict[str, dict[str, float]]] = {}
    for name, figures in columns.items():
        for block in figures:
            for figure, value in block.values.items():
                blocks.setdefault(block.title, {}).setdefault(figure, {})[name] = value
    rows = [["", *columns]]
    for title, by_figure in blocks.items():
        rows.append([f"**{title}**", *("" for _ in columns)])
        rows += [
            [figure, *(cell(figure, by_name.get(name)) for name in columns)] for figure, by_name in by_figure.items()
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def cell(figure: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return f"{value:.{DIGITS.get(figure.rsplit(' ', 1)[-1], 2)}f}"


def write_json(path: Path, columns: dict[str, list[Figures]], args: argparse.Namespace) -> None:
    content = {
        "score_threshold": args.score_threshold,
        "input_size": args.input_size,
        "columns": {
            name: {block.title: {**block.values, **block.details} for block in figures}
            for name, figures in columns.items()
        },
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
