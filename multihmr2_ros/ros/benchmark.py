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

"""What `multihmr2 bench --ros` measures: messages built and published, and the node around the estimator.

All messages go over the middleware to another process, which takes them as bytes, like a recorder; the node is a
process too. No weights are needed: the people are those of `make_standing_people`.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image
from tqdm import tqdm
from visualization_msgs.msg import MarkerArray

from multihmr2_ros import __version__
from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import read_processor_name
from multihmr2_ros.messages import cdr
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.people_content import Timing, people_to_content
from multihmr2_ros.msg import HumanArray
from multihmr2_ros.people import People
from multihmr2_ros.ros import node

from .content_publisher import ContentPublisher, can_read_our_bytes, marker_array_to_ros
from .conversions import human_array_to_ros, image_to_ros, people_to_markers
from .domain import isolate
from .parameters import NodeParameters
from .qos import RELIABLE
from .standing_people import StandInEstimator, make_standing_people

Row = dict[str, Any]
HEADER = HeaderContent(1, 0, "camera")
IMAGE_SIZE = (480, 640)  # height, width, px
PEOPLE, PEOPLE_OF_NODE = 10, 5
WARM_UP = 10
OBJECT_REPEATS = 3  # they take seconds
PAUSE_S = 0.02  # for the other process to be done with a message
TIMEOUT_S = 60.0  # for a process to start
ANSWER_TIMEOUT_S = 2.0
ATTEMPTS = 3  # best effort may lose an image, the first one above all
END_S = 5.0  # for a process to end
ACKNOWLEDGED = Duration(seconds=10)


@dataclass(frozen=True)
class BenchmarkCase:
    """A row of the table. run: what is timed, returning the milliseconds; repeats include no warm-up."""

    name: str
    run: Callable[[], float]
    goal_ms: float | None = None
    repeats: int = 0
    warm_up: int = WARM_UP


def measure(repeats: int) -> Row:
    """All figures: milliseconds (least, p50, p95) and the goals. Raises UserError where messages get lost."""
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {repeats}")
    with isolate():
        return _measure(repeats)


def _measure(repeats: int) -> Row:
    context = rclpy.Context()
    context.init(args=[])
    namespace = "/bench"
    try:
        peer = rclpy.create_node("peer", namespace=namespace, context=context)
        rows = [*_measure_messages(peer, repeats), *_measure_node(peer, repeats)]
        peer.destroy_node()
    finally:
        context.try_shutdown()
    return {
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": f"{read_processor_name()}, {os.cpu_count()} cores",
        "middleware": get_rmw_implementation_identifier(),
        "large_shared_memory": bool(os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")),
        "repeats": repeats,
        "ros": rows,
    }


def _measure_messages(peer: Any, repeats: int) -> list[Row]:
    """Building and publishing, by the functions that the node uses."""
    full, low = Body("full"), Body("low")
    full_people, low_people = make_standing_people(full, PEOPLE), make_standing_people(low, PEOPLE)
    marker_publisher = peer.create_publisher(MarkerArray, "markers", RELIABLE)
    human_publisher = peer.create_publisher(HumanArray, "humans", RELIABLE)
    as_bytes = can_read_our_bytes()
    to_cdr, to_ros = cdr.marker_array_to_cdr, marker_array_to_ros
    markers = ContentPublisher(marker_publisher, to_cdr, to_ros, sends_bytes=as_bytes)
    objects = ContentPublisher(marker_publisher, to_cdr, to_ros, sends_bytes=False)

    def publish_markers(publisher: ContentPublisher[Any], people: People, body: Body) -> None:
        publisher.publish(people_to_markers(people, HEADER, body.faces))

    def publish_humans() -> None:
        human_publisher.publish(human_array_to_ros(people_to_content(low_people, HEADER, Timing())))

    def timed(publisher: Any, publish: Callable[..., None], *arguments: Any) -> Callable[[], float]:
        def run() -> float:
            begin_s = time.perf_counter()
            publish(*arguments)
            taken_s = time.perf_counter() - begin_s
            if not publisher.wait_for_all_acked(ACKNOWLEDGED):
                raise UserError("no acknowledgement of a message in 10 s; look for a firewall or a full /dev/shm")
            return 1e3 * taken_s

        return run

    few = min(repeats, OBJECT_REPEATS)
    works = [
        BenchmarkCase(
            f"markers, {PEOPLE} people, full mesh",
            timed(marker_publisher, publish_markers, markers, full_people, full), 15.0, repeats,
        ),
        BenchmarkCase(
            f"markers, {PEOPLE} people, full mesh, as Python objects",
            timed(marker_publisher, publish_markers, objects, full_people, full), None, few, 1,
        ),
        BenchmarkCase(
            f"markers, {PEOPLE} people, low mesh",
            timed(marker_publisher, publish_markers, markers, low_people, low), 2.0, repeats,
        ),
        BenchmarkCase(
            f"HumanArray, {PEOPLE} people",
            timed(human_publisher, publish_humans), None, repeats,
        ),
    ]  # fmt: skip
    with _run_process(_run_subscriber, peer.get_namespace()):
        _wait_until(lambda: marker_publisher.get_subscription_count() and human_publisher.get_subscription_count())
        return _measure_in_turn(works)


def _measure_node(peer: Any, repeats: int) -> list[Row]:
    """From the publication of an image here to the arrival here of what the node makes of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)
    image = serialize_message(image_to_ros(pixels, HEADER))
    images = peer.create_publisher(Image, "image", QoSProfile(depth=1))
    arrivals: list[float] = []

    def arrived(_: bytes) -> None:
        arrivals.append(time.perf_counter())

    topic = f"{peer.get_namespace()}/perception_node/markers"
    peer.create_subscription(MarkerArray, topic, arrived, RELIABLE, raw=True)
    executor = SingleThreadedExecutor(context=peer.context)
    executor.add_node(peer)

    def exchange() -> float:
        for _ in range(ATTEMPTS):
            arrivals.clear()
            begin_s = time.perf_counter()
            images.publish(image)
            while not arrivals and time.perf_counter() - begin_s < ANSWER_TIMEOUT_S:
                executor.spin_once(timeout_sec=0.1)
            if arrivals:
                return 1e3 * (arrivals[0] - begin_s)
        raise UserError(f"the node did not answer {ATTEMPTS} images; source scripts/env.sh for large images")

    with _run_process(_run_node, peer.get_namespace()):
        _wait_until(lambda: images.get_subscription_count() and peer.count_publishers(topic))
        name = f"node, image in to markers out, {PEOPLE_OF_NODE} people, low mesh"
        rows = _measure_in_turn([BenchmarkCase(name, exchange, 8.0, repeats)])
    executor.shutdown()
    return rows


