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

"""Shared helpers of the node tests: the node and a peer on one domain, messages, and processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.ros import node
from multihmr2_ros.ros.node import PerceptionNode
from test import paths
from test.helpers.ros_domain import DOMAIN_ID
from test.helpers.stand_in_estimator import StandInEstimator

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=50)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
EVERYTHING = QoSProfile(depth=10_000)
TIMEOUT_S = 120.0  # for each step; a busy machine needs 40 s to start a process
REPEAT_S = 3.0  # what may be lost is sent again after this time
ATTEMPTS = int(TIMEOUT_S / REPEAT_S)


class Peer:
    """Peer of the node under test that records received messages."""

    def __init__(self, namespace: str = "") -> None:
        self.peer = rclpy.create_node("peer", namespace=namespace)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.peer)
        self._clients: dict[str, Any] = {}

    def listen(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """Subscribe and return a growing list of the messages received on the topic; waits for a publisher."""
        came: list[Any] = []
        subscription = self.peer.create_subscription(kind, topic, came.append, qos)
        self.until(lambda: subscription.get_publisher_count() > 0)
        return came

    def until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited for {timeout_s} s"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds_s: float) -> None:
        """Spin for a fixed time: for events that must not occur or that cannot be observed."""
        deadline = time.monotonic() + seconds_s
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, kind: type, name: str, request: Any) -> Any:
        if name not in self._clients:
            self._clients[name] = self.peer.create_client(kind, name)
            self.until(self._clients[name].service_is_ready)
        for _ in range(ATTEMPTS):  # the reply is lost if the service has not discovered the client yet
            future = self._clients[name].call_async(request)
            with contextlib.suppress(AssertionError):
                self.until(future.done, REPEAT_S)
                return future.result()
        raise AssertionError(f"{name} did not answer")

    def close(self) -> None:
        self.executor.shutdown()
        self.peer.destroy_node()


class Wire(Peer):
    """The node under test and a peer that publishes images."""

    def __init__(self, seconds_s: float = 0.0, namespace: str = "", **parameters: Any) -> None:
        super().__init__(namespace)
        self.estimator = StandInEstimator(None, seconds_s)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = PerceptionNode(lambda _: self.estimator, namespace=namespace, parameter_overrides=overrides)
        self.executor.add_node(self.node)
        self.image = self.peer.create_publisher(Image, "image", BEST_EFFORT)
        self.compressed = self.peer.create_publisher(CompressedImage, "image/compressed", BEST_EFFORT)
        self.camera_info = self.peer.create_publisher(CameraInfo, "camera_info", BEST_EFFORT)
        self.stamp_s = 100

    def listen(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """Like Peer.listen; also waits until the node's publishers have discovered the subscription."""
        came = super().listen(kind, topic, qos)
        own = [each for each in self.node.publishers if each.topic_name == topic]
        self.until(lambda: all(each.get_subscription_count() > 0 for each in own))
        return came

    def wait_until_matched(self, publisher: Publisher[Any]) -> None:
        """Wait until the node receives what the publisher publishes: both sides have discovered each other."""

        def is_matched() -> bool:
            own = [each for each in self.node.subscriptions if each.topic_name == publisher.topic_name]
            return publisher.get_subscription_count() > 0 and all(each.get_publisher_count() > 0 for each in own)

        self.until(is_matched)

    def calibrate(self, camera_info: CameraInfo | bytes) -> None:
        """Publish a camera_info (bytes: serialized) and wait until the node has received it."""
        self.wait_until_matched(self.camera_info)
        assert self.node._inputs is not None
        former = self.node._inputs.camera_info
        self.camera_info.publish(camera_info)
        self.until(lambda: self.node._inputs.camera_info is not former)

    def send(self, message: Any = None) -> Any:
        """Publish an image (gray by default), stamped one second after the last one."""
        message = image_message() if message is None else message
        self.stamp_s += 1
        message.header.stamp.sec = self.stamp_s
        publisher = self.compressed if isinstance(message, CompressedImage) else self.image
        self.wait_until_matched(publisher)
        publisher.publish(message)
        return message

    def send_until(self, condition: Callable[[], Any], message: Any = None) -> None:
        """Send an image, and again every REPEAT_S until the condition holds: with best effort, it may be lost."""
        for _ in range(ATTEMPTS):
            self.send(message)
            with contextlib.suppress(AssertionError):
                self.until(condition, REPEAT_S)
                return
        raise AssertionError(f"{ATTEMPTS} images did not bring about what was waited for")

    def exchange(self, came: list[Any], message: Any = None) -> Any:
        """Send an image and return its result."""
        self.send_until(lambda: came and came[-1].header.stamp.sec == self.stamp_s, message)
        return came[-1]

    def set(self, **values: Any) -> None:
        for result in self.node.set_parameters([Parameter(name, value=value) for name, value in values.items()]):
            assert result.successful, result.reason

    def close_node(self) -> None:
        """Close the node and wait for the image in work, which may take longer on a busy machine."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node, "STOP_TIMEOUT_S", 30.0)
            assert self.node.close()

    def close(self) -> None:
        self.close_node()
        self.node.destroy_node()
        super().close()


@contextlib.contextmanager
def ros_context() -> Iterator[None]:
    """Run rclpy on the test domain."""
    rclpy.init(domain_id=DOMAIN_ID)
    try:
        yield
    finally:
        rclpy.try_shutdown()


@contextlib.contextmanager
def peers() -> Iterator[Peer]:
    """Yield a peer without a node in this process."""
    with ros_context(), contextlib.closing(Peer()) as peer:
        yield peer


@contextlib.contextmanager
def wires() -> Iterator[Callable[..., Wire]]:
    """Yield a factory of wires, which are closed at the end."""
    made: list[Wire] = []

    def make(**options: Any) -> Wire:
        made.append(Wire(**options))
        return made[-1]

    with ros_context():
        try:
            yield make
        finally:
            for each in made:
                each.close()


class Process:
    """Process of `python -m MODULE …` on the test domain, with its log in a file."""

    def __init__(self, *arguments: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID)},
            cwd=paths.ROOT,
            stdout=self._log,
            stderr=self._log,
        )

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def resident_mib(self) -> float:
        """Return the resident memory of the process (MiB)."""
        pages = int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self, number: int, timeout_s: float) -> int:
        """Send the signal and return the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(timeout_s)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(TIMEOUT_S)
        self._log.close()


