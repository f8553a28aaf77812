"""What the node knows about its own health, and how it says so."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

LOG_AGAIN_S = 30.0  # a problem that stays is logged this often
RECENT_S = 5.0  # a problem is reported this long after it was last seen
SILENT_S = 2.0  # without an image for so long, the input is missing


@dataclass
class Problem:
    """The last text of a cause, when it was seen and logged last (monotonic clock, s), and how often it was seen."""

    text: str
    seen_s: float
    logged_s: float
    count: int = 0


class Health:
    """Counts and problems since the start, and latencies since the last report. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: dict[str, Problem] = {}
        self._latencies_s: list[float] = []
        self._received = 0
        self._processed = 0
        self._last_image_s = -np.inf
        self._last_report_s = time.monotonic()

    def image_received(self) -> None:
        with self._lock:
            self._received += 1
            self._last_image_s = time.monotonic()

    def image_processed(self, latency_s: float) -> None:
        """latency_s: from the arrival of the image to the end of publishing."""
        with self._lock:
            self._processed += 1
            self._latencies_s.append(latency_s)

    def note(self, cause: str, text: str) -> bool:
        """Remember a problem; whether it should be logged: at first, and then from time to time, whatever the text."""
        now_s = time.monotonic()
        with self._lock:
            problem = self._problems.setdefault(cause, Problem(text, now_s, -np.inf))
            problem.text, problem.seen_s, problem.count = text, now_s, problem.count + 1
            is_due = now_s - problem.logged_s >= LOG_AGAIN_S
            if is_due:
                problem.logged_s = now_s
            return is_due

    def report(
        self, name: str, state: str, inputs: tuple[str, ...], facts: dict[str, str], stamp: Time
    ) -> DiagnosticArray:
        """diagnostic_msgs/DiagnosticArray. state: of the lifecycle; inputs: the image's topic, none while inactive."""
        now_s = time.monotonic()
        with self._lock:
            latencies_s, self._latencies_s = self._latencies_s, []
            period_s, self._last_report_s = now_s - self._last_report_s, now_s
            recent = [problem.text for problem in self._problems.values() if now_s - problem.seen_s < RECENT_S]
            counts = {f"{cause} problems": str(problem.count) for cause, problem in self._problems.items()}
            values = {"received": str(self._received), "processed": str(self._processed)} | counts
            silent = now_s - self._last_image_s > SILENT_S
        if latencies_s:
            p50, p95 = np.percentile(latencies_s, [50, 95])
            values |= {"latency p50 (s)": f"{p50:.3f}", "latency p95 (s)": f"{p95:.3f}"}
        values |= {"rate (Hz)": f"{len(latencies_s) / max(period_s, 1e-3):.1f}", "state": state} | facts
        missing = [f"no image received on {topic}" for topic in inputs if silent]
        faults = (missing if inputs else [f"the node is {state}"]) + recent
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if faults else DiagnosticStatus.OK,
            name=name,
            message="; ".join(faults) or "people are published",
            hardware_id=facts.get("device", ""),
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        return DiagnosticArray(header=Header(stamp=stamp), status=[status])
