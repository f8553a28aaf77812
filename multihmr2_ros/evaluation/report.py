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

"""The table on the terminal: every metric with its unit and count, recall beside every error; one screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from multihmr2_ros.evaluation.tally import METRICS, Metric, Tally


def table(tallies: Mapping[str, Tally]) -> str:
    """Of each kind of intrinsics one block of columns, by its name."""
    lines = [_people(name, tally) for name, tally in tallies.items()]
    measured = {name: tally.metrics() for name, tally in tallies.items()}
    shown = [metric for metric in METRICS if any(metric.key in values for values in measured.values())]
    if shown:
        several = len(tallies) > 1
        lines.append("")
        if several:
            lines.append(" " * 22 + "".join(f"{f'intrinsics {name}':>28}" for name in tallies))
        lines.append(f"{'metric':<16}{'unit':<6}" + f"{'value':>10}{'count':>9}{'recall':>9}" * len(tallies))
        lines += [_row(metric, list(tallies.values())) for metric in shown]
    for name, tally in tallies.items():
        lines += _times(name if len(tallies) > 1 else "", tally)
    return "\n".join(lines)


def number(value: float, unit: str) -> str:
    """With as many digits as mean something."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else "–"
    if unit == "":
        return f"{value:.0f}"
    return f"{value:.2f}" if unit == "deg" else f"{value:.1f}"


def _people(name: str, tally: Tally) -> str:
    start = f"{name} intrinsics" if name != "recorded" else "recorded"
    text = f"{start}: {tally.frames} frames, {tally.detections} detections"
    if tally.with_truth:
        found = tally.detection
        text += (
            f"; {tally.with_truth} frames with truth: {found.true_positives} people found, "
            f"{found.false_negatives} missed, {found.false_positives} false"
        )
    if tally.ignored_truth or tally.ignored_found:
        text += f"\n  ignored: {tally.ignored_truth} people too small or too hidden, {tally.ignored_found} detections"
    return text


def _row(metric: Metric, tallies: Sequence[Tally]) -> str:
    line = f"{metric.key:<16}{metric.unit:<6}"
    for tally in tallies:
        value, count = tally.metrics().get(metric.key, (math.nan, 0))
        recall = f"{100 * tally.detection.recall:.1f} %" if metric.recalled and count else ""
        line += f"{number(value, metric.unit):>10}{count:>9}{recall:>9}"
    return line.rstrip()


def _times(name: str, tally: Tally) -> list[str]:
    latencies = tally.latencies()
    if not latencies:
        return []
    lines = ["", f"{f'latency {name}'.strip():<22}{'p50':>10}{'p95':>9}{'max':>9}  ms"]
    for stage, each in latencies.items():
        lines.append(f"{stage:<22}{each['p50_ms']:>10.1f}{each['p95_ms']:>9.1f}{each['max_ms']:>9.1f}")
    if tally.dropped:
        lines.append(f"{'dropped images':<22}{tally.dropped:>10}")
    return lines
