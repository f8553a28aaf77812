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

"""MoveNet for inference on a CPU in float32: the same results in about two thirds of the time of the plain layers.

- Each convolution with its activation or residual is one oneDNN call, with weights in oneDNN's own layout. The large
  inner features of the inverted residuals are written once instead of twice.
- At stride 2, oneDNN pads inside the convolution, without a padded copy.
- The vectors at people's centers and at keypoints' cells are computed only in the cells that are read.

The operators belong to PyTorch's compiler and are not part of its stable interface, so `fuse_encoder` tests them first.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.movenet import (
    CONTEXT_16,
    CONTEXT_32,
    KEYPOINTS,
    STRIDE_4,
    STRIDE_8,
    STRIDE_16,
    InvertedResidual,
    KeypointHead,
    MoveNet,
    MoveNetMaps,
    SameConv,
    SeparableConv,
    pad_same,
    relu,
    relu6,
    upsample,
)
from multihmr2_ros.network.proposals import KeypointEncoder

# Names and arguments of the activations in oneDNN.
ACTIVATIONS: dict[object, tuple[str, list[float]]] = {
    None: ("none", []),
    relu: ("relu", []),
    relu6: ("hardtanh", [0.0, 6.0]),
}
TRIAL_SIZE = (128, 128)  # px, height and width
TRIALS = 2
TOLERANCE = 1e-4  # maximum difference in the trial, as a share of the greatest value
SMALL_OUTPUT_PIXELS = 64  # below this number, 1 × 1 convolutions use the plain layer


def fuse_encoder(encoder: KeypointEncoder) -> None:
    """Replace the encoder's MoveNet, float32 on the CPU, by a `FusedMoveNet`, which has no gradients.

    The encoder does not change if the fused network fails, is slower, or gives different results with this version of
    PyTorch on this processor.
    """
    plain = encoder.movenet
    if isinstance(plain, MoveNet):
        with torch.inference_mode():
            fused = _try_fused(plain)
        if fused is not None:
            encoder.movenet = fused  # type: ignore[assignment]


def _try_fused(plain: MoveNet) -> FusedMoveNet | None:
    image = torch.linspace(-1.0, 1.0, 3 * TRIAL_SIZE[0] * TRIAL_SIZE[1]).reshape(1, 3, *TRIAL_SIZE)
    try:
        fused = FusedMoveNet(plain)
        found, expected = fused(image), plain(image)
    except (RuntimeError, AttributeError, TypeError):  # another version of PyTorch, or one without oneDNN
        return None
    names = ("context_16", "context_32", "finest", "center", "keypoint")
    same = all(_is_same(getattr(found, name), getattr(expected, name)) for name in names)
    return fused if same and _measure_least_time(fused, image) < 2 * _measure_least_time(plain, image) else None


def _is_same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _measure_least_time(network: nn.Module, image: Tensor) -> float:
    """Return the minimum time in s. If oneDNN has no kernel for a layout, a call takes ten times as long.

    This is CPU time of this thread: on a busy machine, a call can take many times longer than it computes.
    """
    times = []
    for _ in range(TRIALS):
        begin = time.thread_time()
        network(image)
        times.append(time.thread_time() - begin)
    return min(times)


@dataclass(frozen=True)
class SparseOutputs(MoveNetMaps):
    """`MoveNetMaps` whose vectors are computed from the finest level, only in the cells that are read."""

    regression: CellHead
    offset: CellHead

    def sample_regression(self, cells: Tensor) -> Tensor:
        weight, bias = self.regression.get_keypoint_output()
        return torch.einsum("bqc,kvc->bqkv", self.regression(self.finest, cells), weight) + bias

    def sample_offset(self, cells: Tensor) -> Tensor:
        hidden = self.offset(self.finest, cells.flatten(1)).unflatten(1, cells.shape[1:])
        weight, bias = self.offset.get_keypoint_output()
        return torch.einsum("bkqc,kvc->bqkv", hidden, weight) + bias


class FusedMoveNet(nn.Module):
    """`MoveNet` with oneDNN calls and the weights of `plain`.

    Images (B, 3, H, W) float32 in [−1, 1] → SparseOutputs.
    """

    def __init__(self, plain: MoveNet) -> None:
        super().__init__()
        self.stem = FusedConv(plain.stem, padding=0)
        self.blocks = nn.ModuleList(
            FusedResidual(block) for block in plain.blocks if isinstance(block, InvertedResidual)
        )
        self.last = FusedConv(plain.last)
        self.lateral = nn.ModuleList(FusedConv(layer) for layer in plain.lateral if isinstance(layer, SameConv))
        self.smooth = nn.ModuleList(FusedSeparable(layer) for layer in plain.smooth if isinstance(layer, SeparableConv))
        self.center = FusedHead(plain.center)
        self.keypoint = FusedHead(plain.keypoint)
        self.regression = CellHead(plain.regression)
        self.offset = CellHead(plain.offset)

    def forward(self, image: Tensor) -> SparseOutputs:
        features = self.stem(pad_same(image.contiguous(memory_format=torch.channels_last), kernel=3, stride=2))
        levels = {}
        for index, block in enumerate(self.blocks):
            features = levels[index] = block(features)
        finest = self.lateral[0](self.last(features))
        for lateral, smooth, (index, _) in zip(
            list(self.lateral)[1:], self.smooth, (STRIDE_16, STRIDE_8, STRIDE_4), strict=True
        ):
            assert isinstance(lateral, FusedConv)
            finest = smooth(lateral.add_to(_contiguous(upsample(finest, levels[index])), levels[index]))
        return SparseOutputs(
            levels[CONTEXT_16[0]],
            levels[CONTEXT_32[0]],
            finest,
            self.center(finest)[:, 0],
            self.keypoint(finest),
            self.regression,
            self.offset,
        )


class FusedConv(nn.Module):
    """A `SameConv` as one oneDNN call. padding: px on all sides; None: the padding of the layer.

    For few pixels, 1 × 1 convolutions use the plain layer: oneDNN may need their weights in another layout, and then
    repacks them in every call, which takes ten times as long as the convolution.
    """

    def __init__(self, layer: SameConv, padding: int | None = None) -> None:
        super().__init__()
        conv = layer.conv
        self.plain = layer
        self.padding = [conv.kernel_size[0] // 2 if padding is None else padding] * 2
        self.shape = (list(conv.stride), [1, 1], conv.groups)  # stride, dilation, groups
        self.bias = conv.bias
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), self.padding, *self.shape)
        self.name, self.bounds = ACTIVATIONS[layer.activation]

    def forward(self, features: Tensor, padding: list[int] | None = None) -> Tensor:
        if self._has_few(features):
            return self.plain(features)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, self.weight, self.bias, padding or self.padding, *self.shape, self.name, self.bounds, ""
        )
        return result

    def add_to(self, total: Tensor, features: Tensor) -> Tensor:
        """Add the convolution of the features to total, in place; for layers without an activation."""
        if self._has_few(features):
            return total.add_(self.plain(features))
        result: Tensor = torch.ops.mkldnn._convolution_pointwise_(
            total, features, self.weight, self.bias, self.padding, *self.shape, "add", 1.0, None, [], None
        )
        return result

    def _has_few(self, features: Tensor) -> bool:
        return self.plain.conv.kernel_size == (1, 1) and features.shape[2] * features.shape[3] < SMALL_OUTPUT_PIXELS


class FusedResidual(nn.Module):
    """`InvertedResidual` with oneDNN calls.

    The residual is added in place, which overwrites the input of the block. The inputs of these blocks are not used
    elsewhere.
    """

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.expand = None if block.expand is None else FusedConv(block.expand)
        self.depthwise = FusedConv(block.depthwise)
        self.project = FusedConv(block.project)
        self.residual = block.residual
        self.halves = block.depthwise.conv.stride[0] == 2

    def forward(self, features: Tensor) -> Tensor:
        inner = features if self.expand is None else self.expand(features)
        if self.halves:
            return self._downsample(inner)
        inner = self.depthwise(inner)
        return self.project.add_to(features, inner) if self.residual else self.project(inner)

    def _downsample(self, inner: Tensor) -> Tensor:
        """Apply the block at stride 2 with symmetric padding.

        For an even number of rows, SAME padding adds one row after the last. Padding by two rows on both sides gives
        the same results with one additional row before them, which is dropped once the features are small. The same
        applies to columns. For an odd number, SAME padding adds one row on both sides.
        """
        extra = [1 - size % 2 for size in inner.shape[-2:]]
        result = self.project(self.depthwise(inner, [1 + more for more in extra]))
        return _contiguous(result[..., extra[0] :, extra[1] :])


class FusedSeparable(nn.Module):
    """`SeparableConv` with oneDNN calls."""

    def __init__(self, layer: SeparableConv) -> None:
        super().__init__()
        self.depthwise = FusedConv(layer.depthwise)
        self.pointwise = FusedConv(layer.pointwise)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.depthwise(features))
        return result


class FusedHead(nn.Module):
    """`KeypointHead` with oneDNN calls; its few outputs are faster as a plain matrix product."""

    def __init__(self, head: KeypointHead) -> None:
        super().__init__()
        self.separable = FusedSeparable(head.separable)
        self.output = head.output

    def forward(self, finest: Tensor) -> Tensor:
        result: Tensor = self.output(self.separable(finest))
        return result


class CellHead(nn.Module):
    """A `KeypointHead` evaluated in single cells: its hidden layer, and the weights of its output layer."""

    def __init__(self, head: KeypointHead) -> None:
        super().__init__()
        self.depthwise = head.separable.depthwise.conv
        self.pointwise = head.separable.pointwise.conv
        self.output = head.output.conv

    def get_keypoint_output(self) -> tuple[Tensor, Tensor]:
        """Return weight (17, 2, 96) and bias (17, 2) of the output layer."""
        assert self.output.bias is not None
        return self.output.weight.unflatten(0, (KEYPOINTS, 2)).flatten(2), self.output.bias.unflatten(0, (KEYPOINTS, 2))

    def forward(self, finest: Tensor, cells: Tensor) -> Tensor:
        """Return hidden features (B, N, 96) in cells (B, N), row · w + column, of the finest level (B, 24, h, w)."""
        columns = finest.shape[-1]
        around = functional.pad(finest, (1, 1, 1, 1)).permute(0, 2, 3, 1).flatten(1, 2)  # (B, (h + 2) (w + 2), 24)
        corner = cells + 2 * (cells // columns)  # of the 3 × 3 cells around
        steps = torch.arange(3, device=cells.device)
        index = (corner[..., None, None] + (columns + 2) * steps[:, None] + steps).flatten(1)
        values = around.gather(1, index[..., None].expand(-1, -1, around.shape[2])).unflatten(1, (-1, 9))
        spread = (values * self.depthwise.weight.flatten(1).T).sum(2)
        return functional.relu(functional.linear(spread, self.pointwise.weight.flatten(1), self.pointwise.bias))


_contiguous = functools.partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
