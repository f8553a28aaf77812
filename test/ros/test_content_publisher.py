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

"""Large messages over DDS with each publishing method: from preallocated memory, as bytes, as message objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import HumanArray
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from multihmr2_ros.messages import cdr
from multihmr2_ros.messages.content import HeaderContent, make_delete_marker
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.ros import content_publisher
from multihmr2_ros.ros.conversions import human_array_to_ros, people_to_markers, people_to_points
from multihmr2_ros.ros.outputs import Outputs
from multihmr2_ros.ros.parameters import NodeParameters
from multihmr2_ros.ros.target_frame import CameraFrame
from test.helpers.people_factory import make_people
from test.helpers.ros_domain import DOMAIN_ID

HEADER = HeaderContent(0, 0, "camera")  # without a stamp there is no latency
FACES = np.array([[0, 1, 2], [2, 1, 3]])
KINDS = {"humans": HumanArray, "sender/markers": MarkerArray, "sender/points": PointCloud2}


class Wire:
    def __init__(self) -> None:
        self.context = rclpy.Context()
        self.context.init(domain_id=DOMAIN_ID)
        self.node = rclpy.create_node("sender", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.came: dict[str, list[Any]] = {topic: [] for topic in KINDS}
        body = SimpleNamespace(bone_labels=(), bone_parents=(), phenotype_labels=(), faces=FACES)
        self.outputs = Outputs(self.node, body, NodeParameters(publish_vertices=True))
        for topic, kind in KINDS.items():
            self.node.create_subscription(kind, topic, self.came[topic].append, 10)
            self.until(lambda topic=topic: self.node.count_publishers(topic) > 0)

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60.0
        while not condition():
            assert time.monotonic() < deadline
            self.executor.spin_once(timeout_sec=0.02)

    def publish(self, people: Any) -> None:
        frame = CameraFrame(np.zeros((480, 640, 3), np.uint8), header=HEADER)
        self.outputs.publish(frame, people, Timing())

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def make_wire() -> Iterator[Callable[[], Wire]]:
    wires: list[Wire] = []

    def make() -> Wire:
        wires.append(Wire())
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


def our_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the default method."""


def no_rcl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rcl's library unavailable."""
    monkeypatch.setattr(content_publisher, "RCL", "no_such_library.so")


def other_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a distribution whose Marker has other fields: the content written by cdr is damaged."""
    monkeypatch.setattr(cdr, "NO_MESH_FILE", b"")


@pytest.mark.parametrize("way", [our_memory, no_rcl, other_marker])
def test_what_is_published_arrives(
    way: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, make_wire: Callable[[], Wire]
) -> None:
    way(monkeypatch)
    wire = make_wire()
    crowds = [make_people(n, vertices=np.random.default_rng(n).normal(size=(n, 4, 3)), seed=n) for n in (3, 1, 7, 0)]
    for people in crowds:  # the memory grows and becomes larger than needed
        wire.publish(people)
    wire.until(lambda: all(len(came) == len(crowds) for came in wire.came.values()))
    shown: set[tuple[str, int]] = set()
    for number, people in enumerate(crowds):
        markers = people_to_markers(people, HEADER, FACES)
        now_shown = {(marker.namespace, marker.id) for marker in markers}
        markers += [make_delete_marker(HEADER, *gone) for gone in sorted(shown - now_shown)]
        shown = now_shown
        expected = {
            "humans": human_array_to_ros(people_to_content(people, HEADER, Timing(), with_vertices=True)),
            "sender/markers": content_publisher.marker_array_to_ros(markers),
            "sender/points": content_publisher.point_cloud_to_ros(people_to_points(people, HEADER)),
        }
        for topic, message in expected.items():
            rounded = deserialize_message(serialize_message(message), type(message))  # to float32 for float32 fields
            assert repr(wire.came[topic][number]) == repr(rounded)  # compared as text, because NaN differs from itself


def test_the_ways_are_what_the_tests_above_mean(monkeypatch: pytest.MonkeyPatch, make_wire: Callable[[], Wire]) -> None:
    assert make_wire().outputs._markers._publish_memory is not None
    with monkeypatch.context() as patch:
        no_rcl(patch)
        outputs = make_wire().outputs
        assert outputs._markers._publish_memory is None
        assert outputs._markers._sends_bytes
        assert outputs._points._sends_bytes, "whatever converts messages: bytes are written in half of the time"
    other_marker(monkeypatch)
    assert not make_wire().outputs._markers._sends_bytes


def test_a_publisher_that_is_gone(make_wire: Callable[[], Wire]) -> None:
    wire = make_wire()
    wire.context.shutdown()
    with pytest.raises(RuntimeError, match="markers"):
        wire.outputs._markers.publish([])
    wire.node.destroy_publisher(wire.outputs._markers.publisher)
    with pytest.raises(InvalidHandle):
        wire.outputs._markers.publish([])
