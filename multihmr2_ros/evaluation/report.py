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

"""The result table for the terminal: every metric with its unit and count, recall beside every error; fits one
screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from multihmr2_ros.evaluation.metric_definitions import METRICS, MM, RATIO, SPEED, Metric
from multihmr2_ros.evaluation.totals import Totals


def format_table(totals_by_kind: Mapping[str, Totals]) -> str:
    """Return the table of results, with a block of columns for each kind of intrinsics."""
    lines = [_format_people(name, totals) for name, totals in totals_by_kind.items()]
    measured = {name: totals.compute_metrics() for name, totals in totals_by_kind.items()}
    shown = [metric for metric in METRICS if any(metric.key in values for values in measured.values())]
    if shown:
        several = len(totals_by_kind) > 1
        width = compute_name_width(metric.key for metric in shown)
        lines.append("")
        if several:
            lines.append(" " * (width + 6) + "".join(f"{f'intrinsics {name}':>28}" for name in totals_by_kind))
        lines.append(
            f"{'metric':<{width}}{'unit':<6}" + f"{'value':>10}{'count':>9}{'recall':>9}" * len(totals_by_kind)
        )
        lines += [_format_row(metric, list(totals_by_kind.values()), width) for metric in shown]
    for name, totals in totals_by_kind.items():
        lines += _format_calibration_table(name if len(totals_by_kind) > 1 else "", totals)
        lines += _format_distance_table(name if len(totals_by_kind) > 1 else "", totals)
    for name, totals in totals_by_kind.items():
        lines += _format_times(name if len(totals_by_kind) > 1 else "", totals)
    return "\n".join(lines)


def format_number(value: float, unit: str) -> str:
    """Format a metric's value with a number of digits that fits its unit."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else "–"
    if unit == "":
        return f"{value:.0f}"
    return f"{value:.2f}" if unit in ("deg", SPEED, RATIO) else f"{value:.1f}"


def compute_name_width(names: Iterable[str]) -> int:
    """Return the width of a table's first column."""
    return max(16, 2 + max(map(len, names), default=0))


CALIBRATION_COLUMNS = ("NEES", "95 % bounds", "inside 95 %", "people")
DISTANCE_COLUMNS = (
    "people",
    "median mm",
    "mean mm",
    "median %",
    "mean %",
    "before: median %",
    "mean %",
    "z mean",
    "z RMS",
)


def format_calibration(totals: Totals) -> list[tuple[str, list[str]]]:
    """Return the rows (name, cells under CALIBRATION_COLUMNS) of the table of calibrations."""
    return [
        (
            name,
            [
                f"{found['nees']:.2f}",
                f"{found['low']:.2f} … {found['high']:.2f}",
                f"{found['inside_95']:.1f} %",
                f"{found['count']:.0f}",
            ],
        )
        for name, found in totals.compute_calibration().items()
    ]


def format_distances(totals: Totals) -> list[tuple[str, list[str]]]:
    """Return the rows (placement cue, cells under DISTANCE_COLUMNS) of the table of distance errors."""
    keys = (
        "median_mm", "mean_mm", "median_percent", "mean_percent", "median_predicted_percent", "mean_predicted_percent",
    )  # fmt: skip
    return [
        (
            cue,
            [f"{found['count']:.0f}", *(format_number(found[key], MM) for key in keys)]
            + [format_number(found[key], RATIO) for key in ("z_mean", "z_rms")],
        )
        for cue, found in totals.summarize_distances().items()
    ]


def _format_people(name: str, totals: Totals) -> str:
    start = f"{name} intrinsics" if name != "recorded" else "recorded"
    text = f"{start}: {totals.frames} frames, {totals.detections} detections"
    if totals.with_truth:
        found = totals.detection
        text += (
            f"; {totals.with_truth} frames with ground truth: {found.true_positives} people detected, "
            f"{found.false_negatives} missed, {found.false_positives} false positives"
        )
    if totals.ignored_truth or totals.ignored_found:
        text += (
            f"\n  ignored: {totals.ignored_truth} people too small or too occluded, {totals.ignored_found} detections"
        )
    return text


def _format_row(metric: Metric, all_totals: Sequence[Totals], width: int) -> str:
    line = f"{metric.key:<{width}}{metric.unit:<6}"
    for totals in all_totals:
        value, count = totals.compute_metrics().get(metric.key, (math.nan, 0))
        recall = f"{100 * totals.detection.recall:.1f} %" if metric.recalled and count else ""
        line += f"{format_number(value, metric.unit):>10}{count:>9}{recall:>9}"
    return line.rstrip()


def _format_calibration_table(name: str, totals: Totals) -> list[str]:
    return _format_table(f"calibration {name}".strip(), CALIBRATION_COLUMNS, format_calibration(totals))


def _format_distance_table(name: str, totals: Totals) -> list[str]:
    rows = format_distances(totals)
    if len(rows) == 1 and math.isnan(next(iter(totals.summarize_distances().values()))["z_rms"]):
        return []  # no image had depth or a ground plane: same values as in "distance error"
    return _format_table(f"distance {name}".strip(), DISTANCE_COLUMNS, rows)


def _format_table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the lines of a table with an empty line before it; none without rows."""
    if not rows:
        return []
    first = max(len(text) for text in (title, *(name for name, _ in rows)))
    widths = [3 + max(map(len, cells)) for cells in zip(columns, *(cells for _, cells in rows), strict=True)]
    return [
        "",
        *(
            f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            for name, cells in ((title, columns), *rows)
        ),
    ]


def _format_times(name: str, totals: Totals) -> list[str]:
    latencies = totals.compute_latencies()
    if not latencies:
        return []
    lines = ["", f"{f'latency {name}'.strip():<22}{'p50':>10}{'p95':>9}{'max':>9}  ms"]
    for stage, each in latencies.items():
        lines.append(f"{stage:<22}{each['p50_ms']:>10.1f}{each['p95_ms']:>9.1f}{each['max_ms']:>9.1f}")
    if totals.dropped:
        lines.append(f"{'dropped images':<22}{totals.dropped:>10}")
    return lines
