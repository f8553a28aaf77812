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

"""Message packages that may not be installed."""

from __future__ import annotations

import importlib
import os
from typing import Any

# Packages that some distributions do not have: GitHub repository, branch, and the distributions that have them (the
# index of ROS distributions, August 2026).
SOURCES = {
    "people_msgs": ("wg-perception/people", "ros2", ()),
    "hri_msgs": ("ros4hri/hri_msgs", "humble-devel", ("humble", "jazzy")),
}


def messages_of(package: str) -> Any:
    """The message classes of the package; None where it is not installed."""
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError:
        return None


def how_to_install(package: str) -> str:
    """What to say of a package that is not installed."""
    distribution = os.environ.get("ROS_DISTRO", "jazzy")
    repository, branch, released = SOURCES.get(package, ("", "", (distribution,)))
    if distribution in released:
        return f"{package} is not installed: sudo apt install ros-{distribution}-{package.replace('_', '-')}"
    return (
        f"{package} is not installed, and not released for {distribution}: in your workspace's src folder, "
        f"git clone -b {branch} https://github.com/{repository}, then colcon build --packages-select {package}"
    )
