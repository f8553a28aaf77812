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

"""Heads: two-layer perceptrons on the class token and the decoded queries.

Heads always compute in float32, for any precision of the encoder: they are small, and their outputs are pixels and
meters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.body_colors import WIDTH as COLORS_WIDTH
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.people import BONE_COUNT

LOCATION_SPAN = 1.2  # times the image size: centers may be outside the image, by up to a fifth to the right and below
MIN_NEARNESS = 1e-5


def make_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Create Linear – ReLU – Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class CameraHead(nn.Module):
    """Camera head: class token (B, D) → horizontal field of view (B,) of the padded input, rad, in (0, π)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.field_of_view = make_mlp(config.encoder_width, config.encoder_width, 1)

    def forward(self, class_token: Tensor) -> Tensor:
        return math.pi * torch.sigmoid(self.field_of_view(class_token)).squeeze(-1)


class DetectionHeads(nn.Module):
    """Detection heads: decoded queries (…, D) → score, location in the image, nearness. Applied to all queries."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.patch_size = config.patch_size
        self.score = make_mlp(config.decoder_width, config.head_width, 1)
        self.location = make_mlp(config.decoder_width, config.head_width, 2)
        self.nearness = make_mlp(config.decoder_width, config.head_width, 1)

    def forward(
        self, queries: Tensor, reference_point: Tensor | None = None, start_score: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return score logit (…,), location (…, 2) px of the padded input, and log nearness (…,), nearness = f / z.

        reference_point (…, 2) px and start_score (…,) logit: initial position and score of proposed queries.
        """
        location = self.location(queries)
        if reference_point is None:
            location = LOCATION_SPAN * self.image_size * torch.sigmoid(location)
        else:
            location = self.offset_from_reference(location, reference_point)
        score = self.score(queries).squeeze(-1)
        return score if start_score is None else score + start_score, location, self.nearness(queries).squeeze(-1)

    def offset_from_reference(self, offset: Tensor, reference_point: Tensor) -> Tensor:
        """Return the reference point moved by an offset.

        The result is always within the image plus a margin of a fifth of its size on all sides. In the middle of this
        region, the unit of the offset is a patch.
        """
        margin = (LOCATION_SPAN - 1) * self.image_size
        span = self.image_size + 2 * margin
        start = torch.logit((reference_point + margin) / span, eps=1e-3)
        return span * torch.sigmoid(start + offset * (4 * self.patch_size / span)) - margin


class NearnessHead(nn.Module):
    """Detection head of Multi-HMR: decoded queries (…, D) → nearness. Score and location are those of the patch."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.nearness = make_mlp(config.decoder_width, config.head_width, 1)

    def forward(self, queries: Tensor, location: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score logit (…,), location (…, 2) px of the padded input, and log nearness (…,)."""
        return score, location, self.nearness(queries).squeeze(-1)


class PersonHeads(nn.Module):
    """Person heads: decoded queries (…, D) → shape, bone rotations. Applied to selected queries.

    `track_feature` is a separate head: queries, or `BodyColors` (…, C) with `body_colors` → feature (…, F).
    """

    initial_pose: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        pose = BONE_COUNT * 6
        self.shape = make_mlp(config.decoder_width, config.head_width, config.shape_outputs)
        self.pose = make_mlp(config.decoder_width + pose, config.head_width, pose)
        appearance = COLORS_WIDTH if config.body_colors else config.decoder_width
        self.track_feature = make_mlp(appearance, config.track_feature_width, config.track_feature_width)
        self.register_buffer("initial_pose", make_initial_pose(), persistent=False)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return shape (…, outputs) in [0, 1] and rotations (…, 163, 3, 3) relative to the parent bone."""
        return torch.sigmoid(self.shape(queries)), rotations_from_6d(self.predict_rotation_6d(queries))

    def predict_rotation_6d(self, queries: Tensor) -> Tensor:
        """Return two columns per bone, (…, 163, 3, 2), to be orthonormalized by `rotations_from_6d`."""
        initial = self.initial_pose.expand(*queries.shape[:-1], -1)
        pose = initial + self.pose(torch.cat([queries, initial], dim=-1))
        return pose.unflatten(-1, (BONE_COUNT, 3, 2))


def make_initial_pose() -> Tensor:
    """Return two columns of a rotation per bone, (978,): identity, except +90° about x for the root, as released.

    (The root bone's rest frame faces +y with the head at −z, so the root of an upright person is at −90°.)
    """
    rotation_6d = torch.eye(3, device="cpu")[:, :2].repeat(BONE_COUNT, 1, 1)
    rotation_6d[0] = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], device="cpu")
    return rotation_6d.flatten()


def rotations_from_6d(rotation_6d: Tensor) -> Tensor:
    """Orthonormalize (…, 3, 2) by Gram-Schmidt and return rotations (…, 3, 3) (Zhou et al. 2019)."""
    first = functional.normalize(rotation_6d[..., 0], dim=-1)
    second = rotation_6d[..., 1] - (first * rotation_6d[..., 1]).sum(-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def depth_from_nearness(log_nearness: Tensor, focal_px: Tensor) -> Tensor:
    """Return the depth z (m) of the body's center, f / exp(log nearness), with f in px of the padded input."""
    return focal_px / log_nearness.exp().clamp(min=MIN_NEARNESS)
