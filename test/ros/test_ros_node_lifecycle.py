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

"""States, services and time: every legal order of transitions, the end of the process, time jumps back."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from multihmr2_ros.msg import HumanArray
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from multihmr2_ros.frame import Frame
from multihmr2_ros.people import People
from test.helpers.ros_domain import DOMAIN_ID
from test.helpers.ros_wire import (
    EVERYTHING,
    RELIABLE,
    TIMEOUT_S,
    Log,
    Peer,
    Wire,
    image_message,
    message_of,
    processes,
    values_of,
)
from test.paths import ROOT

NEXT = {  # state → transition → state
    "unconfigured": {"configure": "inactive", "shutdown": "finalized"},
    "inactive": {"cleanup": "unconfigured", "activate": "active", "shutdown": "finalized"},
    "active": {"deactivate": "inactive", "shutdown": "finalized"},
    "finalized": {},
}
TRANSITIONS = ("configure", "cleanup", "activate", "deactivate", "shutdown")
LENGTH = 5


def paths(state: str = "unconfigured", length: int = LENGTH) -> Iterator[tuple[str, ...]]:
    """Yield every legal order of transitions of this length or ending with the shutdown."""
    if length == 0 or not NEXT[state]:
        yield ()
        return
    for transition, following in NEXT[state].items():
        for rest in paths(following, length - 1):
            yield (transition, *rest)


def change(here: Peer, label: str) -> bool:
    """Return whether the transition was made; the first reply may be lost, and the second then be a refusal."""
    before = state_of(here)
    request = ChangeState.Request(transition=Transition(label=label))
    answer = here.call(ChangeState, "/perception_node/change_state", request)
    return bool(answer.success) or state_of(here) == NEXT[before].get(label)


def state_of(here: Peer) -> str:
    return str(here.call(GetState, "/perception_node/get_state", GetState.Request()).current_state.label)


@pytest.mark.parametrize("path", list(paths()), ids=lambda path: "-".join(label[:5] for label in path))
def test_every_legal_order_of_transitions(wire: Callable[..., Wire], path: tuple[str, ...]) -> None:
    here = wire(autostart=False)
    humans: list[HumanArray] = []
    here.peer.create_subscription(HumanArray, "/humans", humans.append, EVERYTHING)
    state = "unconfigured"
    for label in path:
        before = len(humans)
        assert change(here, label)
        was_active, state = state == "active", NEXT[state][label]
        assert state_of(here) == state
        if state == "active":
            assert len(here.exchange(humans).humans) == 1
        elif was_active:
            here.until(lambda: len(humans) > before)  # noqa: B023
            assert len(humans[-1].humans) == 0
    for label in set(TRANSITIONS) - set(NEXT[state]):
        assert not change(here, label), "refused, and the node lives"
    assert state_of(here) == state


def test_an_image_in_work_is_not_published_after_deactivation(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    here.exchange(humans)
    heard, steps, step, former = len(humans), here.estimator.steps, here.estimator.step, here.node.counters
    may_end = threading.Event()

    def wait_and_step(frame: Frame) -> People:
        people = step(frame)
        assert may_end.wait(TIMEOUT_S)
        return people

    here.estimator.step = wait_and_step  # type: ignore[method-assign]
    here.send_until(lambda: here.estimator.steps > steps)
    assert change(here, "deactivate")
    assert change(here, "activate")  # immediately: the image in progress belongs to the former activation
    may_end.set()
    here.until(lambda: former.in_work == 0)
    here.spin(0.3)
    assert [len(message.humans) for message in humans[heard:]] == [0]
    assert here.node.counters.received == 0
    assert len(here.exchange(humans).humans) == 1
    here.until(lambda: here.node.counters.in_work == 0)
    traffic = here.node.counters
    assert traffic.received == traffic.processed + traffic.dropped


def test_deactivation_says_that_nobody_is_there(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, markers = here.listen(HumanArray, "/humans"), here.listen(MarkerArray, "/perception_node/markers")
    here.exchange(humans)
    here.until(lambda: markers)
    assert change(here, "deactivate")
    here.until(lambda: not humans[-1].humans and markers[-1].markers[0].action == Marker.DELETE)
    assert humans[-1].header.frame_id == "camera"
    assert list(humans[-1].k) == [0.0] * 9
    assert {(marker.ns, marker.id) for marker in markers[-1].markers} == {("mesh", 7), ("label", 7)}
    assert {marker.action for marker in markers[-1].markers} == {Marker.DELETE}


def test_the_last_words_are_waited_for(wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last messages include an empty point cloud; without it people would remain in costmaps."""
    here, waited = wire(), set()

    def wait(publisher: Publisher, _: Duration) -> bool:
        waited.add(publisher.topic_name)
        return True

    here.exchange(here.listen(HumanArray, "/humans"))
    monkeypatch.setattr(Publisher, "wait_for_all_acked", wait)
    here.close_node()
    assert {"/humans", "/perception_node/markers", "/perception_node/points"} <= waited


