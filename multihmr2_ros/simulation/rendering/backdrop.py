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

"""Images for the renderer, in linear light: the backdrop of a camera's view, and textures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.appearance.materials import sample_color, to_linear
from multihmr2_ros.simulation.scene.environment import Backdrop

Radiance = NDArray[np.float32]

TEXTURE_SIZE = 256
TEXTURE_LEVELS = 6
BACKDROP_CACHE = 2  # photographs of cameras have tens of megabytes each; all images of a scene use one
MAX_SIDE = 16_384  # px of a backdrop; larger photographs are scaled down, as cv2.remap needs sides below 32,767
DRAWN_SIZE = (320, 640)
LINEAR_OF_BYTE = to_linear(np.arange(256, dtype=np.float32) / 255.0)


def load_image(path: Path) -> NDArray[np.uint8]:
    """Read an image (h, w, 3) uint8 RGB; UserError if the file is not an image, or too large for OpenCV."""
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a folder of readable images") from error
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        reason = "has more than 2^30 pixels" if "MAX_IMAGE" in str(error) else "cannot be decoded"
        raise UserError(f"{path} {reason}; scale it down, or remove it from the folder") from None
    if pixels is None:
        raise UserError(f"{path} must be an image, but it cannot be decoded; remove it from the folder")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


@functools.lru_cache(maxsize=32)
def load_texture_levels(path: Path) -> Radiance:
    """Read a texture and increasingly coarse versions of it, all at one size: (levels, 256, 256, 3) in linear light."""
    pixels = cv2.resize(load_image(path), (TEXTURE_SIZE, TEXTURE_SIZE), interpolation=cv2.INTER_AREA)
    finest = LINEAR_OF_BYTE[pixels]
    levels = [finest]
    for level in range(1, TEXTURE_LEVELS):
        size = TEXTURE_SIZE >> level
        small = cv2.resize(finest, (size, size), interpolation=cv2.INTER_AREA)
        levels.append(cv2.resize(small, (TEXTURE_SIZE, TEXTURE_SIZE), interpolation=cv2.INTER_LINEAR))
    return np.stack(levels)


def render_backdrop(backdrop: Backdrop, width: int, height: int, rays: Callable[[], NDArray[np.float32]]) -> Radiance:
    """Render the light (height, width, 3), linear, behind all objects.

    rays() returns (height, width, 3) unit directions through the pixels, in a frame whose x points at the center of
    the backdrop and whose z is up; only backdrops attached to the world need it.
    """
    pixels = _load_backdrop(backdrop)
    if backdrop.attached == "camera":
        image = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    else:
        x, y, z = np.moveaxis(rays(), -1, 0)
        scale = pixels.shape[1] / backdrop.span_rad
        azimuth, elevation = cv2.phase(x, y), cv2.phase(np.maximum(cv2.magnitude(x, y), 1e-3), z)
        column, row = (
            np.float32(side / 2.0) - np.float32(scale) * np.where(angle > np.pi, angle - np.float32(2.0 * np.pi), angle)
            for side, angle in ((pixels.shape[1], azimuth), (pixels.shape[0], elevation))
        )
        image = cv2.remap(pixels, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return LINEAR_OF_BYTE[image] * np.array(backdrop.gain, np.float32)


@functools.lru_cache(maxsize=BACKDROP_CACHE)
def _load_backdrop(backdrop: Backdrop) -> NDArray[np.uint8]:
    """Load the backdrop's image (h, w, 3) sRGB, cropped, flipped, and with sides of at most MAX_SIDE."""
    if backdrop.photograph is None:
        return draw_backdrop(backdrop)
    pixels = load_image(backdrop.photograph)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = backdrop.crop
    left, top = int(x0 * width), int(y0 * height)
    pixels = pixels[top : max(top + 1, int(y1 * height)), left : max(left + 1, int(x1 * width))]
    if backdrop.flip:
        pixels = pixels[:, ::-1]
    if max(pixels.shape[:2]) > MAX_SIDE:
        size = [max(1, round(side * MAX_SIDE / max(pixels.shape[:2]))) for side in pixels.shape[1::-1]]
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.ascontiguousarray(pixels)


def draw_backdrop(backdrop: Backdrop) -> NDArray[np.uint8]:
    """Draw an image (320, 640, 3) sRGB of gradients, rectangles and noise; the horizon is in its middle row."""
    generator = np.random.default_rng(backdrop.seed)
    height, width = DRAWN_SIZE
    horizon = height // 2
    above, below = np.array(sample_color(generator, 0.6, 0.2)), np.array(sample_color(generator, 0.4, 0.1))
    if backdrop.style in ("sky", "buildings"):
        above = np.array([0.45, 0.65, 0.95]) * generator.uniform(0.5, 1.0) + generator.uniform(-0.1, 0.1, 3)
    rows = np.linspace(0.0, 1.0, height)[:, None]
    pixels = np.where(rows < 0.5, above * (0.75 + 0.6 * rows), below * (1.35 - 0.6 * rows))[:, None]
    pixels = np.repeat(pixels, width, axis=1).astype(np.float32)
    counts = {"sky": (0, 4), "buildings": (6, 18), "interior": (6, 20), "clutter": (40, 120)}
    for _ in range(generator.integers(*counts[backdrop.style])):
        _draw_box(pixels, generator, horizon, free=backdrop.style == "clutter")
    clouds = _smooth_noise(generator, (height, width), cells=generator.integers(4, 12))
    grain = _smooth_noise(generator, (height, width), cells=generator.integers(40, 120))
    pixels *= 1.0 + 0.25 * generator.random() * clouds + 0.12 * generator.random() * grain
    return (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _draw_box(pixels: NDArray[np.float32], generator: np.random.Generator, horizon: int, free: bool) -> None:
    """Draw a building, door, cupboard or window grid: a rectangle with its base on the horizon unless `free`."""
    height, width = pixels.shape[:2]
    w, h = (int(share * side) for share, side in zip(generator.uniform(0.02, 0.3, 2), (width, height), strict=True))
    x = int(generator.integers(-w, width))
    base = int(generator.integers(0, height)) if free else horizon + int(generator.uniform(0.0, 0.12) * height)
    color = np.array(sample_color(generator, 0.6, 0.05))
    cv2.rectangle(pixels, (x, base - h), (x + w, base), color.tolist(), -1)
    if generator.random() < 0.5 and w > 12 and h > 12:
        pane = (color * generator.uniform(0.2, 1.8)).clip(0.0, 1.0).tolist()
        columns, rows = generator.integers(1, 6, 2)
        for i in range(columns):
            for j in range(rows):
                left, top = x + int((i + 0.2) * w / columns), base - h + int((j + 0.2) * h / rows)
                right, bottom = x + int((i + 0.8) * w / columns), base - h + int((j + 0.8) * h / rows)
                cv2.rectangle(pixels, (left, top), (right, bottom), pane, -1)


def _smooth_noise(generator: np.random.Generator, size: tuple[int, int], cells: np.integer) -> NDArray[np.float32]:
    """Return noise (h, w, 1), approximately in [-1, 1]."""
    coarse = generator.uniform(-1.0, 1.0, (int(cells), 2 * int(cells))).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)[..., None], np.float32)
