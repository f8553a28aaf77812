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

"""What several test files need: networks and samples, a node and a peer over DDS, a server of weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# How fast a busy machine draws inputs says nothing about the code.
hypothesis.settings.register_profile("busy", suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

# ROS traffic of tests stays on this machine; on which domain: test.helpers.ros_domain.
os.environ |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": ""}


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The deterministic weights saved like `multihmr2.pt`: 1.6 GB, removed when the tests end."""
    from test.helpers.golden_weights import save_released

    path = tmp_path_factory.mktemp("golden") / "golden.pt"
    save_released(path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of our own format with a small network of random weights, that sees people in every picture."""
    from multihmr2_ros.body import Body
    from test.helpers.small_network import save_small_network

    for mesh in ("full", "low"):
        Body(mesh)  # where Anny's cache must be built first, not inside a test that reads what is printed
    return save_small_network(tmp_path_factory.mktemp("small") / "small.safetensors")


@pytest.fixture(scope="session")
def body() -> Any:
    """Anny with the mesh of few vertices."""
    from multihmr2_ros.body import Body

    return Body("low")


@pytest.fixture
def wire() -> Iterator[Any]:
    """Makes `test.helpers.ros_wire.Wire`s: the node and a peer, over DDS."""
    from test.helpers.ros_wire import wires

    with wires() as make:
        yield make


@pytest.fixture
def peer() -> Iterator[Any]:
    """A `test.helpers.ros_wire.Peer`, which listens to nodes in processes of their own."""
    from test.helpers.ros_wire import peers

    with peers() as peer:
        yield peer


@pytest.fixture
def empty_weights_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights are here yet; no proxy, and no waiting between attempts to fetch them."""
    from multihmr2_ros.weights import fetch

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "RETRY_WAIT_S", 0.001)
    monkeypatch.setenv("MULTIHMR2_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def server() -> Iterator[Any]:
    """A `test.helpers.weights_server.Server`, which serves a small file of weights."""
    from test.helpers.weights_server import serving

    with serving() as server:
        yield server


@pytest.fixture
def tiny(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The registry with the server's file as its only entry."""
    from multihmr2_ros import weights
    from test.helpers.weights_server import entry

    tiny = entry(server.url)
    monkeypatch.setattr(weights, "REGISTRY", (tiny,))
    return tiny


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The machine's cores are shared; sums then also come out the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def render_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of training samples: six drawn pictures, and four that are held out."""
    from test.helpers.training_samples import make_render_cache

    return make_render_cache(tmp_path_factory.mktemp("cache"), 6, held_out=4)
