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

"""The render cache: a folder of rendered images, from which training draws while renderers add to it.

A shard is one safetensors file of `SHARD_IMAGES` consecutive seeds, named by its first seed. Shards are written
atomically; a shard that cannot be read is skipped with one line in the log. Seeds of the second million are held out
for validation, all others are for training.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path
from multihmr2_ros.training.samples import Sample, pack_samples, unpack_sample

logger = logging.getLogger(__name__)

SHARD_IMAGES = 50
HELD_OUT_SEED, AFTER_HELD_OUT = 1_000_000, 2_000_000
PREFIX, SUFFIX = "seeds-", ".safetensors"
SHARD_NAME = re.compile(rf"{PREFIX}[0-9]+{re.escape(SUFFIX)}")


class RenderCache:
    """The images of one split in a folder's shards; `refresh` updates the list of shards."""

    def __init__(self, folder: Path, *, held_out: bool = False) -> None:
        self.folder = folder
        self.held_out = held_out
        self._shards: list[Path] = []
        self._sizes: dict[Path, int] = {}
        self._unreadable: set[Path] = set()
        self._starts = np.zeros(1, np.int64)
        self.refresh()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def rendered(self) -> int:
        """Number of images of this split ever rendered here, including removed ones."""
        if not self._shards:
            return 0
        seed, size = parse_first_seed(self._shards[-1]), self._sizes[self._shards[-1]]
        return size + (seed - HELD_OUT_SEED if self.held_out else get_training_index(seed))

    def refresh(self) -> None:
        """List the folder again. Known shards are not opened a second time."""
        shards = []
        for path in list_shard_paths(self.folder, held_out=self.held_out):
            if path not in self._sizes and path not in self._unreadable:
                self._examine(path)
            if path in self._sizes:
                shards.append(path)
        self._shards = shards
        self._starts = np.concatenate([[0], np.cumsum([self._sizes[path] for path in shards])]).astype(np.int64)

    def sample(self, index: int) -> Sample:
        """Return image `index`, in the order of seeds. Raises OSError if its shard was removed or cannot be read."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        path, row = self._shards[shard], int(index - self._starts[shard])
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                return unpack_sample(_SlicedFile(file), row, f"{path.name}[{row}]")
        except safetensors.SafetensorError as error:
            self._reject(path, error)
            raise OSError(f"{path} cannot be read") from error
        except OSError as error:
            if os.path.lexists(path):  # not removed to make room: the next attempt would fail, too
                self._reject(path, error)
            raise

    def _examine(self, path: Path) -> None:
        try:
            self._sizes[path] = count_images(path)
        except (OSError, safetensors.SafetensorError) as error:
            self._reject(path, error)

    def _reject(self, path: Path, error: Exception) -> None:
        self._unreadable.add(path)
        self._sizes.pop(path, None)
        logger.warning("%s is not a complete shard (%s); it is skipped", path, " ".join(str(error).split()))


class _SlicedFile:
    """A safetensors file as a mapping whose tensors are read when they are sliced."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = frozenset(file.keys())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> _TensorRows:
        return _TensorRows(self._file.get_slice(name))


class _TensorRows:
    """A tensor in a file. The library cannot read an empty slice at the end, which an image without people needs."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        if rows.start == rows.stop:
            return np.zeros((0, *self._tensor.get_shape()[1:]))
        return np.asarray(self._tensor[rows])


def list_shard_paths(folder: Path, *, held_out: bool = False) -> list[Path]:
    """Return the shards of one split, sorted by seed. Files of other names, such as copies, are left out."""
    shards = (path for path in folder.glob(f"{PREFIX}*{SUFFIX}") if SHARD_NAME.fullmatch(path.name))
    paths = sorted(shards, key=parse_first_seed)
    return [path for path in paths if is_held_out(parse_first_seed(path)) == held_out]


def count_images(path: Path) -> int:
    """Return the number of images of a shard. Raises OSError or SafetensorError if it cannot be read."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return len(file.get_tensor("score_supervised"))


def is_held_out(seed: int) -> bool:
    """Return whether the image of a seed is held out for validation."""
    return HELD_OUT_SEED <= seed < AFTER_HELD_OUT


def get_training_seed(index: int) -> int:
    """Return the seed of training image `index`: 0, 1, … without the held-out seeds."""
    return index if index < HELD_OUT_SEED else index + AFTER_HELD_OUT - HELD_OUT_SEED


def get_training_index(seed: int) -> int:
    """Return the inverse of `get_training_seed`."""
    return seed if seed < HELD_OUT_SEED else seed - (AFTER_HELD_OUT - HELD_OUT_SEED)


def parse_first_seed(path: Path) -> int:
    """Return the first seed of a shard, from its name."""
    return int(path.name.removeprefix(PREFIX).removesuffix(SUFFIX))


def write_shard(folder: Path, seed: int, samples: Sequence[Sample]) -> Path:
    """Write the samples of consecutive seeds to one file, atomically."""
    path = folder / f"{PREFIX}{seed:07d}{SUFFIX}"
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(value) for name, value in pack_samples(samples).items()
    }
    with atomic_safetensors_path(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary)
    return path


def make_folder(folder: Path) -> None:
    """Make a folder. Raises UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}; choose another") from None
