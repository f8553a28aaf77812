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

"""What the readers share: files that must be there, JSON, and what is said where they are not as expected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError

Value = TypeVar("Value")
# Sequences that were found, each by its name and what reads it: the call raises UserError where it cannot be read, and
# gives None where it is not of the part that was asked for.
SequenceListing = Iterator[tuple[str, Callable[[], Value | None]]]


def list_files(folder: Path, pattern: str, what: str) -> list[Path]:
    """The files of a pattern in a folder, in order; hidden ones (.DS_Store, ._NAME of macOS) are none. Raises UserError
    where there are none."""
    paths = sorted(path for path in folder.glob(pattern) if path.name[0] != ".") if folder.is_dir() else []
    if not paths:
        raise UserError(f"no {what} in {folder}: expected {pattern}; give the data set's folder as it was unpacked")
    return paths


def read_json(path: Path) -> Any:
    return parse_file(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def parse_file(path: Path, parse: Callable[[], Value]) -> Value:
    """What parse makes of a file; UserError where it is not of the expected format."""
    try:
        return parse()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the download") from error
    except Exception as error:  # decoders raise many types on damaged files: TokenError, MemoryError, RuntimeError …
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
        raise UserError(f"{path} is not as its data set documents it ({reason}); check the download") from error


def boxes_to_corners(boxes: Any) -> NDArray[np.float64]:
    """(n, 4) as x, y, width, height → (n, 4) as x0, y0, x1, y1."""
    boxes = np.asarray(boxes, np.float64).reshape(len(boxes), 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