def test_services(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    here.exchange(humans)
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=False)).success
    here.until(lambda: not humans[-1].humans)
    here.until(lambda: message_of(diagnostics) == "the node is disabled")
    count = here.estimator.steps
    here.send()
    here.spin(0.3)
    assert here.estimator.steps == count
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=True)).success
    assert here.call(Trigger, "/perception_node/reset", Trigger.Request()).success
    here.exchange(humans)
    assert here.estimator.resets >= 1, "the request is repeated if its answer is lost"
    here.until(lambda: message_of(diagnostics).startswith("people are published"))
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=False)).success
    assert change(here, "deactivate")
    here.until(lambda: message_of(diagnostics) == "the node is inactive")  # the state matters more than the service


@pytest.mark.parametrize("name", ["get_state", "change_state", "get_transition_graph", "enable", "reset"])
def test_a_service_ends_with_its_node(wire: Callable[..., Wire], name: str) -> None:
    """Without garbage collection; a service left behind makes that of the next node of this name not ready."""
    here = wire()
    gc.disable()
    try:
        with contextlib.closing(Wire()):
            here.until(lambda: here.peer.count_services(f"/perception_node/{name}") == 2)
        here.until(lambda: here.peer.count_services(f"/perception_node/{name}") == 1)
    finally:
        gc.enable()


