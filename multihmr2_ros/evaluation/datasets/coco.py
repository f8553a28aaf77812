"""MSCOCO keypoints: 17 keypoints of the body's full mesh, through the predicted camera, by COCO's own measure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import found, parsed, read_json

PERSON = 1


def coco_images(folder: Path, split: str = "val2017") -> Iterator[tuple[Path, dict[str, NDArray[Any]]]]:
    """Of annotations/person_keypoints_SPLIT.json every image, and its people: true (t, 17, 3) px and visibility, area
    (t,) px², box (t, 4) as x, y, width, height, crowd (t,). Images lie in SPLIT/ or images/SPLIT/."""
    (path,) = found(folder, f"annotations/person_keypoints_{split}.json", "annotations")
    document = read_json(path)
    people, images = parsed(path, lambda: _grouped(document))
    places = [place for place in (folder / split, folder / "images" / split) if place.is_dir()]
    if not places:
        raise UserError(f"no images of {split} in {folder}: expected the folder {split} or images/{split}; unpack it")
    for image_id, name in images:
        yield places[0] / name, people[image_id]


def _grouped(document: Any) -> tuple[dict[int, dict[str, NDArray[Any]]], list[tuple[int, Path]]]:
    people: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
    for each in document["annotations"]:
        if each["category_id"] == PERSON:
            people[each["image_id"]].append(each)
    arrays = {
        image: {
            "true": np.array([each["keypoints"] for each in here], np.float64).reshape(len(here), 17, 3),
            "area": np.array([each["area"] for each in here], np.float64),
            "box": np.array([each["bbox"] for each in here], np.float64).reshape(len(here), 4),
            "crowd": np.array([bool(each["iscrowd"]) for each in here], bool),
        }
        for image, here in people.items()
    }
    return arrays, [(image["id"], Path(image["file_name"])) for image in document["images"]]
