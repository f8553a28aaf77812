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

"""Rules of the architecture: allowed imports, the graph in docs/, and modules loaded by importing the package."""

from __future__ import annotations

import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from test.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from import_graph import GRAPH, PACKAGE, draw, folder_of, imported_names, read_imports, reduce_transitively

sys.path.pop(0)

# Folder or file of the package → the others that it may import. COMMON: may be used everywhere. FRAME: the input of the
# estimator.
COMMON = {"people", "errors", "files", "hardware", "caches", "progress", "terminal"}
FRAME = {"frame", "lens", "depth"}
ALLOWED: dict[str, set[str]] = {
    "__init__": COMMON | FRAME | {"estimator"},
    "people": set(),
    "errors": set(),
    "files": {"errors"},
    "hardware": set(),
    "caches": {"errors"},
    "terminal": {"errors"},
    "progress": set(),
    "camera": COMMON,
    "lens": {"camera"},
    "depth": {"errors"},
    "frame": {"people", "errors", "camera", "lens", "depth"},
    "body": COMMON,
    "network": COMMON | {"camera", "body"},
    "tracking": COMMON,
    "placement": COMMON | FRAME | {"camera"},
    "weights": COMMON,
    "media": COMMON | FRAME | {"camera"},
    "estimator": COMMON | FRAME | {"network", "tracking", "placement", "camera", "body", "weights"},
    "benchmark": COMMON | {"estimator", "network", "body", "camera"},
    "simulation": COMMON | {"camera", "body"},
    "labeling": COMMON | {"simulation", "placement", "camera", "body", "media"},
    "training": COMMON | {"network", "simulation", "metrics", "body", "camera", "media"},
    "metrics": COMMON | {"camera", "body"},
    "messages": COMMON | FRAME | {"camera"},
    "transform_tree": COMMON,
    "bags": COMMON | FRAME | {"messages", "transform_tree", "media", "camera"},
    "evaluation": COMMON
    | FRAME
    | {"estimator", "bags", "messages", "transform_tree", "metrics", "body", "camera", "media"},
    "ros": COMMON
    | FRAME  # msg: generated.
    | {"estimator", "bags", "messages", "transform_tree", "placement", "camera", "body", "media", "msg"},
}
# The same within the simulation: folder or module → the others of the simulation that it may import.
SIMULATION: dict[str, set[str]] = {
    "__init__": set(),
    "motion": set(),
    "appearance": set(),
    "scene": {"motion", "appearance"},
    "rendering": {"motion", "appearance", "scene"},
    "labels": {"scene", "rendering"},
    "sequence": {"scene", "rendering", "labels"},
}
ROS_PACKAGES = ("rclpy", "rosidl", "_msgs", "tf2_ros", "ament", "launch")


TABLE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = folder_of(path)
    folders = {name.split(".")[1] for name in imported_names(path) if name.startswith("multihmr2_ros.")}
    folders -= {"__version__", here}
    if here == "cli":
        return
    assert folders <= ALLOWED[here], f"{here} may not import {sorted(folders - ALLOWED[here])}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_ros_imports_ros(path: Path) -> None:
    ros = {name for name in imported_names(path) if any(word in name.split(".")[0] for word in ROS_PACKAGES)}
    assert folder_of(path) in ("ros", "cli") or not ros


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "simulation").rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_within_the_simulation_go_one_way(path: Path) -> None:
    here = path.relative_to(PACKAGE / "simulation").parts[0].removesuffix(".py")
    prefix = "multihmr2_ros.simulation."
    used = {name.removeprefix(prefix).split(".")[0] for name in imported_names(path) if name.startswith(prefix)} - {
        here
    }
    assert used <= SIMULATION[here], f"simulation/{here} may not import {sorted(used - SIMULATION[here])}"


def test_modules_of_the_simulation_import_each_other_in_no_circle() -> None:
    graph = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): imported_names(path)
        for path in (PACKAGE / "simulation").rglob("*.py")
        if path.name != "__init__.py"
    }
    # "package.module.name" or "package.module" → the module.
    graph = {
        module: {other for other in graph if any(name == other or name.startswith(f"{other}.") for name in names)}
        for module, names in graph.items()
    }
    assert sum(map(len, graph.values())) > len(graph), "the graph has edges"
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_rule_sees_every_kind_of_import() -> None:
    path = PACKAGE / "cli" / "run.py"  # imported late, inside functions
    assert {"argparse", "multihmr2_ros.errors.UserError", "multihmr2_ros.media.sources.open_source"} <= imported_names(
        path
    )
    assert "multihmr2_ros.tracking.tracker.Tracker" in imported_names(PACKAGE / "tracking" / "__init__.py")  # relative


def test_the_graph_in_the_documents_is_up_to_date() -> None:
    assert GRAPH.read_text(encoding="utf-8") == draw(reduce_transitively(read_imports())), (
        "docs/architecture.svg is out of date: run python scripts/import_graph.py"
    )


def test_the_table_in_the_documents_lists_every_folder() -> None:
    rows = {line.split("`")[1].rstrip("/").removesuffix(".py") for line in TABLE.splitlines() if line.startswith("| `")}
    assert rows == {folder_of(path) for path in FILES} - {"__init__", "errors", "hardware", "progress", "msg"}


@pytest.mark.parametrize("module", ["multihmr2_ros", "multihmr2_ros.cli.main", "multihmr2_ros.cli.run"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    heavy = "torch rclpy anny cv2 numpy scipy av trimesh jinja2 matplotlib rerun"
    code = f"import {module}, sys; print(*(name for name in '{heavy}'.split() if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
