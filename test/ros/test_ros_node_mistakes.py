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

"""Errors of users and cameras: the node handles them, or reports the cause and the remedy in one line."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from multihmr2_ros.msg import HumanArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from multihmr2_ros.errors import UserError
from multihmr2_ros.ros import command_line, inputs
from multihmr2_ros.ros.command_line import check_arguments, find_unused_remaps
from multihmr2_ros.ros.inputs import list_image_topics
from multihmr2_ros.ros.node import PerceptionNode
from multihmr2_ros.ros.parameters import DEFAULTS
from test.helpers.ros_wire import (
    BEST_EFFORT,
    LATCHED,
    TIMEOUT_S,
    Log,
    Wire,
    calibration,
    image_message,
    message_of,
    processes,
    ros_context,
)
from test.helpers.stand_in_estimator import StandInEstimator


def compressed_message() -> CompressedImage:
    data = cv2.imencode(".png", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    message = CompressedImage(format="png", data=data)
    message.header.frame_id = "camera"
    return message


# --- image topics


def test_a_camera_that_publishes_compressed_images_only_is_found_by_itself(wire: Callable[..., Wire]) -> None:
    here = wire()
    here.peer.destroy_publisher(here.image)
    humans = here.listen(HumanArray, "/humans")
    assert len(here.exchange(humans, compressed_message()).humans) == 1
    # The camera is replaced by one that publishes raw images.
    here.peer.destroy_publisher(here.compressed)
    here.image = here.peer.create_publisher(Image, "image", BEST_EFFORT)
    assert len(here.exchange(humans, image_message()).humans) == 1


def test_a_node_that_switches_to_compressed_images_gives_no_advice(
    wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multihmr2_ros.ros.node.UPDATE_PERIOD_S", 1000.0)  # it is always about to switch
    here = wire(diagnostics_period_s=0.1)
    here.peer.destroy_publisher(here.image)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    said = "waiting for an image on /image/compressed: the node is switching to it"
    here.until(lambda: message_of(diagnostics) == said)
    assert not any("remap image" in status.message for message in diagnostics for status in message.status)


def test_raw_images_are_used_where_both_are_published(wire: Callable[..., Wire]) -> None:
    here = wire()
    here.exchange(here.listen(HumanArray, "/humans"))
    here.spin(3 * inputs.UPDATE_PERIOD_S)
    assert here.image.get_subscription_count() == 1
    assert here.compressed.get_subscription_count() == 0, "a camera would compress for nobody"


@pytest.mark.parametrize(
    ("transport", "gone", "said"),
    [
        (
            "raw",
            "image",
            "no image received on /image: it has no publisher, but /peer publishes sensor_msgs/msg/CompressedImage on "
            "/image/compressed: set image_transport to compressed (transport:=compressed of the launch file)",
        ),
        (
            "compressed",
            "compressed",
            "no image received on /image/compressed: it has no publisher, but /peer publishes sensor_msgs/msg/Image on "
            "/image: set image_transport to raw (transport:=raw of the launch file)",
        ),
    ],
)
def test_the_other_transport_is_said_with_what_to_type(
    wire: Callable[..., Wire], transport: str, gone: str, said: str
) -> None:
    here = wire(diagnostics_period_s=0.1, image_transport=transport)
    here.peer.destroy_publisher(getattr(here, gone))
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.until(lambda: message_of(diagnostics) == said)


def test_topics_on_which_images_come_are_said(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    here.peer.destroy_publisher(here.image)
    here.peer.destroy_publisher(here.compressed)
    for topic in ("/head/rgb", "/head/depth/image"):
        here.peer.create_publisher(Image, topic, BEST_EFFORT)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    said = "it has no publisher; images are published on /head/rgb: remap image to the right topic (image:=/head/rgb)"
    here.until(lambda: message_of(diagnostics) == f"no image received on /image: {said}")


@pytest.mark.parametrize(
    ("remaps", "raw", "compressed"),
    [
        ([], "/ns/image", "/ns/image/compressed"),
        (["image:=/cam/image_raw"], "/cam/image_raw", "/cam/image_raw/compressed"),
        (["image:=rgb"], "/ns/rgb", "/ns/rgb/compressed"),
        (["image/compressed:=/jpeg"], "/ns/image", "/jpeg"),
        (["image:=/cam/image_raw", "image/compressed:=/jpeg"], "/cam/image_raw", "/jpeg"),
        (["image:=/cam/image_raw/compressed"], "/cam/image_raw", "/cam/image_raw/compressed"),
    ],
)
def test_the_suffix_of_compressed_images_comes_after_remapping(remaps: list[str], raw: str, compressed: str) -> None:
    arguments = [text for rule in remaps for text in ("-r", rule)]
    with ros_context():
        for transport, topic in (("raw", raw), ("compressed", compressed)):
            node = PerceptionNode(
                StandInEstimator,
                namespace="ns",
                cli_args=["--ros-args", "-p", f"image_transport:={transport}", *arguments],
            )
            assert {source.transport: source.topic for source in list_image_topics(node)}[transport] == topic
            assert topic in {subscription.topic_name for subscription in node.subscriptions}
            assert node.close()
            node.destroy_node()


# --- inputs that arrive and inputs that are missing


def test_a_publisher_that_has_just_appeared_has_not_stalled(
    wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str]
) -> None:
    here = wire(diagnostics_period_s=0.1)
    here.peer.destroy_publisher(here.image)
    here.peer.destroy_publisher(here.compressed)
    diagnostics, log = here.listen(DiagnosticArray, "/diagnostics"), Log(capfd)
    here.spin(2.5)  # longer than the limit for a missing input
    here.image = here.peer.create_publisher(Image, "image", BEST_EFFORT)
    appeared_s = time.monotonic()
    here.until(lambda: "waiting for an image on /image: /peer appeared" in message_of(diagnostics))
    here.until(lambda: "the publisher has stalled" in message_of(diagnostics))
    assert time.monotonic() - appeared_s > inputs.FIRST_IMAGE_TIMEOUT_S - 0.5
    assert not any("waiting for an image" in line for line in log.warnings()), "no reason to warn"
    here.until(lambda: log.has("the publisher has stalled"))


def test_images_without_a_frame_have_no_transforms_and_it_is_said(
    wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str]
) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, log = here.listen(DiagnosticArray, "/diagnostics"), Log(capfd)
    transforms, humans = here.listen(TFMessage, "/tf"), here.listen(HumanArray, "/humans")
    nameless = image_message()
    nameless.header.frame_id = ""
    (human,) = here.exchange(humans, nameless).humans
    assert human.frame_id == "", "such a frame does not exist"
    here.until(lambda: "images have no header.frame_id" in message_of(diagnostics))
    assert diagnostics[-1].status[0].level == DiagnosticStatus.WARN
    here.until(lambda: log.has("images have no header.frame_id"))
    assert not [each for message in transforms for each in message.transforms]
    assert here.exchange(humans).humans[0].frame_id == "body_7"
    here.until(lambda: [each.header.frame_id for message in transforms for each in message.transforms] == ["camera"])


def test_images_without_a_stamp_have_no_transforms_and_it_is_said(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    transforms = here.listen(TFMessage, "/tf")
    here.until(lambda: here.image.publish(image_message()) or humans)
    assert (humans[-1].header.stamp.sec, humans[-1].humans[0].frame_id) == (0, "")
    here.until(lambda: "images have no header.stamp" in message_of(diagnostics))
    here.exchange(humans)
    here.until(lambda: [each for message in transforms for each in message.transforms])
    assert {each.header.stamp.sec for message in transforms for each in message.transforms} == {here.stamp_s}


def test_images_from_the_future_are_said(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1, max_age_s=1.0)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.stamp_s = here.peer.get_clock().now().nanoseconds // 10**9 + 1000
    humans = here.listen(HumanArray, "/humans")
    assert here.exchange(humans).age_at_receipt < -990
    here.until(lambda: re.search(r"images are stamped \d+\.\d s in the future", message_of(diagnostics)))


def test_simulated_time_that_does_not_begin_is_said(
    wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from multihmr2_ros.ros import node

    monkeypatch.setattr(node, "FIRST_IMAGE_TIMEOUT_S", 0.3)
    here = wire(diagnostics_period_s=0.1, use_sim_time=True)
    diagnostics, log = here.listen(DiagnosticArray, "/diagnostics"), Log(capfd)
    humans = here.exchange(here.listen(HumanArray, "/humans"))
    assert np.isnan([humans.age_at_receipt, humans.total_latency]).all(), "the time is unknown"
    here.until(lambda: "/clock has no messages: time stays at 0" in message_of(diagnostics))
    here.until(lambda: log.has("use_sim_time is true, but /clock has no messages"))
    assert "in the future" not in message_of(diagnostics)


def test_a_calibration_that_was_published_once_before_the_node_came_is_used() -> None:
    with ros_context(), contextlib.closing(Wire()) as here:
        pass  # the middleware is initialized
    with ros_context():
        camera = rclpy.create_node("camera")
        latched = camera.create_publisher(CameraInfo, "camera_info", LATCHED)
        latched.publish(calibration(k=50.0, p=40.0))
        with contextlib.closing(Wire()) as here:
            here.peer.destroy_publisher(here.camera_info)
            humans = here.listen(HumanArray, "/humans")
            here.until(lambda: here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_K)
        camera.destroy_node()


@pytest.mark.parametrize("kind", ["reliability", "durability", "both"])
def test_a_latched_calibration_arrives_with_the_user_s_quality_of_service(kind: str) -> None:
    name = "qos_overrides./camera_info.subscription"
    overrides = {f"{name}.reliability": "reliable", f"{name}.durability": "transient_local"}
    with ros_context():
        camera = rclpy.create_node("camera")
        latched = camera.create_publisher(CameraInfo, "camera_info", LATCHED)
        latched.publish(calibration(k=50.0, p=40.0))
        given = {key: value for key, value in overrides.items() if kind == "both" or key.endswith(kind)}
        with contextlib.closing(Wire(**given)) as here:
            here.peer.destroy_publisher(here.camera_info)
            humans = here.listen(HumanArray, "/humans")
            here.until(lambda: here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_K)
            assert latched.get_subscription_count() == (1 if kind == "both" else 2), "asked for once as latched"
        camera.destroy_node()


def test_other_cameras_are_not_asked_for_a_latched_calibration(wire: Callable[..., Wire]) -> None:
    here = wire()
    here.until(lambda: here.camera_info.get_subscription_count() > 0)
    here.spin(3 * inputs.UPDATE_PERIOD_S)
    assert here.camera_info.get_subscription_count() == 1, "its driver would warn of a QoS that does not fit"


# --- the command line


@pytest.fixture
def node() -> Iterator[PerceptionNode]:
    with ros_context():
        made = PerceptionNode(StandInEstimator, namespace="ns")
        yield made
        assert made.close()
        made.destroy_node()


def test_every_name_that_can_be_remapped_is_known(node: PerceptionNode) -> None:
    node.set_parameters([Parameter("fixed_frame", value="odom")])
    ends = [each.topic_name for each in (*node.publishers, *node.subscriptions)]
    ends += [node.resolve_topic_name(service.srv_name, only_expand=True) for service in node.services]
    assert (
        find_unused_remaps(["node", "--ros-args", *[text for end in ends for text in ("-r", f"{end}:=/x")]], node) == []
    )
    known = [*command_line.TOPICS, *command_line.SERVICES]
    assert find_unused_remaps(["node", *[f"{name}:=/x" for name in known]], node) == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("imge:=/cam", "the remapping imge:=/cam has no effect: the node has no 'imge'; did you mean 'image'?"),
        ("/image:=/cam", "the node has no '/image'"),  # its name is /ns/image
        ("camera/image_raw:=/cam", "the node has no 'camera/image_raw'"),
        ("perception_node:humns:=/people", "did you mean 'humans'?"),
    ],
)
def test_a_remapping_that_does_nothing_is_named(node: PerceptionNode, rule: str, said: str) -> None:
    (sentence,) = find_unused_remaps(["node", "--ros-args", "-p", "device:=cpu", "--remap", rule], node)
    assert said in sentence


@pytest.mark.parametrize("rule", ["image:=/cam", "/ns/image:=/cam", "__ns:=/a", "other_node:scan:=/x", "~/reset:=/r"])
def test_other_remappings_are_not(node: PerceptionNode, rule: str) -> None:
    assert find_unused_remaps(["node", "--ros-args", "-r", rule], node) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cpu"], "got '--device cpu'; parameters are given as --ros-args -p device:=VALUE"),
        (["device:=cpu"], "got 'device:=cpu'; parameters are given as --ros-args -p device:=VALUE"),
        (["cpu"], "got 'cpu'; parameters are given as --ros-args -p NAME:=VALUE"),
        (["--ros-args", "--log-level", "info", "--", "--score-threshold=0.2"], "-p score_threshold:=VALUE"),
        (
            ["--ros-args", "-p", "score_threshold=0.5"],
            "Couldn't parse parameter override rule: '-p score_threshold=0.5'",
        ),
        (["--ros-args", "--foo"], "expected -r NAME:=TOPIC or -p PARAMETER:=VALUE, each with its own -r or -p, got"),
        (["--ros-args", "-p", "device:=cpu", "mesh:=full"], "each with its own -r or -p, got ['mesh:=full']"),
        (["--ros-args", "--params-file", "/no/such.yaml"], "Couldn't parse params file: '--params-file /no/such.yaml'"),
    ],
)
def test_arguments_that_ros_does_not_take_are_refused_in_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=r"see perception_node --help$") as error:
        check_arguments(["perception_node", *arguments])
    assert said in str(error.value)


def test_help_names_every_parameter_and_topic(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check_arguments(["perception_node", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name}:=" in text for name in DEFAULTS)
    assert all(f"  {name} " in text for name in command_line.TOPICS)


def test_unknown_parameters_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--ros-args", "-p", "chekpoint:=nano", "-p", "use_sim_time:=false", "-p", "device:=cpu"]
    arguments += ["-p", "qos_overrides./image.subscription.depth:=2", "-p", "qos_overrides./img.subscription.depth:=2"]
    with ros_context():
        node = PerceptionNode(StandInEstimator, cli_args=arguments)
        assert node.close()
        node.destroy_node()
    said = [line for line in capfd.readouterr().err.splitlines() if "is ignored" in line]
    assert len(said) == 2
    assert said[0].endswith("unknown parameter 'chekpoint' is ignored; did you mean 'checkpoint'?")
    assert "'qos_overrides./img.subscription.depth' is ignored: the node has no such topic" in said[1]


def test_a_missing_decimal_point_is_said() -> None:
    with (
        ros_context(),
        pytest.raises(UserError, match=r"must have a decimal point: expected 1\.0, got 1$"),
    ):
        PerceptionNode(StandInEstimator, cli_args=["--ros-args", "-p", "score_threshold:=1"])


@pytest.mark.parametrize(
    ("parameter", "said"),
    [("device:=cuda:77", "choose the device cpu"), ("score_threshold:=high", "expecting type 'DOUBLE'")],
)
def test_what_ends_the_process_is_logged_as_fatal_in_the_words_of_ros(parameter: str, said: str) -> None:
    with processes() as start:
        node = start("multihmr2_ros.ros.node", "--ros-args", "-p", parameter)
        assert node.popen.wait(TIMEOUT_S) == 2, node.log()
        (line,) = [line for line in node.log().splitlines() if said in line]
        assert line.startswith("[FATAL]")
        assert not re.search(r"--(?!ros-args)\w", line), "the node has no such options"
        assert "Traceback" not in node.log()


def test_no_option_of_the_command_line_is_named_where_the_node_passes() -> None:
    """Messages of code shared with the node: network, weights, body, camera."""
    package = Path(inputs.__file__).parents[1]
    for path in [
        *(package / "network").glob("*.py"),
        *(package / "camera").glob("*.py"),
        *(package / "body").glob("*.py"),
        package / "estimator.py",
    ]:
        assert not re.search(r"(use|with|give|choose) --[a-z]", path.read_text(encoding="utf-8")), path
