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

"""Converts posed bodies to colored meshes: the body painted by regions, and the garments fitted onto it."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.appearance.appearance import Appearance
from multihmr2_ros.simulation.appearance.garments import FittedGarment, load_garment
from multihmr2_ros.simulation.appearance.materials import Material
from multihmr2_ros.simulation.appearance.regions import IRIS, MaterialSlot, compute_body_regions
from multihmr2_ros.simulation.rendering.meshes import MeshTopology, PosedMesh
from multihmr2_ros.simulation.scene.posing import PosedScene
from multihmr2_ros.simulation.scene.scene import Person

PAINTED_CACHE = 64


class Dresser:
    """Builder of people's meshes; pose-independent parts are computed once per body, garment and appearance."""

    def __init__(self, body: Body, device: str) -> None:
        self.device = device
        self.triangles = body.faces
        self.regions = compute_body_regions(body)
        self.surface = MeshTopology(self.regions.rest, body.faces, device)
        self._garment = functools.cache(self._load)
        self._painted = functools.lru_cache(PAINTED_CACHE)(self._paint)

    def dress(self, people: tuple[Person, ...], posed: PosedScene) -> tuple[list[PosedMesh], list[Material]]:
        """Return the meshes of all people and the table of materials referenced by their triangles."""
        meshes: list[PosedMesh] = []
        materials: list[Material] = []
        for row, person in enumerate(people):
            appearance, vertices = person.appearance, posed.vertices[row]
            first, second, border, hidden = self._painted(appearance)
            start = len(materials)
            meshes.append(PosedMesh(self.surface, row, vertices, first + start, second + start, border, hidden))
            materials += _list_body_materials(appearance)
            for worn in appearance.worn:
                garment, surface, (first, second, border) = self._garment(worn.garment.path)
                start = len(materials)
                fitted = garment.fit(vertices)
                meshes.append(
                    PosedMesh(surface, row, fitted, first + start, second + start, border, np.zeros(len(first), bool))
                )
                materials += [worn.material, worn.lower_material]
        return meshes, materials

    def _load(
        self, path: Path
    ) -> tuple[FittedGarment, MeshTopology, tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]]:
        garment = FittedGarment(load_garment(path), self.regions.rest)
        triangles = garment.garment.triangles
        paint = self.regions.paint_below_waist(garment.garment.base[:, 0], triangles)
        surface = MeshTopology(garment.rest_vertices, triangles, self.device)
        return garment, surface, paint.to_triangles(triangles)

    def _paint(
        self, appearance: Appearance
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
        covered = np.zeros(len(self.regions.rest), bool)
        for worn in appearance.worn:
            covered[self._garment(worn.garment.path)[0].garment.hidden] = True
        a, b, c = covered[self.triangles.T]
        hidden = a & b & c
        return *self.regions.paint(appearance).to_triangles(self.triangles), hidden


def _list_body_materials(appearance: Appearance) -> list[Material]:
    """Return the body's materials in the order of MaterialSlot."""
    table = {
        MaterialSlot.SKIN: appearance.skin,
        MaterialSlot.EYES: appearance.eyes,
        MaterialSlot.IRIS: IRIS,
        MaterialSlot.LIPS: appearance.lips,
        MaterialSlot.HAIR: appearance.hair,
        MaterialSlot.TOP: appearance.top,
        MaterialSlot.BOTTOM: appearance.bottom,
        MaterialSlot.SHOES: appearance.shoes or appearance.skin,
    }
    return [table[slot] for slot in MaterialSlot]
