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

"""Player and recorder over DDS in separate processes; changes of stamps; people from recordings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo

from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.stamps import read_stamp_ns, restamp
from multihmr2_ros.bags.storage import is_bag
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.errors import UserError
from multihmr2_ros.ros import play, record
from multihmr2_ros.ros.play import Timeline
from test.helpers.bag_factory import (
    RATE,
    START_NS,
    camera_info,
    camera_messages,
    header,
    make,
    make_image,
    raw_image,
    serialized,
    write_bag,
)
from test.helpers.full_disk import no_file_above
from test.helpers.ros_domain import DOMAIN_ID
from test.helpers.ros_wire import ros_context

IMAGE, INFO = "/camera/image_raw/compressed", "/camera/camera_info"
ENVIRONMENT = os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID), "PYTHONUNBUFFERED": "1"}


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a process as a background job of a script: with SIGINT ignored."""
    return subprocess.Popen(
        [sys.executable, "-m", f"multihmr2_ros.ros.{module}", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, str]:
    try:
        text, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, text


def transform(time_ns: int, child: str) -> object:
    place = make("geometry_msgs/msg/Vector3", x=1.0, y=2.0, z=3.0)
    turn = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    return make(
        "geometry_msgs/msg/TransformStamped", header=header(time_ns), child_frame_id=child,
        transform=make("geometry_msgs/msg/Transform", translation=place, rotation=turn),
    )  # fmt: skip


# Over DDS


def test_what_is_played_is_recorded(tmp_path: Path) -> None:
    static = make("tf2_msgs/msg/TFMessage", transforms=[transform(START_NS, "lens")])
    messages = [("/tf_static", START_NS, static), *camera_messages(12, "jpeg")]
    source = write_bag(tmp_path / "in.mcap", messages)
    recorder = start("record", tmp_path / "out.mcap", "--topics", IMAGE, INFO[1:], "/tf_static", "/nobody")
    before_s = time.time()
    status, said = ended(start("play", source))
    after_s = time.time()
    assert status == 0, said
    assert said.splitlines()[-1] == "played 25 messages"
    recorder.send_signal(signal.SIGINT)
    status, said = ended(recorder)
    assert status == 0, said
    assert f"{tmp_path / 'out.mcap'}: 25 messages" in said
    assert "      12  /camera/image_raw/compressed" in said.splitlines()
    assert said.splitlines()[-1] == "no publisher of /nobody"

    with BagReader(tmp_path / "out.mcap") as bag:
        came = list(bag.messages())
        assert [name for name, topic in bag.topics.items() if topic.is_latched] == ["/tf_static"]
    for topic in (IMAGE, INFO):
        expected = [serialized(message) for name, _, message in messages if name == topic]
        found = [message.data for message in came if message.topic == topic]
        # All bytes except the stamps at the beginning equal the recorded ones. DDS pads to four bytes.
        padded = [data + bytes(-len(data) % 4) for data in expected]
        assert [data[12:] for data in found] == [data[12:] for data in padded]
    stamps = {topic: [read_stamp_ns(m.data, m.type_name) for m in came if m.topic == topic] for topic in (IMAGE, INFO)}
    assert stamps[IMAGE] == stamps[INFO], "an image and its camera_info keep one stamp"
    assert set(np.diff(stamps[IMAGE])) == {10**9 // RATE}
    assert before_s < stamps[IMAGE][0] * 1e-9 < after_s
    images = [message for message in came if message.topic == IMAGE]
    late_s = [(message.time_ns - read_stamp_ns(message.data, message.type_name)) * 1e-9 for message in images]
    assert min(late_s) > -0.001, "no image is earlier than the recorded pace"
    # A busy machine delays single images; a player that is too slow delays all images of the second half.
    assert min(late_s[6:]) < 0.05, "the recorded pace is kept"


def test_playing_imports_no_module(tmp_path: Path) -> None:
    """Otherwise the messages of the first second are published late, all at once, and most of them are lost."""
    program = """
import sys
from pathlib import Path
import rclpy
from multihmr2_ros.ros.play import Player

rclpy.init()
player = Player(rclpy.create_node("player"), Path(sys.argv[1]), [], 1000.0, stamps_now=True)
before = set(sys.modules)
player.play()
print("imported:", *sorted(set(sys.modules) - before))
"""
    bag = write_bag(tmp_path / "in.mcap", camera_messages(3, "jpeg"))
    done = subprocess.run(
        [sys.executable, "-c", program, str(bag)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "imported:", done.stdout + done.stderr


def test_a_late_topic_that_cannot_be_recorded_loses_no_message(tmp_path: Path) -> None:
    (tmp_path / "diagnostic_msgs").mkdir()  # hides the package with the type of the late topic from the recorder
    (tmp_path / "diagnostic_msgs/__init__.py").touch()
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    recorder = start("record", tmp_path / "out.mcap", "--topics", INFO, "/late", PYTHONPATH=path)
    first = write_bag(tmp_path / "first.mcap", camera_messages(6, "jpeg"))
    assert ended(start("play", first, "--topics", INFO, "--wait-for", 1))[0] == 0
    pair = make("diagnostic_msgs/msg/KeyValue", key="a", value="b")
    late = write_bag(tmp_path / "late.mcap", [("/late", START_NS, pair), *camera_messages(6, "jpeg")])
    assert ended(start("play", late, "--topics", INFO, "/late"))[0] == 0
    recorder.send_signal(signal.SIGINT)
    status, said = ended(recorder)
    assert status == 0, said
    refusals = [line for line in said.splitlines() if "diagnostic_msgs/msg/KeyValue" in line]
    assert len(refusals) == 1, said
    assert refusals[0].endswith("the other topics are still recorded")
    with BagReader(tmp_path / "out.mcap") as bag:
        assert [message.topic for message in bag.messages()] == [INFO] * 12


def test_an_error_keeps_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = BagWriter.write

    def fill_disk(writer: BagWriter, *message: Any) -> None:
        if writer.counts.get(INFO) == 2:
            raise UserError("the disk is full")
        write(writer, *message)

    player = start("play", write_bag(tmp_path / "in.mcap", camera_messages(6, "jpeg")), "--wait-for", 1)
    monkeypatch.setattr(BagWriter, "write", fill_disk)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN_ID))
    assert record.main([str(tmp_path / "out.mcap"), "--topics", INFO]) == 2
    ended(player)
    out = tmp_path / "out.mcap"
    assert capsys.readouterr().err.splitlines() == [f"{out}: 2 messages until the error", "record: the disk is full"]
    with BagReader(out) as bag:
        assert [message.topic for message in bag.messages()] == [INFO] * 2


@pytest.mark.parametrize(("name", "repair"), [("out.mcap", "; `mcap recover` repairs the .mcap file"), ("out.db3", "")])
def test_an_incomplete_bag_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, repair: str
) -> None:
    writer = BagWriter(tmp_path / name)
    for message in camera_messages(6, "jpeg"):
        writer.write(message[0], message[2].__msgtype__, serialized(message[2]), message[1])
    with no_file_above(0), pytest.raises(UserError, match="cannot write"):
        record._close(writer)
    out = tmp_path / name
    assert capsys.readouterr().err == f"{out} is incomplete: multihmr2 reads it up to the error{repair}\n"
    assert is_bag(out)


def test_messages_that_have_arrived_are_written_although_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = BagWriter.write, 40

    def write_slowly(writer: BagWriter, *message: Any) -> None:
        time.sleep(1.5 * record.DRAIN_S / count)
        write(writer, *message)

    monkeypatch.setattr(BagWriter, "write", write_slowly)
    with ros_context(), BagWriter(tmp_path / "out.mcap") as writer:
        node = rclpy.create_node("recorder")
        publisher = node.create_publisher(CameraInfo, INFO, count)
        recorder = record.Recorder(node, writer, [INFO])
        while not publisher.get_subscription_count():
            recorder.update_subscriptions()
        for _ in range(count):
            publisher.publish(CameraInfo())
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        record._drain(writer, executor)
        assert writer.counts == {INFO: count}
        executor.shutdown()
        node.destroy_node()


def test_recorded_stamps_come_with_a_clock_at_twice_the_pace(tmp_path: Path) -> None:
    count = 41
    recorded_s = (count - 1) / RATE
    source = write_bag(tmp_path / "in.db3", camera_messages(count, "jpeg"))
    recorder = start("record", tmp_path / "out", "--topics", INFO, "/clock")
    status, said = ended(start("play", source, "--topics", INFO, "--stamps", "recorded", "-r", 2, "--wait-for", 1))
    assert (status, said.splitlines()[-1]) == (0, f"played {count} messages")
    recorder.send_signal(signal.SIGTERM)
    assert ended(recorder)[0] == 0
    with BagReader(tmp_path / "out") as bag:
        came = list(bag.messages())
        clock = [bag.decode(message).clock for message in came if message.topic == "/clock"]
    infos = [message for message in came if message.topic == INFO]
    assert [read_stamp_ns(m.data, m.type_name) for m in infos] == [
        START_NS + index * 10**9 // RATE for index in range(count)
    ]
    # The most punctual messages of the first half and of the last quarter are more than a recorded second apart, and
    # are played within 0.1 s of half their distance. A busy machine delays other messages.
    arrival_s = np.array([message.time_ns for message in infos]) * 1e-9
    recorded_at_s = np.arange(count) / RATE
    late_s = arrival_s - recorded_at_s / 2
    quarter = count // 4
    first, last = int(late_s[: 2 * quarter].argmin()), count - quarter + int(late_s[-quarter:].argmin())
    assert recorded_at_s[last] - recorded_at_s[first] > 1.0
    assert arrival_s[last] - arrival_s[first] == pytest.approx(
        (recorded_at_s[last] - recorded_at_s[first]) / 2, abs=0.1
    )
    times = [each.sec * 10**9 + each.nanosec for each in clock]
    assert times == sorted(times)
    assert times[0] >= START_NS - 10**8
    assert times[-1] == pytest.approx(START_NS + recorded_s * 1e9, abs=10**7)
    assert len(times) > 15


def test_nothing_to_record_leaves_nothing(tmp_path: Path) -> None:
    recorder = start("record", tmp_path / "out.mcap", "--topics", "/nobody")
    assert recorder.stdout is not None
    assert recorder.stdout.readline() == "waiting for a publisher of /nobody (Ctrl-C ends)\n"
    recorder.send_signal(signal.SIGINT)
    status, said = ended(recorder)
    assert (status, said) == (2, "record: no message received on /nobody; no bag was written\n")
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_ends_the_player(tmp_path: Path) -> None:
    player = start("play", write_bag(tmp_path / "in.mcap", camera_messages(3, "jpeg")), "--wait-for", 0)
    assert player.stdout is not None
    player.stdout.close()
    assert player.wait(120) == 141


@pytest.mark.usefixtures("restore_signal_handlers")
def test_names_that_ros_does_not_allow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "in.mcap", [("/camera-1/camera_info", START_NS, camera_info(START_NS))])
    assert play.main([str(bag)]) == 2
    assert record.main([str(tmp_path / "out.mcap"), "--topics", "/camera_1", "camera 2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = "expected a topic name such as /camera/image_raw, got "
    assert [line.partition(": topic name must")[0] for line in lines] == [
        f"play: {expected}'/camera-1/camera_info'",
        f"record: {expected}'camera 2'",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["in.mcap"]


def test_the_player_ends_with_ctrl_c_while_it_waits(tmp_path: Path) -> None:
    player = start("play", write_bag(tmp_path / "in.mcap", camera_messages(3, "jpeg")), "--loop")
    assert player.stdout is not None
    assert player.stdout.readline() == f"waiting for a subscriber of {IMAGE}, {INFO} (Ctrl-C ends)\n"
    player.send_signal(signal.SIGINT)
    assert ended(player) == (0, "played 0 messages\n")


@pytest.mark.usefixtures("restore_signal_handlers")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("play", "missing.mcap"), "play: the bag missing.mcap does not exist"),
        (("play", "IN", "--topics", "/other"), f"has no topic /other; it has {INFO}, {IMAGE}"),
        (("play", "IN", "--rate", "0"), "play: --rate must lie between 0.001 and 1000, got 0.0"),
        (("play", "IN", "--wait-for", "-1"), "play: --wait-for must be a number of subscribers, 0 or more, got -1"),
        (("record", "IN", "--topics", "/a"), "in.mcap already exists"),
        (("record", "new/out", "--topics", "/a"), "record: the folder new of out does not exist: create it first"),
        (("play", "IN", "--ros-args", "-r", "foo"), "see python -m multihmr2_ros.ros.play --help"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bag = write_bag(tmp_path / "in.mcap", camera_messages(1, "jpeg"))
    tool, *rest = (str(bag) if each == "IN" else each for each in arguments)
    assert {"play": play, "record": record}[tool].main(rest) == 2
    printed = capfd.readouterr()
    (line,) = (printed.out + printed.err).splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == [bag]


# Stamps


@pytest.mark.parametrize("little_endian", [True, False])
def test_the_stamp_of_a_message_that_begins_with_a_header(little_endian: bool) -> None:
    message = raw_image(make_image(1), "rgb8", START_NS + 5)
    data = bytes(make_typestore().serialize_cdr(message, message.__msgtype__, little_endian=little_endian))
    assert read_stamp_ns(data, message.__msgtype__) == START_NS + 5
    moved = restamp(data, message.__msgtype__, lambda before: before + 10**9)
    message.header.stamp.sec += 1
    assert moved == bytes(make_typestore().serialize_cdr(message, message.__msgtype__, little_endian=little_endian))


def test_stamps_inside_a_sequence_and_stamps_that_are_not_set() -> None:
    message = make("tf2_msgs/msg/TFMessage", transforms=[transform(START_NS, "a"), transform(0, "b")])
    kind = message.__msgtype__
    moved = make_typestore().deserialize_cdr(restamp(serialized(message), kind, lambda before: before + 7), kind)
    assert [each.header.stamp.nanosec for each in moved.transforms] == [7, 0]
    assert [each.header.stamp.sec for each in moved.transforms] == [START_NS // 10**9, 0]
    assert [each.child_frame_id for each in moved.transforms] == ["a", "b"]
    unset = serialized(camera_info(0))
    assert restamp(unset, "sensor_msgs/msg/CameraInfo", lambda before: before + 7) == unset


def test_messages_without_a_header_or_a_definition_stay_as_they_are() -> None:
    text = serialized(make("std_msgs/msg/String", data="header"))
    assert restamp(text, "std_msgs/msg/String", lambda before: before + 1) == text
    assert restamp(b"any bytes", "nobody_msgs/msg/Nothing", lambda before: before + 1) == b"any bytes"


@pytest.mark.parametrize(
    ("stamp", "rate", "expected"),
    [
        (START_NS - 30_000_000, 1.0, -30_000_000),  # recorded 30 ms after the image was taken, and played accordingly
        (START_NS - 30_000_000, 2.0, -15_000_000),
        (7 * 10**9, 1.0, 0),  # from another clock: the first message is stamped with the current time
    ],
)
def test_stamps_are_moved_to_now(stamp: int, rate: float, expected: int) -> None:
    now_ns = 2_000_000_000_000_000_000
    timeline = Timeline(START_NS, now_ns, rate)
    for delay_ns in (0, 10**8):
        data = serialized(camera_info(stamp + delay_ns))
        message = BagMessage(INFO, "sensor_msgs/msg/CameraInfo", START_NS + delay_ns, data)
        assert timeline.compute_due_s(message) == pytest.approx(delay_ns * 1e-9 / rate)
        moved = read_stamp_ns(timeline.restamp_to_now(message), message.type_name)
        assert moved == now_ns + expected + round(delay_ns / rate)
