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

"""Shared helpers of the overlay tests: background, meshes and pixel rays."""

from __future__ import annotations

from typing import Any

import numpy as np
import trimesh

from multihmr2_ros.lens import Distort
from multihmr2_ros.media.overlay import draw_people
from test.helpers.people_factory import make_people

HEIGHT, WIDTH = 480, 640
BOX = trimesh.creation.box(extents=(0.6, 1.0, 0.4))
BALL = trimesh.creation.icosphere(subdivisions=4, radius=0.4)


def make_background() -> np.ndarray:
    """Return an image (HEIGHT, WIDTH, 3) uint8 without any pixel in the color of a track."""
    return np.random.default_rng(1).integers(1, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def at(mesh: trimesh.Trimesh, *places: tuple[float, float, float]) -> np.ndarray:
    """Return the mesh's vertices (n, V, 3) m at each of the places, camera frame."""
    return np.array([mesh.vertices + place for place in places])


def find_painted(vertices: np.ndarray, faces: np.ndarray, distort: Distort | None = None, **changes: Any) -> np.ndarray:
    """Return the mask (HEIGHT, WIDTH) of the pixels changed by drawing the opaque meshes."""
    people = make_people(len(vertices), vertices=vertices, **changes)
    drawn = draw_people(make_background(), people, faces, alpha=1.0, labels=False, distort=distort)
    return (drawn != make_background()).any(axis=2)


def compute_pixel_rays(k: np.ndarray) -> np.ndarray:
    """Return the directions (HEIGHT, WIDTH, 3) through the pixel centers, z = 1."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    return np.stack([(columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1], np.ones_like(rows)], axis=2)


def compute_overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())
