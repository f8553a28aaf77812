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

"""Functions that several losses share: masked means, pairs of people, and a projection with finite gradients."""

from __future__ import annotations

import torch
from torch import Tensor

# The angle of a point at the camera's center is undefined; the paper leaves out nearer points.
MIN_DEPTH_M = 0.1


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of the values where the mask is true; 0, with a gradient of 0, if there are none."""
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def find_pairs(image: Tensor, known: Tensor) -> Tensor:
    """Return (M, M) bool, above the diagonal: pairs of people of the same image (M,), both known (M,) bool."""
    return ((image[:, None] == image) & known[:, None] & known).triu(diagonal=1)


def project(points: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Project points (…, 3) m with k (…, 3, 3), upper triangular.

    Returns pixels (…, 2), and whether the points are more than 0.1 m in front of the camera (…) bool. Others are
    projected as if they were at that depth.
    """
    depth = points[..., 2].clamp(min=MIN_DEPTH_M)
    x, y = points[..., 0] / depth, points[..., 1] / depth
    u = k[..., 0, 0] * x + k[..., 0, 1] * y + k[..., 0, 2]
    v = k[..., 1, 1] * y + k[..., 1, 2]
    return torch.stack([u, v], dim=-1), points[..., 2] > MIN_DEPTH_M
