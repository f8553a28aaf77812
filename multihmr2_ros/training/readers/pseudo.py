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

"""Bodies fitted to real images: pseudo-ground truth in Anny's parameters, in a format of this project.

One .npz file, as written by `multihmr2 label`, with a row for each of N people:

image      (N,) text: the image's path below the folder of images
shape      (N, 6) phenotypes in Anny's order, 0 to 1
rotations  (N, 163, 3, 3) relative to the parent bone, row 0 in the camera frame (as in `multihmr2 run --save params`)
box        (N, 4) px: x0 y0 x1 y1
k          (N, 3, 3) px: the camera the bodies were fitted with
centre     (N, 3) m, camera frame: the body's center vertex
complete   () bool, optional: all people in the images are annotated, so scores are supervised
metric     () bool, optional: centers and cameras are measured, not fitted, and are supervised, too

Optional, of the same people:

keypoints         (N, 17, 2) px, COCO's order, as annotated; keypoint_visible (N, 17) bool: where they are known
bone_seen         (N, 163) bool: known keypoints determine the bone's rotation; other rotations follow the prior
placed            (N,) bool: positions of an image's placed bodies are consistent (`label --depth-maps`)
error             (N,) mean distance of known keypoints from the body's, divided by the box's longer side

Optional, of the images and of M people without a fitted body:

pictures          (P,) text: all images, also those without people
image_size        (P, 2) px: width and height of the labeled image. If the stored image has this size, its EXIF
                  orientation is ignored, as in COCO's labels; without sizes, labels are of upright images
other_image       (M,) text; other_box (M, 4) px; other_keypoints (M, 17, 2) and other_keypoint_visible (M, 17)
other_ignore      (M,) bool: unsure, or a crowd: neither a person nor background

Shapes, rotations, annotated keypoints and the center's 2D location are supervised. Fitted cameras and distances are no
ground truth: they are supervised only if `metric`, and where `placed`, the relative positions of people of one image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import read_image
from multihmr2_ros.people import BONE_COUNT
from multihmr2_ros.training.readers.common import (
    MAX_COORDINATE_PX,
    center_from_keypoints,
    check_folder,
    check_rows,
    group_rows_by_image,
    load_npz,
    make_image_path,
)
from multihmr2_ros.training.samples import Sample, make_blank_people

# Array → shape of a row, and the kinds of its type.
RowTypes = dict[str, tuple[tuple[int, ...], str]]
TEXT, NUMBER, FLAG = "U", "fiu", "biu"
ROWS: RowTypes = {
    "image": ((), TEXT), "shape": ((6,), NUMBER), "rotations": ((BONE_COUNT, 3, 3), NUMBER), "box": ((4,), NUMBER),
    "k": ((3, 3), NUMBER), "centre": ((3,), NUMBER),
}  # fmt: skip
OPTIONAL_ROWS: RowTypes = {"keypoints": ((17, 2), NUMBER), "keypoint_visible": ((17,), FLAG), "placed": ((), FLAG)}
OTHER_ROWS: RowTypes = {
    "other_image": ((), TEXT), "other_box": ((4,), NUMBER), "other_ignore": ((), FLAG),
    "other_keypoints": ((17, 2), NUMBER), "other_keypoint_visible": ((17,), FLAG),
}  # fmt: skip
IMAGE_LIST_ROWS: RowTypes = {"pictures": ((), TEXT)}
SIZE_ROWS: RowTypes = IMAGE_LIST_ROWS | {"image_size": ((2,), NUMBER)}
MAX_ROTATION_ERROR = 0.01  # of RᵀR, from the identity
MAX_SHAPE_ERROR = 1e-3  # phenotypes may be rounded
MAY_BE_UNKNOWN = ("centre", "keypoints", "other_keypoints")  # people and keypoints that are not finite are ignored


class PseudoTruthReader:
    """The images of one file of fitted bodies. Shape, rotations and the file's optional annotations are supervised.

    labeled_sizes  image name → (width, height) px of the image that was labeled, if the file has `image_size`
    """

    def __init__(self, images: Path, labels: Path) -> None:
        check_folder(images)
        optional = (*OPTIONAL_ROWS, *OTHER_ROWS, *SIZE_ROWS, "complete", "metric")
        content = load_npz(labels, ROWS, optional, "a file of fitted bodies")
        self._bodies = _read_rows(content, ROWS, labels)
        _check_rotations(self._bodies["rotations"], labels)
        _check_bodies(self._bodies, labels)
        n = len(self._bodies["image"])
        for name, (row, kinds) in OPTIONAL_ROWS.items():
            blank = np.zeros((n, *row), np.float32 if name == "keypoints" else np.bool_)
            known = _read_rows(content, {name: (row, kinds)}, labels, n) if name in content else {}
            self._bodies[name] = known.get(name, blank)
        blank_others = "other_image" not in content
        self._others = {} if blank_others else _read_rows(content, OTHER_ROWS, labels)
        self._complete = _read_flag(content, "complete", labels)
        self._metric = _read_flag(content, "metric", labels)
        self.labeled_sizes: dict[str, tuple[int, int]] = {}
        if "image_size" in content:
            listed = _read_rows(content, SIZE_ROWS, labels)
            for name, (width, height) in zip(listed["pictures"], listed["image_size"], strict=True):
                self.labeled_sizes[str(name)] = int(width), int(height)
            _check_boxes_in_images(self._bodies, self.labeled_sizes, labels)
        self._folder = images
        self._body_rows = dict(group_rows_by_image(self._bodies["image"]))
        self._other_rows = {} if blank_others else dict(group_rows_by_image(self._others["other_image"]))
        names = set(self._body_rows)
        if self._complete:  # only then images without a body have a supervised term
            names |= set(self._other_rows)
            if "pictures" in content:
                names |= {str(name) for name in _read_rows(content, IMAGE_LIST_ROWS, labels)["pictures"]}
        self._names = sorted(names)

    def __len__(self) -> int:
        return len(self._names)

    def get_name(self, index: int) -> str:
        """Return the name of image number `index`."""
        return self._names[index]

    def sample(self, index: int) -> Sample:
        """Return image number `index`, ordered by name."""
        name = self._names[index]
        none = np.zeros(0, np.int64)
        rows, others = self._body_rows.get(name, none), self._other_rows.get(name, none)
        bodies, count = {key: values[rows] for key, values in self._bodies.items()}, len(rows)
        arrays = make_blank_people(count + len(others))
        for key in ("shape", "rotations", "box", "centre", "keypoints", "keypoint_visible"):
            arrays[key][:count] = bodies[key]
        arrays["has_body"][:count] = True
        arrays["has_place"][:count] = self._metric
        arrays["has_relative_place"][:count] = bodies["placed"] | self._metric
        arrays["visible_fraction"][:] = 1.0
        if count:
            centre = bodies["centre"].astype(np.float64)
            arrays["location"][:count] = project(centre, bodies["k"][0].astype(np.float64)).astype(np.float32)
        for key in ("box", "ignore", "keypoints", "keypoint_visible") if len(others) else ():
            arrays[key][count:] = self._others[f"other_{key}"][others]
        arrays["keypoint_visible"] &= (np.abs(arrays["keypoints"]) <= MAX_COORDINATE_PX).all(axis=-1)  # false for NaN
        arrays["location"][count:], known = center_from_keypoints(
            arrays["keypoints"][count:], arrays["keypoint_visible"][count:]
        )
        arrays["ignore"][count:] |= ~known
        arrays["ignore"] |= ~np.isfinite(arrays["location"]).all(axis=1)
        arrays["keypoint_visible"] &= ~arrays["ignore"][:, None]
        arrays["location"][arrays["ignore"]] = 0.0
        k = bodies["k"][0].astype(np.float64) if self._metric and count else None
        image = read_image(make_image_path(self._folder, name), self.labeled_sizes.get(name))
        return Sample(image, k, self._complete, name, **arrays)


def _read_rows(
    content: dict[str, NDArray[Any]], rows: RowTypes, labels: Path, n: int | None = None
) -> dict[str, NDArray[Any]]:
    """Return the named arrays, with checked shapes (n, *row), types and values; n of the first array if not given."""
    for name, (row, kinds) in rows.items():
        if name not in content:
            raise UserError(f"expected {name} in the file of fitted bodies {labels}, found none; write it again")
        array = content[name]
        if n is None:
            n = array.shape[0] if array.ndim else -1
        if array.shape != (n, *row):
            raise UserError(f"{labels}: {name} must have the shape {(n, *row)}, got {array.shape}; write it again")
        if array.dtype.kind not in kinds:
            expected = {TEXT: "text", NUMBER: "numbers", FLAG: "bool"}[kinds]
            raise UserError(f"{labels}: {name} must be {expected}, got {array.dtype}; write it again")
        if kinds == NUMBER and name not in MAY_BE_UNKNOWN and not (finite := np.isfinite(array)).all():
            raise UserError(
                f"{labels}: {name} must be finite, got {array[~finite][0]} in row {np.argwhere(~finite)[0, 0]}; leave "
                "out this person"
            )
    return {name: content[name] for name in rows}


def _check_rotations(rotations: NDArray[Any], labels: Path) -> None:
    """Raise UserError if one of the matrices (N, 163, 3, 3) is not a rotation."""
    for row, matrices in enumerate(rotations.astype(np.float32)):  # NumPy has no determinant of float16
        error = np.abs(matrices.swapaxes(-1, -2) @ matrices - np.eye(3)).max()
        if error > MAX_ROTATION_ERROR or (np.linalg.det(matrices) < 0).any():
            raise UserError(f"{labels}: rotations must be rotation matrices, got others in row {row}; write it again")


def _check_bodies(bodies: dict[str, NDArray[Any]], labels: Path) -> None:
    """Raise UserError for the first body with an impossible phenotype, box, camera or position."""
    shape, box, k, depth = bodies["shape"], bodies["box"], bodies["k"], bodies["centre"][:, 2]
    focal = k[:, [0, 1], [0, 1]]
    rest = k[:, [1, 2, 2, 2], [0, 0, 1, 2]]  # below the diagonal, and the last number
    in_range = (shape >= -MAX_SHAPE_ERROR) & (shape <= 1 + MAX_SHAPE_ERROR)
    check_rows("shape", shape, in_range, "phenotypes from 0 to 1", labels)
    check_rows("box", box, box[:, 2:] > box[:, :2], "x0 < x1 and y0 < y1", labels)
    check_rows("box", box, np.abs(box) <= MAX_COORDINATE_PX, f"at most {MAX_COORDINATE_PX:.0e} px", labels)
    check_rows("k", focal, focal > 0, "focal lengths above 0", labels)
    check_rows("k", rest, rest == [0, 0, 0, 1], "[[fx, s, cx], [0, fy, cy], [0, 0, 1]]", labels)
    check_rows("centre", depth, ~(depth <= 0), "in front of the camera, z above 0", labels)  # NaN is unknown


def _check_boxes_in_images(bodies: dict[str, NDArray[Any]], sizes: dict[str, tuple[int, int]], labels: Path) -> None:
    """Raise UserError for the first body whose box is outside its image; sizes: image name → (width, height) px."""
    box, unknown = bodies["box"], (np.inf, np.inf)
    size = np.array([sizes.get(str(name), unknown) for name in bodies["image"]]).reshape(-1, 2)
    overlaps = (box[:, 2:] > 0) & (box[:, :2] < size)
    check_rows("box", box, overlaps, "at least partly inside the image", labels)


def _read_flag(content: dict[str, NDArray[Any]], name: str, labels: Path) -> bool:
    """Return the single bool of that name; False if the file has none."""
    flag = content.get(name, np.array(False))
    if flag.size != 1 or flag.dtype.kind not in FLAG:
        raise UserError(f"{labels}: {name} must be one bool, got {flag.dtype} {flag.shape}; write it again")
    return bool(flag.all())
