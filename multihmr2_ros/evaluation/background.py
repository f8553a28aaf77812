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

"""Threads that prefetch and write in the background, so that the estimator does not wait. Results do not change."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
MAX_WAITING = 4  # images in memory before the estimator, and as many after it
POLL_S = 0.1


def prefetch(items: Iterable[Item], size: int = MAX_WAITING) -> Generator[Item, None, None]:
    """Yield the items, produced in a thread at most `size` ahead. Errors are raised in their place in the order."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    is_stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not is_stopped.is_set():
            try:
                waiting.put((kind, value), timeout=POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put("item", item):
                    break
            else:
                put("end", None)
        except BaseException as error:  # any error is raised in the thread that uses the items
            put("error", error)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        is_stopped.set()
        thread.join()


class BackgroundWriter(Generic[Item]):
    """A writer that calls a function with each item, in order, in a thread.

    Use it as a context manager; it waits for all items at the end. After an error of the function no more items are
    written; the error is raised by every call of put, or at the end.
    """

    def __init__(self, function: Callable[[Item], None], size: int = MAX_WAITING) -> None:
        self._function = function
        self._waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(size)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="background writer", daemon=True)

    def put(self, item: Item) -> None:
        self._raise()
        self._waiting.put((True, item))

    def __enter__(self) -> BackgroundWriter[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.put((False, None))
        self._thread.join()
        if error is None:
            self._raise()

    def _work(self) -> None:
        while True:
            is_item, item = self._waiting.get()
            if not is_item:
                return
            if self._error is None:
                try:
                    self._function(item)
                except BaseException as error:  # raised in the thread that calls put
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
