"""What several test files need: the golden weights in the released layout, and a small network of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# ROS traffic of tests stays on this machine, on a domain of its own.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The deterministic weights saved like `multihmr2.pt`: 1.6 GB, removed when the tests end."""
    from test.golden_weights import save_released

    path = tmp_path_factory.mktemp("golden") / "golden.pt"
    save_released(path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of our own format with a small network of random weights, that sees people in every picture."""
    from multihmr2_ros.body import Body
    from test.small_network import save_small_network

    for mesh in ("full", "low"):
        Body(mesh)  # where Anny's cache must be built first, not inside a test that reads what is printed
    return save_small_network(tmp_path_factory.mktemp("small") / "small.safetensors")


@pytest.fixture
def wire() -> Iterator[Any]:
    """Makes `test.ros_wire.Wire`s: the node and a peer, over DDS."""
    from test.ros_wire import wires

    with wires() as make:
        yield make
