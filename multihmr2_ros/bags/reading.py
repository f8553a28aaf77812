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

"""Bags as a series of messages: rosbag2 folders, single .mcap and .db3 files, and ROS 1 .bag files. Needs no ROS.

From a folder's metadata.yaml only the file names are used; everything else is read from the files. So bags of any
version, without metadata.yaml, or with a regenerated one, are read in the same way.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from ruamel.yaml import YAML

from multihmr2_ros.bags.definitions import get_ros1_typestore, require_type
from multihmr2_ros.bags.former_humans import HUMAN_ARRAY, convert_former_human_array
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
ZSTD_START = b"\x28\xb5\x2f\xfd"  # no message in CDR begins like this
MAX_MESSAGE_BYTES = 1 << 28
MAX_METADATA_BYTES = 1 << 24
MAX_NESTED = 50  # brackets in metadata.yaml
MAX_COUNTED = 2**64  # messages, ns


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    count       of its messages; 0 if a damaged file does not contain it
    is_latched  whether it is transient local
    """

    type_name: str
    count: int
    is_latched: bool


class BagMessage(NamedTuple):
    """A recorded message.

    time_ns  time of its recording
    data     CDR (ROS 1 bags: ROS 1 serialization), as recorded. HumanArrays of a former layout are converted
    """

    topic: str
    type_name: str
    time_ns: int
    data: bytes


def is_bag(path: Path) -> bool:
    """Return whether a path is a bag, by its name, or by the names in the folder."""
    try:
        if path.is_dir():
            return (path / "metadata.yaml").is_file() or bool(_list_storage_files(path))
    except OSError:
        return False
    return path.name.lower().endswith((*STORAGE_SUFFIXES, *COMPRESSED_SUFFIXES, ROS1_SUFFIX))


