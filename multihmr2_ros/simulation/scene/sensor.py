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

"""What a camera does to light: exposure, colour, blur, noise and compression. Each effect is off at its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.appearance.materials import DISPLAY_GAMMA, Colour

if TYPE_CHECKING:
    from multihmr2_ros.simulation.scene.scene import SceneOptions

Image = NDArray[np.uint8]
Radiance = NDArray[np.float32]

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
LOW_LIGHT_PROBABILITY = 0.08
MIDDLE_GREY = 0.22
AUTOMATIC_GAIN_RANGE = (0.25, 6.0)
# Photo-electrons of a white pixel: hundreds in the dark, tens of thousands in the sun.
FEWEST_ELECTRONS, MOST_ELECTRONS = 300.0, 20000.0


@dataclass(frozen=True)
class SensorEffects:
    """One camera's effects, the same for all images of a scene; only the noise differs from image to image.

    exposure             factor on the light; white_balance: factor per channel
    auto_exposure        0 leaves the image's mean brightness, 1 brings it to MIDDLE_GREY
    gamma, contrast, saturation: 1 changes nothing
    vignetting           share of light lost in the corners
    motion_blur_px       length of the streak, motion_blur_rad its direction
    defocus_px           standard deviation of the blur
    electrons            photo-electrons of a white pixel, whose shot noise is seen; 0: none
    read_noise           standard deviation as a share of white
    jpeg_quality         20-100; 0: not compressed
    """

    exposure: float = 1.0
    auto_exposure: float = 0.0
    white_balance: Colour = (1.0, 1.0, 1.0)
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

    def apply(self, radiance: Radiance, generator: np.random.Generator) -> Image:
        """(H, W, 3) linear light, 1 is white → (H, W, 3) uint8 sRGB, in the order in which a camera does it."""
        light = self._through_the_lens(radiance)
        light = self._on_the_chip(light, generator)
        gain = np.float32(self._gain(light)) * np.array(self.white_balance, np.float32)
        image = np.clip(light * gain, 0.0, 1.0)
        image = self._graded(np.asarray(cv2.pow(image, 1.0 / DISPLAY_GAMMA), np.float32))
        return self._compressed((np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))

    def _through_the_lens(self, light: Radiance) -> Radiance:
        if self.defocus_px > 0:
            light = np.asarray(cv2.GaussianBlur(light, (0, 0), self.defocus_px), np.float32)
        if self.motion_blur_px > 1:
            streak = _streak(self.motion_blur_px, self.motion_blur_rad)
            light = np.asarray(cv2.filter2D(light, -1, streak), np.float32)
        if self.vignetting > 0:
            height, width = light.shape[:2]
            y, x = np.mgrid[-1.0 : 1.0 : 1j * height, -1.0 : 1.0 : 1j * width].astype(np.float32)
            light = light * (1.0 - self.vignetting * ((x**2 + y**2) / 2.0) ** 2)[..., None]
        return light

    def _on_the_chip(self, light: Radiance, generator: np.random.Generator) -> Radiance:
        """Shot and read noise; a dark scene that a long exposure brightens shows more of both."""
        if self.electrons <= 0 and self.read_noise <= 0:
            return light
        variance = np.full_like(light, self.read_noise**2)
        if self.electrons > 0:
            variance += np.maximum(light, 0.0) / self.electrons
        return light + generator.standard_normal(light.shape, np.float32) * np.sqrt(variance)

    def _gain(self, light: Radiance) -> float:
        mean = float((light @ LUMINANCE).mean())
        automatic = float(np.clip(MIDDLE_GREY / max(mean, 1e-6), *AUTOMATIC_GAIN_RANGE)) ** self.auto_exposure
        return self.exposure * automatic

    def _graded(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.gamma != 1.0:
            image = np.asarray(cv2.pow(image, self.gamma), np.float32)
        if self.contrast != 1.0:
            image = (image - 0.5) * np.float32(self.contrast) + 0.5
        if self.saturation != 1.0:
            grey = (image @ LUMINANCE)[..., None]
            image = grey + (image - grey) * np.float32(self.saturation)
        return image

    def _compressed(self, image: Image) -> Image:
        if self.jpeg_quality <= 0:
            return image
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])[1]
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def sample_sensor(generator: np.random.Generator, options: SceneOptions) -> SensorEffects:
    """A camera, from good to bad; blur lengths are for the image's own size."""
    size = options.height / 240.0
    low_light = generator.random() < LOW_LIGHT_PROBABILITY
    electrons = np.exp(generator.uniform(np.log(FEWEST_ELECTRONS), np.log(MOST_ELECTRONS)))
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


def _streak(length_px: float, angle_rad: float) -> NDArray[np.float32]:
    """The point-spread function, sum 1, of a straight movement."""
    radius = int(np.ceil(length_px / 2.0))
    samples = np.linspace(-length_px / 2.0, length_px / 2.0, 8 * radius + 1)
    x, y = radius + samples * np.cos(angle_rad), radius + samples * np.sin(angle_rad)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
    return kernel / kernel.sum()
