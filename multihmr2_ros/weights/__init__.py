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

"""The registry of checkpoints: description, license, SHA-256 and path of each."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from multihmr2_ros.caches import expand_home, list_user_caches, make_temporary_cache, read_folder_variable
from multihmr2_ros.errors import UserError
from multihmr2_ros.progress import make_progress_bar

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Weights:
    """One checkpoint file.

    name             its name in commands
    description      one line about the model
    license_name     name of the license
    license_summary  one line: permissions, and where the terms are published
    commercial_use   whether the license allows commercial use
    sha256           64 lower-case hexadecimal digits; the only criterion for the correct file
    file_name        without folder
    size_bytes       approximate, for display and the check of disk space; None if unknown
    url              download address; None for a bundled file
    bundled          whether the file is part of this package
    """

    name: str
    description: str
    license_name: str
    license_summary: str
    commercial_use: bool
    sha256: str
    file_name: str
    size_bytes: int | None = None
    url: str | None = None
    bundled: bool = False

    def path(self) -> Path:
        """Return the path of the file on this machine, whether or not it exists."""
        return (Path(__file__).parent if self.bundled else find_weights_folder()) / self.file_name

    def is_downloaded(self) -> bool:
        """Return whether the file exists; its content is not read."""
        return os.path.isfile(self.path())


REGISTRY: tuple[Weights, ...] = (
    Weights(
        name="nano",
        description="small network for 384 px with a pretrained encoder: detects people in real images",
        license_name="Apache-2.0",
        license_summary="commercial use allowed; results and training data: weights/nano.md",
        commercial_use=True,
        sha256="acf1e187c60e1af18b45705dd41ebdb2c295c835008954daac657f8d636ca42e",
        file_name="nano.safetensors",
        size_bytes=22_894_372,
        bundled=True,
    ),
    Weights(
        name="multihmr2",
        description="Multi-HMR 2.b as released by NAVER LABS Europe: ViT-L/16, 768 px",
        license_name="NAVER LABS Europe's own",
        license_summary="non-commercial use only; terms: https://github.com/naver/multi-hmr2",
        commercial_use=False,
        sha256="fd2d9ab7010a5f590a3db2480f5f476fd3ec6afbbde80babbec0d821ba9763d6",
        file_name="multihmr2.pt",
        size_bytes=1_613_000_000,
        url="https://download.europe.naverlabs.com/ComputerVision/MultiHMR/multihmr2.pt",
    ),
)


def find_weights_folder() -> Path:
    """Return the folder of downloaded files: $MULTIHMR2_WEIGHTS, else multihmr2 in $XDG_CACHE_HOME, else
    ~/.cache/multihmr2; a temporary folder for a user without a home."""
    folders = [folder / "multihmr2" for folder in list_user_caches()]
    return (
        read_folder_variable("MULTIHMR2_WEIGHTS") or next(iter(folders), None) or make_temporary_cache() / "multihmr2"
    )


def find_weights(name: str) -> Weights:
    """Return the registry's entry of that name. Raises UserError with all names if there is none."""
    for weights in REGISTRY:
        if weights.name == name:
            return weights
    raise UserError(f"expected one of the weights {_list_names()}, got {name!r}")


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """Return the checkpoint file for a registry name or a path. Raises UserError, with instructions, if it is missing.

    A registry name always refers to the registry's file; a file of the same name in the current folder is ./NAME.
    """
    text = str(name_or_path)
    for weights in REGISTRY:
        if weights.name == text:
            return _find_registered_file(weights)
    path = expand_home(Path(name_or_path))
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        raise UserError(f"checkpoint {text!r} is a folder: expected a .pt or .safetensors file in it")
    raise UserError(f"checkpoint {text!r} does not exist: give a file, or one of the names {_list_names()}")


def _find_registered_file(weights: Weights) -> Path:
    if weights.is_downloaded():
        return weights.path()
    if weights.bundled:
        raise UserError(f"checkpoint {weights.name!r} is missing from this installation; reinstall multihmr2_ros")
    kind = "commercial use allowed" if weights.commercial_use else "non-commercial license"
    raise UserError(
        f"checkpoint {weights.name!r} is not on this machine: `multihmr2 weights fetch {weights.name}` downloads it "
        f"({format_size(weights.size_bytes)}, {kind}), or pass a file"
    )


def _list_names() -> str:
    return ", ".join(weights.name for weights in REGISTRY)


def format_size(size_bytes: int | None) -> str:
    """Format a size in decimal units, such as "1.6 GB"; "size unknown" for None."""
    if size_bytes is None:
        return "size unknown"
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.1f} GB"
    if size_bytes >= 1e6:
        return f"{size_bytes / 1e6:.0f} MB"
    return f"{size_bytes / 1e3:.1f} kB"


def compute_sha256(path: Path) -> str:
    """Return the file's SHA-256 as 64 hexadecimal digits, with a progress bar on a terminal.

    Raises UserError if the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with (
            open(path, "rb") as stream,
            make_progress_bar(
                name=f"SHA-256 of {path.name}", unit="B", total=path.stat().st_size, unit_scale=True, leave=False
            ) as bar,
        ):
            while block := stream.read(_READ_BYTES):
                digest.update(block)
                bar.update(len(block))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