def test_stamps_that_go_back_reset_all_tracks(wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, transforms = here.listen(HumanArray, "/humans"), here.listen(TFMessage, "/tf")
    diagnostics, log = here.listen(DiagnosticArray, "/diagnostics"), Log(capfd)
    markers = here.listen(MarkerArray, "/perception_node/markers")
    here.exchange(humans)
    here.exchange(humans)
    assert here.estimator.resets == 0
    here.stamp_s -= 50
    here.estimator.people["track_id"] = np.array([8])  # a tracker increments ids
    here.exchange(humans)
    assert here.estimator.resets == 1
    here.until(lambda: transforms[-1].transforms[0].header.stamp == humans[-1].header.stamp)
    assert [transform.child_frame_id for transform in transforms[-1].transforms] == ["body_8"]
    here.until(lambda: any(marker.action == Marker.DELETE and marker.id == 7 for marker in markers[-1].markers))
    here.until(lambda: "time jumped back by" in message_of(diagnostics))
    here.until(lambda: log.has("time jumped back by"))
    here.exchange(humans)
    assert here.estimator.resets == 1


def test_images_of_another_camera_reset_all_tracks(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    same, rear = image_message(), image_message()
    same.header.frame_id, rear.header.frame_id = "/camera", "rear"
    here.exchange(humans)
    here.exchange(humans, same)
    assert here.estimator.resets == 0
    here.exchange(humans, rear)
    here.exchange(humans, rear)
    assert here.estimator.resets == 1
    here.until(lambda: "changed from 'camera' to 'rear'; tracks were reset" in message_of(diagnostics))


def test_an_image_that_arrives_after_a_newer_one_is_dropped(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    newer, older = image_message(), image_message()
    newer.header.stamp.nanosec = 34_000_000
    here.exchange(humans, newer)
    here.stamp_s -= 1
    here.send(older)
    here.until(lambda: "0.034 s older than the last one" in message_of(diagnostics))
    assert here.exchange(humans).dropped_frames == 1
    assert here.estimator.resets == 0, "a person would lose the id"


def test_two_images_in_a_row_that_are_older_are_a_jump_of_time(wire: Callable[..., Wire]) -> None:
    """As in a bag that loops in less than half a second."""
    here = wire(diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    newer, older = image_message(), image_message()
    newer.header.stamp.nanosec = 340_000_000
    here.exchange(humans, newer)
    here.stamp_s -= 1
    here.send(older)
    here.until(lambda: "0.340 s older than the last one" in message_of(diagnostics))
    assert here.estimator.resets == 0
    here.stamp_s -= 1
    older.header.stamp.nanosec = 34_000_000
    here.send(older)
    here.until(lambda: here.estimator.resets == 1)


def test_simulated_time(wire: Callable[..., Wire]) -> None:
    here = wire(use_sim_time=True, max_age_s=5.0)
    clock = here.peer.create_publisher(Clock, "/clock", RELIABLE)
    humans = here.listen(HumanArray, "/humans")
    here.until(lambda: clock.get_subscription_count() > 0)

    def at(now_s: int) -> None:
        message = Clock()
        message.clock.sec = now_s
        clock.publish(message)
        here.until(lambda: here.node.get_clock().now().nanoseconds == now_s * 10**9)

    at(1002)
    here.stamp_s = 1000  # the next image is from 1001 s, or a few seconds later if some were lost
    answer = here.exchange(humans)
    age_s = 1002 - answer.header.stamp.sec
    assert (answer.age_at_receipt, answer.total_latency) == pytest.approx((age_s, age_s), abs=1e-9)
    at(1030)
    here.stamp_s = 1010
    here.send_until(lambda: here.node.counters.dropped >= 1)  # older than five seconds in simulated time
    at(12)  # set back
    here.stamp_s = 10
    assert here.exchange(humans).age_at_receipt <= 1
    assert here.estimator.resets == 1
    assert change(here, "deactivate")
    here.until(lambda: not humans[-1].humans)
    assert humans[-1].header.stamp.sec == 12


def test_a_mistake_in_the_configuration_ends_the_process_with_one_line() -> None:
    with processes() as start:
        node = start("multihmr2_ros.ros.node", "--ros-args", "-p", "checkpoint:=no_such_file.pt")
        assert node.popen.wait(TIMEOUT_S) == 2, node.log()
        assert "no_such_file.pt" in node.log()
        assert "Traceback" not in node.log()


def test_an_error_that_may_not_occur_again_has_another_status_than_a_mistake() -> None:
    script = (
        "import sys; from multihmr2_ros.ros.node import main\n"
        "def fail(_): raise RuntimeError('CUDA error: out of memory')\n"
        "sys.exit(main(['perception_node'], fail))"
    )
    environment = os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # a launch file with respawn:=true starts the node again
    assert "CUDA error: out of memory" in done.stderr


def test_sigint_in_the_middle_of_an_inference_ends_the_process_before_the_inference(peer: Peer) -> None:
    with processes() as start:
        node = start("test.helpers.node_process", "3600.0", "--ros-args", "-p", "diagnostics_period_s:=0.1")
        publisher = peer.peer.create_publisher(Image, "image", RELIABLE)
        humans, diagnostics = peer.listen(HumanArray, "/humans"), peer.listen(DiagnosticArray, "/diagnostics")
        peer.until(lambda: publisher.get_subscription_count() > 0 and diagnostics)
        peer.peer.create_timer(0.5, lambda: publisher.publish(image_message()))  # best effort
        peer.until(lambda: values_of(diagnostics)["in work"] not in ("", "0"))
        assert node.stop(signal.SIGINT, TIMEOUT_S) == 0
        peer.until(lambda: humans)
        assert [len(message.humans) for message in humans] == [0], "its last word is that nobody is there"
        assert "Traceback" not in node.log()
