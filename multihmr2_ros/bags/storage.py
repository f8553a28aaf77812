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

"""The files of a bag: finding, decompressing and opening them, also damaged ones.

From a folder's metadata.yaml only the file names are used; everything else is read from the files. So bags of any
version, without metadata.yaml, or with a regenerated one, are read in the same way.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from ruamel.yaml import YAML

from multihmr2_ros.bags.recovery import (
    OrderedMcapReader,
    TruncatedMcapReader,
    TruncatedSqlite3Reader,
    UriPath,
    is_whole_mcap,
    read_mcap_profile,
)
from multihmr2_ros.errors import UserError

try:  # as in rosbags: Python 3.14's own module, or a package, which earlier rosbags versions do not install
    from compression import zstd
except ImportError:
    try:
        from backports import zstd
    except ImportError:
        import zstandard as zstd

STORAGE_SUFFIXES = (".mcap", ".db3")
COMPRESSED_SUFFIXES = tuple(f"{suffix}.zstd" for suffix in STORAGE_SUFFIXES)
ROS1_SUFFIX = ".bag"
EXPECTED = "a rosbag2 folder, or an .mcap, .db3 or .bag file"
ZSTD_START = b"\x28\xb5\x2f\xfd"  # no message in CDR begins like this
MAX_MESSAGE_BYTES = 1 << 28
MAX_METADATA_BYTES = 1 << 24
MAX_NESTED = 50  # brackets in metadata.yaml
MAX_COUNTED = 2**64  # messages, ns


def is_bag(path: Path) -> bool:
    """Return whether a path is a bag, by its name, or by the names in the folder."""
    try:
        if path.is_dir():
            return (path / "metadata.yaml").is_file() or bool(_list_storage_files(path))
    except OSError:
        return False
    return path.name.lower().endswith((*STORAGE_SUFFIXES, *COMPRESSED_SUFFIXES, ROS1_SUFFIX))


class BagFiles:
    """The open files of a bag.

    readers  one per file, with the interface of rosbags' readers
    damage   description of the first damage, in a few words; "" if none

    Raises UserError if no file can be read.
    """

    def __init__(self, path: Path) -> None:
        self.damage = ""
        self.is_ros1 = path.suffix.lower() == ROS1_SUFFIX and not path.is_dir()
        self._path = path
        self._unpacked = contextlib.ExitStack()  # folders with decompressed files
        self.readers: list[Any] = []
        try:
            self.readers = self._open()
        except BaseException:
            self._unpacked.close()
            raise

    def note_damage(self, problem: str | Exception) -> None:
        """Keep the first problem; of a UserError, its cause."""
        if not self.damage:
            self.damage = problem if isinstance(problem, str) else describe_error(problem.__cause__ or problem)

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        self.readers = []
        self._unpacked.close()

    def _open(self) -> list[Any]:
        path = self._path
        try:
            is_present = path.exists()
        except OSError as error:
            raise UserError(f"cannot access {path}: {error.strerror}; check the path and its permissions") from error
        if not is_present:
            raise UserError(f"the bag {path} does not exist; give {EXPECTED}")
        if self.is_ros1:
            return [_open_with(Ros1Reader, path)]
        if not path.is_dir():
            try:
                return [self._open_or_recover(path)]
            except UserError as error:
                if is_bag(path):
                    raise
                raise UserError(f"{path} is not a bag; give {EXPECTED}") from error
        try:
            files = self._list_files()
        except OSError as error:
            raise UserError(f"cannot read the folder {path}: {error.strerror}; check its permissions") from error
        if not files and not (path / "metadata.yaml").is_file():
            raise UserError(f"the folder {path} is not a bag: it contains no .mcap or .db3 file; give {EXPECTED}")
        readers: list[Any] = []
        for file in files:
            try:
                readers.append(self._open_or_recover(file))
            except UserError as error:
                self.note_damage(error)
        if not readers:
            raise UserError(
                f"no file of the bag {path} can be read: {self.damage or 'it has no message files'}; record it again"
            )
        return readers

    def _list_files(self) -> list[Path]:
        """Return the message files of the folder: those named in metadata.yaml, else all."""
        files = _list_storage_files(self._path)
        description = self._path / "metadata.yaml"
        if not description.is_file():
            return files
        try:
            named = _read_file_names(description)
        except UserError as error:
            self.note_damage(str(error))
            return files
        present = [self._path / name for name in named if (self._path / name).is_file()]
        missing = [name for name in named if not (self._path / name).is_file()]
        if missing:
            self.note_damage(f"{missing[0]} is missing{f' (and {len(missing) - 1} more)' if missing[1:] else ''}")
        return present or files

    def _open_or_recover(self, file: Path) -> Any:
        if file.name.lower().endswith(COMPRESSED_SUFFIXES):
            file = self._unpack(file)
        unfinished = file.with_name(f"{file.name}-wal")
        if unfinished.is_file() and unfinished.stat().st_size:
            self.note_damage(
                f"{unfinished.name} contains messages that are not yet in {file.name}; "
                f"run `sqlite3 {file} .tables` to move them"
            )
        if file.suffix.lower() != ".mcap":
            return self._open_with_first(file, (Sqlite3Reader, TruncatedSqlite3Reader))
        try:
            profile, is_whole = read_mcap_profile(file), is_whole_mcap(file)
        except OSError as error:
            raise UserError(f"cannot read the bag {file} ({error.strerror}); check its permissions") from error
        if profile == "ros1":
            raise _Ros1ContentError(file)
        if profile != "ros2" and is_whole:  # rosbags refuses it because of its header alone
            return _open_with(TruncatedMcapReader, file)
        return self._open_with_first(file, (OrderedMcapReader, TruncatedMcapReader))

    def _open_with_first(self, file: Path, kinds: tuple[Any, Any]) -> Any:
        """Open a file with the first of the kinds of readers, or with the second, for damaged files, if that fails."""
        try:
            return _open_with(kinds[0], file)
        except _Ros1ContentError:
            raise
        except UserError as error:
            self.note_damage(error)
            reader = _open_with(kinds[1], file)
            if not reader.connections:
                reader.close()
                raise
            return reader

    def _unpack(self, file: Path) -> Path:
        """Decompress a file that was compressed as a whole, to a temporary folder that is deleted when the bag is
        closed."""
        folder = Path(self._unpacked.enter_context(tempfile.TemporaryDirectory(prefix="multihmr2-")))
        target = folder / file.stem
        left = shutil.disk_usage(folder).free // 2
        try:
            with zstd.open(file, "rb") as source, target.open("wb") as copy:
                while piece := source.read(1 << 20):
                    left -= len(piece)
                    if left < 0:
                        raise UserError(f"{file} needs more than half of the free space in {folder.parent}")
                    copy.write(piece)
        except (OSError, EOFError, zstd.ZstdError, UserError) as error:
            raise UserError(
                f"cannot decompress the bag {file} ({describe_error(error)}); decompress it: zstd -d {file.name}"
            ) from None
        return target


def _open_with(kind: Any, path: Path) -> Any:
    try:
        reader = kind(UriPath(path) if kind is Sqlite3Reader else path)
        reader.open()
    except Exception as error:  # rosbags raises the exceptions of its parsers
        if "ros1msg" in str(error):  # encoding of a schema
            raise _Ros1ContentError(path) from None
        raise UserError(f"cannot read the bag {path} ({describe_error(error)}); is it complete?") from error
    if not all(_is_name(each.topic) and _is_name(each.msgtype) for each in reader.connections):
        reader.close()
        raise UserError(f"cannot read the bag {path} (a topic's name or type is not text); is it complete?")
    counts = [*(read_time_span(reader) or ()), *(each.msgcount for each in reader.connections)]
    if not all(map(_is_count, counts)):
        reader.close()
        raise UserError(f"cannot read the bag {path} (its duration or a count is not a number); is it complete?")
    return reader


def read_time_span(reader: Any) -> tuple[int, int] | None:
    """Read the times (ns) of a file's first message and just after its last; None if a damaged file does not contain
    them."""
    if isinstance(reader, Ros1Reader):
        return reader.start_time, reader.end_time
    metadata = getattr(reader, "metadata", None)
    return (metadata.start_time, metadata.end_time) if metadata is not None and metadata.message_count else None


def read_start(reader: Any) -> int:
    """Read the time (ns) of a file's first message. A file without it comes first."""
    span = read_time_span(reader)
    return -MAX_COUNTED if span is None else span[0]


