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

"""Requests to stop long work, by a signal or a time limit, and the outcome of the work."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from multihmr2_ros.training.distributed import ProcessGroup


@dataclass
class StopRequest:
    """A request to end the work after the current step; also made when the deadline has passed.

    reason         of the request; empty without a request
    deadline       time.monotonic() of the time limit; None: no limit
    signal_number  of the received signal; None for other reasons
    """

    reason: str = ""
    deadline: float | None = None
    signal_number: int | None = None

    @classmethod
    def from_time_limit(cls, seconds: float | None) -> StopRequest:
        """Return a request that is made after this time; None: no limit."""
        return cls(deadline=None if seconds is None else time.monotonic() + seconds)

    @property
    def exit_status(self) -> int:
        """Exit status of a command whose work was ended before it was complete: 128 + n by signal n, otherwise 0."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    def __call__(self) -> bool:
        if not self.reason and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = "the time limit was reached"
        return bool(self.reason)


@dataclass(frozen=True)
class Outcome:
    """The end of some work: one line for the terminal, and the exit status of the command."""

    message: str
    exit_status: int = 0


def is_any_stopped(stop: StopRequest, processes: ProcessGroup, device: torch.device) -> bool:
    """Return whether a stop is requested in any process; a collective call of all processes."""
    if processes.reduce_any(stop(), device) and not stop.reason:
        stop.reason = "another process was stopped"
    return bool(stop.reason)


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a stop request; a second SIGINT interrupts at once.

    An ignored SIGHUP (nohup) stays ignored.
    """

    def request(number: int, frame: FrameType | None) -> None:
        if stop.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.reason, stop.signal_number = f"{signal.Signals(number).name} was received", number

    numbers: list[signal.Signals] = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # a closed terminal
    before: list[Callable[[int, FrameType | None], object] | int | None] = [
        signal.signal(number, request) for number in numbers
    ]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
