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
