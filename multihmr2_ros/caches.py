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

"""Cache folders of this project and its libraries, also for users without a writable home folder.

$XDG_CACHE_HOME, else ~/.cache, contains `multihmr2` (weights), `anny` (body model) and `warp` (compiled kernels);
$MULTIHMR2_WEIGHTS, $ANNY_CACHE_DIR and $WARP_CACHE_PATH set another folder for each. If no folder for the body model or
the kernels is writable, one in the system's temporary folder is used, and a warning is logged. Weights are in the
temporary folder only for a user without a home folder. Needs no library.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from multihmr2_ros.errors import UserError

logger = logging.getLogger(__name__)


def find_home_folder() -> Path | None:
    """Return the user's home folder; None for a user without one (`docker run --user`, without a passwd entry)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expand_home(path: Path) -> Path:
    """Expand ~ and ~user at the beginning of a path. Raises UserError if there is no such home folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path.parts[0]} in {path} is no known home folder; give the full path") from None


def read_folder_variable(variable: str) -> Path | None:
    """Return the folder in an environment variable; None if it is unset, empty, or relative to a missing home."""
    text = os.environ.get(variable)
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:
        return None


def list_user_caches() -> list[Path]:
    """Return the cache folders of the user, the preferred one first; none for a user without a home folder."""
    home = find_home_folder()
    folders = (read_folder_variable("XDG_CACHE_HOME"), None if home is None else home / ".cache")
    return [folder for folder in folders if folder is not None]


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in the folder, or the folder itself can be created."""
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError:  # in a folder without search permission
        return False
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def make_temporary_cache() -> Path:
    """Return a folder of this user in the system's temporary folder; create it if missing. Raises UserError if it
    cannot be created."""
    try:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir()) / f"multihmr2-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022
        return folder if is_ours and is_writable(folder) else Path(tempfile.mkdtemp(prefix="multihmr2-"))
    except OSError as error:
        raise UserError(
            f"no cache folder is writable ({error.strerror or error}); set XDG_CACHE_HOME to a writable folder"
        ) from None


def find_body_cache() -> Path:
    """Return Anny's folder: one that contains its cache, else the first that is writable."""
    chosen = read_folder_variable("ANNY_CACHE_DIR")
    folders = [folder / "anny" for folder in list_user_caches()] if chosen is None else [chosen]
    return next(filter(is_body_cached, folders), None) or _find_writable(tuple(folders), "anny", "ANNY_CACHE_DIR")


def is_body_cached(folder: Path) -> bool:
    """Return whether the folder contains a cache of Anny."""
    try:
        return any(folder.glob("*/*.safetensors"))
    except OSError:
        return False


def find_kernel_cache() -> Path:
    """Return Warp's folder: the first that is writable."""
    chosen = read_folder_variable("WARP_CACHE_PATH")
    folders = [folder / "warp" for folder in list_user_caches()] if chosen is None else [chosen]
    return _find_writable(tuple(folders), "warp", "WARP_CACHE_PATH")


@functools.cache
def _find_writable(folders: tuple[Path, ...], name: str, variable: str) -> Path:
    for folder in folders:
        if is_writable(folder):
            return folder
    temporary = make_temporary_cache() / name
    reason = f"{folders[0]} is not writable" if folders else "there is no home folder"
    logger.warning(
        "%s; using the temporary cache folder %s; set XDG_CACHE_HOME or %s to a writable folder to keep the cache",
        reason,
        temporary,
        variable,
    )
    return temporary


@contextlib.contextmanager
def ensure_home() -> Iterator[None]:
    """Set HOME in the block if there is no home folder, for libraries that need one when they are imported."""
    if find_home_folder() is not None:
        yield
        return
    before = os.environ.get("HOME")
    os.environ["HOME"] = tempfile.gettempdir()
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before
