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

"""Targets of the network's tracking feature, from two sources.

The paper distills SAM2's memory encoder (section 3, "Regressing track features"), but its weights cannot be downloaded
on every machine. The color layout needs no download: it distinguishes people by their clothes, less precisely.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch.nn import functional

from multihmr2_ros.errors import UserError

SAM2_FEATURE_WIDTH = 4096
SAM2_CELLS = 8

BANDS = 8  # of a person's box, from top to bottom
BINS = 6  # of each color axis, overlapping
MIN_BOX_PX = 4


class ColorLayout:
    """Colors and texture of a person's box in bands from head to feet, projected to any width by a fixed random matrix.

    Features of one person are near, and those of different people far, in L1 distance. Colors are opponent axes
    relative to the image's mean gray, so that brightness has little influence; the middle of the box has most weight.
    Features of random images have about zero mean and unit variance.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        raw = BANDS * (3 * BINS + 2)
        self._mix = np.random.default_rng(2606).standard_normal((raw, width)).astype(np.float32)

    def __call__(
        self, image: NDArray[np.uint8], box: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features (n, width), and whether each is valid (n,) bool: boxes of less than 4 px have none.

        image (H, W, 3) uint8 RGB; box (n, 4) px x0 y0 x1 y1 of the visible part.
        """
        height, width = image.shape[:2]
        feature = np.zeros((len(box), self.width), np.float32)
        known = np.zeros(len(box), bool)
        gray = max(float(image.mean()), 1.0)
        for row, corners in enumerate(np.asarray(box, np.float64)):
            x0, y0 = np.clip(np.floor(corners[:2]), 0, (width, height)).astype(int)
            x1, y1 = np.clip(np.ceil(corners[2:]), 0, (width, height)).astype(int)
            if min(x1 - x0, y1 - y0) < MIN_BOX_PX:
                continue
            crop = image[y0:y1, x0:x1].astype(np.float32) / gray
            feature[row] = _compute_layout(crop, _make_middle_weights(y1 - y0, x1 - x0)) @ self._mix
            known[row] = True
        return feature, known


def _make_middle_weights(height: int, width: int) -> NDArray[np.float32]:
    """Return weights (height, width) that decrease towards the left and right border (mostly background)."""
    across = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    return np.tile(np.exp(-0.5 * (across / 0.2) ** 2), (height, 1))


def _compute_layout(crop: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (BANDS · (3 · BINS + 2),): color histograms and texture of each band, zero mean and unit norm."""
    size = (4 * BANDS, 8 * BANDS)  # few pixels per band, and the same number for near and far people
    red, green, blue = np.moveaxis(np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.float32), -1, 0)
    weight = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA), np.float32)
    light = (red + green + blue) / 3
    axes = (np.log2(light + 0.1), (red - green) / (light + 0.1), (0.5 * (red + green) - blue) / (light + 0.1))
    ranges = ((-2.5, 1.5), (-1.0, 1.0), (-1.0, 1.0))
    parts = [_compute_soft_bins(axis, *limits) for axis, limits in zip(axes, ranges, strict=True)]
    texture = [np.abs(np.diff(np.log2(light + 0.1), axis=axis, append=np.nan)) for axis in (0, 1)]
    parts.append(np.nan_to_num(np.stack(texture, axis=-1)))
    values = np.concatenate(parts, axis=-1) * weight[..., None]
    banded = values.reshape(BANDS, -1, values.shape[-1]).sum(axis=1)
    share = weight.reshape(BANDS, -1).sum(axis=1)
    described = (banded / np.maximum(share, 1e-3)[:, None]).ravel()
    described -= described.mean()
    return described / max(float(np.linalg.norm(described)), 1e-6)


def _compute_soft_bins(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Return the weights (…, BINS) of triangular bins, so that small changes of color change the feature little."""
    place = (np.clip(values, low, high) - low) / (high - low) * (BINS - 1)
    return np.maximum(0, 1 - np.abs(place[..., None] - np.arange(BINS)))


class Sam2Memory:
    """SAM2's memory of one image and a person's true mask, averaged to 4096 numbers (paper figure 3)."""

    width = SAM2_FEATURE_WIDTH

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        """Load the model. weights: a folder with SAM2's video model in the format of transformers.

        Raises UserError if the model cannot be read or is a different one.
        """
        try:
            from transformers import Sam2VideoModel
        except ImportError:
            raise UserError(
                "SAM2's tracking features need the package transformers, at least 4.56; install "
                "'multihmr2_ros[train]' with pip"
            ) from None
        if not (weights / "config.json").is_file():
            raise UserError(
                f"expected a SAM2 model in {weights}, with config.json and model.safetensors, found none; save "
                "facebook/sam2-hiera-large there, or omit --sam2 to train on color layouts"
            )
        try:
            load: Any = Sam2VideoModel.from_pretrained  # its annotations lack the report
            model, report = load(weights, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read the SAM2 model in {weights}: {reason}; save it again") from None
        if any(name.startswith(("vision_encoder.", "memory_encoder.")) for name in report["missing_keys"]):
            raise UserError(
                f"expected SAM2's video model in {weights}, got a model without memory encoder; save the video model "
                "there"
            )
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features (n, 4096), and whether each is valid (n,) bool: empty masks have none.

        image (H, W, 3) uint8 RGB; mask (n, H, W) bool, one for each person.
        """
        known = np.asarray(mask.any(axis=(1, 2)), bool)
        feature = np.zeros((len(mask), self.width), np.float32)
        if known.any():
            with torch.inference_mode():
                feature[known] = self._encode(image, mask[known]).cpu().numpy()
        return feature, known

    def _encode(self, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> torch.Tensor:
        """Return features (n, 4096) of one image (H, W, 3) and masks (n, H, W)."""
        config = self._model.config
        side = int(config.prompt_encoder_config.image_size)
        pixels = torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None].float() / 255
        pixels = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=self._device)[..., None, None]
        vision = self._model.vision_encoder((pixels - mean) / std).fpn_hidden_states[-1]
        masks = torch.from_numpy(mask).to(self._device)[:, None].float()
        masks = (functional.interpolate(masks, (side, side), mode="bilinear", antialias=True) > 0.5).float()
        masks = masks * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        memory, _ = self._model.memory_encoder(vision.expand(len(masks), -1, -1, -1), masks)
        return functional.adaptive_avg_pool2d(memory, SAM2_CELLS).flatten(1)
