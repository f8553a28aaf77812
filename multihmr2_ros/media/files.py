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

"""Files that are either written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from multihmr2_ros.errors import UserError

Self = TypeVar("Self", bound="WholeFile")

_temporaries: set[Path] = set()  # of this process


class WholeFile(ABC):
    """What is written piece by piece, in a `with` block: it appears when the block ends well, and an exception in the
    block leaves nothing behind."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file and give it its name."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of path that no other writer uses, so that os.replace to path is atomic."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    _temporaries.add(temporary.absolute())
    return temporary


def remove_temporaries() -> None:
    """Removes what is left of temporary files and folders when a command ends: a signal may come between the making of
    a file and the block that cleans up after it."""
    while _temporaries:
        temporary = _temporaries.pop()
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            remove(temporary)


def ffmpeg_path(path: Path) -> str:
    """A path for FFmpeg, which takes what stands before a colon for a protocol: `2024-05-01T12:00:00.mp4`."""
    return f"file:{path}"


def cannot_write(path: Path, error: Exception) -> UserError:
    """The one-line message for a file that the system would not let us write."""
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"cannot write {path}: {reason}; choose a folder that exists, is writable and has free space")


def remove(temporary: Path) -> None:
    """Removes a temporary file that may never have come to be, and whose folder may not exist."""
    _temporaries.discard(temporary.absolute())
    with suppress(OSError):
        temporary.unlink()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path to write to; it becomes path when the block ends well and disappears when it does not.

    Raises UserError where the block or the renaming fails with an OSError (no folder, no permission, disk full).
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        remove(temporary)
