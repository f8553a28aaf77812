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

"""The worker that keeps only the newest item; needs no ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from multihmr2_ros.ros.worker import NewestOnlyWorker

LONG_S = 60.0  # no test waits so long unless it fails


class SlowWork:
    """Work that records its inputs and lasts until it is released."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.let_go = threading.Semaphore(0)

    def __call__(self, item: int) -> None:
        self.begun.append(item)
        assert self.let_go.acquire(timeout=LONG_S)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {LONG_S} s"
        time.sleep(0.001)


def no_error(error: Exception) -> None:
    pytest.fail(f"the work raised {error!r}")


def test_only_the_newest_item_is_worked_on_and_the_others_come_back() -> None:
    work = SlowWork()
    worker = NewestOnlyWorker(work, no_error)
    worker.offer(0)
    wait_until(lambda: work.begun == [0])
    # 1 to 4 are replaced before they start, and are returned.
    assert [worker.offer(item) for item in range(1, 6)] == [None, 1, 2, 3, 4]
    work.let_go.release()
    wait_until(lambda: work.begun == [0, 5])
    work.let_go.release()
    assert worker.stop(LONG_S)


def test_offering_never_waits_for_the_work() -> None:
    work = SlowWork()
    worker = NewestOnlyWorker(work, no_error)
    worker.offer(0)
    wait_until(lambda: work.begun == [0])
    start = time.monotonic()
    for item in range(1000):
        worker.offer(item)
    assert time.monotonic() - start < LONG_S
    work.let_go.release(2)
    worker.stop(LONG_S)


def test_every_item_is_worked_on_or_comes_back() -> None:
    done: list[int] = []
    worker = NewestOnlyWorker(done.append, no_error)
    replaced = [worker.offer(item) for item in range(2000)]
    wait_until(lambda: bool(done) and done[-1] == 1999)
    assert sorted(done + [item for item in replaced if item is not None]) == list(range(2000))
    assert done == sorted(done)
    assert worker.stop(LONG_S)


def test_an_error_is_reported_and_the_next_item_is_worked_on() -> None:
    errors: list[Exception] = []
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ZeroDivisionError("item 0")
        done.append(item)

    worker = NewestOnlyWorker(work, errors.append)
    worker.offer(0)
    wait_until(lambda: len(errors) == 1)
    worker.offer(1)
    wait_until(lambda: done == [1])
    assert isinstance(errors[0], ZeroDivisionError)
    assert worker.stop(LONG_S)


def test_a_report_that_fails_does_not_end_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        raise ZeroDivisionError

    def report(error: Exception) -> None:
        raise ValueError("the log is closed")

    worker = NewestOnlyWorker(work, report)
    for item in range(2):
        worker.offer(item)
        wait_until(lambda item=item: done == list(range(item + 1)))  # type: ignore[misc]
    assert worker.stop(LONG_S)
    assert capsys.readouterr().err.count("\nValueError: the log is closed") == 2


def test_stopping_takes_bounded_time_and_says_whether_the_work_has_ended() -> None:
    work = SlowWork()
    worker = NewestOnlyWorker(work, no_error)
    worker.offer(0)
    wait_until(lambda: work.begun == [0])
    worker.offer(1)
    start = time.monotonic()
    assert not worker.stop(0.2)
    assert time.monotonic() - start < LONG_S
    work.let_go.release()
    assert worker.stop(LONG_S)
    assert work.begun == [0], "what waits when the worker is stopped is not begun"


def test_stopping_an_idle_worker_is_immediate() -> None:
    worker = NewestOnlyWorker(lambda item: None, no_error)
    start = time.monotonic()
    assert worker.stop(LONG_S)
    assert time.monotonic() - start < LONG_S
