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

"""Truncated or damaged bags: the readable part is read, and the damage is reported."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.storage import is_bag
from multihmr2_ros.errors import UserError
from test.helpers.bag_factory import camera_messages, refuses, write_bag

LARGE = (320, 240)  # raw images larger than SQLite's pages, several MCAP chunks


def cut(path: Path, part: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
@pytest.mark.parametrize("part", [0.35, 0.7, 0.97])
def test_a_bag_that_is_cut_off_gives_its_first_frames(tmp_path: Path, name: str, part: float) -> None:
    path = cut(write_bag(tmp_path / name, camera_messages(25, size=LARGE, calibrated=False)), part)
    with BagSource(path) as source:
        reds = [int(frame.image[0, 0, 0]) for frame in source]
        assert source.damage.startswith(f"{path}: {len(reds)} frames could be read; the bag is damaged or cut off (")
        assert "\n" not in source.damage
    assert reds == [10 * index for index in range(len(reds))]
    assert 25 * part - 6 <= len(reds) <= 25 * part + 1


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_folder_whose_recorder_was_killed(tmp_path: Path, storage: str) -> None:
    path = write_bag(tmp_path / "folder", camera_messages(25, size=LARGE), storage=storage)
    (path / "metadata.yaml").unlink()
    (file,) = path.iterdir()
    with BagSource(path) as source:
        assert len(list(source)) == 25
        assert not source.damage, "all is there but the summary"
    cut(file, 0.6)
    with BagSource(path) as source:
        assert 8 <= len(list(source)) <= 16
        assert source.damage


def test_the_files_of_a_split_bag_are_read_in_order(tmp_path: Path) -> None:
    messages = camera_messages(12, calibrated=False)
    (tmp_path / "split").mkdir()
    for index, message in enumerate(messages):
        write_bag(tmp_path / "split" / f"bag_{index}.mcap", [message])
    with BagSource(tmp_path / "split") as source:
        assert [int(frame.image[0, 0, 0]) for frame in source] == [10 * index for index in range(12)]


def test_images_out_of_order_are_left_out_as_by_the_node(tmp_path: Path) -> None:
    messages = camera_messages(6, calibrated=False)
    topic, _, image = messages.pop(2)
    messages.insert(3, (topic, messages[2][1] + 1, image))  # recorded after the image that follows it
    with BagSource(write_bag(tmp_path / "bag.mcap", messages)) as source:
        frames = list(source)
        assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 10, 30, 40, 50]
        assert "images that are older than the image before were skipped: 1" in source.damage


def test_a_bag_whose_time_jumps_back_keeps_all_other_images(tmp_path: Path) -> None:
    """Two older images in a row mean a jump; only the first is left out."""
    messages = camera_messages(6, calibrated=False)
    later = [(topic, time_ns + 10**9, image) for topic, time_ns, image in camera_messages(6, calibrated=False)[2:]]
    with BagSource(write_bag(tmp_path / "bag.mcap", messages + later)) as source:
        assert [int(frame.image[0, 0, 0]) for frame in source] == [0, 10, 20, 30, 40, 50, 30, 40, 50]


def test_messages_in_the_write_ahead_log_of_sqlite_are_reported(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.db3", camera_messages(3, calibrated=False))
    (tmp_path / "bag.db3-wal").write_bytes(b"pages")
    with BagSource(path) as source:
        assert len(list(source)) == 3
        assert "bag.db3-wal contains messages that are not yet in bag.db3" in source.damage


@pytest.mark.parametrize("value", [10**12, "text"])
def test_sqlite_columns_that_hold_no_bytes(tmp_path: Path, value: object) -> None:
    path = write_bag(tmp_path / "bag.db3", camera_messages(3, calibrated=False))
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE messages SET data = ? WHERE id = 2", (value,))
    with BagSource(path) as source:
        assert len(list(source)) == 2
        assert "contains no bytes" in source.damage


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.mcap", camera_messages(25, size=LARGE, calibrated=False))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1_500_000] = bytes(1_500_000)
    path.write_bytes(content)
    with BagSource(path) as source:
        reds = [int(frame.image[0, 0, 0]) for frame in source]
        assert source.damage
    assert reds[:8] == [10 * index for index in range(8)]


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag"])
@pytest.mark.parametrize("content", [b"", b"no bag", bytes(5000)])
def test_files_that_are_no_bags(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path / name, "cannot read the bag")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "walk.mp4").write_bytes(bytes(5000))
    refuses(tmp_path / "walk.mp4", "walk.mp4 is not a bag; give a rosbag2 folder, or an .mcap, .db3 or .bag file")


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing.mcap", "the bag .* does not exist")
    (tmp_path / "folder").mkdir()
    assert not is_bag(tmp_path / "folder")
    refuses(tmp_path / "folder", "the folder .* is not a bag: it contains no .mcap or .db3 file; give a rosbag2 folder")
    (tmp_path / "folder" / "metadata.yaml").write_text("nonsense: [")
    refuses(tmp_path / "folder", "no file of the bag")
    refuses(write_bag(tmp_path / "empty.mcap", []), "no topic with images")


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
def test_random_damage_is_reported_in_one_line(tmp_path: Path, name: str) -> None:
    whole = write_bag(tmp_path / name, camera_messages(6)).read_bytes()
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(150):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, len(content), 20)] = rng.integers(0, 256, 20)
        content = content[: rng.integers(100, len(content) + 1)]
        (tmp_path / name).write_bytes(content.tobytes())
        try:
            with BagSource(tmp_path / name) as source:
                assert all(frame.image.ndim == 3 for frame in source)
        except UserError as error:
            refusals.append(str(error))
    assert refusals
    assert all("\n" not in refusal for refusal in refusals)
