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

"""Comparison of two results: differences with 95 % intervals from the bootstrap (Efron 1979).

The bootstrap draws sequences, the same ones for both results. With a single sequence it draws blocks of successive
frames with truth (30, or a tenth of a short sequence), because neighboring frames are similar; identity metrics, which
are not sums over blocks, then have no interval. A single sequence of boxes has no table of frames, and so no
intervals.
"""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation import results as files
from multihmr2_ros.evaluation.metric_definitions import ERRORS, IDENTITY, METRICS, MOTION_ERRORS
from multihmr2_ros.evaluation.report import compute_name_width, format_number
from multihmr2_ros.evaluation.tables import FRAME_DETECTION, format_column
from multihmr2_ros.evaluation.totals import Sum, Totals
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.identity import HOTA_THRESHOLDS, IdentityCounts

BOOTSTRAP_DRAWS = 2000
MIN_DEFINED = 0.95  # share of the draws with a value, for an interval. Draws of sequences without people have none
BLOCK_FRAMES, MIN_BLOCKS = 30, 10
MIN_DIFFERENCE = 0.005  # smaller differences are shown as 0.00 and not judged
INTERVAL = (2.5, 97.5)
IDENTITY_COUNTS = ("truth", "predicted", "misses", "false_positives", "switches", "id_true_positives")
FRAMES_FILE = "frames.csv"
HOTA_COUNTS = ("hota_true_positives", "hota_association")


@dataclass(frozen=True)
class Difference:
    """One metric of A and B in its unit. low, high: interval of B − A, NaN if there are too few units to draw from."""

    key: str
    a: float
    b: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The differences for one kind of intrinsics (A's, and B's if they differ).

    drawn  name of the units that are drawn
    units  their number; 1: there are no intervals
    """

    kind: str
    drawn: str
    units: int
    differences: tuple[Difference, ...]


def compare(a: Path, b: Path, seed: int = 0) -> list[Comparison]:
    """Return B − A for every kind of intrinsics in both results, or for the only kind of each. Raises UserError if the
    results have no sequence in common."""
    read_a, read_b = _group_by_kind(a), _group_by_kind(b)
    kinds = [(kind, kind) for kind in read_a if kind in read_b]
    if not kinds and len(read_a) == len(read_b) == 1:
        kinds = [(next(iter(read_a)), next(iter(read_b)))]
    if not kinds:
        raise UserError(
            f"expected results with the same intrinsics, got {', '.join(read_a)} in {a} and {', '.join(read_b)} in "
            f"{b}; evaluate both with the same --intrinsics"
        )
    return [_compare_sequences(a, b, read_a[first], read_b[second], first, second, seed) for first, second in kinds]


def format_comparison(a: Path, b: Path, comparisons: Sequence[Comparison]) -> str:
    units = {metric.key: metric for metric in METRICS}
    lines = [f"A: {a}", f"B: {b}"]
    for each in comparisons:
        lines += ["", f"intrinsics {each.kind}; {describe_intervals(each)}"]
        width = compute_name_width(found.key for found in each.differences)
        lines.append(f"{'metric':<{width}}{'unit':<6}{'A':>10}{'B':>10}{'B − A':>10}{'95 % interval':>22}")
        for found in each.differences:
            metric = units[found.key]
            low, high = (f"{value:+.2f}" if math.isfinite(value) else "" for value in (found.low, found.high))
            interval = f"{low} … {high}" if low and high else "–"
            verdict = f"  {judge_difference(found)}".rstrip()
            a_text, b_text = format_number(found.a, metric.unit), format_number(found.b, metric.unit)
            difference = f"{found.b - found.a:+.2f}" if math.isfinite(found.b - found.a) else "–"
            lines.append(
                f"{found.key:<{width}}{metric.unit:<6}{a_text:>10}{b_text:>10}{difference:>10}{interval:>22}{verdict}"
            )
    return "\n".join(lines)


def describe_intervals(comparison: Comparison) -> str:
    if comparison.units < 2:
        return f"no intervals, because there are fewer than two {comparison.drawn}"
    return f"95 % intervals of B − A over {comparison.units} {comparison.drawn}"


def judge_difference(found: Difference) -> str:
    """Return "better" or "worse" if the interval of B − A excludes 0 by a visible difference; "" otherwise."""
    metric = next(metric for metric in METRICS if metric.key == found.key)
    nearest = max(found.low, -found.high)  # rounding in the network moves an end at 0 by some 1e-5
    if nearest > MIN_DIFFERENCE and abs(found.b - found.a) > MIN_DIFFERENCE:
        return "better" if metric.is_better(found.b, found.a) else "worse"
    return ""


def _group_by_kind(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the sequences of a result, by kind of intrinsics and name."""
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    for sequence in files.read_results(folder)["sequences"]:
        kinds.setdefault(sequence["intrinsics"], {})[sequence["name"]] = sequence
    if not kinds:
        raise UserError(f"{folder} contains no sequence; evaluate again")
    return kinds


