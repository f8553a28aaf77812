"""Bags as a series of messages: rosbag2 folders, single .mcap and .db3 files, and ROS 1 .bag files. Needs no ROS."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader as Ros2Reader

from multihmr2_ros.errors import UserError

from .definitions import require, ros1_typestore
from .salvage import CutMcapReader, CutSqlite3Reader

STORAGE_SUFFIXES = (".mcap", ".db3")
ROS1_SUFFIX = ".bag"
MOST_NESTED = 50  # brackets in metadata.yaml
MOST_COUNTED = 2**64  # messages, ns


@dataclass(frozen=True)
class Topic:
    """A topic of a bag. count: of its messages, 0 where a damaged file does not say. is_latched: transient local."""

    type_name: str
    count: int
    is_latched: bool


class BagMessage(NamedTuple):
    """A message as it was recorded. time_ns: when it was recorded; data: CDR (ROS 1 bags: ROS 1's own format)."""

    topic: str
    type_name: str
    time_ns: int
    data: bytes


def is_bag(path: Path) -> bool:
    """Whether a path is that of a bag, by its name, or by the names in the folder."""
    try:
        if path.is_dir():
            return (path / "metadata.yaml").is_file() or bool(_storage_files(path))
    except OSError:
        return False
    return path.suffix.lower() in (*STORAGE_SUFFIXES, ROS1_SUFFIX)


class BagReader:
    """An open bag. Use it as a context manager.

    topics       by name
    duration_ns  from the first message to the last; 0 where a damaged file does not say
    damage       what is wrong with the bag, in a few words; "" if nothing. Complete when all messages are read: what
                 is behind the damage is left out, and what is before it is read.

    Raises UserError where nothing can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_ros1 = self.path.suffix.lower() == ROS1_SUFFIX and not self.path.is_dir()
        self.damage = ""
        self._readers = self._open()
        self.topics = self._find_topics()
        self.duration_ns = sum(getattr(reader, "duration", 0) for reader in self._readers)

    def messages(self, topics: Collection[str] = ()) -> Iterator[BagMessage]:
        """The messages of these topics (none named: of all), in order of their recording."""
        for reader in self._readers:
            wanted = [each for each in reader.connections if not topics or each.topic in topics]
            if wanted:
                yield from self._read(reader.messages(wanted))

    def decode(self, message: BagMessage) -> Any:
        """The message as an object, its fields named as in ROS 2. Raises UserError for damaged bytes."""
        try:
            if self.is_ros1:
                return ros1_typestore().deserialize_ros1(message.data, message.type_name)
            return require(message.type_name).deserialize_cdr(message.data, message.type_name)
        except UserError:
            raise
        except Exception as error:  # rosbags lets IndexError and others through
            raise UserError(
                f"a message on {message.topic} is not a {message.type_name} ({len(message.data)} bytes); "
                "record it again"
            ) from error

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = []

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
            return [self._opened(Ros1Reader, path)]
        if not path.is_dir():
            return [self._opened_or_salvaged(path)]
        if (path / "metadata.yaml").is_file():
            try:
                _check_nesting(path / "metadata.yaml")
                return [self._opened(Ros2Reader, path)]
            except UserError as error:
                self._note(error)
        readers: list[Any] = []
        for file in _storage_files(path):
            try:
                readers.append(self._opened_or_salvaged(file))
            except UserError as error:
                self._note(error)
        if not readers:
            raise UserError(f"nothing in the bag {path} can be read: {self.damage}")
        return readers

    def _opened_or_salvaged(self, file: Path) -> Any:
        unfinished = file.with_name(f"{file.name}-wal")
        if unfinished.is_file() and unfinished.stat().st_size:
            self._note(
                f"{unfinished.name} holds messages that are not in {file.name} yet; `sqlite3 {file} .tables` moves them"
            )
        try:
            return self._opened(Ros2Reader, file)
        except UserError as error:
            self._note(error)
            reader = self._opened(CutMcapReader if file.suffix.lower() == ".mcap" else CutSqlite3Reader, file)
            if not reader.connections:
                reader.close()
                raise
            return reader

    @staticmethod
    def _opened(kind: Any, path: Path) -> Any:
        try:
            reader = kind(path)
            reader.open()
        except Exception as error:  # rosbags lets the exceptions of its parsers through
            raise UserError(f"cannot read the bag {path} ({_in_words(error)}); is it complete?") from error
        if not all(_is_name(each.topic) and _is_name(each.msgtype) for each in reader.connections):
            reader.close()
            raise UserError(f"cannot read the bag {path} (a topic's name or type is no text); is it complete?")
        if not all(map(_is_count, (getattr(reader, "duration", 0), *(each.msgcount for each in reader.connections)))):
            reader.close()
            raise UserError(f"cannot read the bag {path} (its duration or a count is no number); is it complete?")
        return reader

    def _find_topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for reader in self._readers:
            for connection in reader.connections:
                known = topics.get(connection.topic, Topic(connection.msgtype, 0, is_latched=False))
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
            except Exception as error:  # SQLite, the decompressors and rosbags each have their own
                self._note(_in_words(error))
                return
            if isinstance(data, bytes | bytearray | memoryview):
                yield BagMessage(connection.topic, connection.msgtype, time_ns, bytes(data))
            else:  # SQLite's columns hold anything
                self._note(f"a message of {connection.topic} holds no bytes")

    def _note(self, problem: str | Exception) -> None:
        """Remember the first problem; of an error of ours, what was behind it."""
        if not self.damage:
            self.damage = problem if isinstance(problem, str) else _in_words(problem.__cause__ or problem)


def _storage_files(folder: Path) -> list[Path]:
    """The files with messages, in order of recording: rosbag2 counts them, `_2` before `_10`."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in STORAGE_SUFFIXES and path.is_file()]
    return sorted(files, key=lambda path: (len(path.name), path.name))


def _check_nesting(metadata: Path) -> None:
    """Raises UserError for brackets in brackets in brackets: with them, reading YAML takes minutes."""
    try:
        content = np.frombuffer(metadata.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {metadata}: {error.strerror}; check its permissions") from error
    steps = np.isin(content, list(b"[{")).astype(np.int64) - np.isin(content, list(b"]}"))
    if np.cumsum(steps).max(initial=0) > MOST_NESTED:
        raise UserError(f"{metadata} is no description of a bag: it nests too deeply; remove it")


def _is_name(value: Any) -> bool:
    """SQLite and YAML may have other types in a name's place, and damaged files any letters."""
    return isinstance(value, str) and value.isprintable()


def _is_count(value: Any) -> bool:
    """YAML may have another type in a number's place, or a number that no float can hold."""
    return isinstance(value, int) and abs(value) <= MOST_COUNTED


def _is_latched(connection: Any) -> bool:
    profiles = getattr(connection.ext, "offered_qos_profiles", [])
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)


def _in_words(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
