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

"""Functions shared by the readers, and the selection of training images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.training.samples import Sample

MAX_COORDINATE_PX = 1e6  # absolute value
# Rows of COCO's keypoints.
NOSE, EYES_AND_EARS = 0, slice(1, 5)
SHOULDERS, HIPS = [5, 6], [11, 12]
# Position of the body's center vertex (next to the nose) on the line from the hips' middle to the shoulders' middle, in
# the rest pose of adults and children.
NOSE_BEYOND_SHOULDERS = 1.35


def center_from_keypoints(
    keypoints: NDArray[np.float32], visible: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Estimate the projection of the body's center vertex from keypoints (n, 17, 2) px, visible (n, 17) bool.

    Returns the location (n, 2) px, and whether it is known (n,) bool. The vertex is within 12 mm of Anny's nose
    keypoint. Without a visible nose, the mean of eyes and ears is used (at most half a head away), and without these,
    the extended line from the hips to the shoulders.
    """
    n = len(keypoints)
    location, known = np.zeros((n, 2), np.float32), np.zeros(n, np.bool_)
    for row, (points, seen) in enumerate(zip(keypoints, visible, strict=True)):
        if seen[NOSE]:
            location[row] = points[NOSE]
        elif seen[EYES_AND_EARS].any():
            location[row] = points[EYES_AND_EARS][seen[EYES_AND_EARS]].mean(axis=0)
        elif seen[SHOULDERS].all() and seen[HIPS].all():
            hips, shoulders = points[HIPS].mean(axis=0), points[SHOULDERS].mean(axis=0)
            location[row] = hips + NOSE_BEYOND_SHOULDERS * (shoulders - hips)
        else:
            continue
        known[row] = True
    return location, known


def make_image_path(folder: Path, name: str) -> Path:
    """Return folder / name. Raises UserError if the name, from a file of labels, leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"image names must be paths inside {folder}, got {name!r:.80}; correct the file of labels")
    return folder / name


class NamedSource(Protocol):
    """A reader with file names of its images."""

    def __len__(self) -> int: ...

    def get_name(self, index: int) -> str: ...

    def sample(self, index: int) -> Sample: ...


class HashSplit:
    """The images of a reader whose `compute_hash_share` is in [low, high)."""

    def __init__(self, source: NamedSource, low: float, high: float = 1.0) -> None:
        self._source = source
        shares = (compute_hash_share(source.get_name(row)) for row in range(len(source)))
        self._rows = [row for row, share in enumerate(shares) if low <= share < high]

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int) -> Sample:
        return self._source.sample(self._rows[index])


def compute_hash_share(name: str) -> float:
    """Return a number in [0, 1) that depends only on the file's name without folder: the same on every machine."""
    digest = hashlib.sha256(PurePosixPath(name).name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def load_npz(path: Path, needed: Iterable[str], optional: Iterable[str], what: str) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an .npz file, without executing pickled objects. Text is str.

    what: the expected kind of file, for messages. Raises UserError if it cannot be read or lacks a needed array.
    """
    try:
        content = np.load(path, allow_pickle=False)
        names = getattr(content, "files", [])
        arrays = {name: np.asarray(content[name]) for name in (*needed, *optional) if name in names}
        arrays = {name: array.astype(str) if array.dtype.kind == "S" else array for name, array in arrays.items()}
    except Exception as error:  # damaged files raise many types: BadZipFile, zlib.error, EOFError, MemoryError …
        reason = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in reason:  # NumPy's text has an advice that is unsafe
            reason = "not arrays of numbers and text in NumPy's format"
        raise UserError(f"cannot read {path} as {what}, an .npz file ({reason:.200}); check the file") from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"expected {', '.join(missing)} in {path}, found none; give {what}")
    return arrays


def group_rows_by_image(names: NDArray[np.str_]) -> list[tuple[str, NDArray[np.int64]]]:
    """Group rows by image name: return (image name, rows), sorted by name."""
    if not len(names):
        return []
    order = np.argsort(names, kind="stable")
    unique, starts = np.unique(names[order], return_index=True)
    return [(str(name), rows) for name, rows in zip(unique, np.split(order, starts[1:]), strict=True)]


def check_rows(name: str, values: NDArray[Any], good: NDArray[np.bool_], expected: str, labels: Path) -> None:
    """Raise UserError with the first of the values (N, …) whose row of good (N, …) bool is not all true."""
    if not good.all():
        row = int(np.argwhere(~good)[0, 0])
        got = np.array2string(np.asarray(values[row], np.float64), precision=4, separator=", ")
        raise UserError(f"{labels}: {name} must be {expected}, got {got} in row {row}; leave out this person")


def check_folder(folder: Path) -> None:
    """Raise UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"the folder of images {folder} does not exist; check the path")
