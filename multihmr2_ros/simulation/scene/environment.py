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

"""Environments of people: ground, room, lights and backdrop. Randomly sampled data only."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.appearance.materials import Color, Material, sample_surface
from multihmr2_ros.simulation.scene.options import SceneOptions

BACKGROUND_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PHOTOGRAPH_PROBABILITY = 0.7
GROUND_UNDER_PHOTOGRAPH_PROBABILITY = 0.3
# Further below the horizon, a photograph that is attached to the world would appear as narrow, mirrored wedges.
MAX_PHOTOGRAPH_DEPRESSION_RAD = math.radians(60)
ROOM_PROBABILITY = 0.5
TEXTURE_PROBABILITY = 0.6


@dataclass(frozen=True)
class Light:
    """A distant light. direction: unit vector towards it, in the world; color: linear RGB radiance.

    spread_rad: its angular radius, which makes shadows soft. Only the first light of a scene casts shadows.
    """

    direction: tuple[float, float, float]
    color: Color
    spread_rad: float = 0.02


@dataclass(frozen=True)
class Surface:
    """A ground or wall: a texture repeated every texture_size_m meters, or a material if texture is None."""

    material: Material
    texture: Path | None = None
    texture_size_m: float = 1.0


@dataclass(frozen=True)
class Room:
    """Four walls and a ceiling, rotated by heading_rad, around all people and the camera with a margin on each side."""

    heading_rad: float
    margins_m: tuple[float, float, float, float]
    height_m: float
    walls: Surface
    ceiling: Color


@dataclass(frozen=True)
class Backdrop:
    """The image at infinity: a photograph, or an image drawn from `seed` if photograph is None.

    attached  "camera": a crop fills the image; "world": it is mapped to the horizon and stays when the camera turns
    crop      x0, y0, x1, y1 as fractions of the photograph
    """

    seed: int
    style: Literal["sky", "buildings", "interior", "clutter"]
    photograph: Path | None = None
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False
    gain: Color = (1.0, 1.0, 1.0)
    attached: Literal["camera", "world"] = "world"
    span_rad: float = 1.6


@dataclass(frozen=True)
class Environment:
    """Ground, room, lights and backdrop of a scene.

    ground: None if the backdrop shows the ground; people then only cast shadows on it. sky_light, ground_light: linear
    RGB of the light from above and from below (hemispheric ambient light).
    """

    ground: Surface | None
    room: Room | None
    lights: tuple[Light, ...]
    sky_light: Color
    ground_light: Color
    backdrop: Backdrop


def sample_environment(
    generator: np.random.Generator, options: SceneOptions, depression_rad: float = 0.0
) -> Environment:
    """Sample an environment; photographs and textures come from the folders in the options, if given.

    depression_rad: angle of the camera's lowest ray below the horizon
    """
    photographs = list_background_images(options.backgrounds, without="textures")
    textures = list_background_images(options.textures)
    backdrop = _sample_backdrop(generator, photographs, moving=bool(options.moving_camera))
    on_photograph = backdrop.photograph is not None and generator.random() > GROUND_UNDER_PHOTOGRAPH_PROBABILITY
    if backdrop.attached == "world" and depression_rad > MAX_PHOTOGRAPH_DEPRESSION_RAD:
        on_photograph = False
    room = None
    if backdrop.photograph is None and generator.random() < ROOM_PROBABILITY:
        room = Room(
            heading_rad=float(generator.uniform(0.0, np.pi)),
            margins_m=tuple(generator.uniform(0.3, 5.0, 4).tolist()),
            height_m=float(generator.uniform(2.6, 5.0)),
            walls=_sample_surface(generator, textures),
            ceiling=tuple(generator.uniform(0.6, 0.95, 3).tolist()),
        )
    lights, sky, below = _sample_lights(generator, indoors=room is not None)
    ground = None if on_photograph else _sample_surface(generator, textures)
    return Environment(ground, room, lights, sky, below, backdrop)


@functools.cache
def list_background_images(folder: Path | None, without: str = "") -> tuple[Path, ...]:
    """List all images in a folder and its subfolders except those named `without`, sorted; none without a folder.

    Raises UserError for a folder without images.
    """
    if folder is None:
        return ()
    paths = (path for path in Path(folder).rglob("*") if without not in path.relative_to(folder).parts[:-1])
    images = tuple(sorted(path for path in paths if path.suffix.lower() in BACKGROUND_SUFFIXES))
    if not images:
        raise UserError(
            f"expected images ({', '.join(BACKGROUND_SUFFIXES)}) in {folder}, found none; give another folder"
        )
    return images


def _sample_backdrop(generator: np.random.Generator, photographs: tuple[Path, ...], moving: bool) -> Backdrop:
    photograph = None
    if photographs and generator.random() < PHOTOGRAPH_PROBABILITY:
        photograph = photographs[generator.integers(len(photographs))]
    size = generator.uniform(0.6, 1.0)
    x, y = generator.uniform(0.0, 1.0 - size), generator.uniform(0.0, 1.0 - size)
    tint = generator.uniform(0.5, 1.3) * generator.uniform(0.88, 1.12, 3)
    styles: tuple[Literal["sky", "buildings", "interior", "clutter"], ...] = ("sky", "buildings", "interior", "clutter")
    return Backdrop(
        seed=int(generator.integers(2**31)),
        style=styles[generator.integers(len(styles))],
        photograph=photograph,
        crop=(float(x), float(y), float(x + size), float(y + size)),
        flip=bool(generator.random() < 0.5),
        gain=(float(tint[0]), float(tint[1]), float(tint[2])),
        attached="world" if moving or photograph is None else "camera",
        span_rad=float(generator.uniform(1.2, 2.4)),
    )


def _sample_surface(generator: np.random.Generator, textures: tuple[Path, ...]) -> Surface:
    texture = None
    if textures and generator.random() < TEXTURE_PROBABILITY:
        texture = textures[generator.integers(len(textures))]
    size = float(np.exp(generator.uniform(np.log(0.5), np.log(4.0))))
    return Surface(sample_surface(generator), texture, size)


def _sample_lights(generator: np.random.Generator, indoors: bool) -> tuple[tuple[Light, ...], Color, Color]:
    """Sample a sun or lamp, up to two weaker lights, and the hemispheric light.

    Together they expose a white sheet to about 1.
    """
    main_share = generator.beta(2.0, 2.0)
    lowest = 0.7 if indoors else 0.2
    main = Light(
        direction=_sample_direction(generator, generator.uniform(lowest, 1.45)),
        color=_sample_light_color(generator, 0.25 + 0.9 * main_share),
        spread_rad=float(generator.uniform(0.05, 0.25) if indoors else generator.uniform(0.005, 0.06)),
    )
    fills = tuple(
        Light(
            _sample_direction(generator, generator.uniform(0.0, 1.2)),
            _sample_light_color(generator, generator.uniform(0.05, 0.3)),
        )
        for _ in range(generator.integers(0, 3))
    )
    sky = _sample_light_color(generator, 0.2 + 0.5 * (1.0 - main_share))
    bounce = generator.uniform(0.15, 0.5)
    return (main, *fills), sky, (sky[0] * bounce, sky[1] * bounce, sky[2] * bounce)


def _sample_direction(generator: np.random.Generator, elevation_rad: float) -> tuple[float, float, float]:
    azimuth = generator.uniform(0.0, 2.0 * np.pi)
    level = np.cos(elevation_rad)
    return float(level * np.cos(azimuth)), float(level * np.sin(azimuth)), float(np.sin(elevation_rad))


def _sample_light_color(generator: np.random.Generator, strength: float) -> Color:
    warmth = generator.normal(0.0, 0.08)
    return float(strength * (1.0 + warmth)), float(strength), float(strength * (1.0 - warmth))
