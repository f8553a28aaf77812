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

"""Bags as a series of messages: rosbag2 folders, single .mcap and .db3 files, and ROS 1 .bag files. Needs no ROS."""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import QosDurability

from multihmr2_ros.bags.definitions import get_ros1_typestore, require_type
from multihmr2_ros.bags.former_humans import HUMAN_ARRAY, convert_former_human_array
from multihmr2_ros.bags.storage import BagFiles, decompress, describe_error, read_start, read_time_span
from multihmr2_ros.errors import UserError


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
        self._files = BagFiles(self.path)
        self.is_ros1 = self._files.is_ros1
        self.topics = self._find_topics()
        spans = [span for span in map(read_time_span, self._files.readers) if span is not None]
        self.duration_ns = max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0

    @property
    def damage(self) -> str:
        return self._files.damage

    def require_ros2(self) -> None:
        """Raise UserError for a ROS 1 bag."""
        if self.is_ros1:
            raise UserError(
                f"{self.path} is a ROS 1 bag; convert it first: rosbags-convert --src {self.path} --dst NEW"
            )

    def messages(self, topics: Collection[str] = ()) -> Iterator[BagMessage]:
        """Yield the messages of these topics (empty: of all), in order of the time of their recording.

        A file is opened when the others have reached the time of its first message, so only files that overlap in time
        have a message in memory.
        """
        waiting = deque(sorted(self._files.readers, key=read_start))
        ready: list[tuple[int, int, BagMessage, Iterator[BagMessage]]] = []
        opened = 0
        while waiting or ready:
            while waiting and (not ready or read_start(waiting[0]) <= ready[0][0]):
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
                f"cannot decode a message on {message.topic} as {message.type_name} ({len(message.data)} bytes); "
                "record it again"
            ) from error

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _find_topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for reader in self._files.readers:
            for connection in reader.connections:
                known = topics.get(
                    connection.topic, Topic(normalize_type_name(connection.msgtype), 0, is_latched=False)
                )
                topics[connection.topic] = Topic(
                    known.type_name, known.count + connection.msgcount, known.is_latched or _is_latched(connection)
                )
        return topics

    def _read(self, messages: Iterator[tuple[Any, int, bytes]]) -> Generator[BagMessage, None, None]:
        while True:
            try:
                connection, time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # SQLite, the decompressors and rosbags raise many types
                self._files.note_damage(describe_error(error))
                return
            if not isinstance(data, bytes | bytearray | memoryview):  # a column of SQLite may have any type
                self._files.note_damage(f"a message on {connection.topic} contains no bytes")
                continue
            if not isinstance(time_ns, int):
                self._files.note_damage(f"a message on {connection.topic} has no time of recording")
                continue
            try:
                content = decompress(bytes(data))
            except UserError as error:
                self._files.note_damage(str(error))
                continue
            kind = normalize_type_name(connection.msgtype)
            if kind == HUMAN_ARRAY and not self.is_ros1:
                content = convert_former_human_array(content, getattr(connection.msgdef, "data", ""))
            yield BagMessage(connection.topic, kind, time_ns, content)


def normalize_type_name(text: str) -> str:
    """Return `package/msg/Name` for a type, also if it is written as in ROS 1 (`package/Name`) or in DDS."""
    found = re.fullmatch(r"(\w+)(?:/|::msg::dds_::)(\w+?)_?", text)
    return f"{found[1]}/msg/{found[2]}" if found else text


def _push_message(ready: list[Any], order: int, messages: Iterator[BagMessage]) -> None:
    message = next(messages, None)
    if message is not None:
        heapq.heappush(ready, (message.time_ns, order, message, messages))


def _is_latched(connection: Any) -> bool:
    profiles = getattr(connection.ext, "offered_qos_profiles", [])
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)
