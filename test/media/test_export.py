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

"""Parameters, meshes and images in files: files are read back unchanged, and are written completely or not at all."""

import json
import logging
import struct

import cv2
import numpy as np
import pytest
import trimesh

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path
from multihmr2_ros.media.colors import UNTRACKED, get_track_color
from multihmr2_ros.media.export import save_image, save_meshes, save_params
from multihmr2_ros.people import BONE_COUNT, IntrinsicsSource
from test.helpers.full_disk import no_file_above
from test.helpers.people_factory import make_people

BOX = trimesh.creation.box(extents=(0.5, 1.7, 0.3))
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def make_people_with_boxes(n: int, **changes):
    places = np.stack([np.arange(n), np.zeros(n), 3.0 + np.arange(n)], axis=1)
    return make_people(n, vertices=BOX.vertices[None] + places[:, None], pelvis=places, **changes)


def read_json_chunk(content: bytes) -> dict:
    """Return the JSON document of a binary glTF file after checking its framing (glTF 2.0, section 4.4)."""
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    chunk_length, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert chunk_length % 4 == 0
    return json.loads(content[20 : 20 + chunk_length])


# Parameters

SHAPES = {
    "score": (),
    "track_id": (),
    "track_state": (),
    "track_age_s": (),
    "shape": (6,),
    "running_shape": (6,),
    "rotations": (BONE_COUNT, 3, 3),
    "bone_poses": (BONE_COUNT, 4, 4),
    "joints": (BONE_COUNT, 3),
    "joints_2d": (BONE_COUNT, 2),
    "pelvis": (3,),
    "velocity": (3,),
    "pelvis_covariance": (3, 3),
    "velocity_covariance": (3, 3),
    "vertices": (8, 3),
    "stature": (),
    "track_feature": (32,),
}


@pytest.mark.parametrize("n", [0, 1, 3])
def test_parameters_come_back(tmp_path, n):
    people = make_people_with_boxes(n, intrinsics_source=IntrinsicsSource.K, stamp=1234567890.123456789)
    save_params(tmp_path / "walk_000007.npz", people)
    with np.load(tmp_path / "walk_000007.npz", allow_pickle=False) as stored:
        frame_wide = {"k", "vertical_fov", "intrinsics_source", "stamp", "image_size", "velocity_frame"}
        assert set(stored) == {*SHAPES, *frame_wide}
        assert str(stored["velocity_frame"]) == people.velocity_frame
        for name, shape in SHAPES.items():
            assert stored[name].shape == (n, *shape), name
            assert stored[name].dtype == getattr(people, name).dtype, name
            np.testing.assert_array_equal(stored[name], getattr(people, name))
        np.testing.assert_array_equal(stored["k"], people.k)
        assert float(stored["vertical_fov"]) == people.vertical_fov
        assert str(stored["intrinsics_source"]) == "K"
        assert float(stored["stamp"]) == people.stamp
        assert stored["image_size"].tolist() == [480, 640]


def test_parameters_without_a_mesh_and_with_unknown_velocity(tmp_path):
    save_params(str(tmp_path / "a.npz"), make_people(2, velocity=np.full((2, 3), np.nan)))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored["vertices"].shape == (2, 0, 3)
        assert np.isnan(stored["velocity"]).all()


# Meshes


def test_meshes_come_back_upright_named_and_colored(tmp_path):
    people = make_people_with_boxes(3, track_id=np.array([12, 7, -1]))
    save_meshes(tmp_path / "frame.glb", people, BOX.faces)
    scene = trimesh.load(tmp_path / "frame.glb", process=False)
    assert set(scene.graph.nodes_geometry) == {"person_12", "person_7", "person_2"}
    for row, (name, color) in enumerate(
        [("person_12", get_track_color(12)), ("person_7", get_track_color(7)), ("person_2", UNTRACKED)]
    ):
        transform, geometry = scene.graph[name]
        mesh = scene.geometry[geometry]
        # x right, y up, z backward: the person is in front of the camera, at negative z.
        vertices = trimesh.transform_points(mesh.vertices, transform)
        np.testing.assert_allclose(vertices, people.vertices[row] * (1, -1, -1), atol=1e-6)
        np.testing.assert_array_equal(mesh.faces, BOX.faces)
        factor = mesh.visual.material.baseColorFactor[:3] / 255.0  # linear; displays encode it (IEC 61966-2-1)
        encoded = np.where(factor <= 0.0031308, 12.92 * factor, 1.055 * factor ** (1 / 2.4) - 0.055)
        # Eight bits for a linear value are coarse in dark regions.
        np.testing.assert_allclose(255 * encoded, color, atol=13)


