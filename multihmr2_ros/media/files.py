"""Files that are either written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from multihmr2_ros.errors import UserError


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of path that no other writer uses, so that os.replace to path is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def cannot_write(path: Path, error: Exception) -> UserError:
    """The one-line message for a file that the system would not let us write."""
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"cannot write {path}: {reason}; choose a folder that exists, is writable and has free space")


def remove(temporary: Path) -> None:
    """Removes a temporary file that may never have come to be, and whose folder may not exist."""
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
