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

"""Device errors of the estimator, with PyTorch's own exceptions but without a GPU.

The estimator is created again with lower settings, and finally given up; a step that hangs is reported and ends the
process.
"""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from multihmr2_ros.msg import HumanArray
from rclpy.lifecycle import TransitionCallbackReturn

from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame
from multihmr2_ros.ros import restarts
from multihmr2_ros.ros.node import PerceptionNode
from multihmr2_ros.ros.parameters import NodeParameters
from multihmr2_ros.ros.process import _spin
from multihmr2_ros.ros.restarts import MAX_FAULTS, DeviceFault, RestartingEstimator, classify_error, load_estimator
from test.helpers.faulty_estimator import ILLEGAL, NO_MEMORY, Factory
from test.helpers.ros_wire import TIMEOUT_S, Peer, Wire, image_message, message_of, processes, values_of

IMAGE = np.full((48, 64, 3), 90, np.uint8)


def step(estimator: Any, index: int = 0) -> list[int]:
    people = estimator.step(Frame(IMAGE, 100.0 + index / 30))
    return [int(number) for number in people.track_id]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ILLEGAL, DeviceFault.FAILED),
        (torch.AcceleratorError("CUDA error: out of memory"), DeviceFault.OUT_OF_MEMORY),
        (NO_MEMORY, DeviceFault.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceFault.FAILED),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceFault.FAILED),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), DeviceFault.FAILED),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), DeviceFault.OUT_OF_MEMORY),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(): cudaErrorECCUncorrectable"), DeviceFault.FAILED),
        # Programming errors, which a new estimator would repeat.
        (RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x4)"), None),
        (ValueError("CUDA error: no"), None),
        (UserError("device 'cuda' does not exist"), None),
    ],
)
def test_what_an_error_means_for_the_device(error: Exception, fault: DeviceFault | None) -> None:
    assert classify_error(error) is fault


def test_the_estimator_is_made_again_and_ids_go_on() -> None:
    factory = Factory(None, ILLEGAL)
    estimator = RestartingEstimator(factory, NodeParameters(max_people=2))
    assert step(estimator) == [0, 1]
    with pytest.raises(UserError, match=r"^the estimator's device failed \(CUDA error: an ill.*restarted in 0.0 s$"):
        step(estimator)
    assert any("device failed" in fault for fault in estimator.find_faults(0.0))
    assert step(estimator) == [2, 3]
    assert (estimator.restarts, len(factory.made), estimator.find_faults(10.0)) == (1, 2, [])
    assert factory.made[0] == factory.made[1], "nothing is asked for less"


def test_the_real_estimators_tracks_outlive_it(small_checkpoint: Path) -> None:
    made: list[Any] = []

    def make(parameters: NodeParameters) -> Any:
        made.append(load_estimator(parameters))
        return made[-1]

    parameters = NodeParameters(checkpoint=str(small_checkpoint), device="cpu", precision="fp32", score_threshold=0.0)
    estimator = RestartingEstimator(make, parameters)
    before = step(estimator, 0)
    assert before == step(estimator, 1)
    assert before, "somebody is seen"

    def fail(*_: Any) -> Any:
        raise ILLEGAL

    made[0].inference._run = fail
    with pytest.raises(UserError, match="device failed"):
        step(estimator, 2)
    assert step(estimator, 3) == before, "the same people, with the same ids"
    estimator.reset()
    assert min(step(estimator, 4)) > max(before), "nobody's id is used again"


