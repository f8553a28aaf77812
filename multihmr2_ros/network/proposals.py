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

"""Initial queries from MoveNet's detections: the cells of highest center score, and their 17 keypoints.

The reference point of a query is the person's nose, which is next to the center vertex of Anny that the network
locates. Its content is an embedding of the keypoints and of the image features at the keypoints. As in MoveNet's own
decoding, keypoints are regressed from the centers and refined on the heatmaps of the keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.movenet import (
    CELL_PX,
    CONTEXT_16,
    CONTEXT_32,
    FINEST_WIDTH,
    KEYPOINTS,
    MoveNet,
    MoveNetMaps,
)

WINDOW = 3  # steps around a regressed keypoint, the region in which its heatmap is searched
EXTENT_PER_STEP = 12.0  # cells: for people of twice this extent, the steps are two cells
MAX_STEP = 3.0
SOFTENING = 1.8  # cells, added to the distance to reduce the preference for near cells, as in MoveNet
MIN_EXTENT_PX = 16.0
PATCH_PX = 32
MIDDLE_PX = 16
MIDDLE_WIDTH, COARSE_WIDTH = 32, 24  # channels sampled at each keypoint, at strides 16 and 32
NOSE = 0


@dataclass(frozen=True)
class EncoderFeatures:
    """Features of MoveNet for the rest of the network: B images of H × W px, Q proposals in descending order of score.

    context_16       (B, 144, H / 16, W / 16)
    context_32       (B, 480, H / 32, W / 32)
    pooled           (B, 48, H / 32, W / 32) maximum and mean of the finest level
    center_logit     (B, Q)
    keypoints        (B, Q, 17, 2) px of the padded input, COCO's order
    keypoint_score   (B, Q, 17) in [0, 1]
    sampled          (B, Q, 17, 24) features of the finest level at the keypoints
    outputs          MoveNet's outputs, to train it further; None if only the features were kept
    """

    context_16: Tensor
    context_32: Tensor
    pooled: Tensor
    center_logit: Tensor
    keypoints: Tensor
    keypoint_score: Tensor
    sampled: Tensor
    outputs: MoveNetMaps | None = None

    @property
    def reference(self) -> Tensor:
        """Reference point of each query, (B, Q, 2) px: the person's nose."""
        return self.keypoints[:, :, NOSE]


