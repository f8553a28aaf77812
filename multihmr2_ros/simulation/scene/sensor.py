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

"""Effects of a camera on its images, as data: exposure, color, blur, noise and compression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multihmr2_ros.simulation.appearance.materials import Color
from multihmr2_ros.simulation.scene.options import SceneOptions

LOW_LIGHT_PROBABILITY = 0.08
# Photo-electrons of a white pixel: hundreds in the dark, tens of thousands in the sun.
MIN_ELECTRONS, MAX_ELECTRONS = 300.0, 20000.0


@dataclass(frozen=True)
class SensorEffects:
    """One camera's effects, the same for all images of a scene; only the noise differs from image to image.

    exposure             factor on the light; white_balance: factor per channel
    auto_exposure        0 keeps the image's mean brightness, 1 moves it to rendering.sensor.MIDDLE_GRAY
    gamma, contrast, saturation: 1 changes nothing
    vignetting           fraction of light lost in the corners
    motion_blur_px       length of the streak, motion_blur_rad its direction
    defocus_px           standard deviation of the blur
    electrons            photo-electrons of a white pixel, which determine the shot noise; 0: none
    read_noise           standard deviation as a fraction of white
    jpeg_quality         20-100; 0: not compressed
    """

    exposure: float = 1.0
    auto_exposure: float = 0.0
    white_balance: Color = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    vignetting: float = 0.0
    motion_blur_px: float = 0.0
    motion_blur_rad: float = 0.0
    defocus_px: float = 0.0
    electrons: float = 0.0
    read_noise: float = 0.0
    jpeg_quality: int = 0


def sample_sensor(generator: np.random.Generator, options: SceneOptions) -> SensorEffects:
    """Sample a camera of any quality; blur lengths are scaled to the image size."""
    size = options.height / 240.0
    low_light = generator.random() < LOW_LIGHT_PROBABILITY
    electrons = np.exp(generator.uniform(np.log(MIN_ELECTRONS), np.log(MAX_ELECTRONS)))
    blurred, defocused = generator.random() < 0.15, generator.random() < 0.25
    return SensorEffects(
        exposure=float(np.exp(generator.normal(0.0, 0.3)) * (generator.uniform(0.1, 0.3) if low_light else 1.0)),
        auto_exposure=float(generator.uniform(0.3, 1.0)),
        white_balance=tuple(np.exp(generator.normal(0.0, 0.07, 3)).tolist()),
        gamma=float(np.exp(generator.normal(0.0, 0.12))),
        contrast=float(generator.uniform(0.75, 1.25)),
        saturation=float(generator.choice([0.0, generator.uniform(0.5, 1.4)], p=[0.04, 0.96])),
        vignetting=float(generator.uniform(0.0, 0.5) if generator.random() < 0.3 else 0.0),
        motion_blur_px=float(generator.uniform(1.5, 8.0) * size if blurred else 0.0),
        motion_blur_rad=float(generator.uniform(0.0, np.pi)),
        defocus_px=float(generator.uniform(0.4, 1.6) * size if defocused else 0.0),
        electrons=float(electrons * (0.2 if low_light else 1.0)) if generator.random() < 0.8 else 0.0,
        read_noise=float(generator.uniform(0.0, 0.005)) if generator.random() < 0.5 else 0.0,
        jpeg_quality=int(generator.integers(20, 101)) if generator.random() < 0.7 else 0,
    )
