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

"""A run's figures as curves in a PNG file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multihmr2_ros.media.files import atomic_path

logger = logging.getLogger(__name__)

UNDRAWN = ("step", "kind", "seconds", "images")
COLUMNS = 4


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for every figure in the log's rows (see `Records`), over steps; nothing without rows."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("no curves are drawn without matplotlib; pip install 'multihmr2_ros[train]'")
        return
    series = curves(rows)
    if not series:
        return
    lines = -(-len(series) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, ((kind, name), points) in enumerate(series.items()):
        axes = figure.add_subplot(lines, COLUMNS, place + 1)
        axes.plot([step for step, _ in points], [value for _, value in points], color="C1" if kind != "train" else "C0")
        axes.set_title(name if kind == "train" else f"{name} ({kind})", fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        if kind == "train" and min(value for _, value in points) > 0:
            axes.set_yscale("log")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def curves(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(kind, figure) → its (step, value) points, validation first; figures without a number are left out."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in sorted(rows, key=lambda row: row["kind"] == "train"):
        for name, value in row.items():
            if name not in UNDRAWN and value is not None:
                series.setdefault((row["kind"], name), []).append((row["step"], float(value)))
    return series
