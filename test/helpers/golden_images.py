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

"""Golden numbers of the released architecture, with the images and cameras that they were computed for."""

from __future__ import annotations

import numpy as np

from test import paths
from test.golden import weights

GOLDEN = np.load(paths.GOLDEN / "network_dev.npz")
SIZES = ((576, 768), (768, 512))  # height, width
CASES = [(index, tag) for index in (0, 1) for tag in ("pred", "given")]


def make_golden_image(index: int) -> np.ndarray:
    return weights.image(*SIZES[index], int(GOLDEN["base"]) + 1 + index)


def make_given_k(index: int) -> np.ndarray:
    height, width = SIZES[index]
    return np.array([[610, 0, width / 2 + 7], [0, 610, height / 2 - 5], [0, 0, 1]])


def read_by_score(name: str) -> np.ndarray:
    """Return a golden array of people in the order of our results: by descending score."""
    prefix = name.rsplit("/", 1)[0]
    return GOLDEN[name][np.argsort(-GOLDEN[f"{prefix}/conf"].ravel())]
