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

"""Bags: written, read back as messages and as frames, truncated, damaged. ROS is not needed."""

from __future__ import annotations

import logging
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer

from multihmr2_ros import bags
from multihmr2_ros.bags import definitions, writing
from multihmr2_ros.bags.definitions import get_ros1_typestore, require_type
from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.humans import human_array_to_cdr
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.bags.storage import is_bag
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.cdr import marker_array_to_cdr
from multihmr2_ros.messages.content import HeaderContent, HumanArrayContent, make_label_marker
from multihmr2_ros.people import IntrinsicsSource
from test.helpers.bag_factory import (
    HEIGHT,
    RATE,
    START_NS,
    WIDTH,
    camera_info,
    camera_messages,
    make,
    make_image,
    raw_image,
    refuses,
    serialized,
    write_bag,
)
from test.helpers.full_disk import no_file_above

KINDS = {  # name → writer options
    "bag.mcap": {},
    "bag.db3": {},
    "folder": {"storage": "mcap"},
    "folder.v2": {"storage": "sqlite3"},
}
kinds = pytest.mark.parametrize("name", KINDS)


def make_human() -> HumanArrayContent:
    count = np.arange(1.0, 37.0)
    return HumanArrayContent(
        header=HeaderContent(1, 2, "camera"), k=count[:9], intrinsics_source=1, vertical_fov=2.0, age_at_receipt=3.0,
        inference_time=4.0, total_latency=5.0, dropped_frames=6, track_id=np.array([7]), frame_id=("body_7",),
        state=np.array([2]), age=count[8:9], score=count[9:10], pelvis=count[None, :3],
        pelvis_orientation=count[None, :4], pelvis_covariance=count[None], velocity=count[None, :3],
        velocity_covariance=count[None, :9], velocity_frame="odom", stature=count[10:11], phenotype=count[None, :6],
        box=np.arange(4)[None], joints=count[:6].reshape(1, 2, 3), joints_2d=count[:4].reshape(1, 2, 2),
        joint_rotations=count[:8].reshape(1, 2, 4), vertices=count[:3].reshape(1, 1, 3),
    )  # fmt: skip


# Writing, and reading messages


@kinds
def test_what_is_written_is_read_by_us_and_by_rosbags(tmp_path: Path, name: str) -> None:
    messages = [(topic, time, serialized(message)) for topic, time, message in camera_messages(30)]
    path = write_bag(tmp_path / name, camera_messages(30), **KINDS[name])
    assert is_bag(path)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    with BagReader(path) as bag:
        assert [(each.topic, each.time_ns, each.data) for each in bag.messages()] == messages
        assert {topic: facts.count for topic, facts in bag.topics.items()} == {
            "/camera/image_raw": 30,
            "/camera/camera_info": 30,
        }
        assert bag.duration_ns == pytest.approx(29 * 10**9 / RATE + 1000, abs=1)
        assert not bag.damage
    with AnyReader([path]) as other:
        assert [(each.topic, time, bytes(data)) for each, time, data in other.messages()] == messages
    assert (path / "metadata.yaml").is_file() == path.is_dir()


def test_our_messages_serialized_by_numpy_go_through_a_bag(tmp_path: Path) -> None:
    label = make_label_marker(
        HeaderContent(3, 4, "camera"), "label", 5, "#5", (1.0, 2.0, 3.0), 0.1, (1.0, 0.5, 0.0, 1.0)
    )
    with BagWriter(tmp_path / "out.mcap") as writer:
        writer.write("/humans", "multihmr2_ros/msg/HumanArray", human_array_to_cdr(make_human()), 10)
        writer.write("/markers", "visualization_msgs/msg/MarkerArray", marker_array_to_cdr([label]).to_bytes(), 20)
        assert writer.counts == {"/humans": 1, "/markers": 1}
    with BagReader(tmp_path / "out.mcap") as bag:
        humans, markers = (bag.decode(message) for message in bag.messages())
    assert humans.header.frame_id == "camera"
    assert humans.k.tolist() == list(range(1, 10))
    (human,) = humans.humans
    assert (human.track_id, human.frame_id, human.velocity_frame) == (7, "body_7", "odom")
    assert human.vertices.tolist() == [1.0, 2.0, 3.0]
    assert (markers.markers[0].text, markers.markers[0].pose.position.y) == ("#5", 2.0)


@kinds
def test_an_existing_bag_is_never_overwritten(tmp_path: Path, name: str) -> None:
    path = write_bag(tmp_path / name, camera_messages(1), **KINDS[name])
    with pytest.raises(UserError, match=f"{name} already exists"):
        BagWriter(path)
    with BagReader(path) as bag:
        assert len(list(bag.messages())) == 2


def test_a_bag_that_appears_while_we_write_is_not_overwritten(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "out")
    writer.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", serialized(camera_info(0)), 0)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").iterdir())


