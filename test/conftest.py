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

"""Fixtures shared by several test files: networks and samples, a node and a peer over DDS, a weights server."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Drawing inputs and an example may be slow on a busy machine, whatever the code.
hypothesis.settings.register_profile("busy", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("busy")

# ROS traffic of tests stays on this machine; for the domain see test.helpers.ros_domain.
os.environ |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": ""}


LONG_FILES = ("network/test_network_golden.py", "training/test_command.py", "training/test_trainer.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))


def pytest_collection_finish() -> None:
    """Let garbage collection skip the objects of all imported modules, which live until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def restore_signal_handlers() -> Iterator[None]:
    """Restore the handlers that the code under test replaces in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not draw the curves of training runs, which takes longer than a few steps."""
    from multihmr2_ros.training import training_log

    monkeypatch.setattr(training_log, "draw_curves", lambda rows, path: None)


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a file of deterministic weights in the format of `multihmr2.pt`: 1.6 GB, removed after the tests."""
    from test.helpers.golden_weights import save_released

    path = tmp_path_factory.mktemp("golden") / "golden.pt"
    save_released(path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights file of the package's own format: a small network with random weights that detects people in
    every image."""
    from multihmr2_ros.body import Body
    from test.helpers.small_network import save_small_network

    for mesh in ("full", "low"):
        Body(mesh)  # builds Anny's cache here if it is missing, not in a test that reads printed output
    return save_small_network(tmp_path_factory.mktemp("small") / "small.safetensors")


@pytest.fixture(scope="session")
def multi_hmr_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights file of a small Multi-HMR that detects people in every image."""
    from test.helpers.nano_network import save_multi_hmr

    return save_multi_hmr(tmp_path_factory.mktemp("multi-hmr") / "multi-hmr.safetensors")


@pytest.fixture(scope="session")
def body() -> Any:
    """Return Anny with the mesh of few vertices."""
    from multihmr2_ros.body import Body

    return Body("low")


@pytest.fixture(scope="session")
def warp_started() -> None:
    """Start Warp, which reads the folder of its kernel cache at its start, before a test sets another home folder."""
    import warp

    from multihmr2_ros.body import start_warp

    start_warp()
    warp.init()


@pytest.fixture
def wire() -> Iterator[Any]:
    """Yield a factory of `test.helpers.ros_wire.Wire`: the node and a peer, over DDS."""
    from test.helpers.ros_wire import wires

    with wires() as make:
        yield make


@pytest.fixture
def peer() -> Iterator[Any]:
    """Yield a `test.helpers.ros_wire.Peer` for nodes in other processes."""
    from test.helpers.ros_wire import peers

    with peers() as peer:
        yield peer


@pytest.fixture
def empty_weights_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Provide an empty weights folder, without a proxy and without delays between download attempts."""
    from multihmr2_ros.weights import fetch

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "RETRY_WAIT_S", 0.001)
    monkeypatch.setenv("MULTIHMR2_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def server() -> Iterator[Any]:
    """Yield a `test.helpers.weights_server.Server` with a small file of weights."""
    from test.helpers.weights_server import serving

    with serving() as server:
        yield server


@pytest.fixture
def tiny(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Provide a registry whose only entry is the server's file."""
    from multihmr2_ros import weights
    from test.helpers.weights_server import entry

    tiny = entry(server.url)
    monkeypatch.setattr(weights, "REGISTRY", (tiny,))
    return tiny


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: the machine's cores are shared, and sums become reproducible."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def render_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of training samples: six drawn images, and four that are held out."""
    from test.helpers.training_samples import make_render_cache

    return make_render_cache(tmp_path_factory.mktemp("cache"), 6, held_out=4)
