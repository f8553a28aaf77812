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

"""Output of `real_pictures.py`: figures in blocks, one column per checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.files import atomic_path

DIGITS = {"%": 1, "mm": 0, "°": 1}  # decimals by the unit after a figure's name; 2 without a unit


@dataclass(frozen=True)
class Figures:
    """A block of the table: figures by name with unit, and additional data for --json."""

    title: str
    values: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def table(columns: dict[str, list[Figures]]) -> str:
    """Format as Markdown: one row per figure, one column per checkpoint; – if a figure could not be measured."""
    blocks: dict[str, dict[str, dict[str, float]]] = {}
    for name, figures in columns.items():
        for block in figures:
            for figure, value in block.values.items():
                blocks.setdefault(block.title, {}).setdefault(figure, {})[name] = value
    rows = [["", *columns]]
    for title, by_figure in blocks.items():
        rows.append([f"**{title}**", *("" for _ in columns)])
        rows += [
            [figure, *(cell(figure, by_name.get(name)) for name in columns)] for figure, by_name in by_figure.items()
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def summary(block: Figures) -> str:
    """Format a block's figures in one line."""
    return ", ".join(f"{figure} {cell(figure, value)}" for figure, value in block.values.items())


def cell(figure: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return f"{value:.{DIGITS.get(figure.rsplit(' ', 1)[-1], 2)}f}"


def write_json(path: Path, columns: dict[str, list[Figures]], settings: dict[str, Any]) -> None:
    content = {
        **settings,
        "columns": {
            name: {block.title: {**block.values, **block.details} for block in figures}
            for name, figures in columns.items()
        },
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