class KeypointEncoder(nn.Module):
    """MoveNet with proposals: images (B, 3, H, W) in [−1, 1], H and W multiples of 32 px → EncoderFeatures."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.movenet = MoveNet()
        self.queries = queries

    def forward(self, image: Tensor) -> EncoderFeatures:
        with torch.autocast(image.device.type, enabled=False):  # positions in cells need float32 in training
            outputs = self.movenet(image)
        logit, keypoints, score = propose_people(outputs, self.queries)
        finest = outputs.finest.float()
        size = PATCH_PX // CELL_PX
        pooled = torch.cat([functional.max_pool2d(finest, size), functional.avg_pool2d(finest, size)], dim=1)
        return EncoderFeatures(
            outputs.context_16.float(),
            outputs.context_32.float(),
            pooled,
            logit,
            keypoints,
            score,
            sample_at(finest, keypoints / CELL_PX),
            outputs,
        )


def propose_people(outputs: MoveNetMaps, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the proposals of highest score: logit (B, Q), keypoints (B, Q, 17, 2) px, keypoint scores (B, Q, 17)."""
    logit, cells = find_centers(outputs, queries)
    columns = outputs.center.shape[2]
    window = make_search_window(outputs, regress_keypoints(outputs, cells).detach())
    chosen = window.compute_preference().argmax(-1, keepdim=True)
    cell = window.index.gather(3, chosen)[..., 0]  # (B, 17, Q)
    score = outputs.keypoint.flatten(2).gather(2, cell).sigmoid().transpose(1, 2)
    offset = outputs.sample_offset(cell)
    cell = cell.transpose(1, 2)
    keypoints = torch.stack([cell // columns, cell % columns], dim=-1) + offset
    return logit, CELL_PX * keypoints.flip(-1), score


def find_centers(outputs: MoveNetMaps, queries: int) -> tuple[Tensor, Tensor]:
    """Return the local maxima of highest center score: logit (B, Q), cells (B, Q, 2) as (y, x)."""
    center = outputs.center
    _, rows, columns = center.shape
    peak = center == functional.max_pool2d(center[:, None], 3, 1, 1)[:, 0]
    logit, best = torch.where(peak, center, center - 30.0).flatten(1).topk(min(queries, rows * columns), dim=1)
    return logit, torch.stack([best // columns, best % columns], dim=-1)


def regress_keypoints(outputs: MoveNetMaps, cells: Tensor) -> Tensor:
    """Regress keypoints (B, Q, 17, 2), cells as (y, x), from centers (B, Q, 2)."""
    return cells[:, :, None] + outputs.sample_regression(cells[..., 0] * outputs.center.shape[2] + cells[..., 1])


@dataclass(frozen=True)
class SearchWindow:
    """The N cells around each regressed keypoint in which its heatmap is searched, for B images and Q people.

    index     (B, 17, Q, N) int64, flat index of the cell
    distance  (B, 17, Q, N) cells, to the regressed keypoint
    logit     (B, 17, Q, N) of the heatmap
    """

    index: Tensor
    distance: Tensor
    logit: Tensor

    def compute_preference(self) -> Tensor:
        """Return log (score / distance), (B, 17, Q, N); the cell with the maximum is selected."""
        return functional.logsigmoid(self.logit) - (self.distance + SOFTENING).log()


def make_search_window(outputs: MoveNetMaps, keypoints: Tensor) -> SearchWindow:
    """Create the window around keypoints (B, Q, 17, 2), cells as (y, x); the steps are larger for large people."""
    _, rows, columns = outputs.center.shape
    extent = (keypoints.amax(2) - keypoints.amin(2)).amax(-1)
    step = (extent / EXTENT_PER_STEP).round().clamp(1.0, MAX_STEP)[:, :, None, None]
    steps = step * torch.arange(-WINDOW, WINDOW + 1, device=keypoints.device)
    y = (keypoints[..., :1].round() + steps).clamp(0, rows - 1)  # (B, Q, 17, 2 · WINDOW + 1)
    x = (keypoints[..., 1:].round() + steps).clamp(0, columns - 1)
    distance = (
        (y - keypoints[..., :1]).square()[..., :, None] + (x - keypoints[..., 1:]).square()[..., None, :]
    ).sqrt()
    index = (columns * y[..., :, None] + x[..., None, :]).flatten(3).long().transpose(1, 2)
    logit = outputs.keypoint.flatten(2).gather(2, index.flatten(2)).unflatten(2, index.shape[2:])
    return SearchWindow(index, distance.flatten(3).transpose(1, 2), logit)


class PatchEmbedding(nn.Module):
    """Linear layer on MoveNet's features in each patch: EncoderFeatures → patches (B, width, H / 32, W / 32)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (CONTEXT_32[1], 4 * CONTEXT_16[1], 2 * FINEST_WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(inputs) for inputs in widths)
        self.project = nn.Linear(sum(widths), width)

    def forward(self, features: EncoderFeatures) -> Tensor:
        levels = features.context_32, functional.pixel_unshuffle(features.context_16, 2), features.pooled
        normed = [norm(level.permute(0, 2, 3, 1)) for norm, level in zip(self.norms, levels, strict=True)]
        patches: Tensor = self.project(torch.cat(normed, dim=-1).to(self.project.weight.dtype))
        return patches.permute(0, 3, 1, 2)


class ProposalEmbedding(nn.Module):
    """Embedding of proposals and image features: the initial content of the queries (B, Q, D).

    Keypoints are relative to the reference point and divided by their extent, so that the encoding of a pose does not
    depend on its size. Image features are sampled at the keypoints, at strides 4, 16 and 32 (the patches).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        width = config.decoder_width
        self.middle_norm = nn.LayerNorm(CONTEXT_16[1])
        self.middle = nn.Linear(CONTEXT_16[1], MIDDLE_WIDTH)
        self.coarse = nn.Linear(config.encoder_width, COARSE_WIDTH)
        sampled = KEYPOINTS * (FINEST_WIDTH + MIDDLE_WIDTH + COARSE_WIDTH)
        self.sampled_width = sampled
        self.norm = nn.LayerNorm(sampled)
        self.embed = nn.Sequential(
            nn.Linear(3 * KEYPOINTS + 4 + sampled, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.refine = nn.Sequential(*(ResidualPerceptron(width) for _ in range(config.proposal_depth)))

    def forward(self, features: EncoderFeatures, patches: Tensor) -> Tensor:
        """Return the content (B, Q, D) of the queries; patches: (B, h, w, encoder width), encoded."""
        keypoints = features.keypoints
        middle = self.middle(self.middle_norm(features.context_16.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        coarse = self.coarse(patches).permute(0, 3, 1, 2)
        samples = [
            features.sampled,
            sample_at(middle, keypoints / MIDDLE_PX - 0.5),
            sample_at(coarse, keypoints / PATCH_PX - 0.5),
        ]
        sampled = self.norm(torch.cat([sample.flatten(2) for sample in samples], dim=-1))
        return self.embed_people(keypoints, features.keypoint_score, features.center_logit, sampled)

    def embed_people(self, keypoints: Tensor, score: Tensor, center_logit: Tensor, sampled: Tensor | None) -> Tensor:
        """Embed proposals; return (B, Q, D).

        keypoints     (B, Q, 17, 2) px
        score         (B, Q, 17) of the keypoints
        center_logit  (B, Q)
        sampled       (B, Q, sampled_width) sampled image features; None: only keypoints are known
        """
        reference = keypoints[:, :, NOSE]
        extent = (keypoints.amax(2) - keypoints.amin(2)).amax(-1, keepdim=True).clamp(min=MIN_EXTENT_PX)
        described = [
            ((keypoints - reference[:, :, None]) / extent[:, :, None]).flatten(2),
            score,
            (extent / self.image_size).log(),
            reference / self.image_size - 0.5,
            center_logit[..., None].clamp(-10.0, 10.0) / 5.0,
            extent.new_zeros(*extent.shape[:2], self.sampled_width) if sampled is None else sampled,
        ]
        content: Tensor = self.refine(self.embed(torch.cat(described, dim=-1)))
        return content


class ResidualPerceptron(nn.Module):
    """Residual LayerNorm – Linear – GELU – Linear on (…, D).

    After Martinez et al. 2017, "A simple yet effective baseline for 3d human pose estimation".
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, content: Tensor) -> Tensor:
        return content + self.mlp(self.norm(content))


def sample_at(features: Tensor, points: Tensor) -> Tensor:
    """Sample features (B, C, h, w) bilinearly at points (B, Q, K, 2), cells as (x, y); returns (B, Q, K, C).

    (0, 0) is the center of the first cell; features outside are zero.
    """
    rows, columns = features.shape[-2:]
    x, y = (2 * points + 1).unbind(-1)
    # Python numbers instead of a tensor, whose copy to the GPU could not be captured in a CUDA graph.
    grid = torch.stack([x / columns - 1, y / rows - 1], dim=-1)
    return functional.grid_sample(features, grid, align_corners=False).permute(0, 2, 3, 1)
