"""What can still be read of a bag's file that was cut off: the recorder was killed, the disk was full.

Both classes offer what the readers of rosbags offer: open, connections, messages, close.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import McapReader

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEADER_BYTES = 9  # opcode, length

Message = tuple[Any, int, bytes]  # connection, time (ns), data


class CutMcapReader(McapReader):
    """An .mcap file without its index, read from the beginning up to the last whole record."""

    def _open(self) -> None:
        assert self.bio is not None
        if self.bio.read(len(MAGIC)) != MAGIC:
            raise ReaderError("it does not begin like an MCAP file")
        self.data_start = len(MAGIC)
        self.data_end = _end_of_whole_records(self.bio, self.data_start)
        # A damaged chunk ends the scan; messages() comes to the same place and says so.
        with contextlib.suppress(Exception):
            self.meta_scan()

    def messages(
        self, connections: Collection[Any], start: int | None = None, stop: int | None = None
    ) -> Generator[Message, None, None]:
        yield from self.messages_scan(connections, start, stop)


def _end_of_whole_records(file: BinaryIO, start: int) -> int:
    size = file.seek(0, 2)
    end = start
    while end + RECORD_HEADER_BYTES <= size:
        file.seek(end + 1)
        (length,) = struct.unpack("<Q", file.read(8))
        if end + RECORD_HEADER_BYTES + length > size:
            break
        end += RECORD_HEADER_BYTES + length
    return end


class CutSqlite3Reader:
    """A .db3 file in the order in which it was written, without the queries for which the whole file is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self.connections: list[Connection] = []

    def open(self) -> None:
        database = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            database.execute("PRAGMA writable_schema=ON")  # else SQLite refuses a file that is shorter than it says
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
        assert self._database is not None
        wanted = {connection.id: connection for connection in connections}
        for topic_id, stamp_ns, data in self._database.execute("SELECT topic_id, timestamp, data FROM messages"):
            if topic_id in wanted:
                yield wanted[topic_id], stamp_ns, data

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
