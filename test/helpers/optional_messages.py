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

"""Optional message packages of the node, built for tests from the definitions in this file.

The definitions follow the public interfaces of people_msgs 3, hri_msgs 2 and vision_msgs 4, limited to the messages
that the node publishes. They are built once per Python version and text of this file, into build/optional_messages.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from test.paths import ROOT

# Package → message → fields.
DEFINITIONS = {
    "people_msgs": {
        "Person": """
            string name
            geometry_msgs/Point position
            geometry_msgs/Point velocity
            float64 reliability
            string[] tagnames
            string[] tags""",
        "People": """
            std_msgs/Header header
            people_msgs/Person[] people""",
    },
    "hri_msgs": {
        "IdsList": """
            std_msgs/Header header
            string[] ids""",
        "NormalizedRegionOfInterest2D": """
            std_msgs/Header header
            float32 xmin
            float32 ymin
            float32 xmax
            float32 ymax
            float32 c""",
        "NormalizedPointOfInterest2D": """
            float32 x
            float32 y
            float32 c""",
        "Skeleton2D": """
            uint8 NOSE = 0
            uint8 NECK = 1
            uint8 RIGHT_SHOULDER = 2
            uint8 RIGHT_ELBOW = 3
            uint8 RIGHT_WRIST = 4
            uint8 LEFT_SHOULDER = 5
            uint8 LEFT_ELBOW = 6
            uint8 LEFT_WRIST = 7
            uint8 RIGHT_HIP = 8
            uint8 RIGHT_KNEE = 9
            uint8 RIGHT_ANKLE = 10
            uint8 LEFT_HIP = 11
            uint8 LEFT_KNEE = 12
            uint8 LEFT_ANKLE = 13
            uint8 LEFT_EYE = 14
            uint8 RIGHT_EYE = 15
            uint8 LEFT_EAR = 16
            uint8 RIGHT_EAR = 17
            std_msgs/Header header
            NormalizedPointOfInterest2D[18] skeleton""",
    },
    "vision_msgs": {
        "ObjectHypothesis": """
            string class_id
            float64 score""",
        "ObjectHypothesisWithPose": """
            vision_msgs/ObjectHypothesis hypothesis
            geometry_msgs/PoseWithCovariance pose""",
        "BoundingBox3D": """
            geometry_msgs/Pose center
            geometry_msgs/Vector3 size""",
        "Detection3D": """
            std_msgs/Header header
            vision_msgs/ObjectHypothesisWithPose[] results
            vision_msgs/BoundingBox3D bbox
            string id""",
        "Detection3DArray": """
            std_msgs/Header header
            vision_msgs/Detection3D[] detections""",
    },
}

PACKAGE_XML = """<package format="3">
  <name>{name}</name>
  <version>0.0.0</version>
  <description>{name} for tests</description>
  <maintainer email="nobody@example.com">nobody: made by a test</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>geometry_msgs</depend>
  <depend>std_msgs</depend>
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""

CMAKE = """cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(std_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}} {files} DEPENDENCIES geometry_msgs std_msgs)
ament_export_dependencies(rosidl_default_runtime)
ament_package()
"""


def built() -> Path:
    """Return the folder of the installed packages, building them first if needed (about a minute)."""
    digest = hashlib.sha256(repr((DEFINITIONS, PACKAGE_XML, CMAKE, sys.version)).encode()).hexdigest()[:12]
    folder = ROOT / "build" / "optional_messages" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be building
        if not (folder / "done").exists():
            _write_packages(folder / "source")
            _build(folder)
            (folder / "done").touch()
    return folder / "install"


@contextlib.contextmanager
def importable(*packages: str) -> Iterator[None]:
    """Make these packages, and no others of DEFINITIONS, importable within the block."""
    install = built()
    before = list(sys.path)
    try:
        for package in packages:
            # The middleware looks these up by name; once loaded, they are found without a search path.
            _load(sorted((install / package / "lib").glob("*.so")))
            sys.path[:0] = map(str, (install / package).glob("lib/python3*/site-packages"))
        yield
    finally:
        sys.path[:] = before
        for name in [name for name in sys.modules if name.partition(".")[0] in DEFINITIONS]:
            del sys.modules[name]


def _load(libraries: list[Path]) -> None:
    """Load the libraries in an order that satisfies their dependencies."""
    while libraries:
        left = []
        for library in libraries:
            try:
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            except OSError:
                left.append(library)
        if len(left) == len(libraries):
            ctypes.CDLL(str(left[0]))  # raises with the missing library
        libraries = left


def _write_packages(source: Path) -> None:
    for name, messages in DEFINITIONS.items():
        folder = source / name
        (folder / "msg").mkdir(parents=True, exist_ok=True)
        for message, fields in messages.items():
            (folder / "msg" / f"{message}.msg").write_text("\n".join(map(str.strip, fields.splitlines())) + "\n")
        (folder / "package.xml").write_text(PACKAGE_XML.format(name=name))
        files = " ".join(f"msg/{message}.msg" for message in messages)
        (folder / "CMakeLists.txt").write_text(CMAKE.format(name=name, files=files))


def _build(folder: Path) -> None:
    environment = dict(os.environ)
    if (ROOT / ".venv" / "ros").read_text().strip() == "wheels":
        # As in scripts/setup.sh for our own messages: the CMake files of the wheels are in .venv.
        for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "COLCON_PREFIX_PATH"):
            environment.pop(name, None)
        environment |= {name: str(ROOT / ".venv") for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH")}
    command = ["colcon", "--log-base", "log", "build", "--base-paths", "source", "--cmake-args"]
    command += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
