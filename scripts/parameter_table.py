#!/usr/bin/env python3
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

"""Generate the files that list the node's parameters from their table in multihmr2_ros/ros/parameters.py:
config/perception.yaml, and the table between the markers in docs/node.md. Needs rclpy: source scripts/env.sh."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from multihmr2_ros.errors import UserError
from multihmr2_ros.ros.parameters import DEFAULTS, RULES, ParameterRule

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- parameters: written by scripts/parameter_table.py -->", "<!-- end of parameters -->"
LINE_LENGTH = 118


def main() -> None:
    write(ROOT / "config" / "perception.yaml", yaml_file())
    page = ROOT / "docs" / "node.md"
    write(page, with_table(page.read_text(encoding="utf-8")))


def yaml_file() -> str:
    """Return the text of config/perception.yaml: each parameter with its default, and its description as comment."""
    head = "# Every parameter of the node with its default. Written by scripts/parameter_table.py.\n"
    head += "# /** is a node of any name in any namespace.\n/**:\n  ros__parameters:\n"
    return head + "\n".join(_entry(name, rule) for name, rule in RULES.items())


def markdown_table() -> str:
    """Return the table of docs/node.md."""
    rows = ["| parameter | default | values | can be changed | meaning |", "|---|---|---|---|---|"]
    for name, rule in RULES.items():
        cells = [f"`{name}`", f"`{scalar(DEFAULTS[name])}`", values(name), when(rule), rule.description]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """Return the page with the current table between the markers. Raises UserError if the markers are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"expected the lines {BEGIN} and {END} in docs/node.md; restore them")
    return f"{before}{BEGIN}\n{markdown_table()}\n{END}{after}"


def values(name: str) -> str:
    """Describe the allowed values of the parameter."""
    rule, default = RULES[name], DEFAULTS[name]
    if rule.choices:
        return ", ".join(rule.choices)
    if rule.low is not None:
        return f"{scalar(type(default)(rule.low))} to {scalar(type(default)(rule.high))}"
    if rule.form:
        return rule.form
    return {bool: "true, false", str: "text"}[type(default)]


def when(rule: ParameterRule) -> str:
    """Describe when a change of the parameter takes effect."""
    return "live" if rule.live else "at start" if rule.fixed else "when configured"


def scalar(value: Any) -> str:
    """Format a value as YAML."""
    return yaml.safe_dump(value, default_style='"' if isinstance(value, str) else None).partition("\n")[0]


def _entry(name: str, rule: ParameterRule) -> str:
    text = f"{rule.description} [{values(name)}; {when(rule)}]"
    lines, line = [], "    #"
    for word in text.split():
        if len(line) + 1 + len(word) > LINE_LENGTH:
            lines.append(line)
            line = "    #"
        line += f" {word}"
    return "\n".join([*lines, line, f"    {name}: {scalar(DEFAULTS[name])}\n"])


def write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    main()
