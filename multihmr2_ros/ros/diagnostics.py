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

"""Counters, problems and latencies of the node, and its diagnostics message."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

LOG_AGAIN_S = 30.0  # interval at which a persistent problem is logged again
RECENT_S = 5.0  # a problem is reported this long after it was last seen
SILENT_S = 2.0  # without an image for this long, the diagnostics report a missing input
MAX_PROBLEMS = 50  # maximum number of different problems that are kept

# Parts that may differ between two texts about the same problem: numbers and quoted names.
VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|-?(\d+(\.\d+)?(e[+-]?\d+)?|\b(nan|inf)\b)")


@dataclass
class ImageCounters:
    """Counters of images since the node was activated: received = processed + dropped + unplaced + unusable + in work.

    Images that arrive while the node is disabled are not counted. Each counter is written by one thread only: received
    and replaced (by a newer image, before processing) by the executor's thread, the others by the worker's.
    """

    received: int = 0
    replaced: int = 0
    processed: int = 0
    outdated: int = 0  # older than the maximum age or the last image, or finished after the node was deactivated
    unplaced: int = 0  # no transform to the target frame
    unusable: int = 0  # damaged, or the estimator failed
    last_image_s: float | None = None  # monotonic clock
    began_s: float = field(default_factory=time.monotonic)

    @property
    def dropped(self) -> int:
        return self.replaced + self.outdated

    @property
    def in_work(self) -> int:
        """Number of images that are waiting or being processed."""
        return self.received - self.processed - self.dropped - self.unplaced - self.unusable

    @property
    def silent_s(self) -> float:
        """Seconds since the last image, or since the activation."""
        return time.monotonic() - (self.began_s if self.last_image_s is None else self.last_image_s)

    def to_dict(self) -> dict[str, int]:
        return {
            "received": self.received,
            "processed": self.processed,
            "dropped": self.dropped,
            **({"unplaced": self.unplaced} if self.unplaced else {}),
            "unusable": self.unusable,
            "in work": self.in_work,
        }


@dataclass
class Problem:
    """A problem: its last text, and the times when it was last seen and logged (monotonic clock, s)."""

    cause: str
    text: str
    seen_s: float = -np.inf
    logged_s: float = -np.inf


class HealthMonitor:
    """Collects problems since the start and latencies since the last report. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: dict[tuple[str, str], Problem] = {}
        self._counts: dict[str, int] = {}
        self._latencies_s: list[float] = []
        self._silent_since_s = -np.inf  # end of the last image, or activation, monotonic clock
        self._last_report_s = time.monotonic()

    def note_processed(self, latency_s: float) -> None:
        """Note a latency: from the arrival of the image to the end of publishing (s)."""
        with self._lock:
            self._latencies_s.append(latency_s)
            self._silent_since_s = time.monotonic()

    def note_active(self) -> None:
        """Note that the node was activated or enabled."""
        self._silent_since_s = time.monotonic()

    @property
    def is_silent(self) -> bool:
        """Whether no image was processed for SILENT_S since the activation."""
        return time.monotonic() - self._silent_since_s > SILENT_S

    def note(self, cause: str, text: str, *, is_present: bool = False) -> bool:
        """Note a problem and return whether to log it: the first time, then every LOG_AGAIN_S.

        Texts that differ only in numbers and quoted names are the same problem. is_present: the caller passes the
        problem to `report` as long as it persists, so it is noted only for the log.
        """
        now_s = time.monotonic()
        key = (cause, VARIABLE.sub("", text))
        with self._lock:
            problem = self._problems.pop(key, None) or Problem(cause, text)
            if len(self._problems) == MAX_PROBLEMS:
                del self._problems[next(iter(self._problems))]  # the problem that was seen longest ago
            self._problems[key] = problem
            problem.text = text
            if not is_present:
                problem.seen_s = now_s
                self._counts[cause] = self._counts.get(cause, 0) + 1
            is_due = now_s - problem.logged_s >= LOG_AGAIN_S
            if is_due:
                problem.logged_s = now_s
            return is_due

    def report(
        self, name: str, state: str, present: Sequence[str], notices: Sequence[str], facts: dict[str, str], stamp: Time
    ) -> DiagnosticArray:
        """Return a diagnostic_msgs/DiagnosticArray with one status.

        name     of the status
        state    of the lifecycle, or "disabled"
        present  faults at this moment, in addition to the problems noted in the last RECENT_S
        notices  information that is no fault
        facts    key-value pairs
        stamp    of the message

        Its level is OK without faults; ERROR if the node is active and has published no people for SILENT_S because of
        them; otherwise WARN.
        """
        now_s = time.monotonic()
        with self._lock:
            latencies_s, self._latencies_s = self._latencies_s, []
            period_s, self._last_report_s = now_s - self._last_report_s, now_s
            recent = [problem.text for problem in self._problems.values() if now_s - problem.seen_s < RECENT_S]
            values = {f"{cause} problems": str(count) for cause, count in self._counts.items()}
        if latencies_s:
            p50, p95 = np.percentile(latencies_s, [50, 95])
            values |= {"latency p50 (s)": f"{p50:.3f}", "latency p95 (s)": f"{p95:.3f}"}
        values |= {"rate (Hz)": f"{len(latencies_s) / max(period_s, 1e-3):.1f}", "state": state} | facts
        faults = [*present, *recent]
        summary = [] if faults else ["people are published"]
        level = DiagnosticStatus.OK
        if faults:
            level = DiagnosticStatus.ERROR if state == "active" and self.is_silent else DiagnosticStatus.WARN
        status = DiagnosticStatus(
            level=level,
            name=name,
            message="; ".join([*faults, *summary, *notices]),
            hardware_id=facts.get("device", ""),
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        return DiagnosticArray(header=Header(stamp=stamp), status=[status])
