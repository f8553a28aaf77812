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

"""The network's path on a device, tested on PyTorch's `meta` device: no host memory is used and nothing waits for a
GPU.

A CUDA graph captures neither copies from host memory nor synchronization. On `meta`, tensors have shapes but no values,
so operations that need a value on the host raise errors; the guards below detect the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim, export
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from multihmr2_ros.body import Body
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import MULTI_HMR_CAMERA, NANO, SCRATCH, NetworkConfig
from multihmr2_ros.network.inference import Inference, Runtime
from multihmr2_ros.network.keypoint_fitting import KeypointFitter
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.transfers import PackedOutputs
from multihmr2_ros.weights import resolve_checkpoint
from test.helpers.small_network import SMALL, small_network

# These copy values from the host to the device or back.
COPYING = (
    torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor, torch.Tensor.item, torch.Tensor.tolist,
    torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.pin_memory, torch.Tensor.__bool__,
    torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__index__,
)  # fmt: skip
WAITING = ("linalg", "_linalg", "nonzero", "masked_select", "_local_scalar_dense", "unique", "_assert")
NOT_WAITING = ("linalg_cross", "linalg_vector_norm")
NETWORKS = {
    "large": dataclasses.replace(NetworkConfig(), encoder_depth=2, decoder_depth=2),
    "small": SMALL,
    "scratch": SCRATCH,
    "nano": NANO,
    "multi-hmr": MULTI_HMR_CAMERA,
}

# Each value once with each network; all combinations take a minute and a half on two slow cores.
USUAL = (("full", "bf16", "predicted"), ("low", "fp16", "given"), ("low", "fp32", "predicted"))
COMBINATIONS = [
    pytest.param(*values, marks=() if values in USUAL else pytest.mark.slow)
    for values in itertools.product(("full", "low"), ("fp32", "bf16", "fp16"), ("predicted", "given"))
]


class HostFunctions(TorchFunctionMode):
    """Mode that raises if a function copies values between host and device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in COPYING:
            raise AssertionError(f"{function} copies values between host and device")
        return function(*args, **(kwargs or {}))


class DeviceOnly(TorchDispatchMode):
    """Mode that raises if an operation reads or creates a tensor in host memory or waits for a GPU; counts uploads."""

    def __init__(self, uploads: int = 0) -> None:
        super().__init__()
        self.uploads = uploads

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        if name.startswith(WAITING) and not name.startswith(NOT_WAITING):
            raise AssertionError(f"{name} waits for the GPU")
        result = function(*args, **(kwargs or {}))
        if name.startswith("lift_fresh") and self.uploads:  # a NumPy array becomes a tensor
            return result
        if name.startswith("_to_copy") and self.uploads and args[0].device.type == "cpu":
            self.uploads -= 1
            return result
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                raise AssertionError(f"{name} has a tensor in host memory, of shape {tuple(value.shape)}")
        masks = [value for value in tree_leaves(args[1:]) if isinstance(value, torch.Tensor)]
        if name.startswith("index") and any(value.dtype in (torch.bool, torch.uint8) for value in masks):
            raise AssertionError(f"{name} with a mask waits for the GPU")
        return result


@pytest.fixture(scope="module")
def bodies() -> dict[str, Body]:
    return {"full": Body("full").to("meta"), "low": Body("low").to("meta")}


def make_device_inference(config: NetworkConfig, body: Body, precision: str) -> Inference:
    """Return an `Inference` as on a GPU, but on the meta device."""
    with torch.device("meta"):
        network = MultiHMR2(config)
    infer = Inference(network.to_empty(device="cpu"), Body("low"), Runtime("cpu", "fp32"), 5)
    infer.runtime = dataclasses.replace(infer.runtime, precision=precision)  # type: ignore[arg-type]
    infer.device = torch.device("meta")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    infer.network, infer.body = infer.network.set_precision(dtype).to("meta"), body
    infer.fitter = KeypointFitter(body).to("meta")
    return infer


