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

"""Helpers of the data set readers: required files, JSON, and errors for unexpected contents."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError

Value = TypeVar("Value")
# Sequences that were found: the name of each, and a function that reads it. The function raises UserError if the
# sequence cannot be read, and returns None if it is not in the requested part.
SequenceListing = Iterator[tuple[str, Callable[[], Value | None]]]


def list_files(folder: Path, pattern: str, what: str) -> list[Path]:
    """Return the files of `find_files`. Raises UserError if there are none."""
    paths = find_files(folder, pattern)
    if not paths:
        raise UserError(f"expected {pattern} in {folder}, found no {what}; give the unpacked folder of the dataset")
    return paths


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern, sorted, without hidden ones (.DS_Store, ._NAME of macOS).

    "**" follows links to folders, too, unlike Path.glob. It finds a file once, even if a link leads back to its folder.
    """
    paths = [folder / name for name in glob.glob(pattern, root_dir=folder, recursive=True)]
    if "**" in pattern:
        by_depth = sorted(paths, key=lambda path: (len(path.parts), path), reverse=True)
        paths = list({path.resolve(): path for path in by_depth}.values())
    return sorted(paths)


def read_json(path: Path) -> Any:
    return parse_file(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def parse_file(path: Path, parse: Callable[[], Value]) -> Value:
    """Return the result of parse. Raises UserError if the file does not have the expected format."""
    try:
        return parse()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the download") from error
    except Exception as error:  # decoders raise many types for damaged files: TokenError, MemoryError, RuntimeError …
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
        raise UserError(
            f"{path} does not have the documented format of its dataset ({reason}); check the download"
        ) from error


def boxes_to_corners(boxes: Any) -> NDArray[np.float64]:
    """Convert boxes (n, 4) from x, y, width, height to x0, y0, x1, y1."""
    boxes = np.asarray(boxes, np.float64).reshape(len(boxes), 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
