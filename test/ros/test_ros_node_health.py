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

"""The node's record of problems: logged once per cause, bounded, and reported for a limited time."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from multihmr2_ros.ros.diagnostics import LOG_AGAIN_S, MAX_PROBLEMS, HealthMonitor, ImageCounters


def status(health: HealthMonitor, present: tuple[str, ...] = (), notices: tuple[str, ...] = ()) -> Any:
    return health.report("/node", "active", present, notices, {"device": "cpu"}, Time(sec=5)).status[0]


@pytest.mark.parametrize(
    ("texts", "logged"),
    [
        (["got 3 bytes", "got 4 bytes", "got -1.5 bytes"], [True, False, False]),  # numbers are ignored
        (["got 'a', need 'b'", "got 'no, b', need 'c'", "got \"x\", need 'y'"], [True, False, False]),  # so are names
        (["too small", "too large", "too small"], [True, True, False]),
    ],
)
def test_a_cause_is_logged_once(texts: list[str], logged: list[bool]) -> None:
    health = HealthMonitor()
    assert [health.note("image", text) for text in texts] == logged


def test_a_cause_that_stays_is_logged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    health = HealthMonitor()
    logged = []
    for _ in range(100):
        logged.append(health.note("image", "too small"))
        now_s += 1.0
    assert [second for second, was in enumerate(logged) if was] == [0, LOG_AGAIN_S, 2 * LOG_AGAIN_S, 3 * LOG_AGAIN_S]


def test_recent_problems_and_present_faults_make_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    health = HealthMonitor()
    assert (status(health).level, status(health).message) == (DiagnosticStatus.OK, "people are published")
    assert status(health, notices=("by the way",)).message == "people are published; by the way"
    health.note("image", "too small: 3")
    health.note("image", "too small: 4")
    health.note("input", "no image", is_present=True)  # reported by the component concerned
    told = status(health, present=("no image",))
    assert (told.level, told.message) == (DiagnosticStatus.ERROR, "no image; too small: 4"), "nothing was processed"
    health.note_processed(0.1)
    assert status(health, present=("no image",)).level == DiagnosticStatus.WARN
    assert {value.key: value.value for value in told.values}["image problems"] == "2"
    now_s += 60.0
    assert status(health).message == "people are published"


def test_a_problem_is_an_error_after_two_seconds_without_people(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    health = HealthMonitor()
    health.note_active()
    levels = []
    for _ in range(5):
        health.note("camera_info", "uncalibrated")
        levels.append(status(health).level)
        now_s += 1.0
    assert levels == [DiagnosticStatus.WARN] * 3 + [DiagnosticStatus.ERROR] * 2


def test_endlessly_many_causes_are_forgotten() -> None:
    health = HealthMonitor()
    for index in range(10_000):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(index))
        assert health.note("image", f"cause {word}")
    assert status(health).message.count("cause") == MAX_PROBLEMS


def test_every_image_is_accounted_for() -> None:
    traffic = ImageCounters(received=20, replaced=5, processed=8, outdated=2, unusable=3)
    assert (traffic.dropped, traffic.in_work) == (7, 2)
    assert traffic.to_dict() == {"received": 20, "processed": 8, "dropped": 7, "unusable": 3, "in work": 2}
    traffic = ImageCounters(received=20, replaced=5, processed=6, outdated=2, unplaced=2, unusable=3)
    assert (traffic.dropped, traffic.in_work, traffic.to_dict()["unplaced"]) == (7, 2, 2)
