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

"""Writing of bags: complete or not at all, and never over an existing file. Needs no ROS."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.recovery import UriPath
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import WholeFile, describe_write_error, make_temporary_path, require_parent_folder

PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
SUFFIXES = {".mcap": "mcap", ".db3": "sqlite3"}
COMMIT_PERIOD_S = 1.0  # on a full disk, SQLite discards what is not committed
METADATA_VERSION: Final = 8  # of ROS 2 Iron; later distributions read it too

NEVER = QosTime(0x7FFFFFFF, 0xFFFFFFFF)
LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, NEVER, NEVER,
    QosLiveliness.AUTOMATIC, NEVER, False,
)  # fmt: skip


class BagWriter(WholeFile):
    """A bag for writing. Use it as a context manager.

    path     NAME.mcap and NAME.db3 become single files, any other name a rosbag2 folder
    storage  "mcap" or "sqlite3", for a folder
    latched  topics that a player must publish transient local

    The bag appears under its name when the block ends without an exception; otherwise nothing is left on the disk.
    Memory is bounded. Raises UserError if path exists, if its parent folder does not exist, or if it cannot be written.
    """

    def __init__(self, path: str | Path, storage: str = "mcap", latched: Collection[str] = ("/tf_static",)) -> None:
        self.path = Path(path)
        self.counts: dict[str, int] = {}
        self._latched = set(latched)
        self._committed_s = time.monotonic()
        self._connections: dict[str, Any] = {}
        self._is_file = self.path.suffix.lower() in SUFFIXES
        self.storage = SUFFIXES.get(self.path.suffix.lower(), storage)
        if self.storage not in PLUGINS:
            raise UserError(f"a bag's storage must be one of {', '.join(PLUGINS)}, got {self.storage!r}")
        self._refuse_existing()
        require_parent_folder(self.path)
        self._folder = make_temporary_path(self.path)
        name = self.path.stem if self._is_file else self.path.name  # rosbags names the file inside like the folder
        self._writer = Writer(self._folder / name, version=METADATA_VERSION, storage_plugin=PLUGINS[self.storage])
        self._writer.path = UriPath(self._writer.path)
        try:
            self._writer.open()
        except (OSError, sqlite3.Error) as error:
            self._remove()
            raise describe_write_error(self.path, error) from error

    def latch(self, topic: str) -> None:
        """Mark a topic as transient local for players; must be called before its first message."""
        self._latched.add(topic)

    def write(self, topic: str, type_name: str, data: bytes | memoryview, time_ns: int) -> None:
        """Add a message.

        topic      of the message
        type_name  `package/msg/Name`
        data       CDR
        time_ns    of the recording, since 1970

        Raises UserError for types whose definition is not found, for a topic that changes its type, and if the disk is
        full.
        """
        connection = self._connections.get(topic)
        try:
            if connection is None:
                connection = self._add(topic, type_name)
            elif connection.msgtype != type_name:
                raise UserError(
                    f"expected {connection.msgtype} on {topic} of {self.path}, got {type_name}; use one type per topic"
                )
            self._writer.write(connection, time_ns, data)
            self._commit()
        except (OSError, sqlite3.Error) as error:
            raise describe_write_error(self.path, error) from error
        self.counts[topic] += 1

    def _commit(self) -> None:
        """Commit the messages of a .db3 file every COMMIT_PERIOD_S."""
        if self.storage == "sqlite3" and time.monotonic() - self._committed_s >= COMMIT_PERIOD_S:
            database: Any = self._writer.storage
            database.conn.commit()
            self._committed_s = time.monotonic()

    def close(self, *, keep_incomplete: bool = False) -> None:
        """Finish the bag and rename it to its path.

        keep_incomplete: if it cannot be finished, as on a full disk, keep what is on the disk: `BagReader` reads the
        messages of an incomplete bag
        """
        try:
            self._refuse_existing()
            try:
                self._writer.close()
            except (OSError, sqlite3.Error):
                if keep_incomplete:
                    self._abort()
                    self._move_into_place()
                raise
            self._move_into_place()
        except (OSError, sqlite3.Error) as error:
            raise describe_write_error(self.path, error) from error
        finally:
            self._remove()

    def discard(self) -> None:
        """Delete the unfinished bag."""
        self._abort()
        self._remove()

    def _abort(self) -> None:
        """Close the file without finishing it. On a full disk, messages that are still in memory are lost."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self._writer.abort()

    def _move_into_place(self) -> None:
        written = self._writer.path
        os.replace(next(written.glob("*.[md][cb]*")) if self._is_file else written, self.path)

    def _add(self, topic: str, type_name: str) -> Any:
        qos = [LATCHED] if topic in self._latched else []
        connection = self._writer.add_connection(
            topic, type_name, typestore=require_type(type_name), offered_qos_profiles=qos
        )
        self._connections[topic], self.counts[topic] = connection, 0
        return connection

    def _refuse_existing(self) -> None:
        if self.path.exists():
            raise UserError(f"{self.path} already exists; choose another name, or remove it")

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
