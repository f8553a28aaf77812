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

"""MoveNet MultiPose as a pretrained encoder: a MobileNetV2 of width 1.5 with a feature pyramid and keypoint heads.

Google's model (Apache-2.0) detects 17 keypoints of several people at any image size. Its layers are implemented here in
plain PyTorch; see `scripts/convert_movenet.py` for the source of the weights. Inverted residuals: Sandler et al. 2018,
"MobileNetV2"; people as centers with keypoints: Zhou et al. 2019, "Objects as Points".
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.errors import UserError

STEM_WIDTH = 48
# (output channels, stride, expansion) of the inverted residuals.
BLOCKS = (
    (24, 1, 1), (40, 2, 6), (40, 1, 6), (48, 2, 6), (48, 1, 6), (48, 1, 6), (96, 2, 6), (96, 1, 6), (96, 1, 6),
    (96, 1, 6), (144, 1, 6), (144, 1, 6), (144, 1, 6), (240, 2, 6), (240, 1, 6), (240, 1, 6), (480, 1, 6),
)  # fmt: skip
LAST_WIDTH = 1280
LATERAL_WIDTHS = (64, 64, 32, 24)
PYRAMID_WIDTHS = (64, 32, 24, 24)
FINEST_WIDTH = PYRAMID_WIDTHS[-1]
HEAD_WIDTH = 96
# Index of the block whose output is a level of the pyramid, and its number of channels.
STRIDE_4, STRIDE_8, STRIDE_16 = (2, 40), (5, 48), (9, 96)
CONTEXT_16, CONTEXT_32 = (12, 144), (16, 480)
CELL_PX = 4  # size of a cell of the heads' outputs
KEYPOINTS = 17
IN_NETWORK = "backbone.pretrained.movenet."  # prefix of its weights' names in a whole network


@dataclass(frozen=True)
class MoveNetMaps(abc.ABC):
    """Outputs of MoveNet for B images of H × W px; h = H / 4 and w = W / 4 cells, rounded up.

    context_16          (B, 144, H / 16, W / 16)
    context_32          (B, 480, H / 32, W / 32)
    finest              (B, 24, h, w) of the pyramid
    center              (B, h, w) logit of "a person's center is in this cell"
    keypoint            (B, 17, h, w) logit of "a keypoint of this kind is in this cell"
    """

    context_16: Tensor
    context_32: Tensor
    finest: Tensor
    center: Tensor
    keypoint: Tensor

    @abc.abstractmethod
    def sample_regression(self, cells: Tensor) -> Tensor:
        """Return vectors (B, Q, 17, 2) in cells, (y, x), from people's centers to their keypoints.

        cells: (B, Q), row · w + column of the centers.
        """

    @abc.abstractmethod
    def sample_offset(self, cells: Tensor) -> Tensor:
        """Return vectors (B, Q, 17, 2) in cells, (y, x), from the keypoints' cells to the keypoints.

        cells: (B, 17, Q), row · w + column.
        """


@dataclass(frozen=True)
class MoveNetOutputs(MoveNetMaps):
    """`MoveNetMaps` with precomputed vectors of every cell.

    regression          (B, 17, 2, h, w) vectors as in `sample_regression`
    offset              (B, 17, 2, h, w) vectors as in `sample_offset`
    """

    regression: Tensor
    offset: Tensor

    def sample_regression(self, cells: Tensor) -> Tensor:
        index = cells[:, None, None].expand(-1, KEYPOINTS, 2, -1)
        return self.regression.flatten(3).gather(3, index).permute(0, 3, 1, 2)

    def sample_offset(self, cells: Tensor) -> Tensor:
        index = cells[:, :, None].expand(-1, -1, 2, -1)
        return self.offset.flatten(3).gather(3, index).permute(0, 3, 1, 2)


class MoveNet(nn.Module):
    """MoveNet: images (B, 3, H, W) in [−1, 1] → MoveNetOutputs; H and W multiples of 16 px."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_WIDTH, 3, stride=2, activation=relu6)
        widths = [STEM_WIDTH, *(width for width, _, _ in BLOCKS)]
        self.blocks = nn.ModuleList(
            InvertedResidual(inputs, outputs, stride, expansion)
            for inputs, (outputs, stride, expansion) in zip(widths, BLOCKS, strict=False)
        )
        self.last = SameConv(BLOCKS[-1][0], LAST_WIDTH, activation=relu6)
        inputs = (LAST_WIDTH, STRIDE_16[1], STRIDE_8[1], STRIDE_4[1])
        self.lateral = nn.ModuleList(SameConv(*pair) for pair in zip(inputs, LATERAL_WIDTHS, strict=True))
        self.smooth = nn.ModuleList(SeparableConv(*pair) for pair in itertools.pairwise(PYRAMID_WIDTHS))
        self.center = KeypointHead(1)
        self.keypoint = KeypointHead(KEYPOINTS)
        self.regression = KeypointHead(2 * KEYPOINTS)
        self.offset = KeypointHead(2 * KEYPOINTS)

    def forward(self, image: Tensor) -> MoveNetOutputs:
        features = self.stem(image.contiguous(memory_format=torch.channels_last))
        levels = {}
        for index, block in enumerate(self.blocks):
            features = levels[index] = block(features)
        finest = self.lateral[0](self.last(features))
        for lateral, smooth, (index, _) in zip(
            list(self.lateral)[1:], self.smooth, (STRIDE_16, STRIDE_8, STRIDE_4), strict=True
        ):
            finest = smooth(upsample(finest, levels[index]) + lateral(levels[index]))
        finest = finest.float()
        return MoveNetOutputs(
            levels[CONTEXT_16[0]],
            levels[CONTEXT_32[0]],
            finest,
            self.center(finest)[:, 0],
            self.keypoint(finest),
            self.regression(finest).unflatten(1, (KEYPOINTS, 2)),
            self.offset(finest).unflatten(1, (KEYPOINTS, 2)),
        )