def decompress(data: bytes) -> bytes:
    """Return a message's bytes, decompressed if rosbag2 compressed it. Raises UserError if it is damaged or too
    large."""
    if not data.startswith(ZSTD_START):
        return data
    try:
        with zstd.open(io.BytesIO(data), "rb") as file:
            content = bytes(file.read(MAX_MESSAGE_BYTES + 1))
    except (zstd.ZstdError, EOFError) as error:
        raise UserError(f"a zstd-compressed message is damaged ({describe_error(error)})") from error
    if len(content) > MAX_MESSAGE_BYTES:
        raise UserError(f"a zstd-compressed message has more than {MAX_MESSAGE_BYTES} bytes")
    return content


class _Ros1ContentError(UserError):
    """An error for ROS 1 messages in an .mcap file, as written by `mcap convert` from a .bag."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} contains ROS 1 messages, expected ROS 2 messages; give the original .bag file, or convert it: "
            "rosbags-convert --src NAME.bag --dst NAME"
        )


def _list_storage_files(folder: Path) -> list[Path]:
    """Return the message files in order of recording: by rosbag2's numbers, `_2` before `_10`.

    Hidden files are left out (macOS writes a ._NAME beside each file on foreign disks).
    """
    files = [
        path
        for path in folder.iterdir()
        if path.name.lower().endswith((*STORAGE_SUFFIXES, *COMPRESSED_SUFFIXES))
        and not path.name.startswith(".")
        and path.is_file()
    ]
    return sorted(files, key=lambda path: (len(path.name), path.name))


def _read_file_names(description: Path) -> list[str]:
    """Read the names of a bag's files from its metadata.yaml, of any version. Raises UserError if it contains none."""
    try:
        _check_nesting(description)
        content = YAML(typ="safe").load(description.read_text(encoding="utf-8"))
        paths = content["rosbag2_bagfile_information"]["relative_file_paths"]
        names = [PurePath(path).name for path in paths]  # early versions include the folder
    except UserError:
        raise
    except Exception as error:  # YAML parsers raise many types
        raise UserError(
            f"{description.name} is damaged ({type(error).__name__}: {describe_error(error)[:80]})"
        ) from error
    if not all(_is_name(name) and name for name in names):
        raise UserError(f"{description.name} is damaged (invalid file names)")
    return names


def _check_nesting(metadata: Path) -> None:
    """Raise UserError for deeply nested brackets, because parsing such YAML takes minutes."""
    try:
        if metadata.stat().st_size > MAX_METADATA_BYTES:
            raise UserError(f"{metadata} is invalid: it has more than {MAX_METADATA_BYTES} bytes; remove it")
        content = np.frombuffer(metadata.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {metadata}: {error.strerror}; check its permissions") from error
    steps = np.isin(content, list(b"[{")).astype(np.int64) - np.isin(content, list(b"]}"))
    if np.cumsum(steps).max(initial=0) > MAX_NESTED:
        raise UserError(f"{metadata} is invalid: it has more than {MAX_NESTED} nested brackets; remove it")


def _is_name(value: Any) -> bool:
    """Return whether a value is a valid name: SQLite and YAML may have other types, and damaged files any
    characters."""
    return isinstance(value, str) and value.isprintable()


def _is_count(value: Any) -> bool:
    """Return whether a value is a valid count: YAML may have another type, or a number outside the range of float."""
    return isinstance(value, int) and abs(value) <= MAX_COUNTED


def describe_error(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
