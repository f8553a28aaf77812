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

"""Variants of bags: unusual names and metadata, compression, any order, different topic names."""

from __future__ import annotations

import logging
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.reading import BagReader, normalize_type_name
from multihmr2_ros.bags.recovery import MAGIC
from multihmr2_ros.bags.storage import is_bag
from multihmr2_ros.errors import UserError
from multihmr2_ros.people import IntrinsicsSource
from test.helpers.bag_factory import (
    START_NS,
    camera_info,
    camera_messages,
    make_image,
    raw_image,
    refuses,
    serialized,
    write_bag,
)

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


def write_compressed(path: Path, storage: str, mode: CompressionMode, messages: list[Any]) -> Path:
    """Write a rosbag2 folder as made by `ros2 bag record --compression-mode`."""
    writer = Writer(path, version=8, storage_plugin=STORAGES[storage])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, time_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=make_typestore())
            writer.write(connections[topic], time_ns, serialized(message))
    return path


def read_reds(path: Path, **options: Any) -> list[int]:
    """Return the indices of the images in a bag that is read without reported damage."""
    with BagSource(path, **options) as source:
        found = [int(frame.image[0, 0, 0]) // 10 for frame in source]
        assert source.damage == ""
    return found


@pytest.mark.parametrize("name", ["run #3", "what?", "100%25", "a%20b", "x?mode=rw", "Straße ü"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_any_name_is_written_and_read(tmp_path: Path, name: str, storage: str) -> None:
    (tmp_path / name).mkdir()
    folder = write_bag(tmp_path / name / name, camera_messages(3), storage=storage)
    assert read_reds(folder) == [0, 1, 2]
    suffix = {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    assert read_reds(write_bag(tmp_path / name / f"{name}{suffix}", camera_messages(2))) == [0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {name}, "nothing is written beside"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_come_in_order_of_time(tmp_path: Path, storage: str) -> None:
    messages = camera_messages(6, calibrated=False)
    shuffled = [messages[index] for index in (2, 0, 1, 5, 3, 4)]
    assert read_reds(write_bag(tmp_path / "bag", shuffled, storage=storage)) == [0, 1, 2, 3, 4, 5]


def test_files_that_overlap_in_time_are_merged(tmp_path: Path) -> None:
    messages = camera_messages(6, calibrated=False)
    (tmp_path / "split").mkdir()
    write_bag(tmp_path / "split" / "bag_0.mcap", [messages[index] for index in (0, 2, 3)])
    write_bag(tmp_path / "split" / "bag_1.mcap", [messages[index] for index in (1, 4, 5)])
    assert read_reds(tmp_path / "split") == [0, 1, 2, 3, 4, 5]


def read_mcap_records(content: bytes) -> list[tuple[int, bytes]]:
    place, found = len(MAGIC), []
    while place + 9 <= len(content) - len(MAGIC):
        code, length = struct.unpack_from("<BQ", content, place)
        found.append((code, content[place + 9 : place + 9 + length]))
        place += 9 + length
    return found


def record(code: int, content: bytes) -> bytes:
    return struct.pack("<BQ", code, len(content)) + content


def remove_index(path: Path, order: list[int], *, profile: bytes = b"ros2", with_chunk: bool = False) -> Path:
    """Write the messages in this order, outside of chunks and without an index (rosbag2's preset fastwrite)."""
    found = read_mcap_records(path.read_bytes())
    (chunk,) = (content for code, content in found if code == 0x06)
    (text_length,) = struct.unpack_from("<I", chunk, 28)
    inner = read_mcap_records(MAGIC + chunk[32 + text_length + 8 :] + MAGIC)
    messages = [content for code, content in inner if code == 0x05]
    body = b"".join(record(code, content) for code, content in inner if code != 0x05)
    body += b"".join(record(0x05, messages[index]) for index in order)
    if with_chunk:
        times = [struct.unpack_from("<Q", content, 6)[0] for content in messages]
        head = struct.pack("<QQQII", min(times), max(times), len(body), 0, 0) + struct.pack("<Q", len(body))
        body = record(0x06, head + body)
    header = record(0x01, struct.pack("<I", len(profile)) + profile + struct.pack("<I", 0))
    end = record(0x0F, bytes(4)) + record(0x02, bytes(20))
    path.write_bytes(MAGIC + header + body + end + MAGIC)
    return path


@pytest.mark.parametrize("with_chunk", [False, True])
@pytest.mark.parametrize("profile", [b"ros2", b""])
def test_mcap_without_an_index_in_any_order(tmp_path: Path, with_chunk: bool, profile: bytes) -> None:
    path = write_bag(tmp_path / "bag.mcap", camera_messages(4, calibrated=False))
    assert read_reds(remove_index(path, [3, 0, 2, 1], profile=profile, with_chunk=with_chunk)) == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:-45])  # without its last records, which hold no messages
    with BagSource(path) as source:
        assert [int(frame.image[0, 0, 0]) // 10 for frame in source] == [0, 1, 2, 3]
        assert source.damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_message_compression_needs_no_description(tmp_path: Path, storage: str) -> None:
    path = write_compressed(tmp_path / "bag", storage, CompressionMode.MESSAGE, camera_messages(3))
    assert read_reds(path) == [0, 1, 2]
    (file,) = (each for each in path.iterdir() if each.suffix in (".mcap", ".db3"))
    assert read_reds(file) == [0, 1, 2]
    (path / "metadata.yaml").unlink()
    assert read_reds(path) == [0, 1, 2]


@pytest.mark.parametrize("content", [b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd" + b"garbage" * 9])
def test_compressed_messages_that_are_damaged(tmp_path: Path, content: bytes) -> None:
    messages = camera_messages(2, calibrated=False)
    path = write_compressed(tmp_path / "bag", "sqlite3", CompressionMode.MESSAGE, messages)
    import sqlite3

    with sqlite3.connect(path / "bag.db3") as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 1", (content,))
    database.close()
    with BagSource(path) as source:
        assert len(list(source)) == 1
        assert "zstd" in source.damage


def test_a_compressed_message_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_compressed(tmp_path / "bag", "mcap", CompressionMode.MESSAGE, camera_messages(1, calibrated=False))
    monkeypatch.setattr("multihmr2_ros.bags.storage.MAX_MESSAGE_BYTES", 1000)
    refuses(path, "more than 1000 bytes")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_file_compression(tmp_path: Path, storage: str) -> None:
    path = write_compressed(tmp_path / "bag", storage, CompressionMode.FILE, camera_messages(3))
    assert read_reds(path) == [0, 1, 2]
    (file,) = path.glob("*.zstd")
    assert is_bag(file)
    assert read_reds(file) == [0, 1, 2]
    (path / "metadata.yaml").unlink()
    assert is_bag(path)
    assert read_reds(path) == [0, 1, 2]
    file.write_bytes(file.read_bytes()[:100])
    refuses(path, "zstd -d")


def test_unpacked_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_compressed(tmp_path / "bag", "mcap", CompressionMode.FILE, camera_messages(1))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with BagReader(path) as bag:
        assert len(list((tmp_path / "temporary").iterdir())) == 1
        assert len(list(bag.messages())) == 2
    assert list((tmp_path / "temporary").iterdir()) == []


# --- metadata


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 8", "version: 10"),
        ("version: 8", "version: 99"),
        ("storage_identifier: mcap", "storage_identifier: ''"),
        ("storage_identifier: mcap", "storage_identifier: sqlite3"),
        ("message_count: ", "message_counts: "),
    ],
)
def test_descriptions_of_any_version(tmp_path: Path, old: str, new: str) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3))
    text = (path / "metadata.yaml").read_text()
    assert old in text
    (path / "metadata.yaml").write_text(text.replace(old, new))
    assert read_reds(path) == [0, 1, 2]


def test_files_missing_from_a_bag_are_reported(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3))
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace("- bag.mcap\n", "- bag.mcap\n  - bag_1.mcap\n"))
    with BagSource(path) as source:
        assert len(list(source)) == 3
        assert "bag_1.mcap is missing" in source.damage


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3))
    (path / "._bag.mcap").write_bytes(b"\0\5\26\7" + bytes(100))
    shutil.copy(path / "bag.mcap", path / "copy.mcap")
    assert read_reds(path) == [0, 1, 2]
    (path / "copy.mcap").unlink()
    (path / "metadata.yaml").unlink()
    assert read_reds(path) == [0, 1, 2]


