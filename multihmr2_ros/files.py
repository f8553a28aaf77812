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

"""Atomic file writing: a file appears complete, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from multihmr2_ros.errors import UserError

Self = TypeVar("Self", bound="WholeFile")

ABANDONED_S = 600.0  # a temporary file of this age belongs to a killed process
_temporary_paths: set[Path] = set()  # of this process


class WholeFile(ABC):
    """A file or folder written in steps in a `with` block.

    It appears when the block ends without an exception; otherwise all that was written is removed.
    """

    @abstractmethod
    def close(self) -> None:
        """Finish the file and rename it to its final name."""

    @abstractmethod
    def discard(self) -> None:
        """Remove the written data."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


def make_temporary_path(path: Path, *, keep_suffix: bool = False) -> Path:
    """Return a hidden, unused name in the folder of path, so that renaming to path is atomic.

    keep_suffix: keep the suffix of path, for writers that choose a format by the name.
    """
    suffix = path.suffix if keep_suffix else ""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}")
    _temporary_paths.add(temporary.absolute())
    return temporary


def remove_temporaries() -> None:
    """Remove the temporary files and folders left at the end of a command.

    A signal may arrive between the creation of a file and the block that removes it.
    """
    while _temporary_paths:
        remove_temporary(_temporary_paths.pop())


def remove_abandoned_temporaries(folder: Path, prefix: str) -> None:
    """Remove old temporary files of the paths in a folder that begin with prefix: a killed process left them."""
    for temporary in folder.glob(f".{prefix}*.tmp"):
        with suppress(OSError):
            if time.time() - temporary.stat().st_mtime > ABANDONED_S:
                temporary.unlink()


def make_ffmpeg_path(path: Path) -> str:
    """Return a path for FFmpeg, which interprets text before a colon as a protocol: `2024-05-01T12:00:00.mp4`."""
    return f"file:{path}"


def require_parent_folder(path: Path) -> None:
    """Raise UserError if the folder that is to contain path does not exist."""
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} of {path.name} does not exist: create it first")


def describe_write_error(path: Path, error: Exception) -> UserError:
    """Return the one-line error for a file that could not be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"cannot write {path}: {reason}; choose a folder that exists, is writable and has free space")


def remove_temporary(temporary: Path) -> None:
    """Remove a temporary file or folder, if it exists."""
    _temporary_paths.discard(temporary.absolute())
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        return
    with suppress(OSError):
        temporary.unlink()


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file or folder to path; remove it if that fails.

    Raises UserError if the renaming fails (no folder, no permission, another kind of file there).
    """
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise describe_write_error(path, error) from error
    finally:
        remove_temporary(temporary)


@contextmanager
def atomic_path(path: str | Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; it is renamed to path if the block succeeds, and removed otherwise.

    keep_suffix: see `make_temporary_path`. Raises UserError if the block or the renaming fails with an OSError (no
    folder, no permission, disk full).
    """
    path = Path(path)
    temporary = make_temporary_path(path, keep_suffix=keep_suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise describe_write_error(path, error) from error
    finally:
        remove_temporary(temporary)


@contextmanager
def atomic_safetensors_path(path: str | Path) -> Iterator[Path]:
    """As `atomic_path`, for a file that safetensors writes.

    Its errors, such as a full disk, become UserError, too, and the file gets the permissions of other new files:
    safetensors makes it readable by its owner only.
    """
    from safetensors import SafetensorError

    with atomic_path(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            yield temporary
        except SafetensorError as error:
            raise OSError(str(error)) from error
        temporary.chmod(mode)
