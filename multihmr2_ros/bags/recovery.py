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

"""Readers for bag files that rosbags cannot read by itself.

These are files without an index, truncated files (because the recorder was killed or the disk was full), and files
whose name is not a plain URI. All classes have the interface of rosbags' readers: open, connections, messages, close.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from array import array
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEADER_BYTES = 9  # opcode, length
CHUNK, MESSAGE = 0x06, 0x05
CHUNK_HEADER = struct.Struct("<QQQII")  # first and last time, uncompressed size, checksum, length of the following text
MESSAGE_HEADER = struct.Struct("<HIQQ")  # channel, sequence, times of recording and publication

Message = tuple[Any, int, bytes]  # connection, time (ns), data


class UriPath(type(Path())):  # type: ignore[misc]
    """A path that rosbags can use in SQLite's URIs: `#`, `?` and `%`, which have a meaning in URIs, are escaped."""

    def __format__(self, specification: str) -> str:
        return quote(os.fsencode(self))


class OrderedMcapReader(McapReader):
    """Reader of an .mcap file in order of time, even if its messages are outside of chunks, unordered, without an
    index."""

    def messages(
        self, connections: Collection[Any], start: int | None = None, stop: int | None = None
    ) -> Generator[Message, None, None]:
        if not self.chunks:
            self.chunks = list(self._find_chunks())
        if self.chunks:
            yield from super().messages(connections, start, stop)
            return
        assert self.bio is not None
        wanted = {connection.id: connection for connection in connections}
        times, places = array("q"), array("q")
        for code, place, length in list_records(self.bio, self.data_start, self.data_end):
            if code == MESSAGE and length >= MESSAGE_HEADER.size:
                channel, _, time_ns, _ = MESSAGE_HEADER.unpack(self.bio.read(MESSAGE_HEADER.size))
                if channel in wanted and time_ns < 2**63:
                    times.append(time_ns)
                    places.append(place)
        for index in np.argsort(np.array(times, np.int64), kind="stable").tolist():
            self.bio.seek(places[index] + 1)
            (length,) = struct.unpack("<Q", self.bio.read(8))
            channel, _, time_ns, _ = MESSAGE_HEADER.unpack(self.bio.read(MESSAGE_HEADER.size))
            yield wanted[channel], time_ns, self.bio.read(length - MESSAGE_HEADER.size)

    def _find_chunks(self) -> Iterator[ChunkInfo]:
        """Yield the chunks as an index would list them, except that every chunk may contain any channel."""
        assert self.bio is not None
        counts = {connection.id: 1 for connection in self.connections}
        for code, place, length in list_records(self.bio, self.data_start, self.data_end):
            if code == CHUNK and length >= CHUNK_HEADER.size + 8:
                first, last, size, _, text_length = CHUNK_HEADER.unpack(self.bio.read(CHUNK_HEADER.size))
                compression = self.bio.read(min(text_length, length)).decode("ascii", "replace")
                (stored,) = struct.unpack("<Q", self.bio.read(8).ljust(8, b"\0"))
                yield ChunkInfo(first, last, place, length, {}, 0, compression, stored, size, counts)


class TruncatedMcapReader(OrderedMcapReader):
    """Reader of an .mcap file without its summary, up to the last complete record."""

    def _open(self) -> None:
        assert self.bio is not None
        if self.bio.read(len(MAGIC)) != MAGIC:
            raise ReaderError("it does not begin like an MCAP file")
        self.data_start = len(MAGIC)
        self.data_end = _find_end_of_whole_records(self.bio, self.data_start)
        # A damaged chunk ends the scan; messages() raises the error when it reaches the same position.
        with contextlib.suppress(Exception):
            self.meta_scan()


def list_records(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield opcode, position and length of each record between two positions. At each yield, the file's position is the
    record's content."""
    place = start
    while place + RECORD_HEADER_BYTES <= end:
        file.seek(place)
        code, length = struct.unpack("<BQ", file.read(RECORD_HEADER_BYTES))
        if place + RECORD_HEADER_BYTES + length > end:
            return
        yield code, place, length
        place += RECORD_HEADER_BYTES + length


def read_mcap_profile(path: Path) -> str:
    """Read the profile in an .mcap file's header: "ros2", "ros1" …; "" if it has none."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + RECORD_HEADER_BYTES + 4 + 16)
    if not start.startswith(MAGIC) or len(start) < len(MAGIC) + RECORD_HEADER_BYTES + 4:
        return ""
    (length,) = struct.unpack_from("<I", start, len(MAGIC) + RECORD_HEADER_BYTES)
    return start[len(MAGIC) + RECORD_HEADER_BYTES + 4 :][: min(length, 16)].decode("ascii", "replace")


def is_whole_mcap(path: Path) -> bool:
    """Return whether an .mcap file ends with the magic bytes, so that it is not truncated."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(MAGIC)))
        return file.read() == MAGIC


def _find_end_of_whole_records(file: BinaryIO, start: int) -> int:
    end = start
    for _, place, length in list_records(file, start, file.seek(0, os.SEEK_END)):
        end = place + RECORD_HEADER_BYTES + length
    return end


class TruncatedSqlite3Reader:
    """Reads a truncated .db3 file, with queries that also work on an incomplete file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self.connections: list[Connection] = []

    def open(self) -> None:
        database = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            database.execute("PRAGMA writable_schema=ON")  # else SQLite refuses a truncated file
            topics = database.execute("SELECT id, name, type FROM topics").fetchall()
        except BaseException:
            database.close()
            raise
        self._database = database
        no_definition = MessageDefinition(MessageDefinitionFormat.NONE, "")
        self.connections = [
            Connection(number, name, kind, no_definition, "", 0, ConnectionExtRosbag2("cdr", []), self)
            for number, name, kind in topics
        ]

    def messages(self, connections: Collection[Any]) -> Iterator[Message]:
        """Yield the messages in order of time, as far as the rows can be read; then raise the error of the first
        unreadable one."""
        assert self._database is not None
        wanted = {connection.id: connection for connection in connections}
        times, rows = array("q"), array("q")
        damage: sqlite3.Error | None = None
        try:
            for row, topic, time_ns in self._database.execute(
                "SELECT rowid, topic_id, timestamp FROM messages NOT INDEXED"
            ):
                if topic in wanted and isinstance(time_ns, int):
                    times.append(time_ns)
                    rows.append(row)
        except sqlite3.Error as error:
            damage = error
        for index in np.argsort(np.array(times, np.int64), kind="stable").tolist():
            for topic, time_ns, data in self._database.execute(
                "SELECT topic_id, timestamp, data FROM messages WHERE rowid = ?", (rows[index],)
            ):
                yield wanted[topic], time_ns, data
        if damage is not None:
            raise damage

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
