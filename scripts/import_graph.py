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

"""Draw the imports between the folders of the package, read from the source files.

    python scripts/import_graph.py            # writes docs/architecture.svg
    python scripts/import_graph.py --counts   # prints modules and lines per folder

Each folder is drawn above the folders that it imports. Arrows that are implied by a longer path are omitted (transitive
reduction), and so are imports of `errors`, `files`, `hardware`, `caches`, `progress` and `terminal`, which all
may use.
"""

from __future__ import annotations

import argparse
import ast
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "multihmr2_ros"
GRAPH = ROOT / "docs" / "architecture.svg"
COMMON = {"errors", "files", "hardware", "caches", "progress", "terminal"}
HIDDEN = COMMON | {"__init__", "msg", "__version__"}

BOX_WIDTH, BOX_HEIGHT, COLUMN_GAP, ROW_GAP, MARGIN = 132, 34, 26, 46, 20  # px


def folder_of(path: Path) -> str:
    """Return the name of the folder, or of the module, directly in the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> set[str]:
    """Return the absolute names of all modules that a file imports, at its top or inside functions."""
    package = ["multihmr2_ros", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def read_imports() -> dict[str, set[str]]:
    """Return a dict: folder → the other folders of the package that it imports."""
    imports: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = folder_of(path)
        if folder in HIDDEN:
            continue
        names = {name.split(".")[1] for name in imported_names(path) if name.startswith("multihmr2_ros.")}
        imports.setdefault(folder, set()).update(names - HIDDEN - {folder})
    return imports


def reduce_transitively(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without the edges that are implied by a longer path. Raises RecursionError for a cycle."""

    @cache
    def reachable(folder: str) -> frozenset[str]:
        return frozenset(imports[folder]).union(*(reachable(below) for below in imports[folder]))

    return {
        folder: {each for each in below if not any(each in reachable(other) for other in below - {each})}
        for folder, below in imports.items()
    }


def arrange(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the rows from top to bottom.

    Each folder is one row above the highest folder that it imports, and horizontally near the folders that import it.
    """

    @cache
    def height(folder: str) -> int:
        return 1 + max((height(below) for below in edges[folder]), default=-1)

    rows = [sorted(f for f in edges if height(f) == level) for level in range(max(map(height, edges)), -1, -1)]
    for _ in range(4):  # barycenter heuristic, downward and upward
        for direction in (1, -1):
            position = {name: (i + 0.5) / len(row) for row in rows for i, name in enumerate(row)}
            for row in rows[::direction]:
                keys = {name: _barycenter(name, edges, position, direction) for name in row}
                row.sort(key=lambda name: (keys[name], name))
                position |= {name: (i + 0.5) / len(row) for i, name in enumerate(row)}
    return rows


def _barycenter(name: str, edges: dict[str, set[str]], position: dict[str, float], direction: int) -> float:
    near = [each for each in edges if name in edges[each]] if direction > 0 else list(edges[name])
    return sum(position[each] for each in near) / len(near) if near else position[name]


def draw(edges: dict[str, set[str]]) -> str:
    """Return the graph as SVG."""
    rows = arrange(edges)
    width = max(len(row) for row in rows) * (BOX_WIDTH + COLUMN_GAP) - COLUMN_GAP + 2 * MARGIN
    height = len(rows) * (BOX_HEIGHT + ROW_GAP) - ROW_GAP + 2 * MARGIN
    boxes = {}
    for r, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + COLUMN_GAP) + COLUMN_GAP) / 2
        for column, name in enumerate(row):
            boxes[name] = (left + column * (BOX_WIDTH + COLUMN_GAP), MARGIN + r * (BOX_HEIGHT + ROW_GAP))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#777"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name in sorted(edges):
        for below in sorted(edges[name]):
            lines.append(_arrow(boxes[name], boxes[below]))
    for name, (x, y) in sorted(boxes.items()):
        label = name + ("/" if (PACKAGE / name).is_dir() else ".py")
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="#e8f0fa" '
            f'stroke="#4a6fa5"/><text x="{x + BOX_WIDTH / 2:.0f}" y="{y + BOX_HEIGHT / 2 + 5:.0f}" font-size="14" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _arrow(above: tuple[float, float], below: tuple[float, float]) -> str:
    x1, y1, x2, y2 = above[0] + BOX_WIDTH / 2, above[1] + BOX_HEIGHT, below[0] + BOX_WIDTH / 2, below[1]
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1:.0f} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}" '
        'fill="none" stroke="#777" marker-end="url(#arrow)"/>'
    )


def print_counts() -> None:
    """Print the number of modules and lines per folder."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if "msg" not in path.relative_to(PACKAGE).parts[:1]]
    total = 0
    for folder in sorted({folder_of(path) for path in paths}):
        own = [path for path in paths if folder_of(path) == folder]
        lines = sum(path.read_text(encoding="utf-8").count("\n") for path in own)
        total += lines
        print(f"{folder:16} {len(own):4} modules {lines:6} lines")
    print(f"{'total':16} {len(paths):4} modules {total:6} lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts", action="store_true", help="print modules and lines per folder instead of writing the graph"
    )
    if parser.parse_args().counts:
        print_counts()
        return
    GRAPH.write_text(draw(reduce_transitively(read_imports())), encoding="utf-8")
    print(f"wrote {GRAPH.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
