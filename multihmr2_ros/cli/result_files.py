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

"""Names of result files. Existing files are replaced only with --overwrite.

Results of one command never have the same name, never replace an input, and never mix with results of an earlier run:
with --overwrite, all files with a name of these results are removed first.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.media.sources import FrameSource

FRAME_ENDINGS = {"params": ".npz", "mesh": ".glb", "overlay": "_overlay.png"}
VIDEO_ENDING = "_overlay.mp4"
RECORDING_ENDING = ".rrd"

RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
EVALUATION_FILES = (  # of one sequence
    "frames.csv", "people.csv", "identities.png", "overlay.mp4", "predictions.mcap", "highlights.zip",
    "recording.rrd",
)  # fmt: skip
SUMMARY_FILES = (  # of all sequences together
    RESULTS_FILE, REPORT_FILE, "error_over_distance.png", "field_of_view.png", "latency.png",
)  # fmt: skip


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing results of the same names in --out, including those of an earlier, longer run",
    )


class RunNames:
    """Names of the files written by `multihmr2 run` for one input. kinds: values of --save."""

    def __init__(self, source: FrameSource, kinds: Sequence[str]) -> None:
        endings = [ending for kind, ending in FRAME_ENDINGS.items() if kind in kinds]
        self.fixed = {f"{name}{ending}" for name in source.frame_names or () for ending in endings}
        if "video" in kinds:
            self.fixed.add(f"{source.name}{VIDEO_ENDING}")
        if "rrd" in kinds:
            self.fixed.add(f"{source.name}{RECORDING_ENDING}")
        self._numbered: re.Pattern[str] | None = None
        self._example = f"{source.name}_000000{endings[0] if endings else ''}"
        if source.frame_names is None and endings:
            any_ending = "|".join(map(re.escape, endings))
            self._numbered = re.compile(rf"{re.escape(source.name)}_[0-9]{{6,}}(?:{any_ending})")

    def __contains__(self, name: str) -> bool:
        return name in self.fixed or (self._numbered is not None and self._numbered.fullmatch(name) is not None)

    def has_common_names(self, other: RunNames) -> bool:
        """Return whether both inputs could have a result of the same name."""
        if not self.fixed.isdisjoint(other.fixed):
            return True
        if self._numbered is None and other._numbered is None:
            return False
        examples = [names._example for names in (self, other) if names._numbered is not None]
        return any(name in self and name in other for name in (*self.fixed, *other.fixed, *examples))

    def find_existing(self, folder: Path) -> list[Path]:
        """Return the sorted files of a folder that have one of these names. Raises UserError if unreadable."""
        try:
            return sorted(folder / name for name in os.listdir(folder) if name in self)
        except (FileNotFoundError, NotADirectoryError):  # `make_folder` reports a file in the way
            return []
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}; choose another --out") from error


def refuse_shared_names(named: Sequence[tuple[Path, RunNames]]) -> None:
    """Raise UserError if two inputs would have results of the same name."""
    owner: dict[str, Path] = {}
    for path, names in named:
        for name in names.fixed:
            other = owner.setdefault(name, path)
            if other is not path:
                raise _find_shared(other, path)
    numbered = [(path, names) for path, names in named if names._numbered is not None]
    for path, names in numbered:
        for other, others in named:
            if other is not path and names.has_common_names(others):
                raise _find_shared(path, other)


def _find_shared(first: Path, second: Path) -> UserError:
    return UserError(
        f"{first} and {second} would have results of the same name; rename one, or use a different --out for each"
    )


def refuse_input_folder(out: Path, inputs: Iterable[Path]) -> None:
    """Raise UserError if `out` is an input folder."""
    for path in inputs:
        if path.is_dir() and out.exists() and os.path.samefile(path, out):
            raise UserError(
                f"--out {out} is the same folder as the input {path}: the next run would read the results as inputs; "
                "choose another --out"
            )


def refuse_existing(existing: Sequence[Path], inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Raise UserError if results would replace an input, or any file without --overwrite."""
    if not existing:
        return
    given = {_resolve_identity(path) for path in inputs if path.is_file()}
    for path in existing:
        if path.is_file() and _resolve_identity(path) in given:
            raise UserError(f"a result would replace the input {path}; choose another --out")
    if not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]} already exists{more}; choose another --out, or add --overwrite")


def _resolve_identity(path: Path) -> tuple[int, int]:
    """Return device and inode, which are equal for two names of one file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def remove_results(paths: Iterable[Path]) -> None:
    """Remove results of an earlier run. Raises UserError if that is not possible."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot replace {path}: {error.strerror}; choose another --out") from error


def find_existing_evaluation(out: Path, folders: Iterable[str], *, whole: bool) -> list[Path]:
    """Return the files of an earlier evaluation in `out` and in these folders of it; whole: in all of its folders."""
    chosen = ["", *folders]
    if whole:
        chosen += [each for each in _list_folders(out) if not os.path.lexists(out / each / RESULTS_FILE)]
    names = [out / name for name in SUMMARY_FILES]
    names += [out / folder / name for folder in dict.fromkeys(chosen) for name in EVALUATION_FILES]
    return [path for path in names if os.path.lexists(path)]


def _list_folders(out: Path) -> list[str]:
    """Return the folders of the sequences of an earlier evaluation, relative to `out`.

    An evaluation that was interrupted has no results.json; its folders are found by their tables.
    """
    from multihmr2_ros.evaluation import results

    if not os.path.lexists(out / RESULTS_FILE):
        return sorted({path.parent.name for name in ("frames.csv", "people.csv") for path in out.glob(f"*/{name}")})
    try:
        folders = [str(each["folder"]) for each in results.read_results(out)["sequences"]]
    except (UserError, KeyError, TypeError):
        return []
    return [folder for folder in folders if not os.path.isabs(folder) and ".." not in Path(folder).parts]
