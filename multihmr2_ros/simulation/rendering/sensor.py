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

"""Sensors of simulated cameras: color images from light, and depth images in whole millimeters."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.appearance.materials import DISPLAY_GAMMA
from multihmr2_ros.simulation.scene.sensor import SensorEffects

Image = NDArray[np.uint8]
Radiance = NDArray[np.float32]

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
MIDDLE_GRAY = 0.22
AUTOMATIC_GAIN_RANGE = (0.25, 6.0)

MAX_DEPTH_MM = 65535
# A stereo camera like those on robots: the noise grows with the square of the depth, and the range is bounded.
NOISE_AT_1M_M = 0.0015
MIN_DEPTH_M, MAX_DEPTH_M = 0.3, 10.0
EDGE_RATIO = 1.06  # ratio of neighboring depths; above it, a pixel covers two surfaces
SPECKLE_CELLS_PX = 6
SPECKLE_SHARE = 0.012


def apply_sensor_effects(effects: SensorEffects, radiance: Radiance, generator: np.random.Generator) -> Image:
    """Convert linear light (H, W, 3), 1 is white, to uint8 sRGB (H, W, 3), with the effects in a camera's order."""
    light = _apply_lens(effects, radiance)
    light = _apply_noise(effects, light, generator)
    gain = np.float32(_compute_gain(effects, light)) * np.array(effects.white_balance, np.float32)
    image = np.clip(light * gain, 0.0, 1.0)
    image = _apply_grading(effects, np.asarray(cv2.pow(image, 1.0 / DISPLAY_GAMMA), np.float32))
    return _compress_jpeg(effects, (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def _apply_lens(effects: SensorEffects, light: Radiance) -> Radiance:
    if effects.defocus_px > 0:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), effects.defocus_px), np.float32)
    if effects.motion_blur_px > 1:
        streak = _make_motion_kernel(effects.motion_blur_px, effects.motion_blur_rad)
        light = np.asarray(cv2.filter2D(light, -1, streak), np.float32)
    if effects.vignetting > 0:
        height, width = light.shape[:2]
        y, x = np.mgrid[-1.0 : 1.0 : 1j * height, -1.0 : 1.0 : 1j * width].astype(np.float32)
        light = light * (1.0 - effects.vignetting * ((x**2 + y**2) / 2.0) ** 2)[..., None]
    return light


def _apply_noise(effects: SensorEffects, light: Radiance, generator: np.random.Generator) -> Radiance:
    """Add shot and read noise; both are stronger in a dark scene brightened by a long exposure."""
    if effects.electrons <= 0 and effects.read_noise <= 0:
        return light
    variance = np.full_like(light, effects.read_noise**2)
    if effects.electrons > 0:
        variance += np.maximum(light, 0.0) / effects.electrons
    return light + generator.standard_normal(light.shape, np.float32) * np.sqrt(variance)


def _compute_gain(effects: SensorEffects, light: Radiance) -> float:
    mean = float((light @ LUMINANCE).mean())
    automatic = float(np.clip(MIDDLE_GRAY / max(mean, 1e-6), *AUTOMATIC_GAIN_RANGE)) ** effects.auto_exposure
    return effects.exposure * automatic


def _apply_grading(effects: SensorEffects, image: NDArray[np.float32]) -> NDArray[np.float32]:
    if effects.gamma != 1.0:
        image = np.asarray(cv2.pow(image, effects.gamma), np.float32)
    if effects.contrast != 1.0:
        image = (image - 0.5) * np.float32(effects.contrast) + 0.5
    if effects.saturation != 1.0:
        gray = (image @ LUMINANCE)[..., None]
        image = gray + (image - gray) * np.float32(effects.saturation)
    return image


def _compress_jpeg(effects: SensorEffects, image: Image) -> Image:
    if effects.jpeg_quality <= 0:
        return image
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, effects.jpeg_quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def _make_motion_kernel(length_px: float, angle_rad: float) -> NDArray[np.float32]:
    """Return the point-spread function of a straight motion; its sum is 1."""
    radius = int(np.ceil(length_px / 2.0))
    samples = np.linspace(-length_px / 2.0, length_px / 2.0, 8 * radius + 1)
    x, y = radius + samples * np.cos(angle_rad), radius + samples * np.sin(angle_rad)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
    return kernel / kernel.sum()


def to_exact_depth(depth_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Convert depth (H, W) m to (H, W) whole mm; 0 for infinite depth (no hit) or beyond 65.535 m."""
    millimeters = np.rint(np.where(np.isfinite(depth_m), depth_m, 0.0) * 1000.0)
    return np.where(millimeters <= MAX_DEPTH_MM, millimeters, 0).astype(np.uint16)


def simulate_measured_depth(depth_m: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.uint16]:
    """Simulate a stereo camera: (H, W) mm with noise, and holes (0) at outlines, in patches and out of range.

    The standard deviation of the noise is 1.5 mm at 1 m and grows with the squared depth; the range is 0.3 to 10 m.
    depth_m (H, W): infinite without a hit.
    """
    finite = np.where(np.isfinite(depth_m), depth_m, np.float32(1e3))
    noise = NOISE_AT_1M_M * finite**2 * generator.standard_normal(depth_m.shape, np.float32)
    lost = (finite < MIN_DEPTH_M) | (finite > MAX_DEPTH_M)
    window = np.ones((3, 3), np.uint8)
    lost |= cv2.dilate(finite, window) > EDGE_RATIO * cv2.erode(finite, window)
    height, width = depth_m.shape
    cells = (-(-height // SPECKLE_CELLS_PX), -(-width // SPECKLE_CELLS_PX))
    patches = cv2.resize(generator.random(cells, np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    lost |= patches < np.quantile(patches, SPECKLE_SHARE)
    return np.where(lost, np.uint16(0), to_exact_depth(np.asarray(finite + noise, np.float32)))
