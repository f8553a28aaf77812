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

"""Bag frames with the recorded depth image, lens, ground and camera pose, and their use by `run` and `evaluate`."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.bags.depth_images import KEPT, DepthReader
from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.humans import TRUTH_TOPIC
from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame
from test.helpers.bag_factory import (
    HEIGHT,
    RATE,
    START_NS,
    TYPES,
    WIDTH,
    camera_info,
    camera_messages,
    header,
    make,
    make_image,
    raw_image,
    transform,
    write_bag,
)

FRAMES = 4
PERIOD_NS = 10**9 // RATE
CAMERA_HEIGHT_M, SPEED_M_S = 1.5, 2.0
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # quaternion x, y, z, w: a level camera that looks along x of a frame with z up
D = (-0.2, 0.03, 0.01, -0.01, 0.0)

Messages = list[tuple[str, int, Any]]


def make_depth_image(stamp_ns: int, depth: np.ndarray, frame_id: str = "camera") -> Any:
    """Return a sensor_msgs/Image of a depth image (H, W), uint16 mm or float32 m."""
    return make(
        TYPES["raw"], header=header(stamp_ns, frame_id), height=depth.shape[0], width=depth.shape[1],
        encoding="16UC1" if depth.dtype == np.uint16 else "32FC1", is_bigendian=0, step=depth.strides[0],
        data=np.ascontiguousarray(depth).view(np.uint8).ravel(),
    )  # fmt: skip


def make_flat_depth(index: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.full(size, 2000 + 100 * index, np.uint16)


def make_depth_messages(
    topic: str = "/camera/depth/image", shift_ns: int = 3_000_000, late_ns: int = 20_000_000, **changes: Any
) -> Messages:
    """Return a depth image for each image, stamped shift_ns later and recorded late_ns later."""
    messages: Messages = []
    for index in range(FRAMES):
        time_ns = START_NS + index * PERIOD_NS
        values = changes.get("depth", make_flat_depth)(index)
        message = make_depth_image(time_ns + shift_ns, values, changes.get("frame_id", "camera"))
        messages.append((topic, time_ns + late_ns, message))
    return messages


def make_drive_messages() -> Messages:
    """Return a robot that drives along x of odom at SPEED_M_S, with a level camera CAMERA_HEIGHT_M above its base."""
    messages: Messages = []
    for index in range(-1, FRAMES + 1):
        time_ns = START_NS + index * PERIOD_NS
        x_m = SPEED_M_S * index / RATE
        messages.append(("/tf", time_ns, transform("odom", "base", (x_m, 0, 0, 0, 0, 0, 1), time_ns)))
    mounted = transform("base", "camera", (0, 0, CAMERA_HEIGHT_M, *OPTICAL), 0)
    return [("/tf_static", START_NS - 2 * PERIOD_NS, mounted), *messages]


def write_camera_bag(path: Path, *parts: Messages, d: tuple[float, ...] = ()) -> Path:
    images: Messages = camera_messages(FRAMES, calibrated=False)
    info = [("/camera/camera_info", START_NS - PERIOD_NS, camera_info(START_NS, d=d))]
    messages = [*images, *info, *(message for part in parts for message in part)]
    return write_bag(path, sorted(messages, key=lambda message: message[1]))


def read_frames(path: Path, *arguments: Any, **options: Any) -> list[Frame]:
    with BagSource(path, *arguments, **options) as source:
        return list(source)


def to_millimeters(frame: Frame) -> int | None:
    return None if frame.depth is None else int(np.asarray(frame.depth)[0, 0])


EXPECTED = [int(make_flat_depth(index)[0, 0]) for index in range(FRAMES)]


def test_frames_have_all_that_the_bag_has_as_recorded(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / "walk.mcap", make_depth_messages(), make_drive_messages(), d=D)
    frames = read_frames(path, ground_frame="base", fixed_frame="odom")
    assert [to_millimeters(frame) for frame in frames] == EXPECTED
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, make_image(index))
        assert frame.lens is not None
        np.testing.assert_array_equal(frame.lens.camera.distortion, D)
        assert frame.ground is not None
        np.testing.assert_allclose(frame.ground.normal, [0, -1, 0], atol=1e-12)
        assert frame.ground.offset_m == pytest.approx(-CAMERA_HEIGHT_M)
        assert frame.fixed_from_camera is not None
        expected = [SPEED_M_S * index / RATE, 0, CAMERA_HEIGHT_M]
        np.testing.assert_allclose(frame.fixed_from_camera[:3, 3], expected, atol=1e-6)
        np.testing.assert_allclose(frame.fixed_from_camera[:3, 2], [1, 0, 0], atol=1e-12)  # looks along x
        assert frame.fixed_frame == "odom"


@pytest.mark.parametrize("late_ns", [-30_000_000, 0, 250_000_000])
def test_depth_is_found_by_stamp_at_any_time_of_recording(tmp_path: Path, late_ns: int) -> None:
    path = write_camera_bag(tmp_path / "walk.mcap", make_depth_messages(late_ns=late_ns))
    assert [to_millimeters(frame) for frame in read_frames(path)] == EXPECTED


def test_the_nearest_depth_image_in_time_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late = write_camera_bag(tmp_path / "late.mcap", make_depth_messages(shift_ns=40_000_000))
    assert [to_millimeters(frame) for frame in read_frames(late)] == EXPECTED
    one = write_camera_bag(tmp_path / "one.mcap", make_depth_messages()[:1])
    with caplog.at_level(logging.WARNING):
        assert [to_millimeters(frame) for frame in read_frames(one)] == [2000, 2000, None, None]
    (record,) = caplog.records
    assert "some images have no depth image on /camera/depth/image within 0.1 s" in record.getMessage()


def test_depth_images_may_be_recorded_out_of_order(tmp_path: Path) -> None:
    messages = make_depth_messages(late_ns=-30_000_000)
    (topic, time_ns, one), (_, _, two) = messages[1:3]
    messages[1:3] = [(topic, time_ns - 2, two), (topic, time_ns - 1, one)]
    path = write_camera_bag(tmp_path / "walk.mcap", messages)
    assert [to_millimeters(frame) for frame in read_frames(path)] == EXPECTED


def test_depth_continues_after_the_clock_jumped_back(tmp_path: Path) -> None:
    def moved(messages: Messages, record_ns: int) -> Messages:
        return [(topic, time_ns + record_ns, message) for topic, time_ns, message in messages]

    once = [*camera_messages(FRAMES, calibrated=False), *make_depth_messages()]
    again = moved(once, FRAMES * PERIOD_NS)  # recorded later, with the same stamps
    path = write_bag(tmp_path / "loop.mcap", sorted([*once, *again], key=lambda message: message[1]))
    # The first image after a jump by less than LATE_S looks like one that arrived out of order.
    assert [to_millimeters(frame) for frame in read_frames(path)] == EXPECTED + EXPECTED[1:]


@pytest.mark.parametrize("late_ns", [-30_000_000, 20_000_000])
@pytest.mark.parametrize("has_stamps", [(False, False), (False, True), (True, False)])
def test_times_of_recording_replace_missing_stamps(tmp_path: Path, late_ns: int, has_stamps: tuple[bool, bool]) -> None:
    with_images, with_depth = has_stamps
    messages: Messages = []
    for index in range(FRAMES):
        time_ns = START_NS + index * PERIOD_NS
        messages.append(("/camera/image_raw", time_ns, raw_image(make_image(index), "rgb8", time_ns * with_images)))
        depth = make_depth_image((time_ns + late_ns) * with_depth, make_flat_depth(index))
        messages.append(("/camera/depth/image", time_ns + late_ns, depth))
    path = write_bag(tmp_path / "walk.mcap", sorted(messages, key=lambda message: message[1]))
    assert [to_millimeters(frame) for frame in read_frames(path)] == EXPECTED


def test_few_depth_images_are_kept_in_memory(tmp_path: Path) -> None:
    many = [message for shift in range(20) for message in make_depth_messages(shift_ns=shift, late_ns=shift)]
    path = write_camera_bag(tmp_path / "walk.mcap", many)
    with BagSource(path) as source, DepthReader(path, "/camera/depth/image") as images:
        for frame in source:
            recorded_ns = source.header.stamp_ns
            assert images.find(source.header, (HEIGHT, WIDTH), recorded_ns) is not None, frame.name
            assert len(images._kept) <= KEPT


OTHER_FRAME = make_depth_messages("/camera/depth/raw", frame_id="depth_camera")
OTHER_SIZE = make_depth_messages("/camera/depth/small", depth=lambda index: make_flat_depth(index, (8, 8)))


@pytest.mark.parametrize(
    ("parts", "chosen"),
    [
        ([make_depth_messages(), OTHER_FRAME, OTHER_SIZE], EXPECTED),
        ([make_depth_messages("/camera/thermal")], [None] * FRAMES),  # topic without "depth" in its name
        ([OTHER_FRAME], [None] * FRAMES),
        ([OTHER_SIZE], [None] * FRAMES),
    ],
    ids=["the registered one", "another name", "another frame", "another size"],
)
def test_the_only_fitting_depth_topic_is_chosen(
    tmp_path: Path, parts: list[Messages], chosen: list[int | None]
) -> None:
    path = write_camera_bag(tmp_path / "walk.mcap", *parts)
    assert [to_millimeters(frame) for frame in read_frames(path, "/camera/image_raw")] == chosen


def test_depth_topics_can_be_selected_refused_or_switched_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    second = make_depth_messages(
        "/camera/depth/second", depth=lambda index: (make_flat_depth(index) * 2e-3).astype(np.float32)
    )
    path = write_camera_bag(tmp_path / "walk.mcap", make_depth_messages(), second, OTHER_FRAME)
    with caplog.at_level(logging.WARNING):
        assert [frame.depth for frame in read_frames(path)] == [None] * FRAMES
    (record,) = caplog.records
    assert "choose one with --depth-topic: /camera/depth/image, /camera/depth/second" in record.getMessage()
    found = read_frames(path, None, "/camera/depth/second")
    np.testing.assert_allclose([np.asarray(frame.depth)[0, 0] for frame in found], 2e-3 * np.array(EXPECTED))
    assert [frame.depth for frame in read_frames(path, None, "off")] == [None] * FRAMES
    with pytest.raises(UserError, match=r"has no images on /nothing \(--depth-topic\); it has /camera/depth/image"):
        BagSource(path, None, "/nothing")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [frame.depth for frame in read_frames(path, None, "/camera/depth/raw")] == [None] * FRAMES
    (record,) = caplog.records
    assert "depth images must be registered to the image" in record.getMessage()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ground_frame": "map"}, "has no transform between 'camera' and 'map'"),
        ({"fixed_frame": "map"}, "has no transform between 'camera' and 'map'"),
        ({"fixed_frame": "odom"}, "the transform of base in odom is known from"),  # only for some images
        ({"ground_frame": "ceiling"}, "the camera must be above the ground"),
    ],
    ids=["ground", "fixed", "not always", "below"],
)
def test_missing_transforms_are_reported_once_and_frames_continue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, str], words: str
) -> None:
    ceiling = [("/tf_static", START_NS, transform("base", "ceiling", (0, 0, 3, 0, 0, 0, 1), 0))]
    path = write_camera_bag(tmp_path / "walk.mcap", make_drive_messages()[:4], ceiling)
    with caplog.at_level(logging.WARNING):
        frames = read_frames(path, **options)
    assert len(frames) == FRAMES
    assert frames[-1].fixed_from_camera is None
    assert all(frame.ground is None for frame in frames)
    (record,) = caplog.records
    assert words in record.getMessage()
    assert "\n" not in record.getMessage()


# --- through the commands


@pytest.fixture
def options(small_checkpoint: Path) -> list[str]:
    people = ["--score-threshold", "0", "--nms-distance", "0", "--max-people", "3", "--mesh", "low"]
    return ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--precision", "fp32", *people]


def run(path: Path, out: Path, options: list[str], *more: str) -> list[dict[str, np.ndarray]]:
    assert main(["run", str(path), "--out", str(out), "--save", "params", *options, *more]) == 0
    return [dict(np.load(file)) for file in sorted(out.glob("*.npz"))]


def test_run_uses_depth_and_ground_by_default(
    tmp_path: Path, options: list[str], near: Callable[[int], np.ndarray]
) -> None:
    path = write_camera_bag(tmp_path / "walk.mcap", make_depth_messages(depth=near), make_drive_messages(), d=D)
    plain = run(path, tmp_path / "plain", options, "--depth-topic", "off")
    depth = run(path, tmp_path / "depth", options)
    ground = run(path, tmp_path / "ground", options, "--depth-topic", "off", "--ground-frame", "base")
    without = run(write_camera_bag(tmp_path / "rgb.mcap", make_drive_messages(), d=D), tmp_path / "without", options)
    for index in range(FRAMES):
        np.testing.assert_array_equal(plain[index]["pelvis"], without[index]["pelvis"])
        assert (plain[index]["pelvis"] != depth[index]["pelvis"]).any()
        assert (plain[index]["pelvis"] != ground[index]["pelvis"]).any()


@pytest.fixture
def near(tmp_path: Path, options: list[str]) -> Callable[[int], np.ndarray]:
    """Run with a flat wall at nine tenths of the distance at which people are estimated without depth."""
    found = run(write_camera_bag(tmp_path / "first.mcap", d=D), tmp_path / "first", options)[0]["pelvis"][:, 2]
    distance_m = 0.9 * float(np.median(found[found > 0]))
    return lambda index: np.full((HEIGHT, WIDTH), distance_m, np.float32)


def test_evaluate_uses_depth_ground_and_the_motion_of_the_camera(
    tmp_path: Path, options: list[str], near: Callable[[int], np.ndarray]
) -> None:
    path = write_camera_bag(tmp_path / "walk.mcap", make_depth_messages(depth=near), make_drive_messages(), d=D)

    def evaluate(name: str, *more: str) -> tuple[list[dict[str, str]], list[Any]]:
        from multihmr2_ros.bags.reading import BagReader

        out = tmp_path / name
        rest = ["--no-video", "--no-plots", "--no-report"]
        assert main(["evaluate", str(path), "--out", str(out), *options, *rest, *more]) in (0, 2)  # 2: no ground truth
        with BagReader(out / "predictions.mcap") as predictions:
            messages = [predictions.decode(each) for each in predictions.messages(["/humans"])]
        with (out / "people.csv").open() as file:
            return list(csv.DictReader(file)), messages

    _, plain = evaluate("plain", "--depth-topic", "off")
    _, refined = evaluate("refined", "--ground-frame", "base", "--fixed-frame", "odom")
    assert len(plain) == len(refined) == FRAMES
    for before, after in zip(plain, refined, strict=True):
        assert len(after.humans) == 3
        assert before.humans[0].pelvis.pose.position.z != after.humans[0].pelvis.pose.position.z
        assert {human.velocity_frame for human in before.humans} == {"camera"}
        assert {human.velocity_frame for human in after.humans} == {"odom"}
    assert TRUTH_TOPIC  # the bag has none: distances and velocities are compared with those of the other run


@pytest.mark.parametrize("option", ["--depth-topic=/depth", "--ground-frame=base", "--fixed-frame=odom"])
def test_options_of_bags_are_refused_for_images(
    tmp_path: Path, options: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.fromarray(make_image(0)).save(tmp_path / "photo.png")
    arguments = ["run", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), *options, option]
    assert main(arguments) == 2
    assert f"{option.partition('=')[0]} is for bags" in capsys.readouterr().err
