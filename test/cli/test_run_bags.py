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

"""`multihmr2 run` with bags: results, times, topics, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from test.helpers.bag_factory import camera_messages, write_bag
from test.helpers.run_results import list_names, save_image


@pytest.mark.parametrize("name", ["walk.mcap", "walk.db3", "walk"])
@pytest.mark.parametrize("encoding", ["bgr8", "jpeg"])
def test_a_bag(run: Callable[..., int], tmp_path: Path, name: str, encoding: str) -> None:
    write_bag(tmp_path / name, camera_messages(4, encoding))
    assert run(tmp_path / name, options="--save params,mesh,overlay,video") == 0
    stems = [f"walk_{i:06d}" for i in range(4)]
    expected = [f"{stem}{end}" for stem in stems for end in (".glb", ".npz", "_overlay.png")]
    assert list_names(tmp_path / "out") == sorted([*expected, "walk_overlay.mp4"])
    written = [np.load(tmp_path / "out" / f"{stem}.npz") for stem in stems]
    assert {str(each["intrinsics_source"]) for each in written} == {"K"}
    np.testing.assert_allclose(np.diff([float(each["stamp"]) for each in written]), 0.1, atol=1e-6)
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-3)


def test_a_bag_keeps_identities_and_has_defaults(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / "walk.mcap", camera_messages(3))) == 0
    assert list_names(tmp_path / "out") == [*(f"walk_{i:06d}.npz" for i in range(3)), "walk_overlay.mp4"]
    first, *_, last = (np.load(tmp_path / "out" / f"walk_{i:06d}.npz")["track_id"].tolist() for i in range(3))
    assert set(first) & set(last)


def test_a_bag_whose_clock_is_set_back(run: Callable[..., int], tmp_path: Path) -> None:
    messages = camera_messages(4)
    for _, _, message in messages[4:]:
        message.header.stamp.sec -= 100
    assert run(write_bag(tmp_path / "walk.mcap", messages)) == 0
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


@pytest.mark.parametrize("time_ns", [0, 1_700_000_000_000_000_000])
def test_a_bag_whose_messages_have_one_time_of_recording(run: Callable[..., int], tmp_path: Path, time_ns: int) -> None:
    """As from converters that do not set it. The stamps of the headers are used."""
    messages = [(topic, time_ns, message) for topic, _, message in camera_messages(5, calibrated=False)]
    assert run(write_bag(tmp_path / "walk.mcap", messages), options="--save video") == 0
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)


def test_a_bag_with_irregular_stamps(run: Callable[..., int], tmp_path: Path) -> None:
    messages = camera_messages(5, calibrated=False)
    jumps_ns = (0, 0, 86_400_000_000_000, 86_400_000_000_000, -100_000_000_000)  # 1 day later, then 100 s earlier
    stamps_ns = (0, 1000, 200_000_000, 350_000_000, 450_000_000)  # the second image: 1 µs after the first
    for (_, _, message), jump_ns, stamp_ns in zip(messages, jumps_ns, stamps_ns, strict=True):
        seconds, nanoseconds = divmod(messages[0][1] + jump_ns + stamp_ns, 10**9)
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
    assert run(write_bag(tmp_path / "walk.mcap", messages), options="--save video") == 0
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.35, 0.45], abs=1e-3)


def test_a_bag_that_is_cut_off(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / "walk.mcap", camera_messages(12, size=(320, 240), calibrated=False))
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    assert run(path, save_image(tmp_path / "good.png"), options="--save overlay,video") == 2
    written = list_names(tmp_path / "out")
    assert {"walk_overlay.mp4", "walk_000000_overlay.png", "good_overlay.png"} <= set(written)
    count = len([name for name in written if name.startswith("walk_0")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 run: ")]
    assert lines[0].startswith(f"multihmr2 run: {path}: {count} frames could be read; the bag is damaged or cut off (")
    assert len(lines) == 1


def test_the_topic_of_a_bag(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = camera_messages(2, calibrated=False)
    two = write_bag(tmp_path / "two.mcap", [*messages, *(("/other/image", time, each) for _, time, each in messages)])
    assert run(two) == 2
    assert "choose one with --topic: /camera/image_raw, /other/image" in capsys.readouterr().err
    assert run(two, options="--topic /other/image --save params") == 0
    assert run(save_image(tmp_path / "a.png"), options="--topic /other/image") == 2
    assert "a.png is not a bag" in capsys.readouterr().err
