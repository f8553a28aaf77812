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

"""Plots of results, drawn from their tables: error over distance, field of view, latency, identities over time."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.tables import FALSE_POSITIVE, MATCH, MISS
from multihmr2_ros.files import atomic_path
from multihmr2_ros.media.colors import get_track_color

DISTANCE_ERRORS = {"mrpe_mm": "position (MRPE)", "mrpe_z_mm": "depth (MRPE z)", "mpjpe_mm": "pose (MPJPE)"}
STYLES = ("-", "--", ":")  # one per kind of intrinsics
MIN_IN_BIN = 5
MAX_IDENTITIES = 40
MAX_LABELS = 60  # per person
WIDTH_INCHES = 8.0


def check_matplotlib() -> None:
    """Raise UserError, before the evaluation starts, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'multihmr2_ros[eval]', or add --no-plots") from None


def save_plots(out: Path, results: Sequence[SequenceResult]) -> list[Path]:
    """Save the plots that the results have data for, identities in the folder of each sequence. Returns their paths."""
    figures = {
        out / "error_over_distance.png": draw_error_over_distance(group_rows_by_kind(out, results, "people.csv")),
        out / "field_of_view.png": draw_fields_of_view(group_rows_by_kind(out, results, "frames.csv")),
        out / "latency.png": draw_latency(collect_times_ms(results)),
    }
    for result in results:
        folder = out / result.folder
        figures[folder / "identities.png"] = draw_identities(read_rows(folder / "people.csv"), result.name)
    return [_save(figure, path) for path, figure in figures.items() if figure is not None]


def collect_times_ms(results: Sequence[SequenceResult]) -> dict[str, list[float]]:
    """Return all times (ms) of all sequences, by the name of the stage."""
    times: dict[str, list[float]] = {}
    for result in results:
        for stage, values in result.totals.times_ms.items():
            times.setdefault(stage, []).extend(values)
    return times


