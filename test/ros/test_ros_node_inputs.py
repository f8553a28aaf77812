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

"""Inputs of the node: each QoS of a publisher; unusable, late or missing images and camera_info; and the resulting
diagnostics and log."""

from __future__ import annotations

import re
import resource
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from multihmr2_ros.msg import HumanArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.ros import diagnostics as diagnostics_module
from multihmr2_ros.ros import node
from test.helpers.ros_wire import (
    BEST_EFFORT,
    DOMAIN_ID,
    LATCHED,
    Log,
    Wire,
    calibration,
    image_message,
    message_of,
    values_of,
)


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
@pytest.mark.parametrize("durability", [DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL])
def test_every_publisher_matches(
    wire: Callable[..., Wire], reliability: ReliabilityPolicy, durability: DurabilityPolicy
) -> None:
    here = wire()
    here.peer.destroy_publisher(here.image)
    here.peer.destroy_publisher(here.camera_info)
    qos = QoSProfile(depth=1, reliability=reliability, durability=durability)
    here.image = here.peer.create_publisher(Image, "image", qos)
    here.camera_info = here.peer.create_publisher(CameraInfo, "camera_info", qos)
    humans = here.listen(HumanArray, "/humans")
    here.calibrate(calibration(k=50.0, p=40.0))
    assert here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_K


def test_publishers_of_different_qos_are_all_heard_and_told(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    latched = here.peer.create_publisher(Image, "image", LATCHED)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    here.exchange(humans)
    here.image, best_effort = latched, here.image
    here.exchange(humans)
    expected = "/peer (best effort, volatile); /peer (reliable, transient local)"
    here.until(lambda: values_of(diagnostics)["images from"] == expected)
    here.image = best_effort
    here.exchange(humans)


def test_a_subscriber_that_asks_for_what_is_not_offered_is_named_until_it_has_gone(
    wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str]
) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, log = here.listen(DiagnosticArray, "/diagnostics"), Log(capfd)
    here.exchange(here.listen(HumanArray, "/humans"))
    heard: list[HumanArray] = []
    wrong = here.peer.create_subscription(HumanArray, "/humans", heard.append, LATCHED)
    sentence = "/peer receives no messages on /humans: it requests reliable, transient local, but reliable, volatile is"
    here.until(lambda: sentence in message_of(diagnostics))
    here.until(lambda: log.has(sentence))
    here.exchange(here.listen(HumanArray, "/humans"))
    assert not heard
    here.peer.destroy_subscription(wrong)
    here.until(lambda: message_of(diagnostics).startswith("people are published"))
    assert diagnostics[-1].status[0].level == DiagnosticStatus.OK


def test_missing_images_are_told_with_the_reason(wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str]) -> None:
    here = wire(diagnostics_period_s=0.1, image_transport="raw")
    here.peer.destroy_publisher(here.compressed)
    diagnostics, log = here.listen(DiagnosticArray, "/diagnostics"), Log(capfd)
    here.until(lambda: "no image received on /image, though /peer publishes it" in message_of(diagnostics))
    here.until(lambda: diagnostics[-1].status[0].level == DiagnosticStatus.ERROR)  # no people for two seconds
    here.until(lambda: log.has("no image received on /image, though /peer publishes it"))
    here.peer.destroy_publisher(here.image)
    here.until(lambda: message_of(diagnostics) == "no image received on /image: it has no publisher")
    here.image = here.peer.create_publisher(Image, "image", BEST_EFFORT)
    here.exchange(here.listen(HumanArray, "/humans"))
    # A camera that stops: no images for two seconds.
    here.until(lambda: re.search(r"image for \d+ s, though /peer publishes it", message_of(diagnostics)))