def _list_with_truth(sequences: dict[str, Any]) -> str:
    return ", ".join(name for name, sequence in sequences.items() if sequence["with_truth"]) or "none"


def _compare_sequences(
    a: Path, b: Path, first: dict[str, Any], second: dict[str, Any], kind: str, other_kind: str, seed: int
) -> Comparison:
    names = [name for name in first if name in second and first[name]["with_truth"] and second[name]["with_truth"]]
    if not names:
        for folder, sequences in ((a, first), (b, second)):
            if any(sequence.get("scores") for sequence in sequences.values()):
                raise UserError(
                    f"{folder} contains scores of a whole data set, without values of people or sequences; --compare "
                    "does not support them, so compare its results.json yourself"
                )
        raise UserError(
            f"{a} and {b} have no common sequence with ground truth: {_list_with_truth(first)} in {a}, "
            f"{_list_with_truth(second)} in {b}; evaluate the same bags"
        )
    totals_a, totals_b = ([each[name]["totals"] for name in names] for each in (first, second))
    drawn, units_a, units_b = "sequences", _make_matrix(totals_a), _make_matrix(totals_b)
    has_identity = all(totals.identity is not None for totals in (*totals_a, *totals_b))
    tables = [folder / each[names[0]]["folder"] / FRAMES_FILE for folder, each in ((a, first), (b, second))]
    if len(names) == 1 and any(path.is_file() for path in tables):
        units_a, units_b, size = _pair_blocks(*map(_read_frames, tables))
        drawn, has_identity = f"blocks of {size} frames", False
    values_a, values_b = (_merge_totals(all_totals).compute_metrics() for all_totals in (totals_a, totals_b))
    spread = _bootstrap_interval(units_a, units_b, np.random.default_rng(seed))
    identity = {metric.key for metric in IDENTITY}
    differences = []
    for metric in METRICS:
        if metric.key not in values_a or metric.key not in values_b:
            continue
        low, high = spread.get(metric.key, (math.nan, math.nan))
        if metric.key in identity and not has_identity:
            low = high = math.nan
        differences.append(Difference(metric.key, values_a[metric.key][0], values_b[metric.key][0], low, high))
    return Comparison(
        kind if kind == other_kind else f"{kind} (A), {other_kind} (B)", drawn, len(units_a), tuple(differences)
    )


