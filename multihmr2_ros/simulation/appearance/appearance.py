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

"""Appearance of people: skin, hair, clothes painted by body region, and garment meshes. Randomly sampled data only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.appearance.garments import GarmentFile, GarmentKind, list_garments
from multihmr2_ros.simulation.appearance.materials import Color, Material, Pattern, sample_cloth, sample_color

REAL_CLOTHES_PROBABILITY = 0.5
REAL_HAIR_PROBABILITY = 0.75
REAL_SHOES_PROBABILITY = 0.7
HAT_PROBABILITY = 0.08
# Anny's age phenotype: 1/3 is a child of about ten, 2/3 a young adult.
YOUNGEST_IN_ADULT_CLOTHES = 0.3
OLD_AGE = 0.85

# sRGB, dark to light; a person's skin color lies between two neighbors.
SKIN_TONES: tuple[Color, ...] = (
    (0.20, 0.12, 0.09), (0.32, 0.20, 0.14), (0.45, 0.29, 0.20), (0.60, 0.42, 0.31), (0.74, 0.55, 0.43),
    (0.84, 0.65, 0.54), (0.92, 0.76, 0.67),
)  # fmt: skip
HAIR_COLORS: tuple[Color, ...] = (
    (0.04, 0.03, 0.03), (0.10, 0.07, 0.05), (0.20, 0.13, 0.08), (0.33, 0.22, 0.13), (0.55, 0.40, 0.22),
    (0.70, 0.58, 0.38), (0.45, 0.20, 0.09), (0.55, 0.55, 0.55), (0.80, 0.80, 0.80),
)  # fmt: skip
GRAY_HAIR = slice(7, 9)


class HairStyle(IntEnum):
    """Part of the head that the material of the hair or hat covers."""

    BALD = 0
    SHORT = 1
    LONG = 2
    CAP = 3


@dataclass(frozen=True)
class WornGarment:
    """A garment mesh on a person, with the material of its part that covers the legs (trousers of a suit)."""

    garment: GarmentFile
    material: Material
    lower_material: Material


@dataclass(frozen=True)
class Appearance:
    """Appearance of a person. Lengths are fractions of the arm (shoulder to wrist) or of the leg (hip to ankle).

    waist  border of top and bottom, as a fraction of the trunk from hip to neck; a dress has leg_length of its top
    shoes  None: bare feet, with the painted region; worn: garment meshes, which replace the painted regions they cover
    """

    skin: Material
    eyes: Material
    lips: Material
    hair: Material
    hair_style: HairStyle
    top: Material
    sleeve_length: float
    neckline: float
    waist: float
    bottom: Material
    leg_length: float
    shoes: Material | None
    shoe_height: float
    worn: tuple[WornGarment, ...] = ()

    def is_wearing(self, kind: GarmentKind) -> bool:
        """Return whether a garment mesh of this kind is worn."""
        return any(worn.garment.kind == kind for worn in self.worn)


def sample_appearance(
    generator: np.random.Generator, shape: NDArray[np.floating], garments: Path | None = None
) -> Appearance:
    """Sample the appearance of a body with phenotypes (6,); garment meshes come only from the folder `garments`."""
    appearance = _sample_painted(generator, age=float(shape[1]))
    if garments is None:
        return appearance
    return replace(appearance, worn=_sample_worn(generator, shape, appearance, Path(garments)))


def _sample_painted(generator: np.random.Generator, age: float) -> Appearance:
    skin = _interpolate_color(generator, SKIN_TONES)
    top, bottom = sample_cloth(generator), sample_cloth(generator, patterned=0.2)
    if generator.random() < 0.12:  # a suit, an overall, a dress
        bottom = top
    sleeve = generator.choice(
        [generator.uniform(-0.05, 0.05), generator.uniform(0.2, 0.45), generator.uniform(0.8, 1.0)]
    )
    leg = generator.choice([generator.uniform(0.15, 0.55), generator.uniform(0.85, 1.0)], p=[0.3, 0.7])
    shoes = Material(sample_color(generator, saturation=0.6), gloss=float(generator.uniform(0.0, 0.6)))
    style = generator.choice(list(HairStyle), p=[0.08, 0.5, 0.3, 0.12])
    return Appearance(
        skin=Material(skin, gloss=float(generator.uniform(0.03, 0.15))),
        eyes=Material((0.85, 0.84, 0.82), gloss=0.6),
        lips=Material(_scale_color(skin, (0.88, 0.62, 0.60))),
        hair=_sample_hair(generator, age) if style != HairStyle.CAP else sample_cloth(generator, patterned=0.2),
        hair_style=HairStyle(int(style)),
        top=top,
        sleeve_length=float(sleeve),
        neckline=float(generator.uniform(0.0, 1.0) ** 2),
        waist=float(generator.uniform(0.02, 0.25)),
        bottom=bottom,
        leg_length=float(leg),
        shoes=shoes if generator.random() < 0.93 else None,
        shoe_height=float(generator.choice([0.0, 0.06, 0.25], p=[0.5, 0.35, 0.15])),
    )


def _sample_hair(generator: np.random.Generator, age: float) -> Material:
    gray = age > OLD_AGE and generator.random() < 0.8
    if generator.random() < 0.03:  # dyed
        color = sample_color(generator)
    else:
        color = _interpolate_color(generator, HAIR_COLORS[GRAY_HAIR] if gray else HAIR_COLORS[:7])
    return Material(  # strands
        color,
        _scale_color(color, (0.75, 0.75, 0.75)),
        Pattern.STRIPES,
        size_m=float(generator.uniform(0.008, 0.02)),
        angle_rad=float(generator.uniform(1.4, 1.8)),
        gloss=float(generator.uniform(0.1, 0.3)),
        folds=0.8,
    )


def _sample_worn(
    generator: np.random.Generator, shape: NDArray[np.floating], painted: Appearance, folder: Path
) -> tuple[WornGarment, ...]:
    """Sample clothes, shoes and hair that suit the gender; children wear no suits made for adults."""
    garments = list_garments(folder)
    gender = "male" if shape[0] < generator.uniform(0.3, 0.7) else "female"
    chances = {
        GarmentKind.CLOTHES: REAL_CLOTHES_PROBABILITY if shape[1] > YOUNGEST_IN_ADULT_CLOTHES else 0.0,
        GarmentKind.SHOES: REAL_SHOES_PROBABILITY if painted.shoes is not None else 0.0,
        GarmentKind.HAIR: REAL_HAIR_PROBABILITY if painted.hair_style in (HairStyle.SHORT, HairStyle.LONG) else 0.0,
        GarmentKind.HAT: HAT_PROBABILITY,
    }
    worn = []
    for kind, chance in chances.items():
        choice = [garment for garment in garments if garment.kind == kind and garment.gender in ("", gender)]
        if generator.random() < chance and choice:
            garment = choice[generator.integers(len(choice))]
            worn.append(WornGarment(garment, *_sample_materials(generator, kind, painted)))
    return tuple(worn)


def _sample_materials(
    generator: np.random.Generator, kind: GarmentKind, painted: Appearance
) -> tuple[Material, Material]:
    if kind == GarmentKind.CLOTHES:
        return painted.top, painted.bottom
    if kind == GarmentKind.HAIR:
        return painted.hair, painted.hair
    if kind == GarmentKind.SHOES and painted.shoes is not None:
        return painted.shoes, painted.shoes
    material = sample_cloth(generator, patterned=0.2)
    return material, material


def _interpolate_color(generator: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """Return a color between two neighbors of the list."""
    index = int(generator.integers(len(colors) - 1))
    share = generator.random()
    low, high = np.array(colors[index]), np.array(colors[index + 1])
    red, green, blue = low + share * (high - low)
    return float(red), float(green), float(blue)


def _scale_color(color: Color, factors: Color) -> Color:
    return color[0] * factors[0], color[1] * factors[1], color[2] * factors[2]
