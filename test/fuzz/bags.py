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

"""Fuzz targets for bags: single files, and the metadata.yaml of a bag folder."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, metadata
from ruamel.yaml import YAML

from multihmr2_ros.bags import storage
from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.frames import BagSource
from test.fuzz.messages import damaged_message
from test.fuzz.mutations import damaged_bytes, damaged_text
from test.fuzz.target import Target
from test.helpers.bag_factory import camera_messages, serialized, write_bag


class Bags(Target):
    """Base class for single files of a bag. In some inputs the file is valid and its messages are damaged."""

    suffix = ".mcap"
    storage = StoragePlugin.MCAP

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / f"damaged{self.suffix}"
        self.messages = camera_messages(3, size=(24, 16)) + camera_messages(1, "jpeg", size=(24, 16))[1:]
        types = {message.__msgtype__ for _, _, message in self.messages}
        self.definitions = {
            name: (make_typestore().generate_msgdef(name, ros_version=2)[0], make_typestore().hash_rihs01(name))
            for name in types
        }
        self.seeds = [
            write_bag(folder / f"seed_{index}{self.suffix}", camera_messages(3, encoding, size=(24, 16))).read_bytes()
            for index, encoding in enumerate(("rgb8", "jpeg"))
        ]

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.9:
            return damaged_bytes(rng, rng.choice(self.seeds), rng.choice(self.seeds), head=rng.choice((None, 600)))
        data = [
            damaged_message(rng, message) if rng.random() < 0.5 else serialized(message)
            for _, _, message in self.messages
        ]
        return self.made(data)

    def made(
        self, data: list[bytes], version: Literal[8, 9] = 8, compression: CompressionMode = CompressionMode.NONE
    ) -> bytes:
        """Return a bag that holds this data as messages of this package.

        metadata.yaml and its copy in the file are left out: they are not read, and parsing them takes ten times as long
        as the rest.
        """
        folder = self.folder / "made"
        writer = Writer(folder, version=version, storage_plugin=self.storage)
        writer.set_compression(compression, CompressionFormat.ZSTD)
        writer.open()
        connections: dict[str, Any] = {}
        for (topic, time_ns, message), content in zip(self.messages, data, strict=True):
            if topic not in connections:
                definition, digest = self.definitions[message.__msgtype__]
                connections[topic] = writer.add_connection(topic, message.__msgtype__, msgdef=definition, rihs01=digest)
            writer.write(connections[topic], time_ns, content)
        assert writer.storage is not None
        writer.storage.close(version, "")
        made = next(folder.iterdir()).read_bytes()
        shutil.rmtree(folder)
        return made

    def parse(self, data: bytes) -> None:
        self.path.write_bytes(data)
        read_bag(self.path)


def read_bag(path: Path) -> None:
    yaml = ReadOnce()
    with mock.patch.object(storage, "YAML", yaml), mock.patch.object(metadata, "YAML", yaml), BagSource(path) as source:
        for frame in source:
            assert frame.image.ndim == 3
        assert "\n" not in source.damage


class ReadOnce:
    """Replacement for ruamel's YAML in rosbags, with a cache.

    A bag is opened three times, and most of that time is spent on parsing the same texts.
    """

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def __call__(self, typ: str) -> ReadOnce:
        return self

    def load(self, text: str) -> Any:
        if text not in self.known:
            try:
                self.known[text] = YAML(typ="safe").load(text)
            except Exception as error:
                self.known[text] = error
        if isinstance(self.known[text], Exception):
            raise self.known[text].with_traceback(None)
        return self.known[text]


class McapBags(Bags):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        data = [serialized(message) for _, _, message in self.messages]
        self.seeds.append(self.made(data, version=9, compression=CompressionMode.STORAGE))


class Sqlite3Bags(Bags):
    suffix = ".db3"
    storage = StoragePlugin.SQLITE3


class BagMetadata(Target):
    """Fuzz target for metadata.yaml; the other files of the folder are valid."""

    WORDS = (
        "rosbag2_bagfile_information:",
        "- ",
        "zstd",
        "sqlite3",
        "mcap",
        "../seed",
        "!!python/object:os.system",
        "&a",
        "*a",
        "|",
        "-1",
    )

    def __init__(self, folder: Path) -> None:
        self.paths = [
            write_bag(folder / storage, camera_messages(2, size=(24, 16)), storage=storage)
            for storage in ("mcap", "sqlite3")
        ]
        self.seeds = [(path / "metadata.yaml").read_text() for path in self.paths]

    def damaged(self, rng: random.Random) -> bytes:
        which = rng.randrange(2)
        return bytes([which]) + damaged_text(rng, self.seeds[which], self.WORDS)

    def parse(self, data: bytes) -> None:
        path = self.paths[data[0]]
        (path / "metadata.yaml").write_bytes(data[1:])
        read_bag(path)
