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

"""Depth images: matching with images, validation, and the depth passed to the estimator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from multihmr2_ros.msg import HumanArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from multihmr2_ros import lens as lenses
from multihmr2_ros.camera import CameraModel, distort_points
from multihmr2_ros.errors import UserError
from multihmr2_ros.lens import LensDistortion, get_lens
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.depth import KEPT_LEAST, DepthImages, depth_from_ros, read_stamp
from multihmr2_ros.ros.restarts import load_estimator
from test.helpers.ros_wire import BEST_EFFORT, Wire, calibration, image_message, message_of, values_of

SIZE = (48, 64)
LONG_S = 60.0  # no test waits so long unless it fails
HEADER = HeaderContent(7, 5, "camera")
MILLIMETERS = np.arange(48 * 64, dtype=np.uint16).reshape(SIZE)


def make_depth_message(depth: NDArray[Any] = MILLIMETERS, sec: int = 0, nanosec: int = 0, **changes: Any) -> Image:
    """Return the depth image of a driver, with some fields changed independently of the others."""
    encoding = "16UC1" if depth.dtype.itemsize == 2 else "32FC1"
    height, width = depth.shape
    message = Image(height=height, width=width, encoding=encoding, step=width * depth.dtype.itemsize)
    message.data.frombytes(depth.tobytes())
    message.header.frame_id = "camera"
    message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
    for name, value in changes.items():
        setattr(message, name, value)
    return message


# --- values


def test_depth_values_are_decoded() -> None:
    meters = MILLIMETERS.astype(np.float32) / 1000
    meters[0, :3] = np.nan, np.inf, 0
    for depth in (MILLIMETERS, meters):
        came = depth_from_ros(make_depth_message(depth), HEADER, SIZE)
        assert came.dtype == depth.dtype
        np.testing.assert_array_equal(came, depth)
        swapped = depth.astype(depth.dtype.newbyteorder(">"))
        other = depth_from_ros(make_depth_message(swapped, is_bigendian=1), HEADER, SIZE)
        np.testing.assert_array_equal(other, depth)
        assert other.dtype.isnative
    padded = np.zeros((48, 70), np.uint16)
    padded[:, :64] = MILLIMETERS
    came = depth_from_ros(make_depth_message(padded, width=64), HEADER, SIZE)
    np.testing.assert_array_equal(came, MILLIMETERS)
    np.testing.assert_array_equal(depth_from_ros(make_depth_message(encoding="mono16"), HEADER, SIZE), MILLIMETERS)


REFUSED = [
    ({"encoding": "rgb8"}, "must be 16UC1 or 32FC1 or mono16, got 'rgb8'"),
    ({"encoding": ""}, "got ''"),
    ({"width": 63}, "must be registered to the image .64 x 48 px in frame 'camera'., got 63 x 48 px"),
    ({"height": 0}, "got 64 x 0 px"),
    ({"step": 127}, "rows of at least 128 bytes, got step 127"),
    ({"step": 2**31}, "rows of at least 128 bytes"),
    ({"encoding": "32FC1"}, "rows of at least 256 bytes"),
    ({"data": b""}, "and 0 bytes in all"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_depth_images_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        depth_from_ros(make_depth_message(**changes), HEADER, SIZE)


def test_a_depth_image_of_another_frame_is_not_registered() -> None:
    message = make_depth_message()
    message.header.frame_id = "depth_camera"
    with pytest.raises(UserError, match=r"in frame 'camera'.*got 64 x 48 px in 'depth_camera'"):
        depth_from_ros(message, HEADER, SIZE)


# --- matching with images


def keep_images(*stamps_ns: int) -> DepthImages:
    images = DepthImages()
    for stamp_ns in stamps_ns:
        images.add(serialize_message(make_depth_message(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)))
    return images


def test_the_nearest_stamp_wins() -> None:
    images = keep_images(*(10**9 + step * 10_000_000 for step in range(4)))
    for wanted, found in ((0, 0), (4_000_000, 0), (6_000_000, 10_000_000), (16_000_000, 20_000_000)):
        message = images.find_nearest(10**9 + wanted, 0.006)
        assert message is not None
        assert read_stamp(message) == 10**9 + found
    assert images.find_nearest(10**9 - 7_000_000, 0.006) is None
    assert images.find_nearest(10**9 + 37_000_000, 0.006) is None
    assert DepthImages().find_nearest(0, 0.1) is None


def test_a_depth_image_that_comes_in_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multihmr2_ros.messages.depth.ALIVE_S", LONG_S)
    images = keep_images(10**9)
    later = threading.Timer(0.1, lambda: images.add(serialize_message(make_depth_message(sec=100))))
    later.start()
    message = images.find_nearest(100 * 10**9, LONG_S)
    later.join()
    assert message is not None
    assert read_stamp(message) == 100 * 10**9
    began_s = time.monotonic()
    assert DepthImages().find_nearest(0, LONG_S) is None
    assert time.monotonic() - began_s < LONG_S, "where nothing ever came, nothing is waited for"


def test_images_that_cannot_be_nearer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multihmr2_ros.messages.depth.ALIVE_S", LONG_S)
    images = keep_images(10**9)
    began_s = time.monotonic()
    message = images.find_nearest(10**9 + 5_000_000, LONG_S)
    assert time.monotonic() - began_s < LONG_S, "what comes after 5 ms is farther away"
    assert message is not None
    assert read_stamp(message) == 10**9
    nearer = threading.Timer(0.1, lambda: images.add(serialize_message(make_depth_message(sec=100))))
    nearer.start()
    message = images.find_nearest(100 * 10**9 + 5_000_000, LONG_S)
    nearer.join()
    assert time.monotonic() - began_s < LONG_S, "nor after one came that is earlier, but near enough"
    assert message is not None
    assert read_stamp(message) == 100 * 10**9


def test_a_depth_image_that_arrives_late_does_not_remove_newer_ones() -> None:
    images = keep_images(*(10**9 + stamp_ms * 1_000_000 for stamp_ms in (100, 133, 116)))
    for stamp_ms in (133, 116, 100):
        message = images.find_nearest(10**9 + stamp_ms * 1_000_000, 0.03)
        assert message is not None
        assert read_stamp(message) == 10**9 + stamp_ms * 1_000_000


def test_images_without_stamps_have_no_depth() -> None:
    images = DepthImages()
    for value in (1, 2):
        images.add(serialize_message(make_depth_message(np.full(SIZE, value, np.uint16))))
    assert images.find_nearest(0, 0.1) is None


def test_an_image_that_had_to_wait_finds_its_depth_image() -> None:
    images = keep_images(*(10**9 + step * 16_666_667 for step in range(60)))  # 60 Hz, until one second after the image
    message = images.find_nearest(10**9, 0.03)
    assert message is not None
    assert read_stamp(message) == 10**9


def test_memory_is_bounded_and_time_may_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    images = keep_images(*(10**9 + step * 50_000_000 for step in range(100)))  # 5 s
    assert len(images._kept) == 21
    assert images._bytes == sum(len(message) for _, message in images._kept)
    monkeypatch.setattr("multihmr2_ros.messages.depth.KEPT_BYTES", 1)
    images.add(serialize_message(make_depth_message(sec=6)))
    assert len(images._kept) == KEPT_LEAST
    images.add(serialize_message(make_depth_message(sec=0, nanosec=5)))
    message = images.find_nearest(5, 0.001)
    assert message is not None
    assert read_stamp(message) == 5
    for damaged in (b"", b"\0" * 11):
        images.add(damaged)
    assert read_stamp(bytes([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 7])) == 2 * 10**9 + 7, "big-endian"


# --- through the lens


def test_depth_goes_through_the_lens_as_the_image_does() -> None:
    """Compared with the inverse: the position of each ideal pixel's center in the distorted image."""
    k = np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    camera = CameraModel(k, np.array([0.2, 0.05, 0.01, -0.01, 0.0]), "plumb_bob", 64, 48, "K")
    rows, columns = np.mgrid[:48, :64]
    ideal = np.stack([columns, rows], axis=-1).astype(float)
    there = np.rint(distort_points(ideal, camera)).astype(int)
    inside = np.all((there >= 0) & (there < (64, 48)), axis=-1)
    expected = np.where(inside, MILLIMETERS[np.where(inside, there[..., 1], 0), np.where(inside, there[..., 0], 0)], 0)
    lens = LensDistortion(camera)
    for scale, kind in ((1, np.uint16), (0.001, np.float32)):
        depth = (MILLIMETERS * scale).astype(kind)
        came = lens.undistort_depth(depth)
        assert came.dtype == kind
        same = np.isclose(came, expected * scale)
        assert same.mean() > 0.97, "but for ties between two pixels"
        assert set(came.ravel()) <= {*depth.ravel(), kind(0)}, "no value that was not measured"


