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

"""Reads the package's pip requirements from any kind of installation and compares versions with them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """One requirement of the package: distribution name, version range, extra ("" if it is always required)."""

    name: str
    version_range: str
    extra: str = ""

    def install_command(self) -> str:
        return f"pip install {shlex.quote(self.name + self.version_range)}"


def list_requirements() -> list[Requirement]:
    """Read the requirements from the source tree, else pip's metadata, else the share folder of a colcon installation.

    Raises FileNotFoundError if there is none of these.
    """
    source = _read_setup_cfg(Path(__file__).resolve().parents[2] / "setup.cfg")
    if source is not None:
        return source
    with contextlib.suppress(metadata.PackageNotFoundError):
        return [
            parse_requirement(line) for line in metadata.requires("multihmr2_ros") or [] if is_for_this_python(line)
        ]
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        installed = _read_setup_cfg(Path(prefix, "share/multihmr2_ros/setup.cfg"))
        if installed is not None:
            return installed
    raise FileNotFoundError(
        "expected a list of requirements in pip's metadata or setup.cfg, found none; reinstall multihmr2_ros"
    )


def _read_setup_cfg(path: Path) -> list[Requirement] | None:
    config = ConfigParser(interpolation=None)
    config.read(path, encoding="utf-8")
    if config.get("metadata", "name", fallback="") != "multihmr2_ros":
        return None
    lines = {"": config.get("options", "install_requires", fallback="")}
    if config.has_section("options.extras_require"):
        lines |= config["options.extras_require"]
    return [
        dataclasses.replace(parse_requirement(line), extra=extra)
        for extra, text in lines.items()
        for line in text.split("\n")
        if line and is_for_this_python(line)
    ]


def parse_requirement(line: str) -> Requirement:
    """Parse a requirement such as `name>=1,<2; extra == "test"`, as in this package's setup.cfg and pip metadata."""
    name_and_range, _, marker = line.partition(";")
    found = re.fullmatch(r"\s*([\w.-]+)(?:\[.*?\])?\s*\(?([^)]*)\)?\s*", name_and_range)
    if found is None:
        raise ValueError(f"cannot parse the requirement {line!r}")
    extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
    return Requirement(found[1], found[2].strip(), extra[1] if extra else "")


def is_for_this_python(line: str) -> bool:
    """Evaluate a marker such as `python_version < "3.11"`, the only kind in this package; true without a marker."""
    found = re.search(r"python_version\s*(<|>=)\s*['\"](\d+)\.(\d+)['\"]", line.partition(";")[2])
    if found is None:
        return True
    is_older = sys.version_info[:2] < (int(found[2]), int(found[3]))
    return is_older == (found[1] == "<")


def find_installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_in_range(version: str | None, version_range: str) -> bool | None:
    """Return whether the version is in the range; None if that is unknown."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion
    except ImportError:
        return None
    if version is None:
        return None
    try:
        return SpecifierSet(version_range).contains(version, prereleases=True)
    except InvalidVersion:
        return None