@kinds
def test_an_interrupted_writer_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    def interrupted() -> None:
        with BagWriter(tmp_path / name, **KINDS[name]) as writer:
            writer.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", serialized(camera_info(0)), 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot write") as caught, no_file_above(500_000):
        write_bag(tmp_path / name, camera_messages(60))
    assert str(tmp_path / name) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bag.mcap", "folder"])
def test_an_incomplete_bag_is_kept_on_request(tmp_path: Path, name: str) -> None:
    """As by the recorder: what fills the disk cannot be recorded again."""
    writer, data = BagWriter(tmp_path / name), serialized(raw_image(make_image(0), "rgb8", START_NS))

    def write_many() -> None:
        for index in range(10**8 // len(data)):
            writer.write("/camera/image_raw", "sensor_msgs/msg/Image", data, START_NS + index)

    with no_file_above(5_000_000):
        with pytest.raises(UserError, match="cannot write"):
            write_many()
        with pytest.raises(UserError, match="cannot write"):
            writer.close(keep_incomplete=True)
    with BagReader(tmp_path / name) as bag:
        recorded = [message.data for message in bag.messages()]
        assert bag.damage
    assert recorded[:-1] == [data] * (len(recorded) - 1)
    assert 2_500_000 < len(data) * len(recorded) < 5_000_000
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("is_finished", [True, False])
def test_an_incomplete_sqlite_bag_is_kept_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    """SQLite discards what is not committed, which leaves space for finishing the file."""
    monkeypatch.setattr(writing, "COMMIT_PERIOD_S", 0.0)
    writer, data = BagWriter(tmp_path / "bag.db3"), serialized(raw_image(make_image(0), "rgb8", START_NS))

    def write_many() -> None:
        for index in range(500_000 // len(data) + 1):
            writer.write("/camera/image_raw", "sensor_msgs/msg/Image", data, START_NS + index)

    with pytest.raises(UserError, match="cannot write"), no_file_above(500_000):
        write_many()
    if is_finished:
        writer.close(keep_incomplete=True)
    else:
        with pytest.raises(UserError, match="cannot write"), no_file_above(0):
            writer.close(keep_incomplete=True)
    with BagReader(tmp_path / "bag.db3") as bag:
        recorded = [message.data for message in bag.messages()]
        assert bag.topics["/camera/image_raw"].count == len(recorded)
    assert recorded == [data] * len(recorded)
    assert 250_000 < len(data) * len(recorded) < 500_000


@pytest.mark.parametrize("name", ["out.mcap", "out"])
def test_a_missing_parent_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"the folder {tmp_path}/new of {name} does not exist: create it first"):
        BagWriter(tmp_path / "new" / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["folder", "bag.mcap"])
def test_latched_topics_are_noted(tmp_path: Path, name: str) -> None:
    with BagWriter(tmp_path / name) as writer:
        writer.latch("/model")
        for topic in ("/tf_static", "/model", "/tf"):
            empty = make("tf2_msgs/msg/TFMessage", transforms=[])
            writer.write(topic, empty.__msgtype__, serialized(empty), 0)
    with BagReader(tmp_path / name) as bag:
        assert {topic for topic, facts in bag.topics.items() if facts.is_latched} == {"/tf_static", "/model"}


def test_a_topic_keeps_its_type_and_unknown_types_are_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "out") as writer:
        writer.write("/a", "sensor_msgs/msg/CameraInfo", serialized(camera_info(0)), 0)
        with pytest.raises(UserError, match="expected sensor_msgs/msg/CameraInfo on /a"):
            writer.write("/a", "sensor_msgs/msg/Image", b"", 0)
        with pytest.raises(UserError, match="no definition of the message type nobody_msgs/msg/Nothing"):
            writer.write("/b", "nobody_msgs/msg/Nothing", b"", 0)
    with pytest.raises(UserError, match="storage"):
        BagWriter(tmp_path / "other", storage="tape")