def test_pixels_are_looked_up_once_for_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    k = np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    cameras = [CameraModel(k, np.array([first, 0, 0, 0, 0]), "plumb_bob", 64, 48, "K") for first in (0.2, -0.2)]
    expected = [LensDistortion(camera).undistort_depth(MILLIMETERS) for camera in cameras]
    assert (expected[0] != expected[1]).any()
    made, make = [], lenses.find_nearest_pixels
    monkeypatch.setattr(lenses, "find_nearest_pixels", lambda *maps: made.append(0) or make(*maps))
    lenses._make_lens.cache_clear()
    for index, count in ((0, 1), (0, 1), (1, 2), (1, 2), (0, 2)):
        lens = get_lens(cameras[index])
        assert lens is not None
        np.testing.assert_array_equal(lens.undistort_depth(MILLIMETERS), expected[index])
        assert len(made) == count


# --- through the node


def make_depth_publisher(here: Wire) -> Any:
    publisher = here.peer.create_publisher(Image, "depth", BEST_EFFORT)
    here.until(lambda: publisher.get_subscription_count() > 0)
    return publisher


def exchange(here: Wire, depths: Any, humans: list[HumanArray], condition: Callable[[], Any], **changes: Any) -> None:
    """Send depth images and images of the same stamps until the condition holds."""
    for _ in range(10):
        message = image_message()
        depths.publish(make_depth_message(sec=here.stamp_s + 1, **changes))
        here.spin(0.05)
        here.exchange(humans, message)
        if condition():
            return
    raise AssertionError("ten images did not bring about what was waited for")