class BagReader:
    """An open bag. Use it as a context manager.

    topics       by name
    duration_ns  from the first message to the last; 0 if a damaged file does not contain it
    damage       description of the damage, in a few words; "" if none. Complete when all messages are read: messages
                 before the damage are read, messages after it are left out

    Raises UserError if nothing can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_ros1 = self.path.suffix.lower() == ROS1_SUFFIX and not self.path.is_dir()
        self.damage = ""
        self._unpacked = contextlib.ExitStack()  # folders with decompressed files
        try:
            self._readers = self._open()
        except BaseException:
            self._unpacked.close()
            raise
        self.topics = self._find_topics()
        spans = [span for span in map(_read_time_span, self._readers) if span is not None]
        self.duration_ns = max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0

    def messages(self, topics: Collection[str] = ()) -> Iterator[BagMessage]:
        """Yield the messages of these topics (empty: of all), in order of the time of their recording.

        A file is opened when the others have reached the time of its first message, so only files that overlap in time
        have a message in memory.
        """
        waiting = deque(sorted(self._readers, key=_read_start))
        ready: list[tuple[int, int, BagMessage, Iterator[BagMessage]]] = []
        opened = 0
        while waiting or ready:
            while waiting and (not ready or _read_start(waiting[0]) <= ready[0][0]):
                reader = waiting.popleft()
                wanted = [each for each in reader.connections if not topics or each.topic in topics]
                messages = self._read(reader.messages(wanted)) if wanted else iter(())
                opened += 1
                _push_message(ready, opened, messages)
            if ready:
                _, order, message, messages = heapq.heappop(ready)
                yield message
                _push_message(ready, order, messages)

    def decode(self, message: BagMessage) -> Any:
        """Decode a message to an object with field names as in ROS 2. Raises UserError for damaged bytes."""
        try:
            if self.is_ros1:
                return get_ros1_typestore().deserialize_ros1(message.data, message.type_name)
            return require_type(message.type_name).deserialize_cdr(message.data, message.type_name)
        except UserError:
            raise
        except Exception as error:  # rosbags raises IndexError and others
            raise UserError(
                f"a message on {message.topic} is not a {message.type_name} ({len(message.data)} bytes); "
                "record it again"
            ) from error

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = []
        self._unpacked.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- opening

    def _open(self) -> list[Any]:
        path = self.path
        if not path.exists():
            raise UserError(f"there is no bag {path}; give a rosbag2 folder, or an .mcap, .db3 or .bag file")
        if self.is_ros1:
            return [self._open_with(Ros1Reader, path)]
        if not path.is_dir():
            return [self._open_or_recover(path)]
        readers: list[Any] = []
        for file in self._list_files():
            try:
                readers.append(self._open_or_recover(file))
            except UserError as error:
                self._note(error)
        if not readers:
            raise UserError(f"nothing in the bag {path} can be read: {self.damage or 'it has no files of messages'}")
        return readers

    def _list_files(self) -> list[Path]:
        """Return the message files of the folder: those named in metadata.yaml, else all."""
        files = _list_storage_files(self.path)
        description = self.path / "metadata.yaml"
        if not description.is_file():
            return files
        try:
            named = _read_file_names(description)
        except UserError as error:
            self._note(str(error))
            return files
        present = [self.path / name for name in named if (self.path / name).is_file()]
        missing = [name for name in named if not (self.path / name).is_file()]
        if missing:
            self._note(f"{missing[0]} is missing{f' (and {len(missing) - 1} more files)' if missing[1:] else ''}")
        return present or files

    def _open_or_recover(self, file: Path) -> Any:
        if file.name.lower().endswith(COMPRESSED_SUFFIXES):
            file = self._unpack(file)
        unfinished = file.with_name(f"{file.name}-wal")
        if unfinished.is_file() and unfinished.stat().st_size:
            self._note(
                f"{unfinished.name} holds messages that are not in {file.name} yet; `sqlite3 {file} .tables` moves them"
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
            return self._open_with(TruncatedMcapReader, file)
        return self._open_with_first(file, (OrderedMcapReader, TruncatedMcapReader))

    def _open_with_first(self, file: Path, kinds: tuple[Any, Any]) -> Any:
        """Open a file with the first of the kinds of readers, or with the second, for damaged files, if that fails."""
        try:
            return self._open_with(kinds[0], file)
        except _Ros1ContentError:
            raise
        except UserError as error:
            self._note(error)
            reader = self._open_with(kinds[1], file)
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
                        raise UserError(f"{file} needs more than half of what is free in {folder.parent}")
                    copy.write(piece)
        except (OSError, EOFError, zstd.ZstdError, UserError) as error:
            raise UserError(
                f"cannot unpack the bag {file} ({_describe_error(error)}); unpack it yourself: zstd -d {file.name}"
            ) from None
        return target

    @staticmethod
    def _open_with(kind: Any, path: Path) -> Any:
        try:
            reader = kind(UriPath(path) if kind is Sqlite3Reader else path)
            reader.open()
        except Exception as error:  # rosbags raises the exceptions of its parsers
            if "ros1msg" in str(error):  # encoding of a schema
                raise _Ros1ContentError(path) from None
            raise UserError(f"cannot read the bag {path} ({_describe_error(error)}); is it complete?") from error
        if not all(_is_name(each.topic) and _is_name(each.msgtype) for each in reader.connections):
            reader.close()
            raise UserError(f"cannot read the bag {path} (a topic's name or type is no text); is it complete?")
        counts = [*(_read_time_span(reader) or ()), *(each.msgcount for each in reader.connections)]
        if not all(map(_is_count, counts)):
            reader.close()
            raise UserError(f"cannot read the bag {path} (its duration or a count is no number); is it complete?")
        return reader

    def _find_topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for reader in self._readers:
            for connection in reader.connections:
                known = topics.get(
                    connection.topic, Topic(normalize_type_name(connection.msgtype), 0, is_latched=False)
                )
                topics[connection.topic] = Topic(
                    known.type_name, known.count + connection.msgcount, known.is_latched or _is_latched(connection)
                )
        return topics

    # --- reading

    def _read(self, messages: Iterator[tuple[Any, int, bytes]]) -> Generator[BagMessage, None, None]:
        while True:
            try:
                connection, time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # SQLite, the decompressors and rosbags raise many types
                self._note(_describe_error(error))
                return
            if not isinstance(data, bytes | bytearray | memoryview):  # a column of SQLite may have any type
                self._note(f"a message of {connection.topic} holds no bytes")
                continue
            if not isinstance(time_ns, int):
                self._note(f"a message of {connection.topic} has no time")
                continue
            try:
                content = _decompress(bytes(data))
            except UserError as error:
                self._note(str(error))
                continue
            kind = normalize_type_name(connection.msgtype)
            if kind == HUMAN_ARRAY and not self.is_ros1:
                content = convert_former_human_array(content, getattr(connection.msgdef, "data", ""))
            yield BagMessage(connection.topic, kind, time_ns, content)

    def _note(self, problem: str | Exception) -> None:
        """Keep the first problem; for a UserError, keep its cause."""
        if not self.damage:
            self.damage = problem if isinstance(problem, str) else _describe_error(problem.__cause__ or problem)


def normalize_type_name(text: str) -> str:
    """Return `package/msg/Name` for a type, also if it is written as in ROS 1 (`package/Name`) or in DDS."""
    found = re.fullmatch(r"(\w+)(?:/|::msg::dds_::)(\w+?)_?", text)
    return f"{found[1]}/msg/{found[2]}" if found else text


def _push_message(ready: list[Any], order: int, messages: Iterator[BagMessage]) -> None:
    message = next(messages, None)
    if message is not None:
        heapq.heappush(ready, (message.time_ns, order, message, messages))


def _read_time_span(reader: Any) -> tuple[int, int] | None:
    """Read the times (ns) of a file's first message and just after its last; None if a damaged file does not contain
    them."""
    if isinstance(reader, Ros1Reader):
        return reader.start_time, reader.end_time
    metadata = getattr(reader, "metadata", None)
    return (metadata.start_time, metadata.end_time) if metadata is not None and metadata.message_count else None


def _read_start(reader: Any) -> int:
    """Read the time (ns) of a file's first message. A file without it comes first."""
    span = _read_time_span(reader)
    return -MAX_COUNTED if span is None else span[0]


