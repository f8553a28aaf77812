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

"""Materials of surfaces: colors, procedural patterns, gloss and folds. Data only; rendering/shading.py evaluates it."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]

DISPLAY_GAMMA = 2.2
MATERIAL_COLUMNS = 11


class Pattern(IntEnum):
    """Mix of a material's two colors; the numbers are those of the kernel."""

    PLAIN = 0
    STRIPES = 1
    CHECKS = 2
    DOTS = 3
    NOISE = 4
    GRADIENT = 5
    PRINT = 6  # one print on the chest


@dataclass(frozen=True)
class Material:
    """A surface material. Colors are sRGB in [0, 1].

    The pattern is defined on rest-pose positions, so that it moves with the cloth.

    size_m    period of the pattern
    angle_rad rotation of the pattern about the viewing axis of an upright body seen from the front
    gloss     0 is matte, 1 is polished leather
    folds     0 is smooth; 1 bends the normals like the folds of loose cloth
    """

    color: Color
    second_color: Color = (0.5, 0.5, 0.5)
    pattern: Pattern = Pattern.PLAIN
    size_m: float = 0.05
    angle_rad: float = 0.0
    gloss: float = 0.0
    folds: float = 0.0


def to_linear(color: NDArray[np.floating] | Color) -> NDArray[np.float32]:
    """Convert sRGB in [0, 1] to linear light."""
    return np.power(np.clip(np.asarray(color, np.float32), 0.0, 1.0), DISPLAY_GAMMA)


def make_material_table(materials: list[Material]) -> NDArray[np.float32]:
    """Return the kernel's table (m, 11).

    Columns: linear color (3), linear second color (3), pattern, size_m, angle_rad, gloss, folds.
    """
    table = np.zeros((max(len(materials), 1), MATERIAL_COLUMNS), np.float32)
    for row, material in zip(table, materials, strict=False):
        row[:3], row[3:6] = to_linear(material.color), to_linear(material.second_color)
        row[6:] = material.pattern, material.size_m, material.angle_rad, material.gloss, material.folds
    return table


def sample_color(generator: np.random.Generator, saturation: float = 0.9, darkest: float = 0.04) -> Color:
    """Sample any color: grays, blacks and whites are as frequent in clothes as all other colors together."""
    value = darkest + (1.0 - darkest) * generator.beta(1.0, 1.2)
    colorful = generator.random() < 0.6
    amount = saturation * generator.beta(1.5, 1.5) if colorful else 0.08 * generator.random()
    return colorsys.hsv_to_rgb(generator.random(), amount, value)


def sample_cloth(generator: np.random.Generator, patterned: float = 0.4) -> Material:
    """Sample a cloth; `patterned` is the probability that it has two colors."""
    pattern = Pattern.PLAIN
    if generator.random() < patterned:
        pattern = Pattern(int(generator.integers(1, len(Pattern))))
    return Material(
        color=sample_color(generator),
        second_color=sample_color(generator),
        pattern=pattern,
        size_m=float(np.exp(generator.uniform(np.log(0.02), np.log(0.25)))),
        angle_rad=float(generator.choice([0.0, np.pi / 2, generator.uniform(0.0, np.pi)])),
        gloss=float(generator.uniform(0.0, 0.15)),
        folds=float(generator.uniform(0.2, 1.0)),
    )


def sample_surface(generator: np.random.Generator) -> Material:
    """Sample a floor, wall or obstacle: mostly muted, with patterns of boards, tiles and plaster."""
    color = np.array(sample_color(generator, saturation=0.5, darkest=0.1))
    shade = np.clip(color * generator.uniform(0.6, 1.2), 0.0, 1.0)
    pattern = generator.choice(
        [Pattern.PLAIN, Pattern.STRIPES, Pattern.CHECKS, Pattern.NOISE], p=[0.3, 0.15, 0.2, 0.35]
    )
    return Material(
        color=(float(color[0]), float(color[1]), float(color[2])),
        second_color=(float(shade[0]), float(shade[1]), float(shade[2])),
        pattern=Pattern(int(pattern)),
        size_m=float(np.exp(generator.uniform(np.log(0.15), np.log(2.0)))),
        angle_rad=float(generator.uniform(0.0, np.pi)),
        gloss=float(generator.uniform(0.0, 0.4)),
    )
