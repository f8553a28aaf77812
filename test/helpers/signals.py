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

"""Signals of the processes that tests start."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def send_signal_to_loop(number: signal.Signals) -> Iterator[None]:
    """Send a signal to this process as soon as the code in the block runs in `stop_on_signals`."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.01):
            if "stop_on_signals" in getattr(signal.getsignal(number), "__qualname__", ""):
                os.kill(os.getpid(), number)
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def stop_ignoring_signals() -> None:
    """Reset signals in a new process: under nohup or in a shell's background, child processes ignore some."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
