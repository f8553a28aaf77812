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

"""Requirements of ROS's tools for a package: package.xml, CHANGELOG.rst, colcon test, copyright headers."""

from __future__ import annotations

import configparser
import importlib
import re
import subprocess
import sys
from types import ModuleType
from xml.etree import ElementTree

import pytest

from test.paths import ROOT

PACKAGE = ElementTree.parse(ROOT / "package.xml").getroot()


def dependencies(*kinds: str) -> set[str]:
    return {element.text or "" for kind in kinds for element in PACKAGE.iter(kind)}


def test_the_version_is_the_same_everywhere() -> None:
    import multihmr2_ros

    assert PACKAGE.findtext("version") == multihmr2_ros.__version__


def test_every_ros_package_that_the_code_uses_is_a_dependency() -> None:
    code = "\n".join(
        path.read_text() for folder in ("multihmr2_ros", "launch") for path in (ROOT / folder).rglob("*.py")
    )
    imported = set(
        re.findall(r"^(?:from|import) (\w+_msgs|\w+_interfaces|rclpy|launch|launch_ros|\w+_srvs)\b", code, re.M)
    )
    assert {"rclpy", "launch_ros", "sensor_msgs"} <= imported
    named = set(re.findall(r"\"(rosgraph_msgs|sensor_msgs|tf2_msgs|geometry_msgs)/msg/", code))
    own = {"multihmr2_ros"}
    assert (imported | named) - own <= dependencies("depend", "exec_depend")


def test_messages_are_built_against_what_package_xml_names() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    found = set(re.findall(r"find_package\((\w+) REQUIRED\)", cmake))
    assert found <= dependencies("depend", "buildtool_depend", "test_depend")


def test_python_packages_of_rosdep_are_those_of_setup_cfg() -> None:
    """With the names in rosdep's index (python.yaml, August 2026)."""
    keys = {
        "numpy": "python3-numpy", "opencv-python-headless": "python3-opencv", "pillow": "python3-pil",
        "requests": "python3-requests", "scipy": "python3-scipy", "tqdm": "python3-tqdm",
    }  # fmt: skip
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = re.findall(r"^([\w-]+)", setup["options"]["install_requires"], re.MULTILINE)
    python = {name for name in dependencies("depend", "exec_depend") if name.startswith("python3-")}
    assert python == {keys[name] for name in required if name in keys}
    assert not any(name.endswith("-pip") for name in dependencies("depend", "exec_depend", "test_depend"))


def test_colcon_runs_the_tests_with_what_it_needs() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert re.search(
        r"if\(BUILD_TESTING\)\s+find_package\(ament_cmake_pytest REQUIRED\)\s+ament_add_pytest_test\(", cmake
    )
    assert {"ament_cmake_pytest", "python3-pytest"} <= dependencies("test_depend")


def test_the_changelog_is_one_that_catkin_reads() -> None:
    """REP-132: a title, then versions, each with a list."""
    pytest.importorskip("docutils", reason="docutils is not installed")
    from docutils.core import publish_doctree

    tree = publish_doctree(
        (ROOT / "CHANGELOG.rst").read_text(), settings_overrides={"report_level": 2, "halt_level": 2}
    )
    (title, *_) = tree.findall(lambda node: node.tagname == "title")
    assert title.astext() == "Changelog for package multihmr2_ros"
    assert any(tree.findall(lambda node: node.tagname == "bullet_list"))


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("copyright_headers")


def test_every_source_file_has_the_copyright_header(headers: ModuleType) -> None:
    assert headers.files_without_header() == [], "run: python scripts/copyright_headers.py"


def test_the_header_comes_first_and_once(headers: ModuleType) -> None:
    assert headers.with_header('"""A module."""\n') == f'{headers.HEADER}\n"""A module."""\n'
    program = headers.with_header("#!/usr/bin/env python3\npass\n")
    assert program.startswith("#!/usr/bin/env python3\n# Copyright 2026")
    assert program.endswith("\npass\n")


def test_the_check_is_a_command(headers: ModuleType) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "copyright_headers.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0
