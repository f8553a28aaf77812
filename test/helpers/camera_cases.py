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

"""Lenses, points and pixels for the camera tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from multihmr2_ros.errors import UserError

K = np.array([[610.0, 0.0, 322.5], [0.0, 605.0, 236.25], [0.0, 0.0, 1.0]])
# A wide-angle webcam, a wide rational lens for each number of coefficients, and a fisheye; all at 1280 × 720.
LENSES = [
    ("plumb_bob", [-0.21, 0.06, 0.0011, -0.0007]),
    ("plumb_bob", [-0.25, 0.09, 0.0004, -0.0009, -0.012]),
    ("rational_polynomial", [5.2, 3.1, -1e-5, 3e-5, 0.16, 5.5, 4.6, 0.83]),
    ("rational_polynomial", [0.1, 0.01, 0.001, 0.002, 0.003, 0.1, 0.02, 0.003, 0.002, 0.001, 0.001, 0.002]),
    ("rational_polynomial", [0.1, 0.01, 0.001, 0.002, 0.003, 0.1, 0.02, 0.003, 0.002, 0.001, 0.001, 0.002, 0.02, 0.03]),
    ("equidistant", [-0.013, 0.021, -0.015, 0.003]),
]
SKEW = np.eye(3, k=1) * [[1.0], [0.0], [0.0]]
LENS_K = np.array([[820.0, 0.0, 645.0], [0.0, 823.0, 357.0], [0.0, 0.0, 1.0]])


def make_points(count: int = 50) -> np.ndarray:
    """Return points (count, 3) m in front of the camera."""
    return np.random.default_rng(5).uniform([-2.0, -1.5, 1.0], [2.0, 1.5, 8.0], (count, 3))


def make_image_grid(width: int, height: int) -> np.ndarray:
    """Return pixels (rows, columns, 2) px over the whole image, including its corners and edges."""
    u, v = np.meshgrid(np.linspace(0, width, 65), np.linspace(0, height, 37))
    return np.stack([u, v], axis=-1)


def get_refusal(function: Callable[..., object], *arguments: object) -> str:
    """Call the function and return the message of the UserError that it must raise, one line."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)
