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

"""The Markdown table of `ablations.py`, written between the markers of a page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablation_rows import ROWS

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path

BEGIN, END = "<!-- table: written by scripts/ablations.py -->", "<!-- end of table -->"
Result = dict[str, Any]


def _figure(test: str, name: str) -> Callable[[Result], float]:
    def read(result: Result) -> float:
        value = result["figures"][test][name]
        return math.nan if value is None else float(value)

    return read


def _training(name: str) -> Callable[[Result], float]:
    return lambda result: float(result["training"][name])


# Column → (value of a result, factor, decimals)
COLUMNS: dict[str, tuple[Callable[[Result], float], float, int]] = {
    "recall %": (_figure("renders", "recall"), 100, 0),
    "precision %": (_figure("renders", "precision"), 100, 0),
    "MPJPE mm": (_figure("renders", "mpjpe_mm"), 1, 0),
    "PA-MPJPE mm": (_figure("renders", "pa_mpjpe_mm"), 1, 0),
    "distance %, K given": (_figure("renders", "distance_error"), 100, 1),
    "distance %, K predicted": (_figure("renders, K predicted", "distance_error"), 100, 1),
    "relations %": (_figure("renders", "depth_relations"), 100, 0),
    "OKS, real": (_figure("real", "oks"), 1, 3),
    "CPU s/step": (_training("cpu_s_per_step"), 1, 2),
    "MiB": (_training("memory_mib"), 1, 0),
}
FIELDS = ("row", "seed", "steps", "views", "machine", "threads", "date", "seconds")
PADDING_COLUMNS = ("recall %", "MPJPE mm", "distance %, K given", "OKS, real")


def read_results(out: Path) -> list[Result]:
    """Read the JSON files of all finished runs. Raises UserError for a file of another kind."""
    results = []
    for path in sorted((out / "results").glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            [result[name] for name in FIELDS] + [value(result) for value, _, _ in COLUMNS.values()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a result of scripts/ablations.py ({error!r:.80}); remove it") from None
        results.append(result)
    return results


def write_table(page: Path, results: Sequence[Result]) -> None:
    """Replace the table in a page. Raises UserError if the page or its markers are missing."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--page must be a file with the table's markers; cannot read {page} ({error})") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} lacks the lines {BEGIN} and {END}, between which the table is written")
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{make_tables(results)}\n\n{END}{after}", encoding="utf-8")


def make_tables(results: Sequence[Result]) -> str:
    """Return the main table, the table of padding, and a line on the runs."""
    lines = [_format_line(["row", *COLUMNS, "seeds"]), "|---" * (len(COLUMNS) + 2) + "|"]
    for row in ROWS:
        own = [result for result in results if result["row"] == row.name]
        cells = [_summarize(own, column) for column in COLUMNS] if own else ["not run", *[""] * (len(COLUMNS) - 1)]
        lines.append(_format_line([row.text, *cells, str(len(own) or "")]))
    return "\n".join([*lines, "", *_make_padding_table(results), "", _describe(results)])


def _make_padding_table(results: Sequence[Result]) -> list[str]:
    lines = [_format_line(["training", "test", *PADDING_COLUMNS]), "|---" * (len(PADDING_COLUMNS) + 2) + "|"]
    for row, own in (("base", "aspect ratios"), ("square", "squares")):
        found = [result for result in results if result["row"] == row]
        other = "squares" if own == "aspect ratios" else "aspect ratios"
        for test, name in ((own, ""), (other, ", other padding")):
            swapped = [_swap_tests(result, name) for result in found]
            cells = [_summarize(swapped, column) for column in PADDING_COLUMNS]
            lines.append(_format_line([own, test, *(cells if found else ["not run", *[""] * (len(cells) - 1)])]))
    return lines


def _swap_tests(result: Result, name: str) -> Result:
    """Return the result with the figures of the tests of another name, such as ", other padding"."""
    figures = {test: result["figures"][test + name] for test in ("renders", "real")}
    return {**result, "figures": result["figures"] | figures}


def _summarize(results: Sequence[Result], column: str) -> str:
    """Return the mean over seeds, and ± the standard deviation with several seeds."""
    value, factor, decimals = COLUMNS[column]
    values = [factor * value(result) for result in results]
    values = [number for number in values if math.isfinite(number)]
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def _describe(results: Sequence[Result]) -> str:
    if not results:
        return "No run is finished."
    machines = sorted({f"{result['machine']}, {result['threads']} thread(s)" for result in results})
    dates = sorted({result["date"] for result in results})
    steps, views = results[0]["steps"], results[0]["views"]
    minutes = sum(result["seconds"] for result in results) / 60
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{len(results)} runs of {steps} steps ({views} views) each, {minutes:.0f} minutes together; "
        f"{'; '.join(machines)}; {when}."
    )


def _format_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
