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

"""Garment files, including hostile ones, and their fit on bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.appearance.garments import (
    BASE_VERTEX_COUNT,
    FittedGarment,
    GarmentKind,
    list_garments,
    load_garment,
)
from multihmr2_ros.simulation.appearance.regions import compute_body_regions
from test.helpers.simulation_scenes import SHARED, body, make_person, make_scene, render_scene

ASSETS = SHARED / "makehuman_assets"
HEADER = "basemesh hm08\ntag Shoes\nname patch\nobj_file patch.obj\n"
SCALES = "x_scale 0 1 2.0\ny_scale 0 2 2.0\nz_scale 0 3 2.0\n"
# The first vertex is on base vertex 5; the others are between base vertices 0, 1, 2 with offsets.
VERTICES = "verts 0\n5\n0 1 2 0.2 0.3 0.5 0.1 0.0 0.0\n0 1 2 0.5 0.5 0.0 0.0 0.2 0.0\n0 1 2 0.0 0.0 1.0 0.0 0.0 0.3\n"
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nf 1/1 2/1 4/1 3/1\n"


def make_rest_body() -> np.ndarray:
    """Return vertices (V, 3); 0 to 3 are the origin and the ends of MakeHuman's axes, 2 units long, in Anny's rest
    frame."""
    vertices = np.random.default_rng(0).normal(size=(BASE_VERTEX_COUNT, 3)).astype(np.float32)
    vertices[:4] = [[0, 0, 0], [2, 0, 0], [0, 0, 2], [0, -2, 0]]
    return vertices


def write(folder: Path, mhclo: str = HEADER + SCALES + VERTICES, obj: str | bytes = OBJ) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "patch.obj").write_bytes(obj if isinstance(obj, bytes) else obj.encode())
    (folder / "patch.mhclo").write_text(mhclo, encoding="utf-8")
    return folder / "patch.mhclo"


def test_a_garment_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + SCALES + VERTICES + "delete_verts\n3 7 - 9 12\n")
    garment = load_garment(path)
    assert garment.base[:2].tolist() == [[5, 5, 5], [0, 1, 2]]
    assert garment.hidden.tolist() == [3, 7, 8, 9, 12]
    assert garment.triangles.tolist() == [[0, 1, 3], [0, 3, 2]]
    assert [(file.kind, file.gender) for file in list_garments(tmp_path)] == [(GarmentKind.SHOES, "")]


def test_offsets_are_along_makehumans_axes_in_the_rest_pose(tmp_path: Path) -> None:
    rest = make_rest_body()
    fitted = FittedGarment(load_garment(write(tmp_path)), rest).fit(rest)
    expected = [
        rest[5],
        0.3 * rest[1] + 0.5 * rest[2] + [0.1, 0, 0],  # x: left
        0.5 * rest[1] + [0, 0, 0.2],  # y: up
        rest[2] + [0, -0.3, 0],  # z: front
    ]
    np.testing.assert_allclose(fitted, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_a_garment_turns_moves_and_grows_with_the_body(tmp_path: Path, scale: float) -> None:
    rest = make_rest_body()
    garment = FittedGarment(load_garment(write(tmp_path)), rest)
    turn = Rotation.random(random_state=1).as_matrix().astype(np.float32)

    def moved(points: np.ndarray) -> np.ndarray:
        return scale * points @ turn.T + np.float32([1.0, 2.0, 3.0])

    np.testing.assert_allclose(garment.fit(moved(rest)), moved(garment.fit(rest)), atol=1e-5)


@pytest.mark.parametrize(
    ("mhclo", "obj", "said"),
    [
        ("", OBJ, "must bind vertices after 'verts'"),
        (HEADER + SCALES, OBJ, "must bind vertices after 'verts'"),
        (SCALES + VERTICES, OBJ, "obj_file"),
        (SCALES + VERTICES + "obj_file ../../etc/passwd.obj\n", OBJ, "obj_file"),
        (SCALES + VERTICES + "obj_file /etc/passwd\n", OBJ, "obj_file"),
        (HEADER + VERTICES, OBJ, "x_scale"),
        (HEADER + SCALES.replace("2.0", "0.0") + VERTICES, OBJ, "above 0"),
        (HEADER + SCALES.replace("0 1", "0 99999") + VERTICES, OBJ, "base vertex"),
        (HEADER + SCALES + VERTICES + "0 1 2 0.5\n", OBJ, "numbers"),
        (HEADER + SCALES + VERTICES.replace("0.3 0.5", "nan 0.5"), OBJ, "number within"),
        (HEADER + SCALES + VERTICES.replace("0.3 0.5", "1e30 0.5"), OBJ, "number within"),
        (HEADER + SCALES + VERTICES.replace("0.3 0.5", "x 0.5"), OBJ, "number within"),
        (HEADER + SCALES + VERTICES.replace("\n5\n", "\n-5\n"), OBJ, "base vertex"),
        (HEADER + SCALES + VERTICES.replace("\n5\n", "\n19158\n"), OBJ, "base vertex"),
        (HEADER + SCALES + VERTICES + "7\n", OBJ, "must bind all 4 vertices of .*, got 5"),
        (HEADER + SCALES + VERTICES + "delete_verts\n7 -\n", OBJ, "each side"),
        (HEADER + SCALES + VERTICES + "delete_verts\n- 7\n", OBJ, "each side"),
        (HEADER + SCALES + VERTICES + "delete_verts\n7 - 999999999999\n", OBJ, "base vertex"),
        (HEADER + SCALES + VERTICES, "v 0 0 0\n", "must have faces"),
        (HEADER + SCALES + VERTICES, OBJ.replace("f 1/1", "f 0/1"), "a vertex number from 1 to 4, got"),
        (HEADER + SCALES + VERTICES, OBJ.replace("f 1/1", "f -1"), "a vertex number from 1 to 4, got"),
        (HEADER + SCALES + VERTICES, OBJ.replace("4/1", "5/1"), "a vertex number from 1 to 4, got"),
        (HEADER + SCALES + VERTICES, OBJ + "f 1 2\n", "3 to 8 corners"),
        (HEADER + SCALES + VERTICES, OBJ + "f" + " 1" * 99 + "\n", "corners"),
        (HEADER + SCALES + VERTICES, b"v \xff\xfe\x00", "UTF-8"),
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path: Path, mhclo: str, obj: str | bytes, said: str) -> None:
    path = write(tmp_path, mhclo, obj)
    with pytest.raises(UserError, match=said) as error:
        load_garment(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected garments"):
        list_garments(tmp_path)
    path = write(tmp_path)
    (tmp_path / "patch.obj").unlink()
    with pytest.raises(UserError, match="cannot read"):
        load_garment(path)


def test_oversized_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    with path.open("r+b") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match="MiB"):
        load_garment(path)


@pytest.mark.skipif(not ASSETS.is_dir(), reason="MakeHuman's garments are not on this machine")
def test_makehumans_garments_lie_on_the_body_in_any_pose() -> None:
    files = list_garments(ASSETS)
    assert {file.kind for file in files} == set(GarmentKind)
    rest = compute_body_regions(body()).rest
    posed = render_scene(make_scene(make_person(3.0, 0.0, gait="walk"), width=32, height=24))[0].vertices[0]
    surface = np.unique(body().faces)
    at_rest, walking = cKDTree(rest[surface]), cKDTree(posed[surface])
    for file in files:
        garment = FittedGarment(load_garment(file.path), rest)
        distances = [at_rest.query(garment.rest_vertices)[0], walking.query(garment.fit(posed))[0]]
        limit = 0.45 if file.kind == GarmentKind.HAIR else 0.25  # meters: long hair, brims of hats and skirts
        assert max(distance.max() for distance in distances) < limit, file.path.name
        assert np.median(distances[1]) < np.median(distances[0]) + 0.01, file.path.name