def _decompress(data: bytes) -> bytes:
    """Return a message's bytes, decompressed if rosbag2 compressed it. Raises UserError if it is damaged or too
    large."""
    if not data.startswith(ZSTD_START):
        return data
    try:
        with zstd.open(io.BytesIO(data), "rb") as file:
            content = bytes(file.read(MAX_MESSAGE_BYTES + 1))
    except (zstd.ZstdError, EOFError) as error:
        raise UserError(f"a message that is compressed with zstd is damaged ({_describe_error(error)})") from error
    if len(content) > MAX_MESSAGE_BYTES:
        raise UserError(f"a message that is compressed with zstd is above {MAX_MESSAGE_BYTES} bytes")
    return content


class _Ros1ContentError(UserError):
    """An error for ROS 1 messages in an .mcap file, as written by `mcap convert` from a .bag."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds ROS 1 messages, and ROS 2's were expected; give the .bag file that it was made of, as it is "
            "or converted: rosbags-convert --src NAME.bag --dst NAME"
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
            f"{description.name} is damaged ({type(error).__name__}: {_describe_error(error)[:80]})"
        ) from error
    if not all(_is_name(name) and name for name in names):
        raise UserError(f"{description.name} is damaged (it names files that cannot be)")
    return names


def _check_nesting(metadata: Path) -> None:
    """Raise UserError for deeply nested brackets, because parsing such YAML takes minutes."""
    try:
        if metadata.stat().st_size > MAX_METADATA_BYTES:
            raise UserError(f"{metadata} is no description of a bag: it is too large; remove it")
        content = np.frombuffer(metadata.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {metadata}: {error.strerror}; check its permissions") from error
    steps = np.isin(content, list(b"[{")).astype(np.int64) - np.isin(content, list(b"]}"))
    if np.cumsum(steps).max(initial=0) > MAX_NESTED:
        raise UserError(f"{metadata} is no description of a bag: it nests too deeply; remove it")


def _is_name(value: Any) -> bool:
    """Return whether a value is a valid name: SQLite and YAML may have other types, and damaged files any
    characters."""
    return isinstance(value, str) and value.isprintable()


def _is_count(value: Any) -> bool:
    """Return whether a value is a valid count: YAML may have another type, or a number outside the range of float."""
    return isinstance(value, int) and abs(value) <= MAX_COUNTED


def _is_latched(connection: Any) -> bool:
    profiles = getattr(connection.ext, "offered_qos_profiles", [])
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)


def _describe_error(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