# --- types and topics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sensor_msgs/msg/Image", "sensor_msgs/msg/Image"),
        ("sensor_msgs/Image", "sensor_msgs/msg/Image"),
        ("sensor_msgs::msg::dds_::Image_", "sensor_msgs/msg/Image"),
        ("foxglove.CompressedImage", "foxglove.CompressedImage"),
    ],
)
def test_names_of_types(text: str, expected: str) -> None:
    assert normalize_type_name(text) == expected


def test_types_written_as_in_ros_1(tmp_path: Path) -> None:
    import sqlite3

    path = write_bag(tmp_path / "bag.db3", camera_messages(3))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    database.close()
    with BagSource(path) as source:
        frames = list(source)
    assert [frame.intrinsics_source for frame in frames] == [IntrinsicsSource.K] * 3


def test_ros_1_messages_in_mcap_are_named(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "a.mcap", camera_messages(1, calibrated=False))
    remove_index(path, [0], profile=b"ros1")
    refuses(path, "contains ROS 1 messages.*rosbags-convert")
    (tmp_path / "folder").mkdir()
    shutil.copy(path, tmp_path / "folder")
    with pytest.raises(UserError, match="contains ROS 1 messages"):
        BagSource(tmp_path / "folder")


def make_depth_image(time_ns: int) -> Any:
    message = raw_image(make_image(0), "mono8", time_ns)
    message.encoding, message.step = "16UC1", message.width * 2
    message.data = np.zeros(message.step * message.height, np.uint8)
    return message