@contextlib.contextmanager
def processes() -> Iterator[Callable[..., Process]]:
    """Yield a factory of processes, which are killed at the end."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()


class Log:
    """Output of this process on standard error so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def warnings(self) -> list[str]:
        self._text += self._capture.readouterr().err
        return [line for line in self._text.splitlines() if line.startswith("[WARN]") and "[perception_node]" in line]

    def has(self, text: str) -> bool:
        return any(text in line for line in self.warnings())


def image_message(**changes: Any) -> Image:
    """Return a gray image, with some fields changed independently of the others."""
    message = Image(height=48, width=64, encoding="rgb8", step=3 * 64)
    message.data.frombytes(np.full((48, 64, 3), 90, np.uint8).tobytes())
    message.header.frame_id = "camera"
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def calibration(k: float, p: float) -> CameraInfo:
    message = CameraInfo(width=64, height=48)
    message.k = [k, 0.0, 32.0, 0.0, k, 24.0, 0.0, 0.0, 1.0]
    message.p = [p, 0.0, 32.0, 0.0, 0.0, p, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def values_of(diagnostics: list[Any]) -> dict[str, str]:
    """Return the values of the last diagnostics; a missing value gives ""."""
    values = diagnostics[-1].status[0].values if diagnostics else []
    return defaultdict(str, {value.key: value.value for value in values})


def message_of(diagnostics: list[Any]) -> str:
    """Return the message of the last diagnostics, or "" without diagnostics."""
    return str(diagnostics[-1].status[0].message) if diagnostics else ""


def stamp_s(header: Any) -> float:
    return float(header.stamp.sec + header.stamp.nanosec * 1e-9)