def test_an_untracked_person_does_not_replace_the_mesh_of_a_track(tmp_path):
    people = make_people_with_boxes(3, track_id=np.array([1, -1, -1]))
    save_meshes(tmp_path / "frame.glb", people, BOX.faces)
    scene = trimesh.load(tmp_path / "frame.glb", process=False)
    assert set(scene.graph.nodes_geometry) == {"person_1", "untracked_1", "person_2"}


def test_a_mesh_holds_only_the_vertices_in_use_and_their_normals(tmp_path):
    faces = BOX.faces[:4]
    used = np.unique(faces)
    assert len(used) < 8
    people = make_people_with_boxes(1)
    save_meshes(tmp_path / "frame.glb", people, faces)
    scene = trimesh.load(tmp_path / "frame.glb", process=False)
    mesh = scene.geometry[scene.graph["person_1"][1]]
    np.testing.assert_allclose(mesh.vertices, people.vertices[0, used], atol=1e-6)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], people.vertices[0][faces], atol=1e-6)
    document = read_json_chunk((tmp_path / "frame.glb").read_bytes())
    assert set(document["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "NORMAL"}


@pytest.mark.parametrize("n", [0, 2])
def test_the_scene_has_one_root_that_turns_it(tmp_path, n):
    save_meshes(tmp_path / "frame.glb", make_people_with_boxes(n), BOX.faces)
    document = read_json_chunk((tmp_path / "frame.glb").read_bytes())
    (root,) = document["scenes"][document["scene"]]["nodes"]
    (camera,) = (node for node in document["nodes"] if node["name"] == "camera")
    # Some versions of trimesh keep their own "world" node above.
    assert document["nodes"][root] in (camera, {"name": "world", "children": [document["nodes"].index(camera)]})
    assert camera["matrix"] == [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
    assert [document["nodes"][child]["name"] for child in camera.get("children", [])] == ["person_1", "person_2"][:n]


def test_without_people_the_mesh_file_is_empty(tmp_path):
    save_meshes(tmp_path / "frame.glb", make_people(0), BOX.faces)
    assert "meshes" not in read_json_chunk((tmp_path / "frame.glb").read_bytes())


def test_people_without_vertices_cannot_be_saved_as_meshes(tmp_path):
    with pytest.raises(UserError, match="no vertices"):
        save_meshes(tmp_path / "frame.glb", make_people(2), BOX.faces)
    assert not list(tmp_path.iterdir())


def test_a_person_without_a_position_is_left_out_and_named(tmp_path, caplog):
    people = make_people_with_boxes(3)
    people.vertices[1, 4] = np.nan
    with caplog.at_level(logging.WARNING):
        save_meshes(tmp_path / "frame.glb", people, BOX.faces)
    assert set(trimesh.load(tmp_path / "frame.glb").graph.nodes_geometry) == {"person_1", "person_3"}
    (record,) = caplog.records
    assert "person_2" in record.getMessage()


# Images


def test_png_keeps_every_value(tmp_path):
    save_image(tmp_path / "a.png", IMAGE)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1], IMAGE)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_keeps_colors(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    image = np.broadcast_to(np.uint8([200, 120, 40]), (16, 16, 3))  # a view that is read-only
    save_image(path, image)
    assert path.read_bytes()[:3] == b"\xff\xd8\xff"
    np.testing.assert_allclose(cv2.imread(str(path))[:, :, ::-1], image, atol=3)


def test_other_image_kinds_are_refused(tmp_path):
    for name in ("a.gif", "a"):
        with pytest.raises(UserError, match=r"\.png, \.jpg or \.jpeg"):
            save_image(tmp_path / name, IMAGE)


# Complete or not at all

WRITERS = {
    "a.npz": lambda path: save_params(path, make_people_with_boxes(2)),
    "a.glb": lambda path: save_meshes(path, make_people_with_boxes(2), BOX.faces),
    "a.png": lambda path: save_image(path, IMAGE),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, name):
    path = tmp_path / name
    path.write_text("the old one")
    with pytest.raises(UserError, match="cannot write") as caught, no_file_above(500):
        WRITERS[name](path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)  # and replaces it once writing succeeds
    assert len(path.read_bytes()) > 500
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_impossible_places_are_named(tmp_path, name):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(UserError, match=f"cannot write .*{folder}/{name}"):
            WRITERS[name](tmp_path / folder / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="cannot write"):
        WRITERS[name](tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"file", name}


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    save_image(tmp_path / "a.png", IMAGE)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def write() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())