def on(topic: str, message: Any, index: int = 0) -> tuple[str, int, Any]:
    return topic, START_NS + index, message


COLOR, DEPTH = raw_image(make_image(1), "rgb8", START_NS), make_depth_image(START_NS)


@pytest.mark.parametrize(
    ("topics", "chosen"),
    [
        ({"/cam/image_raw": COLOR, "/cam/depth/image_raw": DEPTH}, "/cam/image_raw"),
        ({"/depth_camera/color/image_raw": COLOR, "/depth_camera/z/image_raw": DEPTH}, "/depth_camera/color/image_raw"),
        ({"/depth_camera/image": COLOR}, "/depth_camera/image"),
        ({"/depth_camera/color/image_raw": COLOR, "/rear/image_raw": COLOR}, None),
    ],
)
def test_depth_and_color_images_are_distinguished_by_their_content(
    tmp_path: Path, topics: dict[str, Any], chosen: str | None
) -> None:
    path = write_bag(tmp_path / "bag.mcap", [on(topic, message) for topic, message in topics.items()])
    if chosen is None:
        refuses(path, f"choose one with --topic: {', '.join(sorted(topics))}")
        return
    assert read_reds(path) == [1]


@pytest.mark.parametrize(
    ("topics", "source", "words"),
    [
        (["/cam/image_raw", "/cam/camera_info"], "K", ""),
        (["/cam/image_raw", "/cam/info"], "K", "taken from /cam/info, in the same namespace"),
        (["/cam/image_raw", "/cam/info", "/cam/depth/camera_info"], "K", "taken from /cam/info"),
        (["/cam/image_raw", "/elsewhere/info"], "K", "taken from /elsewhere/info, the only CameraInfo topic"),
        (["/cam/image_raw", "/left/info", "/right/info"], "predicted", "/left/info, /right/info are not used"),
        (["/cam/image_raw", "/cam/a", "/cam/b"], "predicted", "/cam/a, /cam/b are not used"),
        (["/cam/image_raw"], "predicted", ""),
    ],
)
def test_camera_info_under_another_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, topics: list[str], source: str, words: str
) -> None:
    messages = [on(topic, camera_info(START_NS) if index else COLOR, index) for index, topic in enumerate(topics)]
    path = write_bag(tmp_path / "bag.mcap", messages)
    with caplog.at_level(logging.WARNING), BagSource(path) as frames:
        (frame,) = frames
    assert frame.intrinsics_source.value == source
    assert len(caplog.messages) == bool(words)
    assert not words or (words in caplog.text and "camera_info" in caplog.text)
