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

"""Photometric augmentation: changes of color and sharpness as in cameras and compression."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError


@dataclass(frozen=True)
class PhotometricConfig:
    """Probability and range of each change.

    tone        brightness, contrast and gamma by up to 1 ± tone_range, and each channel's gain by a third of it
    saturation  from gray to 1 + saturation_range
    blur        Gaussian or along a line, up to blur_px
    noise       Gaussian, standard deviation up to noise_level of 255
    jpeg        compression with a quality from jpeg_quality to 95
    """

    tone: float = 0.8
    tone_range: float = 0.4
    saturation: float = 0.4
    saturation_range: float = 0.5
    blur: float = 0.2
    blur_px: float = 4.0
    noise: float = 0.25
    noise_level: float = 10.0
    jpeg: float = 0.25
    jpeg_quality: int = 20

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation: {name} must be a probability from 0 to 1, got {getattr(self, name)}")
        if not (0 <= self.tone_range < 1 and self.saturation_range >= 0 and self.blur_px >= 1 and self.noise_level > 0):
            values = {field.name: getattr(self, field.name) for field in fields(self)}
            raise UserError(f"augmentation: ranges must be positive, and tone_range below 1; got {values}")
        if not 1 <= self.jpeg_quality <= 95:
            raise UserError(f"augmentation: jpeg_quality must be from 1 to 95, got {self.jpeg_quality}")

    @classmethod
    def none(cls) -> PhotometricConfig:
        """Return settings without any change."""
        return cls(**dict.fromkeys(PROBABILITIES, 0.0))  # type: ignore[arg-type]


PROBABILITIES = ("tone", "saturation", "blur", "noise", "jpeg")


def distort_colors(
    image: NDArray[np.uint8], generator: np.random.Generator, config: PhotometricConfig
) -> NDArray[np.uint8]:
    """Apply random changes to an image (H, W, 3) uint8 RGB, in the order of a camera's processing."""
    if generator.random() < config.blur:
        image = _blur(image, generator, config.blur_px)
    if generator.random() < config.tone:
        image = _change_tone(image, generator, config.tone_range)
    if generator.random() < config.saturation:
        gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        keep = generator.uniform(0.0, 1.0 + config.saturation_range)
        image = np.asarray(cv2.addWeighted(image, keep, gray, 1.0 - keep, 0.0), np.uint8)
    if generator.random() < config.noise:
        deviation = generator.uniform(0.0, config.noise_level)
        noise = generator.standard_normal(image.shape, np.float32) * np.float32(deviation)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if generator.random() < config.jpeg:
        quality = int(generator.integers(config.jpeg_quality, 96))
        content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)
    return image


def _change_tone(image: NDArray[np.uint8], generator: np.random.Generator, amount: float) -> NDArray[np.uint8]:
    """Change gamma, contrast about the middle, brightness and each channel's gain, by one table of 256 × 3 values."""
    gamma, contrast, brightness = np.exp(np.log1p(amount) * generator.uniform(-1, 1, 3))
    gain = brightness * np.exp(np.log1p(amount / 3) * generator.uniform(-1, 1, 3))
    levels = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5
    table = np.clip(255 * levels[:, None] * gain + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)


def _blur(image: NDArray[np.uint8], generator: np.random.Generator, max_px: float) -> NDArray[np.uint8]:
    size = generator.uniform(1.0, max_px)
    if generator.random() < 0.5:
        blurred = cv2.GaussianBlur(image, (0, 0), size / 3)
    else:
        blurred = cv2.filter2D(image, -1, _make_line_kernel(size, generator.uniform(0, np.pi)))
    return np.asarray(blurred, np.uint8)


def _make_line_kernel(length: float, angle_rad: float) -> NDArray[np.float32]:
    """Return the kernel of motion blur along a line of `length` px; its values sum to 1."""
    radius = int(np.ceil(length / 2))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    for t in np.linspace(-length / 2, length / 2, 4 * radius + 1):
        x, y = radius + t * np.cos(angle_rad), radius + t * np.sin(angle_rad)
        kernel[round(y), round(x)] += 1
    return kernel / kernel.sum()