def relu(features: Tensor) -> Tensor:
    return functional.relu(features, inplace=True)


def relu6(features: Tensor) -> Tensor:
    return functional.relu6(features, inplace=True)


class SameConv(nn.Module):
    """Convolution with TensorFlow's SAME padding: at stride 2, one pixel more at the right and at the bottom."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        stride, kernel = self.conv.stride[0], self.conv.kernel_size[0]
        if stride > 1:
            features = pad_same(features, kernel, stride)
        features = convolve_pointwise(self.conv, features) if kernel == 1 else self.conv(features)
        return features if self.activation is None else self.activation(features)


class InvertedResidual(nn.Module):
    """1 × 1 convolution to more channels, 3 × 3 depthwise convolution, 1 × 1 convolution to fewer channels.

    With a residual if the shape does not change.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, activation=relu6) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, 3, stride=stride, groups=inner, activation=relu6)
        self.project = SameConv(inner, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        inner = features if self.expand is None else self.expand(features)
        result = self.project(self.depthwise(inner))
        return features + result if self.residual else result


class SeparableConv(nn.Module):
    """3 × 3 depthwise convolution – 1 × 1 convolution – ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = SameConv(inputs, inputs, 3, groups=inputs, bias=False)
        self.pointwise = SameConv(inputs, outputs, activation=relu)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.depthwise(features))
        return result


class KeypointHead(nn.Sequential):
    """Separable convolution – 1 × 1 convolution, on the pyramid's finest level.

    Always float32, for any precision of the other layers: in bf16, positions would be rounded to pixels.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__(SeparableConv(FINEST_WIDTH, HEAD_WIDTH), SameConv(HEAD_WIDTH, outputs))

    @property
    def separable(self) -> SeparableConv:
        layer = self[0]
        assert isinstance(layer, SeparableConv)
        return layer

    @property
    def output(self) -> SameConv:
        layer = self[1]
        assert isinstance(layer, SameConv)
        return layer


def convolve_pointwise(conv: nn.Conv2d, features: Tensor) -> Tensor:
    """Compute a 1 × 1 convolution as a matrix product, five times as fast as PyTorch's convolution on one thread."""
    product = functional.linear(features.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)
    return product.permute(0, 3, 1, 2)


def pad_same(features: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad features as TensorFlow's SAME padding for a convolution."""
    # TensorFlow's own formula; for multiples of the stride it is a constant, also while `torch.export` traces.
    pads = [max(kernel - (n % stride or stride), 0) for n in features.shape[:1:-1]]
    return functional.pad(features, [side for n in pads for side in (n // 2, n - n // 2)])


def load_encoder(encoder: MoveNet, path: Path) -> None:
    """Load weights from the output of `scripts/convert_movenet.py` or from the file of a whole network.

    Raises UserError for other files.
    """
    try:
        tensors = safetensors.torch.load_file(path)
        if any(name.startswith(IN_NETWORK) for name in tensors):
            tensors = {
                name.removeprefix(IN_NETWORK): value for name, value in tensors.items() if name.startswith(IN_NETWORK)
            }
        encoder.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise UserError(
            f"expected MoveNet weights written by scripts/convert_movenet.py in {path}, got another content "
            f"({' '.join(str(error).split())!s:.120}); convert them again"
        ) from None


def upsample(features: Tensor, finer: Tensor) -> Tensor:
    """Upsample features by 2 (bilinear) and crop them to the rows and columns of the finer level."""
    rows, columns = finer.shape[-2:]
    return functional.interpolate(features, scale_factor=2.0, mode="bilinear")[..., :rows, :columns]
