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

"""Pictures of results, made of their tables: error over distance, field of view, latency, identities over time."""

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
from multihmr2_ros.media.colors import track_color
from multihmr2_ros.media.files import atomic_path

DISTANCE_ERRORS = {"mrpe_mm": "place (MRPE)", "mrpe_z_mm": "depth (MRPE z)", "mpjpe_mm": "pose (MPJPE)"}
STYLES = ("-", "--", ":")  # one per kind of intrinsics
LEAST_IN_BIN = 5
MOST_IDENTITIES = 40


def require_matplotlib() -> None:
    """Find out before an hour's work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "plots need matplotlib: pip install 'multihmr2_ros[eval]', or leave them out with --no-plots"
        ) from None


def save_plots(out: Path, results: Sequence[SequenceResult]) -> list[Path]:
    """Those that the results have data for; identities beside each sequence's tables."""
    written: list[Path] = []
    written += _error_over_distance(out / "error_over_distance.png", _by_kind(out, results, "people.csv"))
    written += _fields_of_view(out / "field_of_view.png", _by_kind(out, results, "frames.csv"))
    times: dict[str, list[float]] = {}
    for result in results:
        for stage, values in result.tally.times_ms.items():
            times.setdefault(stage, []).extend(values)
    written += _latency(out / "latency.png", times)
    for result in results:
        folder = out / result.folder
        written += _identities(folder / "identities.png", _rows(folder / "people.csv"), result.name)
    return written


def _by_kind(out: Path, results: Sequence[SequenceResult], table: str) -> dict[str, Iterator[dict[str, str]]]:
    kinds: dict[str, list[Path]] = {}
    for result in results:
        kinds.setdefault(result.intrinsics, []).append(out / result.folder / table)
    return {kind: (row for path in paths for row in _rows(path)) for kind, paths in kinds.items()}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _figure(height_inches: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, height_inches), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> list[Path]:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return [path]


def _error_over_distance(path: Path, kinds: Mapping[str, Iterable[dict[str, str]]]) -> list[Path]:
    figure, axes = _figure()
    is_empty = True
    for style, (kind, rows) in zip(STYLES, kinds.items(), strict=False):
        values = _columns((row for row in rows if row["outcome"] == MATCH), ("true_distance_m", *DISTANCE_ERRORS))
        bins = np.floor(values[:, 0])
        for column, label in enumerate(DISTANCE_ERRORS.values(), start=1):
            known = np.isfinite(values[:, [0, column]]).all(axis=1)
            means = [
                (each + 0.5, values[known & (bins == each), column].mean())
                for each in np.unique(bins[known])
                if (known & (bins == each)).sum() >= LEAST_IN_BIN
            ]
            if means:
                is_empty = False
                name = f"{label}, {kind}" if len(kinds) > 1 else label
                axes.plot(*zip(*means, strict=True), style, color=f"C{column - 1}", marker="o", label=name)
    axes.set(xlabel="true distance (m), bins of 1 m", ylabel="mean error (mm)", title="Error over distance")
    axes.set_ylim(bottom=0)
    if is_empty:
        return []
    axes.legend()
    return _save(figure, path)


def _fields_of_view(path: Path, kinds: Mapping[str, Iterable[dict[str, str]]]) -> list[Path]:
    """The network's own prediction is the same for all kinds of intrinsics: the first is drawn."""
    figure, axes = _figure()
    rows = next(iter(kinds.values()), iter(()))
    values = _columns(rows, ("predicted_fov_deg", "true_fov_deg"))
    if not np.isfinite(values[:, 0]).any():
        return []
    axes.plot(values[:, 0], ".", markersize=3, label="predicted")
    if np.isfinite(values[:, 1]).any():
        axes.plot(values[:, 1], color="black", linewidth=1, label="true")
    axes.set(xlabel="frame", ylabel="vertical field of view (degrees)", title="Field of view")
    axes.legend()
    return _save(figure, path)


def _latency(path: Path, times: Mapping[str, Sequence[float]]) -> list[Path]:
    known = {stage: np.asarray(values) for stage, values in times.items() if len(values)}
    if not known:
        return []
    figure, axes = _figure()
    highest = max(float(np.percentile(values, 99.5)) for values in known.values())
    for stage, values in known.items():
        label = f"{stage}: p50 {np.percentile(values, 50):.1f}, p95 {np.percentile(values, 95):.1f} ms"
        axes.hist(np.minimum(values, highest), bins=60, range=(0, max(highest, 1e-3)), histtype="step", label=label)
    axes.set(xlabel="ms (the last bin holds what is longer)", ylabel="frames", title="Latency")
    axes.legend()
    return _save(figure, path)


def _identities(path: Path, rows: Iterable[dict[str, str]], name: str) -> list[Path]:
    """A line per true person, in the colour of the track that followed them; gaps are misses."""
    points: dict[int, list[tuple[float, int]]] = {}
    false: list[float] = []
    for row in rows:
        if row["outcome"] == MATCH:
            points.setdefault(int(row["true_id"]), []).append((float(row["stamp_s"]), int(row["predicted_id"])))
        elif row["outcome"] == MISS:
            points.setdefault(int(row["true_id"]), [])
        elif row["outcome"] == FALSE_POSITIVE:
            false.append(float(row["stamp_s"]))
    if not points:
        return []
    shown = sorted(points)[:MOST_IDENTITIES]
    figure, axes = _figure(1.5 + 0.3 * (len(shown) + 1))
    stamps = [stamp for each in points.values() for stamp, _ in each] + false
    start = min(stamps, default=0.0)
    for height, true_id in enumerate(shown, start=1):
        seen = np.array(points[true_id], np.float64).reshape(-1, 2)
        for track in np.unique(seen[:, 1]).astype(int):
            at = seen[seen[:, 1] == track, 0]
            color = np.array(track_color(track)) / 255
            axes.plot(at - start, np.full(len(at), height), "|", color=color, markersize=12)
            axes.annotate(f"{track}", (at[0] - start, height), textcoords="offset points", xytext=(0, 7), fontsize=7)
    axes.plot(np.array(false) - start, np.zeros(len(false)), "x", color="red", markersize=4)
    axes.set_yticks(range(len(shown) + 1), ["false", *map(str, shown)])
    axes.set_ylim(-0.5, len(shown) + 0.8)
    axes.set(xlabel="time (s)", ylabel="true id", title=f"Track ids over time: {name}")
    return _save(figure, path)


def _columns(rows: Iterable[dict[str, str]], names: Sequence[str]) -> NDArray[np.float64]:
    """(rows, names); NaN for empty cells."""
    values = [[float(row[name]) if row[name] else np.nan for name in names] for row in rows]
    return np.array(values, np.float64).reshape(-1, len(names))
