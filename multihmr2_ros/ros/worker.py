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

"""A thread that works on the newest item only, so that results are never older than the duration of one item."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestOnlyWorker(Generic[Item]):
    """Worker that calls `work(item)` in its own thread, one item at a time, always with the newest offered item.

    work    may take long; runs in one thread, one call at a time
    report  called in the same thread with every exception that work raises; the worker continues with the next item,
            even if report raises, too
    """

    def __init__(self, work: Callable[[Item], None], report: Callable[[Exception], None]) -> None:
        self._work = work
        self._report = report
        self._waiting: list[Item] = []  # none or one
        self._stopping = False
        self._changed = threading.Condition()
        # A daemon, so that a call that never returns does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="newest-only-worker", daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> Item | None:
        """Queue an item and return the waiting item that it replaces, if any. Never blocks."""
        with self._changed:
            replaced, self._waiting = self._waiting, [item]
            self._changed.notify()
        return replaced[0] if replaced else None

    def stop(self, timeout_s: float) -> bool:
        """Stop after the current item, waiting at most timeout_s for it. Return whether the thread has ended."""
        with self._changed:
            self._stopping = True
            self._waiting = []
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.pop()
            try:
                self._work(item)
            except Exception as error:
                self._try_report(error)
            del item  # free the image before the next one arrives

    def _try_report(self, error: Exception) -> None:
        try:
            self._report(error)
        except Exception:
            traceback.print_exc()
