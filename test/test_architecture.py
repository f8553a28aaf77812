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

"""The house's rules: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from test import paths

PACKAGE = paths.ROOT / "multihmr2_ros"

# Room → the rooms of ours that it may import. `people`, `errors` and `hardware` hold facts and import nothing of ours,
# `caches` only the errors; everyone may use them. FRAME: a camera image with what is known about it.
EVERYONE = {"people", "errors", "hardware", "caches"}
FRAME = {"frame", "lens", "depth"}
ALLOWED: dict[str, set[str]] = {
    "__init__": EVERYONE | FRAME | {"estimator"},
    "people": set(),
    "errors": set(),
    "hardware": set(),
    "caches": {"errors"},
    "camera": EVERYONE,
    "lens": {"camera"},
    "depth": {"errors"},
    "frame": {"people", "errors", "camera", "lens", "depth"},
    "body": EVERYONE,
    "network": EVERYONE | {"camera", "body"},
    "tracking": EVERYONE,
    "placement": EVERYONE | FRAME | {"camera"},
    "weights": EVERYONE,
    "media": EVERYONE | FRAME | {"camera"},
    "estimator": EVERYONE | FRAME | {"network", "tracking", "placement", "camera", "body", "weights"},
    "benchmark": EVERYONE | {"estimator", "network", "body", "camera"},
    "simulation": EVERYONE | {"camera", "body"},
    "labeling": EVERYONE | {"simulation", "placement", "camera", "body", "media"},
    "training": EVERYONE | {"network", "simulation", "metrics", "body", "camera", "media"},
    "metrics": EVERYONE | {"camera", "body"},
    "messages": EVERYONE | FRAME | {"camera"},
    "transform_tree": EVERYONE,
    "bags": EVERYONE | FRAME | {"messages", "transform_tree", "media", "camera"},
    "evaluation": EVERYONE
    | FRAME
    | {"estimator", "bags", "messages", "transform_tree", "metrics", "body", "camera", "media"},
    "ros": EVERYONE
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


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, by its absolute name."""
    package = ["multihmr2_ros", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("multihmr2_ros.")}
    rooms -= {"__version__", here}
    if here == "cli":
        return
    assert rooms <= ALLOWED[here], f"{here} may not import {sorted(rooms - ALLOWED[here])}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_ros_imports_ros(path: Path) -> None:
    ros = {name for name in imported(path) if any(word in name.split(".")[0] for word in ROS_PACKAGES)}
    assert room(path) in ("ros", "cli") or not ros


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "simulation").rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_within_the_simulation_go_one_way(path: Path) -> None:
    here = path.relative_to(PACKAGE / "simulation").parts[0].removesuffix(".py")
    prefix = "multihmr2_ros.simulation."
    used = {name.removeprefix(prefix).split(".")[0] for name in imported(path) if name.startswith(prefix)} - {here}
    assert used <= SIMULATION[here], f"simulation/{here} may not import {sorted(used - SIMULATION[here])}"


def test_modules_of_the_simulation_import_each_other_in_no_circle() -> None:
    graph = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): imported(path)
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
    path = PACKAGE / "cli" / "run.py"  # imports late, inside functions
    assert {"argparse", "multihmr2_ros.errors.UserError", "multihmr2_ros.media.sources.open_source"} <= imported(path)
    assert "multihmr2_ros.tracking.tracker.Tracker" in imported(PACKAGE / "tracking" / "__init__.py")  # relative


@pytest.mark.parametrize("module", ["multihmr2_ros", "multihmr2_ros.cli.main", "multihmr2_ros.cli.run"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    heavy = "torch rclpy anny cv2 numpy scipy av trimesh jinja2 matplotlib rerun"
    code = f"import {module}, sys; print(*(name for name in '{heavy}'.split() if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
