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

"""Bags recorded before the joints of HumanArrays became flat arrays can be read, evaluated and played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.former_humans import HUMAN_ARRAY, convert_former_human_array
from multihmr2_ros.bags.humans import TRUTH_TOPIC, HumansReader, estimate_image_size, people_from_human_array
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from test.helpers.evaluation_bags import HEIGHT, WIDTH, TruthfulEstimator, humans, scene, write_scene
from test.helpers.former_bags import remove_definitions, write_former_bag

FRAMES = 5


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("bag") / "walk.mcap", FRAMES)


def read_people(path: Path) -> list[Any]:
    with HumansReader(path, TRUTH_TOPIC) as recorded:
        return [people_from_human_array(each.decoded, (HEIGHT, WIDTH)) for each in recorded.read_all()]


@pytest.mark.parametrize("kind", ["mcap", "db3", "db3 without definitions"])
def test_people_of_a_former_bag_are_those_of_today(bag: Path, tmp_path: Path, kind: str) -> None:
    storage = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
    former = write_former_bag(bag, tmp_path / "former", storage)
    if kind == "db3 without definitions":
        remove_definitions(former)
    before, now = read_people(former), read_people(bag)
    assert len(before) == len(now) == FRAMES
    for old, new in zip(before, now, strict=True):
        for name in ("joints", "rotations", "joints_2d", "vertices", "pelvis", "track_id", "score", "k"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name), err_msg=name)


def test_the_size_of_the_image_is_in_the_message_or_follows_from_the_bag(bag: Path, tmp_path: Path) -> None:
    former = write_former_bag(bag, tmp_path / "former")
    with HumansReader(bag, TRUTH_TOPIC) as now, HumansReader(former, TRUTH_TOPIC) as before:
        (today, *_), (old, *_) = now.read_all(), before.read_all()
    assert estimate_image_size(today.decoded, (1, 2)) == (HEIGHT, WIDTH)
    assert (old.decoded.height, old.decoded.width) == (0, 0)
    assert estimate_image_size(old.decoded) == (HEIGHT, WIDTH)
    assert estimate_image_size(old.decoded, (HEIGHT + 2, WIDTH + 2)) == (HEIGHT + 2, WIDTH + 2)


def test_a_former_bag_is_evaluated_with_the_same_result(bag: Path, tmp_path: Path) -> None:
    former = write_former_bag(bag, tmp_path / "former")

    def found(path: Path) -> dict[str, Any]:
        job = BagJob(path=path, out=tmp_path / f"out_{path.stem}", outputs=BagOutputs(video=False, bag=True))
        result = run_job(job, TruthfulEstimator(lambda index, people: people))
        assert result.problems == ()
        return {key: value for key, (value, _) in result.totals.compute_metrics().items()}

    np.testing.assert_equal(found(former), found(bag))
    (predictions,) = (tmp_path / "out_former").rglob("*.mcap")
    assert len(read_people(predictions)) == FRAMES, "the truth is copied, in the layout of today"


def test_bytes_of_other_messages_stay_unchanged() -> None:
    for definition in ("", "geometry_msgs/Point32[] joints"):
        assert convert_former_human_array(b"\0\1\0\0nothing", definition) == b"\0\1\0\0nothing"


def test_current_messages_are_not_converted_as_former_ones() -> None:
    data = humans(scene(0), 1)
    assert convert_former_human_array(data, "") is data
    assert convert_former_human_array(data, "float32[] joints") is data
    empty = humans(scene(0, 0), 1)
    assert convert_former_human_array(empty, "") is empty
    assert not require_type(HUMAN_ARRAY).deserialize_cdr(empty, HUMAN_ARRAY).humans


def test_an_empty_former_message_without_a_definition(bag: Path, tmp_path: Path) -> None:
    empty = write_scene(tmp_path / "empty.mcap", 2, truth=lambda index: scene(index, 0))
    former = write_former_bag(empty, tmp_path / "former", StoragePlugin.SQLITE3)
    remove_definitions(former)
    with BagReader(former) as reader:
        decoded = [reader.decode(each) for each in reader.messages([TRUTH_TOPIC])]
    assert [len(each.humans) for each in decoded] == [0, 0]
    assert all(each.k[0] > 0 for each in decoded)