def group_rows_by_kind(out: Path, results: Sequence[SequenceResult], table: str) -> dict[str, Iterator[dict[str, str]]]:
    kinds: dict[str, list[Path]] = {}
    for result in results:
        kinds.setdefault(result.intrinsics, []).append(out / result.folder / table)
    return {kind: (row for path in paths for row in read_rows(path)) for kind, paths in kinds.items()}


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def make_figure(height_inches: float = 4.0) -> tuple[Any, Any]:
    """Return a figure and its axes, with fixed margins: computing them would take as long as drawing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    axes = figure.add_subplot()
    figure.subplots_adjust(
        left=0.8 / WIDTH_INCHES,
        right=1 - 0.2 / WIDTH_INCHES,
        bottom=0.55 / height_inches,
        top=1 - 0.4 / height_inches,
    )
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def draw_error_over_distance(kinds: Mapping[str, Iterable[dict[str, str]]]) -> Any | None:
    figure, axes = make_figure()
    is_empty = True
    for style, (kind, rows) in zip(STYLES, kinds.items(), strict=False):
        values = read_columns((row for row in rows if row["outcome"] == MATCH), ("true_distance_m", *DISTANCE_ERRORS))
        bins = np.floor(values[:, 0])
        for column, label in enumerate(DISTANCE_ERRORS.values(), start=1):
            known = np.isfinite(values[:, [0, column]]).all(axis=1)
            means = [
                (each + 0.5, values[known & (bins == each), column].mean())
                for each in np.unique(bins[known])
                if (known & (bins == each)).sum() >= MIN_IN_BIN
            ]
            if means:
                is_empty = False
                name = f"{label}, {kind}" if len(kinds) > 1 else label
                axes.plot(*zip(*means, strict=True), style, color=f"C{column - 1}", marker="o", label=name)
    axes.set(xlabel="true distance (m), bins of 1 m", ylabel="mean error (mm)", title="Error over distance")
    axes.set_ylim(bottom=0)
    if is_empty:
        return None
    axes.legend()
    return figure


def draw_fields_of_view(kinds: Mapping[str, Iterable[dict[str, str]]]) -> Any | None:
    """Draw the predicted field of view of the first kind of intrinsics; it is the same for all kinds."""
    figure, axes = make_figure()
    rows = next(iter(kinds.values()), iter(()))
    values = read_columns(rows, ("predicted_fov_deg", "true_fov_deg"))
    if not np.isfinite(values[:, 0]).any():
        return None
    axes.plot(values[:, 0], ".", markersize=3, label="predicted", rasterized=True)
    if np.isfinite(values[:, 1]).any():
        axes.plot(values[:, 1], color="black", linewidth=1, label="true")
    axes.set(xlabel="frame", ylabel="vertical field of view (degrees)", title="Field of view")
    axes.legend()
    return figure


def draw_latency(times: Mapping[str, Sequence[float]]) -> Any | None:
    known = {stage: np.asarray(values) for stage, values in times.items() if len(values)}
    if not known:
        return None
    figure, axes = make_figure()
    highest = max(float(np.percentile(values, 99.5)) for values in known.values())
    for stage, values in known.items():
        label = f"{stage}: p50 {np.percentile(values, 50):.1f}, p95 {np.percentile(values, 95):.1f} ms"
        axes.hist(np.minimum(values, highest), bins=60, range=(0, max(highest, 1e-3)), histtype="step", label=label)
    axes.set(xlabel="ms (the last bin contains all longer times)", ylabel="frames", title="Latency")
    axes.legend()
    return figure


def draw_identities(rows: Iterable[dict[str, str]], name: str) -> Any | None:
    """Draw a line for each true person, in the color of the matched track. Gaps are misses."""
    points: dict[int, list[tuple[int, float, int]]] = {}
    false: list[float] = []
    stamps: list[float] = []
    for row in rows:
        stamps.append(float(row["stamp_s"]))
        if row["outcome"] in (MATCH, MISS):
            seen = points.setdefault(int(row["true_id"]), [])
            if row["outcome"] == MATCH:
                seen.append((int(row["frame"]), stamps[-1], int(row["predicted_id"])))
        elif row["outcome"] == FALSE_POSITIVE:
            false.append(stamps[-1])
    if not points:
        return None
    start = min(stamps)
    shown = sorted(points)[:MAX_IDENTITIES]
    figure, axes = make_figure(1.5 + 0.3 * (len(shown) + 1))
    for height, true_id in enumerate(shown, start=1):
        _draw_runs(axes, height, _find_runs(points[true_id]), start, (max(stamps) - start) / MAX_LABELS)
    axes.plot(np.array(false) - start, np.zeros(len(false)), "x", color="red", markersize=4, rasterized=True)
    axes.set_yticks(range(len(shown) + 1), ["false", *map(str, shown)])
    axes.set_ylim(-0.5, len(shown) + 0.8)
    axes.set(xlabel="time (s)", ylabel="true id")
    readable = name.encode("utf-8", "replace").decode()  # names of files may contain bytes that are not UTF-8
    axes.set_title(f"Track ids over time: {readable}", parse_math=False)
    return figure


def _find_runs(seen: Sequence[tuple[int, float, int]]) -> list[tuple[float, float, int]]:
    """Return (first stamp, last stamp, track) of each run of successive frames with one track.

    seen: (frame, stamp, track)
    """
    runs: list[tuple[float, float, int]] = []
    last_frame = -2
    for frame, stamp_s, track in seen:
        if runs and runs[-1][2] == track and frame == last_frame + 1:
            runs[-1] = (runs[-1][0], stamp_s, track)
        else:
            runs.append((stamp_s, stamp_s, track))
        last_frame = frame
    return runs


def _draw_runs(
    axes: Any, height: int, runs: Sequence[tuple[float, float, int]], start_s: float, label_gap_s: float
) -> None:
    """Draw a person's runs. Names of tracks that would be less than label_gap_s apart are left out."""
    first, last = (np.array([run[column] for run in runs]) - start_s for column in (0, 1))
    colors = np.array([get_track_color(track) for *_, track in runs]).reshape(-1, 3) / 255
    axes.hlines(np.full(len(runs), height), first, last, colors, linewidth=7, rasterized=True)
    for ends in (first, last):
        axes.scatter(ends, np.full(len(runs), height), s=36, c=colors, marker="|", linewidth=1, rasterized=True)
    named, label_s = None, -np.inf
    for place_s, (*_, track) in zip(first.tolist(), runs, strict=True):
        if track != named and place_s - label_s >= label_gap_s:
            axes.annotate(f"{track}", (place_s, height), textcoords="offset points", xytext=(0, 7), fontsize=7)
            label_s = place_s
        named = track


def read_columns(rows: Iterable[dict[str, str]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the columns as an array (rows, names), with NaN for empty cells."""
    values = [[float(row[name]) if row[name] else np.nan for name in names] for row in rows]
    return np.array(values, np.float64).reshape(-1, len(names))