def test_the_real_estimator_is_made_again_for_less_until_memory_suffices(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As described in docs/node.md: half of max_people, a quarter, the CPU. Only the CPU has memory in this test."""
    asked: list[tuple[str, int]] = []

    def make(parameters: NodeParameters) -> Any:
        made = load_estimator(parameters)
        asked.append((parameters.device, made.config.max_people))
        if parameters.device != "cpu":
            monkeypatch.setattr(made.inference, "_run", fail)
        return made

    def fail(*_: Any) -> Any:
        raise NO_MEMORY

    parameters = NodeParameters(checkpoint=str(small_checkpoint), score_threshold=0.0, nms_distance_m=0.0, max_people=8)
    estimator = RestartingEstimator(make, parameters)
    for _ in range(3):
        with pytest.raises(UserError, match="out of GPU memory"):
            step(estimator)
    assert len(step(estimator)) == 2
    assert asked == [("auto", 8), ("auto", 4), ("auto", 2), ("cpu", 2)]
    assert estimator.find_faults(0.0) == ["out of GPU memory: reduced to at most 2 people, on the CPU"]


def test_a_reset_while_there_is_no_estimator_is_not_forgotten() -> None:
    factory = Factory(ILLEGAL)
    estimator = RestartingEstimator(factory, NodeParameters())
    with pytest.raises(UserError):
        step(estimator)
    estimator.reset()
    step(estimator)
    assert estimator._estimator is not None
    assert estimator._estimator.tracker.resets == 1


def test_restarts_wait_longer_and_longer_and_then_ask_for_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(restarts.time, "monotonic", lambda: now_s)
    factory = Factory(*[ILLEGAL] * 50)
    estimator = RestartingEstimator(factory, NodeParameters())
    tried: list[float] = []
    while not estimator.explain_new_process(10.0):
        before = len(factory.faults)
        with pytest.raises(UserError):
            step(estimator)
        if len(factory.faults) < before:
            tried.append(round(now_s - 1000.0, 1))
        now_s += 0.1
    gaps = np.diff(tried)
    assert len(tried) == MAX_FAULTS + 1
    np.testing.assert_allclose(gaps, [0.1, 0.5, 1.0, 2.0, 4.0], atol=0.11)
    assert estimator.explain_new_process(0.0) == "the estimator failed 6 times in a row"
    # Each of several faults far apart counts as a first one.
    estimator, factory.faults = RestartingEstimator(factory, NodeParameters()), [ILLEGAL, None, None] * 20
    for _ in range(60):
        if factory.faults[0] is ILLEGAL:
            with pytest.raises(UserError, match=r"restarted in 0.0 s"):
                step(estimator)
        else:
            step(estimator)
        now_s += 40.0
    assert not estimator.explain_new_process(10.0)
    assert estimator.restarts == 20


def test_an_estimator_that_cannot_be_made_again_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts.time, "monotonic", lambda: 1000.0)
    factory = Factory(ILLEGAL)
    estimator = RestartingEstimator(factory, NodeParameters())
    factory.refusals = [UserError("device 'cuda' does not exist"), RuntimeError("CUDA error: unknown error")]
    not_there = r"^the estimator cannot be restarted \(device 'cuda' does not exist\); next attempt in 0\.5 s$"
    for words in ("illegal memory access", not_there, "restarted in 0.5 s"):
        with pytest.raises(UserError, match=words):
            step(estimator)
    assert estimator.restarts == 0


def test_an_error_of_the_program_costs_nothing() -> None:
    factory = Factory(ZeroDivisionError("no"), None)
    estimator = RestartingEstimator(factory, NodeParameters())
    with pytest.raises(ZeroDivisionError):
        step(estimator)
    assert step(estimator)
    assert (len(factory.made), estimator.restarts) == (1, 0)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"precision": "fp32", "device": "cuda", "max_people": 20},
            [("cuda", "fp32", 10), ("cuda", "fp32", 5), ("cuda", "auto", 5), ("cpu", "auto", 5)],
        ),
        ({"device": "auto", "max_people": 3}, [("auto", "auto", 1), ("cpu", "auto", 1)]),
        ({"precision": "fp16", "max_people": 1}, [("cpu", "auto", 1)]),
    ],
)
def test_out_of_memory_asks_for_less_step_by_step(
    parameters: dict[str, Any], expected: list[tuple[str, str, int]]
) -> None:
    factory = Factory(*[NO_MEMORY] * len(expected))
    estimator = RestartingEstimator(factory, NodeParameters(**parameters))
    for device, precision, most in expected:
        with pytest.raises(UserError, match=rf"^out of GPU memory \(.*\); .* with at most {most} people"):
            step(estimator)
        where = "on the CPU" if device == "cpu" else f"precision {precision}"
        assert f"out of GPU memory: reduced to at most {most} people, {where}" in estimator.find_faults(0.0)
    assert len(step(estimator)) == expected[-1][2]
    told = [(made.device, made.precision, made.max_people) for made in factory.made[1:]]
    assert told == expected
    assert not estimator.explain_new_process(10.0)
    factory.faults = [NO_MEMORY]
    with pytest.raises(UserError, match="device failed"):  # no lower settings remain
        step(estimator)


def test_out_of_memory_while_it_is_made_asks_for_less_too() -> None:
    factory = Factory()
    factory.refusals = [NO_MEMORY, NO_MEMORY, NO_MEMORY]
    estimator = RestartingEstimator(factory, NodeParameters(precision="bf16"))
    assert estimator.reduced_to == "at most 5 people, on the CPU"
    factory = Factory()
    factory.refusals = [ILLEGAL]
    with pytest.raises(torch.AcceleratorError):
        RestartingEstimator(factory, NodeParameters())


def test_the_node_tells_of_restarts_and_goes_on(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1, autostart=False, max_people=4)
    here.node._make_estimator = factory = Factory()
    here.node.trigger_configure()
    here.node.trigger_activate()
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    last = here.exchange(humans).humans[-1].track_id
    factory.faults = [ILLEGAL]
    here.send_until(lambda: "illegal memory access" in message_of(diagnostics))
    assert here.exchange(humans).humans[0].track_id > last, "nobody's id is used again"
    here.until(lambda: values_of(diagnostics)["restarts"] == "1")
    here.until(lambda: diagnostics[-1].status[0].level == DiagnosticStatus.WARN)
    factory.faults = [NO_MEMORY]
    here.send_until(lambda: "reduced to at most 2 people" in message_of(diagnostics))
    here.exchange(humans)
    assert len(humans[-1].humans) == 2
    here.until(lambda: values_of(diagnostics)["restarts"] == "2")
    here.set(max_people=10)
    assert len(here.exchange(humans).humans) == 2, "what memory does not suffice for is not asked for again"


def test_the_node_goes_on_after_errors_of_every_kind(wire: Callable[..., Wire]) -> None:
    """rclpy allows one severity for each line that logs; a user's mistake is a warning, a program's one an error."""
    here = wire(diagnostics_period_s=0.1, autostart=False)
    here.node._make_estimator = factory = Factory()
    here.node.trigger_configure()
    here.node.trigger_activate()
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    mistake, fault = UserError("the image cannot be used"), ZeroDivisionError("division by zero")
    for error in (mistake, fault, mistake):
        factory.faults = [error]
        here.send_until(lambda: not factory.faults)
        here.until(lambda told=str(error): told in message_of(diagnostics))  # type: ignore[misc]
    assert here.exchange(humans).humans


def test_a_mistake_in_the_configuration_can_be_corrected(wire: Callable[..., Wire]) -> None:
    """A configuration that fails is logged as fatal, and an unusable image afterwards as a warning."""
    here = wire(diagnostics_period_s=0.1, autostart=False)
    factory = Factory(UserError("the image cannot be used"), None)
    factory.refusals = [UserError("the weights do not exist")]
    here.node._make_estimator = factory
    assert here.node.trigger_configure() != TransitionCallbackReturn.SUCCESS
    assert here.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    here.node.trigger_activate()
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    here.send_until(lambda: "the image cannot be used" in message_of(diagnostics))
    assert here.exchange(humans).humans


def test_what_failed_leaves_no_memory_behind(wire: Callable[..., Wire], small_checkpoint: Path) -> None:
    """The body is moved to the device and would remain there while the next, smaller estimator is created."""
    here = wire(autostart=False, checkpoint=str(small_checkpoint), device="cpu", diagnostics_period_s=0.1)
    here.node._make_estimator = load_estimator
    here.node.trigger_configure()
    here.node.trigger_activate()
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    here.exchange(humans)
    estimator = here.node._estimator
    assert estimator is not None
    assert estimator._estimator is not None

    def fail(*_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: no")  # a new exception: its traceback refers to the estimator

    def give_up(_: NodeParameters) -> Any:
        raise UserError("no such device")

    body, estimator._make, estimator._estimator.inference._run = weakref.ref(estimator.body), give_up, fail
    here.send_until(lambda: "device failed" in message_of(diagnostics))
    here.until(lambda: here.node.counters.in_work == 0)
    gc.collect()
    assert body() is None
    estimator._make = load_estimator
    here.exchange(humans)


def test_the_reason_for_a_new_process_is_the_one_that_ended_the_node(
    wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter(["", "the estimator has not answered for 9 s"])  # and then it succeeds
    monkeypatch.setattr(PerceptionNode, "new_process_reason", property(lambda _: next(reasons, "")))
    assert _spin(wire().node) == "the estimator has not answered for 9 s"


def test_a_step_that_hangs_is_told(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1, autostart=False, watchdog_s=0.3)
    answers = threading.Event()
    here.node._make_estimator = Factory(answers)
    here.node.trigger_configure()
    here.node.trigger_activate()
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    here.send_until(lambda: "the estimator has not answered for" in message_of(diagnostics))
    answers.set()
    here.exchange(humans)
    here.until(lambda: message_of(diagnostics).startswith("people are published"))


@pytest.mark.parametrize(
    ("fault", "reason"), [("hang", "the estimator has not answered for"), ("fail", "the estimator's device failed")]
)
def test_a_process_that_cannot_go_on_ends_with_a_status_of_its_own(peer: Peer, fault: str, reason: str) -> None:
    from sensor_msgs.msg import Image

    with processes() as start:
        watchdog_s = "0.3" if fault == "hang" else "0.0"
        arguments = ("--ros-args", "-p", f"watchdog_s:={watchdog_s}", "-p", "diagnostics_period_s:=0.2")
        node = start("test.helpers.faulty_node_process", fault, *arguments)
        humans = peer.listen(HumanArray, "/humans")
        images = peer.peer.create_publisher(Image, "image", 1)
        deadline_s = time.monotonic() + TIMEOUT_S
        while node.popen.poll() is None and time.monotonic() < deadline_s:
            images.publish(image_message())
            peer.spin(0.05)
        assert node.popen.poll() == 3, node.log()
        assert reason in node.log()
        assert "Traceback" not in node.log()
        peer.spin(0.5)
        assert all(message.humans for message in humans), "an empty message would state that nobody is there"


def test_a_hanging_step_does_not_keep_the_node_from_ending(peer: Peer) -> None:
    from sensor_msgs.msg import Image

    with processes() as start:
        node = start("test.helpers.faulty_node_process", "hang", "--ros-args", "-p", "watchdog_s:=0.0")
        peer.listen(HumanArray, "/humans")
        images = peer.peer.create_publisher(Image, "image", 1)
        peer.until(lambda: images.get_subscription_count() > 0)
        for _ in range(10):
            images.publish(image_message())
            peer.spin(0.1)
        assert node.popen.poll() is None, "0: any time"
        assert node.stop(signal.SIGTERM, TIMEOUT_S) == 0
