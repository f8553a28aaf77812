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

"""Phenotypes of people from newborns to the old, with stature and leg length computed without posing a body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Anny's age phenotype: newborn 0, child 1/3 (about eleven years), grown 2/3, old 1. Statures in between are linear.
AGE_GROUPS = ((0.05, 0.0, 0.1), (0.15, 0.1, 0.3), (0.13, 0.3, 0.5), (0.5, 0.5, 0.8), (0.17, 0.8, 1.0))
CHILD_AGE, INFANT_AGE, INFANT_STATURE_M = 0.5, 0.1, 0.9

# Anny's stature in m and its leg (hip to ankle) as a fraction of it, at the phenotypes' anchors, the others at 0.5:
# gender 0 and 1 (male, female), then age, then height 0 and 1.
AGE_ANCHORS = (0.0, 1 / 3, 2 / 3, 1.0)
STATURE_M = (
    ((0.437, 0.890), (0.989, 1.933), (1.362, 2.450), (1.331, 2.419)),
    ((0.437, 0.890), (0.893, 1.837), (1.220, 2.308), (1.208, 2.295)),
)
LEG_SHARE = (0.451, 0.486, 0.490, 0.495)


def sample_shape(generator: np.random.Generator) -> NDArray[np.float32]:
    """Sample phenotypes (6,) in PHENOTYPE_LABELS order: mostly adults, more than a quarter not full-grown."""
    weights, youngest, oldest = np.array(AGE_GROUPS).T
    group = generator.choice(len(weights), p=weights / weights.sum())
    gender = generator.beta(0.4, 0.4)
    age = generator.uniform(youngest[group], oldest[group])
    # Half-way in Anny's height is a tall adult and a tall child, but an average newborn.
    height = generator.normal(0.48 if age < INFANT_AGE else 0.42, 0.11)
    muscle, weight, proportions = generator.normal(0.5, 0.2, 3)
    return np.clip([gender, age, muscle, weight, height, proportions], 0.02, 0.98).astype(np.float32)


def estimate_stature(shape: NDArray[np.floating]) -> float:
    """Estimate the standing height in m of phenotypes (6,), within a few percent."""
    gender, age, height = (float(shape[column]) for column in (0, 1, 4))
    by_age = [
        (1.0 - gender) * ((1.0 - height) * male[0] + height * male[1])
        + gender * ((1.0 - height) * female[0] + height * female[1])
        for male, female in zip(*STATURE_M, strict=True)
    ]
    return float(np.interp(age, AGE_ANCHORS, by_age))


def estimate_leg_length(shape: NDArray[np.floating]) -> float:
    """Estimate the leg length from hip to ankle in m of phenotypes (6,)."""
    return estimate_stature(shape) * float(np.interp(shape[1], AGE_ANCHORS, LEG_SHARE))


def is_infant(shape: NDArray[np.floating]) -> bool:
    """Return whether a person of phenotypes (6,) is too young to walk upright all day."""
    return bool(shape[1] < INFANT_AGE) or estimate_stature(shape) < INFANT_STATURE_M