def _measure_in_turn(works: Sequence[BenchmarkCase]) -> list[Row]:
    """Measure all works, taking turns, so that a machine whose speed drifts slows all of them alike."""
    for work in works:
        for _ in range(work.warm_up):
            work.run()
            time.sleep(PAUSE_S)
    times: list[list[float]] = [[] for _ in works]
    turns = max(work.repeats for work in works)
    for turn in tqdm(range(turns), desc="bench --ros", unit="turn", disable=None):
        for work, taken in zip(works, times, strict=True):
            if turn < work.repeats:
                taken.append(work.run())
                time.sleep(PAUSE_S)
    return [_make_row(work, taken) for work, taken in zip(works, times, strict=True)]


def _make_row(work: BenchmarkCase, times: Sequence[float]) -> Row:
    p50, p95 = np.percentile(times, (50, 95))
    row = {"work": work.name, "goal_ms": work.goal_ms, "repeats": work.repeats}
    return row | {"least_ms": min(times), "p50_ms": float(p50), "p95_ms": float(p95)}


@contextlib.contextmanager
def _run_process(target: Callable[[str], None], namespace: str) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=target, args=(namespace,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(END_S)
        process.kill()


def _run_subscriber(namespace: str) -> None:
    """The process that subscribes."""
    # SIGTERM ends the process as it is: rclpy's own handler has been seen to miss it under load.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    receiver = rclpy.create_node("receiver", namespace=namespace)
    for kind, topic in ((MarkerArray, "markers"), (HumanArray, "humans")):
        receiver.create_subscription(kind, topic, lambda _: None, RELIABLE, raw=True)
    rclpy.spin(receiver)


def _run_node(namespace: str) -> None:
    """The process of the node."""
    arguments = ["perception_node", "--ros-args", "-r", f"__ns:={namespace}", "--log-level", "error"]

    def make_estimator(parameters: NodeParameters) -> Any:
        return StandInEstimator(parameters.mesh, PEOPLE_OF_NODE)

    node.main(arguments, make_estimator)


def _wait_until(condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise UserError(f"the other process was not found in {TIMEOUT_S:.0f} s; see its messages above")
        time.sleep(0.05)


def format_table(report: Row) -> str:
    """The report for people to read."""
    memory = "as set by a profiles file" if report["large_shared_memory"] else "default: source scripts/env.sh"
    lines = [
        f"multihmr2 {report['version']}, {report['date']}: {report['machine']}",
        f"{report['middleware']}, shared memory {memory}; milliseconds",
        "",
        f"{'':56}{'repeats':>8}{'least':>9}{'p50':>9}{'p95':>9}{'goal p50':>10}",
    ]
    for row in report["ros"]:
        goal = "" if row["goal_ms"] is None else f"≤ {row['goal_ms']:g}"
        lines.append(
            f"{row['work']:56}{row['repeats']:8d}{row['least_ms']:9.2f}{row['p50_ms']:9.2f}{row['p95_ms']:9.2f}{goal:>10}"
        )
    return "\n".join(lines)
