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

"""Logs of a run: JSON lines in `log.jsonl`, curves in a PNG file, and TensorBoard if it is installed."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multihmr2_ros.files import atomic_path

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.png"

UNDRAWN = ("step", "kind", "seconds", "images")
COLUMNS = 4


class TrainingLog:
    """Writes the metrics of a run to its folder. A resumed run appends to the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def _board(self) -> Any:
        return _open_tensorboard(self.folder)

    def add(self, step: int, kind: str, metrics: dict[str, float]) -> None:
        """Write one line; kind is "train" or "validation". Metrics that are not finite become null."""
        values = {name: round(value, 6) if math.isfinite(value) else None for name, value in metrics.items()}
        path = self.folder / LOG_FILE
        # A killed process may have left an incomplete last line.
        separator = "\n" if _ends_within_line(path) else ""
        with path.open("a", encoding="utf-8") as file:
            file.write(separator + json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def draw(self) -> None:
        """Draw the curves of all lines so far. Does nothing without matplotlib."""
        draw_curves(read_log(self.folder / LOG_FILE), self.folder / CURVES_FILE)


def _ends_within_line(path: Path) -> bool:
    """Return whether the file's last byte is not the end of a line. A missing or empty file has no such line."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log: one row per kind and step (the last written), sorted by step. Incomplete lines are skipped."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            rows[row["kind"], row["step"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(rows.values(), key=lambda row: (row["step"], row["kind"]))


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot every metric in the log's rows (see `TrainingLog`) over steps, one panel each. No file without rows."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter
    except ImportError:
        logger.info("curves need matplotlib; pip install 'multihmr2_ros[train]'")
        return
    series = collect_curves(rows)
    if not series:
        return
    lines = -(-len(series) // COLUMNS)
    width, height = 4 * COLUMNS, 2.6 * lines  # inches
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    # Fixed places and plain labels, because fitting places and setting formulas take most of the time.
    figure.subplots_adjust(0.6 / width, 0.3 / height, 1 - 0.1 / width, 1 - 0.3 / height, wspace=0.2, hspace=0.3)
    for place, ((kind, name), points) in enumerate(series.items()):
        axes = figure.add_subplot(lines, COLUMNS, place + 1)
        axes.plot([step for step, _ in points], [value for _, value in points], color="C1" if kind != "train" else "C0")
        axes.set_title(name if kind == "train" else f"{name} ({kind})", fontsize=9, y=1.0)
        axes.grid(alpha=0.3)
        if kind == "train" and min(value for _, value in points) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter())
        axes.tick_params(which="both", labelsize=7)
        axes.locator_params(axis="x", nbins=5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def collect_curves(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return (kind, metric) → its (step, value) points, validation first. Values of None are skipped."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in sorted(rows, key=lambda row: row["kind"] == "train"):
        for name, value in row.items():
            if name not in UNDRAWN and value is not None:
                series.setdefault((row["kind"], name), []).append((row["step"], float(value)))
    return series