def test_definitions_are_found_where_ros_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "my_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Inner.msg").write_text("float64[3] values\n")
    (folder / "Outer.msg").write_text("std_msgs/Header header\nInner[] inner  # of this package\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    store = require_type("my_msgs/msg/Outer")
    assert [name for name, _ in store.fielddefs["my_msgs/msg/Outer"][1]] == ["header", "inner"]
    assert "my_msgs/msg/Inner" in store.fielddefs


def test_our_definitions_are_found_in_an_installation(tmp_path: Path) -> None:
    """Layout of colcon and pip: PREFIX/lib/python3.N/site-packages and PREFIX/share, without environment variables."""
    source = Path(definitions.__file__).resolve().parents[2]
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    shutil.copytree(source / "multihmr2_ros", packages / "multihmr2_ros", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(source / "msg", tmp_path / "share" / "multihmr2_ros" / "msg")
    code = (
        "from multihmr2_ros.bags import definitions; print(definitions.__file__); "
        "print('multihmr2_ros/msg/HumanArray' in definitions.make_typestore().fielddefs)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(packages)}, cwd=tmp_path
    )
    assert found.stdout.split() == [str(packages / "multihmr2_ros/bags/definitions.py"), "True"], found.stderr


def test_all_our_messages_are_known() -> None:
    folder = Path(definitions.__file__).resolve().parents[2] / "msg"
    assert {path.stem for path in folder.glob("*.msg")} == set(definitions.OUR_MESSAGES)


def test_bags_need_no_ros() -> None:
    names = [f"multihmr2_ros.bags.{each.name}" for each in pkgutil.iter_modules(bags.__path__)]
    assert "multihmr2_ros.bags.reading" in names
    code = (
        f"import sys, {', '.join(names)}; "
        "print([name for name in sys.modules if name in ('rclpy', 'torch', 'sensor_msgs')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Frames


@kinds
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "jpeg"])
def test_frames(tmp_path: Path, name: str, encoding: str) -> None:
    path = write_bag(tmp_path / name, camera_messages(5, encoding), **KINDS[name])
    with BagSource(path) as source:
        frames = list(source)
        again = list(source)
        assert (source.frame_count, source.damage) == (5, "")
        assert source.fps == pytest.approx(RATE, rel=1e-3)
        name = path.name if path.is_dir() else path.stem  # a folder has no suffix
        assert [frame.name for frame in frames] == [f"{name}_{index:06d}" for index in range(5)]
    for index, (frame, same) in enumerate(zip(frames, again, strict=True)):
        expected = make_image(index)
        if encoding == "mono8":
            expected = np.repeat(cv2.cvtColor(expected, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        assert (frame.image.shape, frame.image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        np.testing.assert_allclose(frame.image.astype(int), expected, atol=12 if encoding == "jpeg" else 0)
        assert frame.stamp == pytest.approx(START_NS * 1e-9 + index / RATE, abs=1e-6)
        assert frame.intrinsics_source == IntrinsicsSource.K
        assert frame.k is not None
        assert frame.k.tolist() == [[90, 0, 48], [0, 90, 32], [0, 0, 1]]
        assert (same.image == frame.image).all()
        assert frame.image.flags.writeable


def test_without_a_calibration_intrinsics_are_predicted(tmp_path: Path) -> None:
    with BagSource(write_bag(tmp_path / "bag.mcap", camera_messages(2, calibrated=False))) as source:
        assert [(frame.k, frame.intrinsics_source) for frame in source] == [(None, IntrinsicsSource.PREDICTED)] * 2


def test_the_newest_calibration_at_that_time_counts(tmp_path: Path) -> None:
    messages = [
        ("/camera/camera_info", START_NS + 5, camera_info(0, focal=50.0)),
        ("/camera/camera_info", START_NS + 25, camera_info(0, focal=70.0)),
        *(("/camera/image_raw", START_NS + at, raw_image(make_image(0), "rgb8", START_NS)) for at in (0, 10, 20, 30)),
    ]
    with BagSource(write_bag(tmp_path / "bag.db3", messages)) as source:
        assert [frame.k[0, 0] for frame in source if frame.k is not None] == [50.0, 50.0, 50.0, 70.0]


def test_a_calibration_of_another_size_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    messages = camera_messages(3, calibrated=False)
    messages.append(("/camera/camera_info", START_NS, camera_info(0, width=640)))
    with caplog.at_level(logging.WARNING), BagSource(write_bag(tmp_path / "bag.db3", messages)) as source:
        assert [frame.k for frame in source] == [None] * 3
    assert len(caplog.messages) == 1
    assert "640 x 64" in caplog.messages[0]


def test_distorted_images_come_as_recorded_with_their_lens(tmp_path: Path) -> None:
    messages = camera_messages(1, calibrated=False)
    d = (0.3, 0.1, 0.01, -0.01, 0.0)
    messages.append(("/camera/camera_info", START_NS, camera_info(0, d=d)))
    with BagSource(write_bag(tmp_path / "bag.mcap", messages)) as source:
        (frame,) = source
    assert frame.k is not None
    np.testing.assert_array_equal(frame.image, make_image(0))
    expected, undistorted = cv2.undistort(make_image(0), frame.k, np.array(d)), frame.undistort().image.astype(int)
    np.testing.assert_allclose(undistorted, expected, atol=2)
    assert np.abs(undistorted - make_image(0)).max() > 20


def test_rectified_topics_use_p(tmp_path: Path) -> None:
    image, d = raw_image(make_image(0), "rgb8", START_NS), (0.3, 0.1, 0.01, -0.01, 0.0)
    messages = [
        ("/left/image_rect_color", START_NS, image),
        ("/left/camera_info", START_NS, camera_info(0, d=d, p_focal=77.0)),
    ]
    with BagSource(write_bag(tmp_path / "bag.mcap", messages)) as source:
        (frame,) = source
    assert frame.k is not None
    assert (frame.k[0, 0], frame.intrinsics_source) == (77.0, IntrinsicsSource.P)
    assert (frame.image == make_image(0)).all()


def test_rectified_topics_without_p_use_k_and_report_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, info = raw_image(make_image(0), "rgb8", START_NS), camera_info(0, d=(0.3, 0.1, 0.01, -0.01, 0.0))
    info.p[:] = 0
    messages = [("/left/image_rect", START_NS + step, image) for step in range(2)]
    messages.append(("/left/camera_info", START_NS, info))
    with caplog.at_level(logging.WARNING), BagSource(write_bag(tmp_path / "bag.mcap", messages)) as source:
        frames = list(source)
    assert len(frames) == 2
    for frame in frames:
        assert frame.k is not None
        assert (frame.k[0, 0], frame.intrinsics_source) == (90.0, IntrinsicsSource.K)
        assert (frame.image == make_image(0)).all()
    assert len(caplog.messages) == 1
    assert "camera_info.p is all 0: k is used" in caplog.messages[0]


def test_images_without_a_stamp_have_the_time_of_the_recording(tmp_path: Path) -> None:
    messages = [("/image", START_NS + index, raw_image(make_image(0), "rgb8", 0)) for index in (0, 10**9)]
    with BagSource(write_bag(tmp_path / "bag.mcap", messages)) as source:
        stamps = [frame.stamp for frame in source]
    assert stamps == pytest.approx([START_NS * 1e-9, START_NS * 1e-9 + 1.0], abs=1e-6)


def test_the_topic_must_be_clear(tmp_path: Path) -> None:
    image, info = raw_image(make_image(3), "rgb8", 0), camera_info(0)
    two = write_bag(
        tmp_path / "two", [("/right/image", 0, image), ("/left/image", 0, image), ("/left/camera_info", 0, info)]
    )
    refuses(two, "several topics with images, choose one with --topic: /left/image, /right/image$")
    refuses(two, "no images on /middle; it has /left/image, /right/image$", topic="/middle")
    with BagSource(two, "/left/image") as source:
        assert [frame.k is None for frame in source] == [False]
    with BagSource(two, "/right/image") as source:
        assert [frame.k is None for frame in source] == [True], "another camera's calibration is not used"
    refuses(write_bag(tmp_path / "none", [("/left/camera_info", 0, info)]), "no topic with images")
    far = raw_image(make_image(3), "rgb8", 0)
    far.encoding = "16UC1"
    depth = write_bag(tmp_path / "depth", [("/c/image_raw", 0, image), ("/c/depth/image_raw", 0, far)])
    with BagSource(depth) as source:
        assert len(list(source)) == 1


def test_images_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    messages = camera_messages(4, calibrated=False)
    messages[1][2].encoding = "32FC1"
    messages[2][2].height = 4000
    path = write_bag(tmp_path / "bag.mcap", messages)
    with BagSource(path) as source:
        assert [frame.image[0, 0, 0] for frame in source] == [0, 30]
        assert source.damage.startswith(
            f"{path}: 2 frames could be read; 2 messages were skipped (image encoding must be"
        )
        assert "\n" not in source.damage
    refuses(write_bag(tmp_path / "all.mcap", messages[1:3]), "no image on /camera/image_raw of")


# ROS 1


def test_ros_1_bags(tmp_path: Path) -> None:
    store = get_ros1_typestore()
    path = tmp_path / "old.bag"
    with Ros1Writer(path) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in (
                ("/camera/image_raw", "sensor_msgs/msg/Image"),
                ("/camera/camera_info", "sensor_msgs/msg/CameraInfo"),
            )
        }
        for topic, time_ns, message in camera_messages(3):
            fields = {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "__msgtype__"}
            stamp = fields["header"].stamp
            old_stamp = store.types["builtin_interfaces/msg/Time"](sec=stamp.sec, nanosec=stamp.nanosec)
            fields["header"] = store.types["std_msgs/msg/Header"](seq=0, stamp=old_stamp, frame_id="camera")
            if message.__msgtype__ == "sensor_msgs/msg/CameraInfo":
                fields = {name.upper() if name in "dkrp" else name: value for name, value in fields.items()}
            old = store.types[message.__msgtype__](**fields)
            writer.write(connections[topic], time_ns, store.serialize_ros1(old, message.__msgtype__))
    with BagSource(path) as source:
        frames = list(source)
        assert not source.damage
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 10, 20]
    assert all(frame.k is not None and frame.k[0, 0] == 90.0 for frame in frames)
