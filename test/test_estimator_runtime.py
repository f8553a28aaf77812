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

"""Devices, precisions, graphs and threads of estimators, and their loading."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, UserError
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.people import People
from test.helpers.small_estimator import EVERYBODY, make_estimator, make_image
from test.helpers.small_network import small_network


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return make_estimator()


@pytest.mark.slow  # compiling takes minutes on two cores
def test_compiled_equals_eager(estimator: Estimator) -> None:
    compiled = Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32", "compiled"))
    estimator.reset()
    a, b = compiled.step(make_image(320, 240)), estimator.step(make_image(320, 240))
    np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-4)


@pytest.mark.parametrize("chosen", ["cpu", "meta"])
def test_load_takes_the_device_of_the_runtime(small_checkpoint: Path, chosen: str) -> None:
    """The device is given directly or in the runtime. The error names the device that was used."""
    if chosen == "cpu":
        assert Estimator.load(small_checkpoint, runtime=Runtime("cpu", "fp32")).runtime.device == "cpu"
        assert Estimator.load(small_checkpoint, "cpu", runtime=Runtime("cuda:99", "fp32")).runtime.device == "cpu"
        return
    for arguments in ({"device": chosen}, {"runtime": Runtime(chosen)}, {"device": chosen, "runtime": Runtime("cpu")}):
        with pytest.raises(UserError, match="device must be auto, cpu, cuda or cuda:N, got 'meta'"):
            Estimator.load(small_checkpoint, **arguments)


def test_the_given_network_stays_as_it_is() -> None:
    """Precision, mode and values stay unchanged; a second estimator of the network does not use rounded weights."""
    network = small_network().train().requires_grad_(True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    low = Estimator(network, EVERYBODY, Runtime("cpu", "bf16"))
    exact = Estimator(network, EVERYBODY, Runtime("cpu", "fp32"))
    assert low.inference.network.precision is torch.bfloat16
    assert network.training
    assert all(value.requires_grad for value in network.parameters())
    for name, value in network.state_dict().items():
        assert value.dtype is torch.float32
        assert torch.equal(value, before[name]), name
    expected = make_estimator().step(make_image(320, 240))
    np.testing.assert_array_equal(exact.step(make_image(320, 240)).vertices, expected.vertices)


@pytest.mark.filterwarnings("error")
def test_images_that_may_not_be_written(estimator: Estimator) -> None:
    """Images of Pillow and of messages are read-only; flipped and cropped ones are tested, too. Results are equal."""
    plain = make_image(320, 240)
    views = {
        "frozen": plain.copy(),
        "mirrored": plain[:, ::-1].copy()[:, ::-1],
        "cut": np.pad(plain, 3)[3:-3, 3:-3, 3:-3],
    }
    estimator.reset()
    expected = estimator.step(plain)
    for name, view in views.items():
        view.flags.writeable = False
        estimator.reset()
        k = np.array(expected.k)
        k.flags.writeable = False
        np.testing.assert_array_equal(estimator.step(view).vertices, expected.vertices, err_msg=name)
        assert len(estimator.step(view, k)) == len(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_cameras_of_a_process_capture_their_graphs() -> None:
    """On the last GPU, which is not the current one; each in a thread, like nodes of one process."""
    device = f"cuda:{torch.cuda.device_count() - 1}"
    expected = Estimator(small_network(), EVERYBODY, Runtime(device, "fp32", "eager")).step(make_image(320, 240))
    found: list[People] = []

    def camera() -> None:
        estimator = Estimator(small_network(), EVERYBODY, Runtime(device, "fp32", "graph"))
        for _ in range(5):
            people = estimator.step(make_image(320, 240))
        found.append(people)

    threads = [threading.Thread(target=camera) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for people in found:
        np.testing.assert_allclose(people.vertices, expected.vertices, atol=1e-3)


def test_a_graph_is_captured_alone_and_in_its_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed: the calls to PyTorch are checked, one capture at a time."""
    inside, most, asked = 0, 0, []

    class Capture:
        def __init__(self, graph: Any, **options: Any) -> None:
            asked.append(options)

        def __enter__(self) -> None:
            nonlocal inside, most
            inside, most = inside + 1, max(most, inside + 1)
            time.sleep(0.05)

        def __exit__(self, *_: Any) -> None:
            nonlocal inside
            inside -= 1

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    estimators = [make_estimator() for _ in range(2)]
    for each in estimators:
        each.inference.runtime = dataclasses.replace(each.runtime, mode="graph")
    threads = [threading.Thread(target=each.step, args=(make_image(64, 48),)) for each in estimators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [{"capture_error_mode": "thread_local"}] * 2
    assert most == 1


@pytest.mark.parametrize("precision", ["bf16"])
def test_low_precision_keeps_geometry_in_float32(precision: Any) -> None:
    low = Estimator(small_network(), EVERYBODY, Runtime("cpu", precision))
    network = low.inference.network
    assert network.backbone.blocks[0].mlp[0].weight.dtype == torch.bfloat16
    assert network.backbone.norm.weight.dtype == torch.float32
    assert network.detection.score[0].weight.dtype == torch.float32
    people = low.step(make_image(320, 240))
    assert people.vertices.dtype == np.float32
    rotations = people.rotations.astype(float)
    np.testing.assert_allclose(
        rotations @ rotations.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-5
    )


@pytest.mark.parametrize(
    "runtime",
    [
        Runtime("tpu"), Runtime("cpu:x"), Runtime("cuda:99"), Runtime("cpu", "fp16"), Runtime("cpu", "fp32", "graph"),
        Runtime("cpu", "int8"), Runtime("cpu", "fp32", "fast"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_bad_runtimes(runtime: Runtime) -> None:
    with pytest.raises(UserError):
        runtime.resolve()


def test_the_readme_example(small_checkpoint: Path) -> None:
    estimator = Estimator.load(small_checkpoint, device="auto")
    people: People = estimator.step(make_image(64, 48), k=None, stamp=0.0)
    assert people.vertices.shape[1:] == (19158, 3)
    with pytest.raises(UserError, match="does not exist"):
        Estimator.load("nowhere.pt")


def test_the_first_image_imports_no_module() -> None:
    """Otherwise a live node would drop the images that arrive during these imports."""
    program = """
import sys
import numpy as np
from multihmr2_ros import Estimator

estimator = Estimator.load("nano", "cpu")
before = set(sys.modules)
estimator.step(np.zeros((48, 64, 3), np.uint8))
print("imported:", *sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "imported:", done.stdout + done.stderr
