"""Message packages that may not be installed."""

from __future__ import annotations

import importlib
import os
from typing import Any


def messages_of(package: str) -> Any:
    """The message classes of the package; None where it is not installed."""
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError:
        return None


def how_to_install(package: str) -> str:
    """What to say of a package that is not installed."""
    apt_package = f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{package.replace('_', '-')}"
    return f"{package} is not installed: sudo apt install {apt_package}, or build it in your workspace"