def test_the_estimator_gets_the_depth_image_of_the_same_stamp(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    here.exchange(humans)
    assert "depth" not in here.estimator.last_cues
    here.until(lambda: values_of(diagnostics)["depth"] == "not used: no messages on /depth")
    depths = make_depth_publisher(here)
    exchange(here, depths, humans, lambda: "depth" in here.estimator.last_cues)
    np.testing.assert_array_equal(here.estimator.last_cues["depth"], MILLIMETERS)
    here.until(lambda: values_of(diagnostics)["depth"] == "used")
    here.send_until(lambda: "depth" not in here.estimator.last_cues)  # a second later
    here.until(lambda: values_of(diagnostics)["depth"].startswith("not used: n"))

    here.set(use_depth=False)
    here.until(lambda: depths.get_subscription_count() == 0)
    here.exchange(humans)
    here.until(lambda: values_of(diagnostics)["depth"] == "not used: use_depth is false")
    assert "depth" not in here.estimator.last_cues


def test_depth_that_does_not_fit_is_reported_and_the_image_is_processed(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    depths = make_depth_publisher(here)

    def said(text: str) -> Callable[[], bool]:
        return lambda: text in message_of(diagnostics)

    small = np.ones((24, 32), np.uint16)
    exchange(
        here, depths, humans, said("got 32 x 24 px in 'camera'; give the topic of the registered ones"), depth=small
    )
    assert "depth" not in here.estimator.last_cues
    here.until(lambda: values_of(diagnostics)["depth"] == "not used: it does not fit the image")
    exchange(here, depths, humans, said("depth images must be 16UC1 or 32FC1 or mono16, got '8UC1'"), encoding="8UC1")
    assert len(humans[-1].humans) == 1


def test_the_depth_of_a_distorted_image_is_undistorted_with_it(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    depths = make_depth_publisher(here)
    distorted = calibration(k=50.0, p=40.0)
    distorted.distortion_model, distorted.d = "plumb_bob", [0.2, 0.05, 0.01, -0.01, 0.0]
    here.calibrate(distorted)
    here.send_until(lambda: humans and humans[-1].intrinsics_source == HumanArray.INTRINSICS_K)
    exchange(here, depths, humans, lambda: "depth" in here.estimator.last_cues)
    model = CameraModel(np.reshape(distorted.k, (3, 3)), np.array(distorted.d), "plumb_bob", 64, 48, "K")
    np.testing.assert_array_equal(here.estimator.last_cues["depth"], LensDistortion(model).undistort_depth(MILLIMETERS))
    seen = here.estimator.last_image.any(axis=2)
    assert cv2.countNonZero((~seen).astype(np.uint8)) > 0
    assert not here.estimator.last_cues["depth"][0, 0], "no depth where there is no pixel"


def test_damaged_depth_images_are_ignored(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, generator = here.listen(HumanArray, "/humans"), np.random.default_rng(0)
    assert here.node._inputs is not None
    images = here.node._inputs.depth_images
    assert images is not None
    whole = serialize_message(make_depth_message())
    for index in range(30):
        damaged = bytearray(whole[: generator.integers(len(whole))] if index % 2 else whole)
        for _ in range(min(5, len(damaged))):
            damaged[generator.integers(min(len(damaged), 60))] = generator.integers(256)  # positions of the fields
        damaged[4:12] = (here.stamp_s + 1).to_bytes(4, "little") + bytes(4)
        images.add(bytes(damaged))
        assert len(here.exchange(humans).humans) == 1
    assert here.node.counters.unusable == 0


def is_refined(human: Any) -> bool:
    """Return whether the position has a covariance, which only depth and ground give."""
    return bool(np.isfinite(human.pelvis.covariance[0]))


def test_the_real_estimator_places_people_by_depth(wire: Callable[..., Wire], small_checkpoint: Path) -> None:
    here = wire(
        autostart=False, checkpoint=str(small_checkpoint), device="cpu", max_people=3, score_threshold=0.0,
        vertical_fov_rad=1.0, diagnostics_period_s=0.1,
    )  # fmt: skip
    here.node._make_estimator = load_estimator
    here.node.trigger_configure()
    here.node.trigger_activate()
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    here.exchange(humans)
    assert not any(is_refined(human) for human in humans[-1].humans)
    flat = np.full(SIZE, 3.0, np.float32)
    exchange(here, make_depth_publisher(here), humans, lambda: any(map(is_refined, humans[-1].humans)), depth=flat)
    here.until(lambda: values_of(diagnostics)["depth"] == "used")
