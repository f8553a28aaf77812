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

"""Relative Human (Sun et al., Putting People in their Place, 2022): people in layers of depth, by age group.

SPLIT_annots.npz has one pickled dictionary `annots`: image name → people with `bbox` (x0, y0, x1, y1 px of the visible
part), in some cases `bbox_wb` (the same of the whole body), `depth_id` (layer from 0, the nearest; −1: unknown) and
`age` (0 adult, 1 teenager, 2 kid, 3 baby, −1 unknown). Images are in images/.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import list_files, parse_file
from multihmr2_ros.evaluation.datasets.pickles import read_object_array
from multihmr2_ros.metrics.boxes import FloatArray, box_iou
from multihmr2_ros.metrics.matching import assign
from multihmr2_ros.metrics.placement import layer_order, ordinal_order

AGES = {0: "adults", 1: "teenagers", 2: "kids", 3: "babies"}
UNKNOWN = -1
MIN_IOU = 0.3  # between a predicted and an annotated box
MAX_BYTES = 2**30


@dataclass(frozen=True)
class RelativeImage:
    """An image with its annotated people.

    box         (t, 4) px x0 y0 x1 y1, of whole bodies if annotated
    layer, age  (t,) UNKNOWN or as in the file
    """

    path: Path
    box: NDArray[np.float64]
    layer: NDArray[np.int64]
    age: NDArray[np.int64]


@dataclass(frozen=True)
class DepthRelations:
    """Depth relations of the p pairs of matched people of one image whose layers are both known.

    right          (p,) whether the predicted relation (closer, farther, same within 0.2 m) is right
    ordered        (p,) whether the layers differ
    ordinal        (p,) whether the order is right; only meaningful if the layers differ
    age            (p, 2) of both people
    found, people  numbers of matched and of all people
    """

    right: NDArray[np.bool_]
    ordered: NDArray[np.bool_]
    ordinal: NDArray[np.bool_]
    age: NDArray[np.int64]
    found: int
    people: int


def list_relative_human_images(folder: Path, split: str) -> Iterator[RelativeImage]:
    """Read every image of SPLIT_annots.npz. Its pickle is parsed, not executed."""
    (path,) = list_files(folder, f"{split}_annots.npz", "annotations")
    images = parse_file(
        path, lambda: [_read_image(folder / "images", *item) for item in sorted(_read_annotations(path).items())]
    )
    if not (folder / "images").is_dir():
        raise UserError(f"expected the folder images in {folder}, found none; unpack it")
    yield from images


def _read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    with zipfile.ZipFile(path) as file:
        if file.getinfo("annots.npy").file_size > MAX_BYTES:
            raise ValueError("annots is too large")
        content = read_object_array(io.BytesIO(file.read("annots.npy")))
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of images, got {type(content).__name__}")
    return content


def _read_image(folder: Path, name: Any, people: list[dict[str, Any]]) -> RelativeImage:
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"expected the name of an image, got {name!r:.80}")
    boxes = [each["bbox_wb"] if each.get("bbox_wb") is not None else each["bbox"] for each in people]
    return RelativeImage(
        folder / name,
        np.array(boxes, np.float64).reshape(len(people), 4),
        np.array([each["depth_id"] for each in people], np.int64),
        np.array([each["age"] for each in people], np.int64),
    )


def compute_relations(image: RelativeImage, boxes: FloatArray, depth: FloatArray) -> DepthRelations:
    """Match n detections, boxes (n, 4) px and pelvis depths (n,) m, to the image's people; compare depth order."""
    overlap = box_iou(boxes, image.box)
    pairs = assign(1 - overlap, overlap >= MIN_IOU) if overlap.size else np.zeros((0, 2), np.int64)
    known = pairs[image.layer[pairs[:, 1]] != UNKNOWN]
    layer, pelvis_depth = image.layer[known[:, 1]], depth[known[:, 0]]
    first, second = np.triu_indices(len(known), k=1)
    age = image.age[known[:, 1]]
    return DepthRelations(
        layer_order(pelvis_depth, layer),
        layer[first] != layer[second],
        ordinal_order(pelvis_depth, layer),
        np.stack([age[first], age[second]], axis=1),
        len(pairs),
        len(image.box),
    )


def compute_relation_scores(images: Sequence[DepthRelations]) -> dict[str, float]:
    """Return the scores (%) over the pairs of all images, with recall and the counts.

    The scores are PCDR, PCDR of the pairs with a person of each age group, and the share of ordinal pairs in the right
    order; NaN without such pairs.
    """
    right, ordered, ordinal = (
        np.concatenate([getattr(each, name) for each in images] or [np.zeros(0, bool)])
        for name in ("right", "ordered", "ordinal")
    )
    age = np.concatenate([each.age for each in images] or [np.zeros((0, 2), np.int64)])
    scores = {"PCDR@0.2m": _to_percent(right)}
    scores |= {f"PCDR {group}": _to_percent(right[(age == code).any(axis=1)]) for code, group in AGES.items()}
    scores["ordinal pairs"] = _to_percent(ordinal[ordered])
    people = sum(each.people for each in images)
    scores["recall"] = 100 * sum(each.found for each in images) / people if people else np.nan
    return {**scores, "pairs": len(right), "people": people}


def _to_percent(values: NDArray[np.bool_]) -> float:
    return 100 * float(values.mean()) if len(values) else np.nan
