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

"""The tables on the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from multihmr2_ros.evaluation.comparison import Comparison, judge_difference
from multihmr2_ros.evaluation.metric_definitions import DEFINITIONS, METRICS
from multihmr2_ros.evaluation.published import ROWS
from multihmr2_ros.evaluation.report import (
    CALIBRATION_COLUMNS,
    DISTANCE_COLUMNS,
    format_calibration,
    format_distances,
    format_number,
)
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.totals import Totals

METRICS_HEADING = "All metrics"


class TableRow(NamedTuple):
    """A row of a table. definition: shown when the reader opens the name; "" if there is none."""

    name: str
    cells: Sequence[str]
    definition: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table.

    heading       above the table
    first_column  heading of the rows' names
    columns       headings of the cells
    rows          of the table
    remark        below the heading
    """

    heading: str
    first_column: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    remark: str = ""

    @property
    def has_definitions(self) -> bool:
        return any(row.definition for row in self.rows)


def make_comparison_table(comparisons: Sequence[Comparison]) -> ReportTable:
    units = {metric.key: metric.unit for metric in METRICS}
    rows = []
    for each in comparisons:
        for found in each.differences:
            unit = units[found.key]
            known = math.isfinite(found.low) and math.isfinite(found.high)
            cells = [format_number(found.a, unit), format_number(found.b, unit), f"{found.b - found.a:+.2f}",
                     f"{found.low:+.2f} … {found.high:+.2f}" if known else "–", judge_difference(found)]  # fmt: skip
            name = f"{found.key} ({unit})" if unit else found.key
            name = f"{name}, {each.kind}" if len(comparisons) > 1 else name
            rows.append(TableRow(name, cells, DEFINITIONS[found.key]))
    return ReportTable(METRICS_HEADING, "metric", ("A", "B", "B − A", "95 % interval", ""), rows)


def make_metrics_table(totals_by_kind: Mapping[str, Totals]) -> ReportTable:
    columns: list[str] = []
    for kind in totals_by_kind:
        start = f"{kind}: " if len(totals_by_kind) > 1 else ""
        columns += [f"{start}value", "count", "recall"]
    measured = {kind: totals.compute_metrics() for kind, totals in totals_by_kind.items()}
    rows = []
    for metric in METRICS:
        if not any(metric.key in values for values in measured.values()):
            continue
        cells = []
        for kind, totals in totals_by_kind.items():
            value, count = measured[kind].get(metric.key, (math.nan, 0))
            recall = f"{100 * totals.detection.recall:.1f} %" if metric.recalled and count else ""
            cells += [format_number(value, metric.unit), f"{count} {metric.counted}", recall]
        name = f"{metric.key} ({metric.unit})" if metric.unit else metric.key
        rows.append(TableRow(name, cells, DEFINITIONS[metric.key]))
    return ReportTable(METRICS_HEADING, "metric", columns, rows)


def make_motion_tables(totals_by_kind: Mapping[str, Totals]) -> list[ReportTable]:
    """Return the calibration of covariances, and distance errors by placement cue."""
    calibration, distances = [], []
    for kind, totals in totals_by_kind.items():
        end = f", {kind}" if len(totals_by_kind) > 1 else ""
        calibration += [TableRow(f"{name}{end}", cells) for name, cells in format_calibration(totals)]
        distances += [TableRow(f"{name}{end}", cells) for name, cells in format_distances(totals)]
    return [
        ReportTable(
            "Calibration of velocities and positions", "", CALIBRATION_COLUMNS, calibration,
            "NEES is the mean normalized error squared: 1 if the stated covariances are correct, above 1 if they are "
            "too small. The bounds are for independent errors; errors of successive frames are correlated.",
        ),
        ReportTable(
            "Distance error by placement cue", "", DISTANCE_COLUMNS, distances,
            "Absolute errors of the distance between pelvis and camera, by the cue that determines the distance. z: "
            "signed error divided by its stated standard deviation; its RMS is 1 if the standard deviation is correct.",
        ),
    ]  # fmt: skip


def make_paper_table(dataset: str | None, totals: Totals, results: Sequence[SequenceResult]) -> list[ReportTable]:
    """Return the paper's rows below this result's row; an empty list for data sets that are not in the paper."""
    published = ROWS.get(dataset or "")
    if published is None:
        return []
    columns = list(dict.fromkeys(key for row in published.values() for key in row))
    own = {key: value for key, (value, _) in totals.compute_metrics().items()}
    own |= {key: value for result in results for key, value in result.scores.items()}
    rows = [
        TableRow(name, [f"{row[key]:.1f}" if key in row else "–" for key in columns])
        for name, row in {"this result": own, **published}.items()
    ]
    return [ReportTable("Comparison with the paper", "result", columns, rows)]