@pytest.mark.parametrize(("mesh", "precision", "camera"), COMBINATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_device_works_alone(
    name: str, mesh: str, precision: str, camera: str, bodies: dict[str, Body], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Leaving autocast is not an operation; PyTorch has no autocast for meta.
    monkeypatch.setattr(torch, "autocast", lambda device, enabled: contextlib.nullcontext())
    config, k = NETWORKS[name], {"predicted": None, "given": np.eye(3)}[camera]
    infer = make_device_inference(config, bodies[mesh], precision)
    resize = ResizePad.fit(200, 130, config.image_size, config.patch_size)
    with torch.no_grad():  # composite operations are decomposed, unlike in inference mode
        with DeviceOnly(uploads=2) as guard:
            inputs = (infer.prepare(np.zeros((130, 200, 3), np.uint8), resize), *infer._prepare_camera(k))
        assert guard.uploads == 0
        with HostFunctions(), DeviceOnly():
            outputs = infer._run(*inputs)
    assert isinstance(outputs, PackedOutputs)
    assert outputs.shapes["vertices"] == (1, 5, bodies[mesh].vertex_count, 3)
    assert (outputs.buffer.device.type, outputs.buffer.dtype) == ("meta", torch.float32)


@pytest.mark.parametrize(
    ("mistake", "word"),
    [
        (lambda x: x * x.new_tensor([1.0, 2.0]), "copies"),
        (lambda x: x + torch.tensor([1.0, 2.0], device=x.device), "copies"),
        (lambda x: x[:, torch.arange(2)], "host memory"),
        (lambda x: x * HOST, "host memory|expected device"),
        (lambda x: torch.linalg.solve(x, x), "waits"),
        (lambda x: torch.linalg.inv(x), "waits"),
        (lambda x: x[x > 0], "waits|nonzero"),
        (lambda x: x.nonzero(), "waits"),
        (lambda x: x.to("cpu"), "host memory|no data"),
        (lambda x: float(x.sum()), "copies"),
    ],
)
def test_the_guards_find_mistakes(mistake: Any, word: str) -> None:
    with HostFunctions(), DeviceOnly(), pytest.raises((AssertionError, RuntimeError), match=word):
        mistake(torch.empty(2, 2, device="meta"))


HOST = torch.ones(2)


@pytest.mark.slow  # minutes for nano
@pytest.mark.parametrize("name", ["small", "nano"])
def test_an_exported_network_takes_other_sizes(name: str) -> None:
    """Exports with `torch.export` and dynamic rows and columns of patches.

    The whole width of the position table is excluded: its slice has other strides, and that size needs a separate
    export.
    """
    network = small_network() if name == "small" else checkpoint.load_network(resolve_checkpoint("nano")).eval()
    network.requires_grad_(False)
    most, patch = network.config.max_grid - 1, network.config.patch_size
    sizes = {axis: patch * Dim(name, min=4, max=most) for axis, name in ((2, "rows"), (3, "columns"))}
    forward, camera = Scores(network), (torch.eye(3)[None], torch.zeros(1, dtype=torch.bool))
    image = torch.zeros(1, 3, 5 * patch, 7 * patch, dtype=torch.uint8)
    exported = export(forward, (image, *camera), dynamic_shapes=(sizes, None, None), strict=False).module()
    for rows, columns in ((5, 7), (4, 4), (6, most)):
        image = torch.randint(0, 256, (1, 3, rows * patch, columns * patch), dtype=torch.uint8)
        for ours, theirs in zip(exported(image, *camera), forward(image, *camera), strict=True):
            torch.testing.assert_close(ours, theirs)


class Scores(torch.nn.Module):
    """The network with tensors as results."""

    def __init__(self, network: MultiHMR2) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, k: torch.Tensor, k_given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        people = self.network(image, k, k_given, 5)
        return people.score, people.center, people.shape, people.rotations, people.track_feature, people.k