def test_a_publisher_of_another_type_is_told(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1, image_transport="raw")
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.peer.destroy_publisher(here.image)
    context = rclpy.Context()  # a topic has only one type in a participant
    context.init(domain_id=DOMAIN_ID)
    other = rclpy.create_node("other", context=context)
    other.create_publisher(CompressedImage, "image", BEST_EFFORT)
    kinds = "/other publishes sensor_msgs/msg/CompressedImage there, expected sensor_msgs/msg/Image"
    here.until(lambda: message_of(diagnostics) == f"no image received on /image: {kinds}")
    other.destroy_node()
    context.shutdown()


def test_missing_camera_info_is_no_fault(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.exchange(here.listen(HumanArray, "/humans"))
    here.until(
        lambda: message_of(diagnostics) == "people are published; no camera_info received: intrinsics are predicted"
    )
    here.until(lambda: int(values_of(diagnostics)["processed"]) >= 1)  # counted after everything is published
    assert diagnostics[-1].status[0].level == DiagnosticStatus.OK
    assert diagnostics[-1].status[0].name == "/perception_node"
    assert diagnostics[-1].status[0].hardware_id == "cpu"
    values = values_of(diagnostics)
    assert values["device"] == "cpu"
    assert values["state"] == "active"
    assert int(values["processed"]) >= 1
    told = [{value.key: value.value for value in message.status[0].values} for message in diagnostics]
    assert sum(float(values["rate (Hz)"]) > 0 for values in told) >= 1
    assert 0 < min(float(values["latency p50 (s)"]) for values in told if "latency p50 (s)" in values) < 1
    assert any("latency p95 (s)" in values for values in told)


def test_camera_info_may_come_late_be_of_another_size_and_be_damaged(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")

    def answered_with(source: int, camera_info: CameraInfo | bytes) -> None:
        here.calibrate(camera_info)
        assert here.exchange(humans).intrinsics_source == source
        assert len(humans[-1].humans) == 1

    assert here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    answered_with(HumanArray.INTRINSICS_K, calibration(k=50.0, p=40.0))
    other_size = calibration(k=50.0, p=40.0)
    other_size.width = 640
    answered_with(HumanArray.INTRINSICS_PREDICTED, other_size)
    here.until(lambda: "640" in message_of(diagnostics))
    answered_with(HumanArray.INTRINSICS_K, calibration(k=50.0, p=40.0))
    answered_with(HumanArray.INTRINSICS_PREDICTED, serialize_message(calibration(k=50.0, p=40.0))[:60])
    here.until(lambda: "received a damaged CameraInfo (60 bytes)" in message_of(diagnostics))
    answered_with(HumanArray.INTRINSICS_K, calibration(k=50.0, p=40.0))
    answered_with(HumanArray.INTRINSICS_PREDICTED, calibration(k=0.0, p=0.0))
    here.until(lambda: "uncalibrated" in message_of(diagnostics))
    own_camera = calibration(k=50.0, p=40.0)
    own_camera.header.frame_id = "/camera"
    answered_with(HumanArray.INTRINSICS_K, own_camera)
    here.exchange(humans)
    here.spin(0.3)
    assert not any("is in frame" in message.status[0].message for message in diagnostics)
    other_camera = calibration(k=50.0, p=40.0)
    other_camera.header.frame_id = "rear"
    answered_with(HumanArray.INTRINSICS_K, other_camera)
    here.send_until(lambda: "camera_info is in frame 'rear', but the images are in 'camera'" in message_of(diagnostics))


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ({"encoding": "32FC1"}, "encoding"),
        ({"encoding": "no such"}, "encoding"),
        ({"height": 0, "width": 0}, "at least 1 x 1 px, got 0 x 0"),
        ({"height": 4000}, "bytes"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1}, "an image may have at most"),
        ({"step": 1}, "rows"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_and_the_next_one_is_processed(
    wire: Callable[..., Wire],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
    what: str,
) -> None:
    monkeypatch.setattr(diagnostics_module, "LOG_AGAIN_S", np.inf)
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    log = Log(capfd)
    for _ in range(3):
        here.send_until(lambda: what in message_of(diagnostics), image_message(**fault))
        here.spin(0.05)
    here.until(lambda: diagnostics[-1].status[0].level == DiagnosticStatus.ERROR)
    assert not humans
    assert len(here.exchange(humans).humans) == 1
    here.until(lambda: log.has(what))
    assert sum(what in line for line in log.warnings()) == 1, "the same cause is logged once"


def test_a_failing_estimator_does_not_stop_the_node(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    black = image_message()
    black.data = bytes(len(black.data))
    here.send_until(lambda: "a black image" in message_of(diagnostics), black)
    assert len(here.exchange(humans).humans) == 1
    here.until(lambda: int(values_of(diagnostics)["unusable"]) >= 1)


def test_an_image_that_no_error_was_foreseen_for_is_counted(
    wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")

    def fail(_: Any) -> Any:
        raise struct.error("unpack_from requires a buffer")

    with monkeypatch.context() as patch:
        patch.setattr(node, "decode_camera_image", fail)
        here.send_until(lambda: "unpack_from requires a buffer" in message_of(diagnostics))
    assert len(here.exchange(humans).humans) == 1
    here.until(lambda: here.node.counters.in_work == 0)
    assert here.node.counters.unusable >= 1
    here.until(lambda: values_of(diagnostics)["image problems"])


def damaged(rng: np.random.Generator, message: bytes) -> bytes:
    """Return the message truncated, extended, with flipped bits, or with a number at its maximum."""
    data = bytearray(message)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        return bytes(data) + rng.bytes(int(rng.integers(1, 200)))
    head = min(len(data), 120)  # the position of the lengths
    for _ in range(rng.integers(1, 6)):
        if kind == 2:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        elif kind == 3:
            data[rng.integers(head)] = rng.integers(256)
        else:
            place = 4 * rng.integers(1, head // 4)
            data[place : place + 4] = [b"\xff\xff\xff\xff", b"\xf0\xff\xff\x7f", b"\xff\xff\xff\x0f"][rng.integers(3)]
    return bytes(data)


def test_a_thousand_damaged_messages(
    wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics_module, "LOG_AGAIN_S", np.inf)  # on a busy machine, this takes more than 30 s
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    log = Log(capfd)
    distorted = calibration(k=50.0, p=40.0)
    distorted.distortion_model, distorted.d = "plumb_bob", [0.2, 0.05, 0.01, -0.01, 0.0]
    image, info = serialize_message(image_message()), serialize_message(distorted)
    rng = np.random.default_rng(0)
    here.wait_until_matched(here.image)
    here.wait_until_matched(here.camera_info)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in range(1, 501):  # one image and one camera_info each
        here.camera_info.publish(damaged(rng, info))
        here.image.publish(damaged(rng, image))
        here.until(lambda: here.node.counters.received == count and here.node.counters.in_work == 0)  # noqa: B023
    traffic = here.node.counters
    assert traffic.unusable > 100
    assert traffic.processed > 20, "a pixel may be wrong"
    assert len(here.exchange(humans).humans) == 1
    here.until(lambda: "image problems" in values_of(diagnostics) and "camera_info problems" in values_of(diagnostics))
    assert "estimator problems" not in values_of(diagnostics), message_of(diagnostics)
    growth_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib) / 1024
    assert growth_mib < 150, "a length in a damaged message made the node allocate"
    assert 2 <= len(log.warnings()) <= 25, log.warnings()


def test_images_older_than_the_maximum_age_are_dropped(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1, max_age_s=1.0)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    here.send_until(lambda: here.node.counters.dropped >= 1)  # stamped decades ago
    reason = "all images are dropped, because they are older than max_age_s"
    here.send_until(lambda: reason in message_of(diagnostics))  # two seconds after the activation
    assert diagnostics[-1].status[0].level == DiagnosticStatus.ERROR
    assert not humans
    here.stamp_s = here.peer.get_clock().now().nanoseconds // 10**9
    here.send_until(lambda: humans)
    assert humans[-1].dropped_frames == here.node.counters.dropped >= 1
