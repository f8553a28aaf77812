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

"""Settings files of folders with cached training data, so that data of different settings are not mixed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path

SETTINGS_FILE = "settings.json"


@contextmanager
def remove_unused_folder(folder: Path) -> Iterator[None]:
    """Remove the folder and its parents after the block if the block made them and they contain no data.

    A settings file alone is no data.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            if folder in new and [path.name for path in folder.iterdir()] == [SETTINGS_FILE]:
                (folder / SETTINGS_FILE).unlink()
        for each in new:
            with suppress(OSError):  # not empty
                each.rmdir()


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a folder, atomically."""
    with atomic_path(folder / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")


def read_settings(folder: Path, option: str) -> dict[str, Any] | None:
    """Return the settings of a folder; None if it has no such file.

    option: of the command line, which chooses the folder. Raises UserError for a file that cannot be read.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); choose another {option}") from None
    if not isinstance(settings, dict):
        raise UserError(f"expected settings in {path}, got another content; choose another {option}")
    return settings


def compare_settings(folder: Path, settings: dict[str, Any], existing: dict[str, Any], option: str) -> None:
    """Raise UserError if the settings differ from those that `read_settings` returned for the folder."""
    own = json.loads(json.dumps(settings, default=str))
    for name in sorted({*own, *existing}):
        if own.get(name) != existing.get(name):
            raise UserError(
                f"expected {name} {existing.get(name)} as in the existing files of {folder}, got {own.get(name)}; use "
                f"the same options, or choose another {option}"
            )
