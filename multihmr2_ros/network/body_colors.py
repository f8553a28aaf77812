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

"""Colors of points on people's bodies, sampled from the input image: what distinguishes people best is their clothes.

The decoded queries of a pretrained encoder say little about colors, because a detector of people must ignore them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.network.movenet import KEYPOINTS
from multihmr2_ros.network.proposals import sample_at

CELL_PX = 4  # colors are means over cells of this size
MIN_BRIGHTNESS = 0.05
_FACE = range(5)
_SHOULDERS, _ELBOWS, _WRISTS, _HIPS, _KNEES, _ANKLES = (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)


def _list_points() -> list[dict[int, float]]:
    """Return the points, each as weights of COCO keypoints: 9 of the torso, 8 of the legs, 4 of the arms, 3 above."""
    torso = [
        {_SHOULDERS[0]: (1 - down) * (1 - across), _SHOULDERS[1]: (1 - down) * across,
         _HIPS[0]: down * (1 - across), _HIPS[1]: down * across}
        for down in (0.2, 0.5, 0.8) for across in (0.25, 0.5, 0.75)
    ]  # fmt: skip
    legs = [
        {upper[side]: 1 - down, lower[side]: down}
        for upper, lower in ((_HIPS, _KNEES), (_KNEES, _ANKLES)) for side in (0, 1) for down in (1 / 3, 2 / 3)
    ]  # fmt: skip
    arms = [
        {upper[side]: 0.5, lower[side]: 0.5}
        for upper, lower in ((_SHOULDERS, _ELBOWS), (_ELBOWS, _WRISTS)) for side in (0, 1)
    ]  # fmt: skip
    # The neck, the middle of the face, and the hair: as far above the face as half the way from the shoulders to it.
    head = [
        {**dict.fromkeys(_FACE, up / len(_FACE)), **dict.fromkeys(_SHOULDERS, (1 - up) / 2)} for up in (0.5, 1.0, 1.5)
    ]
    return [*torso, *legs, *arms, *head]


POINTS = _list_points()
WIDTH = 3 * len(POINTS)  # numbers per person


class BodyColors(nn.Module):
    """Samples the colors of points on people's bodies."""

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        weights = torch.zeros(len(POINTS), KEYPOINTS, device="cpu")
        for row, point in enumerate(POINTS):
            for keypoint, weight in point.items():
                weights[row, keypoint] = weight
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, image: Tensor, keypoints: Tensor) -> Tensor:
        """Return colors (B, M, WIDTH).

        image      (B, 3, H, W) uint8 RGB
        keypoints  (B, M, 17, 2) px, COCO's order

        Three numbers per point: log of the brightness relative to the mean of the image, red against green, and yellow
        against blue, relative to the brightness. The camera's exposure has little effect on them.
        """
        cells = functional.avg_pool2d(image.float() / 255.0, CELL_PX)
        points = torch.einsum("pk,bmkd->bmpd", self.weights, keypoints)
        rgb = sample_at(cells, points / CELL_PX - 0.5)
        mean = cells.mean(dim=(1, 2, 3)).clamp(min=MIN_BRIGHTNESS)[:, None, None]
        red, green, blue = rgb.unbind(-1)
        brightness = rgb.mean(-1)
        scale = brightness + MIN_BRIGHTNESS
        colors = [(brightness / mean + 0.1).log2(), (red - green) / scale, (0.5 * (red + green) - blue) / scale]
        return torch.stack(colors, dim=-1).flatten(2)