def _bootstrap_interval(
    a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Compute the interval of every metric's difference, from units (u, columns of `_make_matrix`)."""
    units = len(a)
    if units < 2:
        return {}
    weights = rng.multinomial(units, np.full(units, 1 / units), size=BOOTSTRAP_DRAWS).astype(np.float64)
    differences: dict[str, list[float]] = {}
    for total_a, total_b in zip(weights @ a, weights @ b, strict=True):
        values_a, values_b = _from_row(total_a).compute_metrics(), _from_row(total_b).compute_metrics()
        for key in values_a.keys() & values_b.keys():
            differences.setdefault(key, []).append(values_b[key][0] - values_a[key][0])
    intervals = {}
    for key, values in differences.items():
        finite = np.array(values)[np.isfinite(values)]
        if len(finite) >= MIN_DEFINED * BOOTSTRAP_DRAWS:
            low, high = np.percentile(finite, INTERVAL)
            intervals[key] = float(low), float(high)
    return intervals


def _merge_totals(all_totals: Sequence[Totals]) -> Totals:
    total = Totals()
    for totals in all_totals:
        total += totals
    return total


def _make_matrix(all_totals: Sequence[Totals]) -> NDArray[np.float64]:
    return np.stack([_make_row(totals) for totals in all_totals])


def _make_row(totals: Totals) -> NDArray[np.float64]:
    """Return the sums that all metrics are computed from."""
    identity = totals.identity or IdentityCounts()
    sums = [totals.sums.get(metric.key, Sum()) for metric in ERRORS]
    return np.concatenate([
        [totals.with_truth],
        [getattr(totals.detection, name) for name in FRAME_DETECTION],
        [each.total for each in sums],
        [each.count for each in sums],
        [getattr(identity, name) for name in IDENTITY_COUNTS],
        *(getattr(identity, name) for name in HOTA_COUNTS),
    ]).astype(np.float64)  # fmt: skip


def _from_row(row: NDArray[np.float64]) -> Totals:
    sizes = (1, 3, len(ERRORS), len(ERRORS), len(IDENTITY_COUNTS), len(HOTA_THRESHOLDS), len(HOTA_THRESHOLDS))
    frames, detection, error_sums, counts, identity, hits, association = np.split(row, np.cumsum(sizes)[:-1])
    return Totals(
        with_truth=int(frames[0]),
        detection=DetectionCounts(*(int(value) for value in detection)),
        sums={
            metric.key: Sum(total, int(count)) for metric, total, count in zip(ERRORS, error_sums, counts, strict=True)
        },
        identity=IdentityCounts(
            **{name: int(value) for name, value in zip(IDENTITY_COUNTS, identity, strict=True)},
            hota_true_positives=hits,
            hota_association=association,
        ),
    )


def _pair_blocks(
    a: Sequence[tuple[int, NDArray[np.float64]]], b: Sequence[tuple[int, NDArray[np.float64]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Pair the frames of two results by their stamps, because one may lack frames.

    Returns the sums over blocks of successive common frames, (blocks, columns of `_make_row`) of each result, and the
    number of frames of a block.
    """
    waiting: dict[int, deque[NDArray[np.float64]]] = {}  # rows of b by their stamp in ms
    for stamp_ms, row in b:
        waiting.setdefault(stamp_ms, deque()).append(row)
    rows_a, rows_b = [], []
    for stamp_ms, row in a:
        found = next((waiting[each] for each in (stamp_ms, stamp_ms - 1, stamp_ms + 1) if waiting.get(each)), None)
        if found:
            rows_a.append(row)
            rows_b.append(found.popleft())
    size = max(1, min(BLOCK_FRAMES, len(rows_a) // MIN_BLOCKS))
    return _sum_blocks(rows_a, size), _sum_blocks(rows_b, size), size


def _sum_blocks(rows: Sequence[NDArray[np.float64]], size: int) -> NDArray[np.float64]:
    if not rows:
        return np.zeros((0, len(_make_row(Totals()))))
    return np.add.reduceat(np.stack(rows), range(0, len(rows), size), axis=0)


def _read_frames(path: Path) -> list[tuple[int, NDArray[np.float64]]]:
    """Return the stamp (ms) and the row of sums (`_make_row`) of each frame with truth in a frames.csv."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            frames = [(round(1e3 * float(cells["stamp_s"])), _parse_frame(cells)) for cells in csv.DictReader(file)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; evaluate again") from None
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} was not written by `multihmr2 evaluate` ({error}); evaluate again") from None
    return [(stamp_ms, _make_row(totals)) for stamp_ms, totals in frames if totals.with_truth]


def _parse_frame(cells: dict[str, str]) -> Totals:
    sums = {}
    for metric in ERRORS:
        if metric in MOTION_ERRORS and format_column(metric) not in cells:
            continue  # the column is missing in results of earlier versions
        count = int(cells[f"{format_column(metric)}_count"])
        if count:
            sums[metric.key] = Sum(float(cells[format_column(metric)]) / metric.scale * count, count)
    detection = DetectionCounts(**{name: int(cells[name]) for name in FRAME_DETECTION})
    return Totals(frames=1, with_truth=int(cells["with_truth"]), detection=detection, sums=sums)
