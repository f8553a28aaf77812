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

"""The fused encoder for CPUs gives the results of the plain encoder and is used only under the intended conditions."""

from __future__ import annotations

import dataclasses
import functools
import time

import pytest
import torch
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.network import fused_movenet
from multihmr2_ros.network.config import NANO
from multihmr2_ros.network.fused_movenet import FusedMoveNet, fuse_encoder
from multihmr2_ros.network.inference import Inference, Runtime
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.movenet import KEYPOINTS, MoveNet, MoveNetMaps
from multihmr2_ros.network.proposals import KeypointEncoder, propose_people
from test.helpers.nano_network import NARROW

pytestmark = pytest.mark.usefixtures("one_thread")
MAPS = ("context_16", "context_32", "finest", "center", "keypoint")


@functools.cache
def make_plain() -> MoveNet:
    """Return random weights of a scale that keeps features in the range in which ReLU6 is nonlinear."""
    torch.manual_seed(0)
    network = MoveNet().eval()
    for parameter in network.parameters():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        else:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@functools.cache
def make_fused() -> FusedMoveNet:
    return FusedMoveNet(make_plain())


def make_image(images: int, height: int, width: int) -> Tensor:
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Assert equality within rounding: 2e-5 of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("images", "height", "width"),
    [
        (1, 288, 384),  # 640 × 480 px
        (1, 384, 224),
        (2, 256, 256),  # 64 pixels at stride 32: the minimum for oneDNN
        (3, 64, 96),
        (1, 32, 384),
        (2, 80, 48),  # multiples of 16 px: odd numbers of rows and columns at stride 16
    ],
)
def test_the_fused_encoder_equals_the_plain_one(images: int, height: int, width: int) -> None:
    pixels = make_image(images, height, width)
    with torch.inference_mode():
        expected, found = make_plain()(pixels), make_fused()(pixels)
    for name in MAPS:
        assert_same(getattr(found, name), getattr(expected, name))
    assert 0.1 < expected.context_16.std() < 100  # a meaningful comparison


@pytest.mark.parametrize(("images", "height", "width"), [(1, 96, 160), (3, 64, 32)])
def test_vectors_of_single_cells_equal_the_maps(images: int, height: int, width: int) -> None:
    """Holds in every cell, including borders and corners."""
    pixels = make_image(images, height, width)
    every = torch.arange(height // 4 * (width // 4)).expand(images, -1)
    with torch.inference_mode():
        expected, found = make_plain()(pixels), make_fused()(pixels)
        assert_same(found.sample_regression(every), expected.sample_regression(every))
        cells = torch.stack([every.roll(keypoint, 1) for keypoint in range(KEYPOINTS)], dim=1)
        assert_same(found.sample_offset(cells), expected.sample_offset(cells))


def test_proposed_people_are_the_same() -> None:
    pixels = make_image(2, 160, 192)
    with torch.inference_mode():
        expected, found = propose_people(make_plain()(pixels), 7), propose_people(make_fused()(pixels), 7)
    for ours, theirs in zip(found, expected, strict=True):  # logit, px, score
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_input_and_plain_weights_stay_as_they_are() -> None:
    pixels = make_image(1, 64, 64)
    before, weights = pixels.clone(), {name: value.clone() for name, value in make_plain().state_dict().items()}
    with torch.inference_mode():
        first, second = make_fused()(pixels), make_fused()(pixels)
    assert torch.equal(pixels, before)
    assert all(torch.equal(value, weights[name]) for name, value in make_plain().state_dict().items())
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in MAPS)


@pytest.mark.parametrize("mistake", ["missing operator", "wrong results", "too slow"])
def test_the_plain_encoder_stays_where_fusing_fails(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = KeypointEncoder(5).eval()
    if mistake == "missing operator":
        monkeypatch.setattr(fused_movenet.FusedConv, "forward", lambda *_: torch.ops.mkldnn._no_such_operator())
    elif mistake == "wrong results":
        monkeypatch.setattr(fused_movenet, "ACTIVATIONS", dict.fromkeys(fused_movenet.ACTIVATIONS, ("none", [])))
        torch.nn.init.constant_(encoder.movenet.stem.conv.bias, -9.0)
    else:
        times = iter([3.0, 1.0])
        monkeypatch.setattr(fused_movenet, "_measure_least_time", lambda *_: next(times))
    fuse_encoder(encoder)
    assert isinstance(encoder.movenet, MoveNet)


def test_time_of_other_programs_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = fused_movenet.FusedMoveNet.forward

    def wait_and_compute(network: FusedMoveNet, pixels: Tensor) -> MoveNetMaps:
        time.sleep(0.5)  # many times as long as both encoders need
        return compute(network, pixels)

    monkeypatch.setattr(fused_movenet.FusedMoveNet, "forward", wait_and_compute)
    encoder = KeypointEncoder(5).eval()
    fuse_encoder(encoder)
    assert isinstance(encoder.movenet, FusedMoveNet)


@pytest.mark.parametrize(("precision", "mode", "expected"), [("fp32", "eager", True), ("bf16", "eager", False)])
def test_inference_on_a_cpu_in_float32_is_fused(precision: str, mode: str, expected: bool) -> None:
    torch.manual_seed(0)
    network = initialize(MultiHMR2(dataclasses.replace(NANO, max_grid=8, **NARROW)))
    inference = Inference(network, Body("low"), Runtime("cpu", precision, mode), 5)  # type: ignore[arg-type]
    encoder = inference.network.backbone.pretrained
    assert encoder is not None
    assert isinstance(encoder.movenet, FusedMoveNet) is expected
    assert isinstance(network.backbone.pretrained.movenet, MoveNet)  # type: ignore[union-attr]
    assert all(value.requires_grad for value in network.parameters())
