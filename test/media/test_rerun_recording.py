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

"""Recordings for the Rerun viewer, read back by Rerun's own reader; and user errors."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.body import Body
from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame, GroundPlane
from multihmr2_ros.media import rerun_output, rerun_rows
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.media.export import save_image, save_params
from multihmr2_ros.media.mesh_simplification import MAX_VERTICES, compute_vertex_normals, simplify_mesh
from multihmr2_ros.media.rerun_output import RerunRecording, Viewer, parse_view
from multihmr2_ros.media.rerun_people import (
    PREDICTED,
    SKELETON_BONES,
    TRAIL_S,
    TRUTH_COLOR,
    BodyTopology,
    PeopleRows,
    Trails,
    compute_principal_axes,
    find_bone_pairs,
    format_person_label,
)
from multihmr2_ros.media.rerun_recording import FrameContext, RerunScene, make_ground_lines
from multihmr2_ros.media.rerun_rows import ColumnBatch
from multihmr2_ros.people import People
from test.helpers.evaluation_bags import at, standing
from test.helpers.rerun_reading import Read

FRAMES = 12
PEOPLE, TRUE = "/world/camera/people", "/world/camera/truth"


def make_topology(body: Body) -> BodyTopology:
    return BodyTopology.from_body(body)


def make_walking_people(index: int) -> People:
    """Return two people with velocities; the second is absent in the last third."""
    people = standing(2)
    people = at(people, np.array([[-0.5 + 0.05 * index, 0, 4.0], [0.8, 0, 5.0]]))
    people = dataclasses.replace(
        people,
        track_id=np.array([3, 8]),
        velocity=np.array([[0.5, 0.0, 0.0], [np.nan] * 3]),
        velocity_covariance=np.tile(np.diag([0.04, 0.01, 0.09]), (2, 1, 1)),
        pelvis_covariance=np.full((2, 3, 3), np.nan),
        stamp=0.1 * index,
    )
    return people.select(np.arange(1 if index >= 2 * FRAMES // 3 else 2))


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_frame(people: People) -> Frame:
    height, width = people.image_size
    return Frame(np.full((height, width, 3), 90, np.uint8), people.stamp, people.k)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    folder = tmp_path_factory.mktemp("rerun")
    with RerunRecording(folder / "walk.rrd", make_topology(Body("low"))) as writer:
        for index in range(FRAMES):
            people = make_walking_people(index)
            save_params(folder / f"{index:02d}.npz", people)
            writer.add(make_frame(people), people)
    assert [path.name for path in folder.glob("*.rrd")] == ["walk.rrd"], "no temporary file stays"
    return folder / "walk.rrd"


def test_images_are_read_back_as_they_were_saved(recording: Path) -> None:
    read = Read(recording)
    saved = [np.load(recording.parent / f"{index:02d}.npz") for index in range(FRAMES)]
    matrices = read.values("/world/camera/image", "image_from_camera")
    for matrix, arrays in zip(matrices, saved, strict=True):
        assert np.allclose(np.reshape(matrix, (3, 3)).T, arrays["k"], rtol=1e-6), "column by column"
    sizes = read.values("/world/camera/image", "resolution")
    assert sizes == [[arrays["image_size"][::-1].tolist()] for arrays in saved]
    meshes = read.values(f"{PEOPLE}/meshes/3", "vertex_positions")
    assert len(meshes) == FRAMES
    used = np.unique(Body("low").faces)
    for mesh, arrays in zip(meshes, saved, strict=True):
        assert np.array_equal(np.array(mesh, np.float32), arrays["vertices"][0, used])
    names = read.values(f"{PEOPLE}/names", "labels")
    assert [len(labels) for labels in names] == [len(arrays["score"]) for arrays in saved]
    assert (
        names[0][0]
        == format_person_label(make_walking_people(0), 0)
        == f"#3 · 4.0 m · {make_walking_people(0).stature[0]:.2f} m tall"
    )
    arrows = np.array(read.values(f"{PEOPLE}/velocities", "vectors"))
    assert arrows == pytest.approx(np.tile([[[0.5, 0, 0]]], (FRAMES, 1, 1))), "of the one whose velocity is known"
    (sizes,) = read.values(f"{PEOPLE}/velocity_covariances", "half_sizes")[:1]
    assert sorted(sizes[0]) == pytest.approx([0.1, 0.2, 0.3])
    assert not read.values(f"{PEOPLE}/pelvis_covariances", "half_sizes"), "none is known"


def test_overlay_colors_times_and_layout(recording: Path) -> None:
    read = Read(recording)
    strips = read.values("/world/camera/image/skeletons", "strips")
    assert [len(lines) for lines in strips] == [
        len(SKELETON_BONES) * (1 if index >= 8 else 2) for index in range(FRAMES)
    ]
    pairs = find_bone_pairs(Body("low").bone_labels, Body("low").bone_parents)
    assert np.array(strips[0][: len(pairs)]) == pytest.approx(make_walking_people(0).joints_2d[0][pairs], rel=1e-5)
    (color,) = read.values(f"{PEOPLE}/meshes/8", "albedo_factor")
    assert tuple(np.array([color[0] >> shift & 255 for shift in (24, 16, 8)])) == get_track_color(8)
    assert read.frames(f"{PEOPLE}/meshes/8", "vertex_positions") == list(range(8))
    assert any(row["frame"] == 8 and any("is_recursive" in key and row[key] is not None for key in row)
               for row in read.rows[f"{PEOPLE}/meshes/8"]), "cleared"  # fmt: skip
    stamps = {row["frame"]: row["stamp"] for row in read.rows[f"{PEOPLE}/names"]}
    assert [stamps[index].total_seconds() for index in range(FRAMES)] == pytest.approx(
        [0.1 * index for index in range(FRAMES)]
    )
    trails = read.values("/world/trails", "strips")
    assert [len(lines[0]) for lines in trails] == list(range(1, FRAMES + 1))
    assert len(read.reader.blueprints()) == 1
    (blueprint,) = read.reader.blueprints()
    parts = {str(each.entity_path).split("/")[1] for each in read.reader.stream(store=blueprint)}
    assert {"view", "container", "viewport"} <= parts


def test_a_moving_camera_and_depth(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    pose = np.array([[0.0, 0, 1, 2], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    people = make_walking_people(0)
    depth = np.full(people.image_size, 2.5, np.float32)
    with RerunRecording(tmp_path / "drive.rrd", make_topology(Body("low"))) as writer:
        writer.add(make_frame(people), people, FrameContext(depth, pose))
    read = Read(tmp_path / "drive.rrd")
    (trail,) = read.values("/world/trails", "strips")
    assert np.array(trail[0][0]) == pytest.approx((pose @ [*people.pelvis[0], 1])[:3], rel=1e-5), "in the fixed frame"
    (buffer,) = read.values("/world/camera/depth", "buffer")
    assert np.frombuffer(bytes(buffer[0]), np.uint16).tolist() == [2500] * depth.size, "mm"
    (ground,) = read.values("/world/ground", "strips")
    assert {point[2] for line in ground for point in line} == {0.0}


def test_ground_without_a_fixed_frame(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    people = make_walking_people(0)
    frame = dataclasses.replace(make_frame(people), ground=GroundPlane(np.array([0.0, -1, 0]), -1.5))
    with RerunRecording(tmp_path / "still.rrd", make_topology(Body("low"))) as writer:
        for _ in range(3):
            writer.add(frame, people, FrameContext.from_frame(frame))
        writer.add(frame, people)
    read = Read(tmp_path / "still.rrd")
    (ground,) = read.values("/world/ground", "strips")
    assert np.array(ground)[..., 1] == pytest.approx(1.5), "below the camera, logged once"
    assert {row["frame"] for row in read.rows["/world/ground"]} == {0, 3}, "then cleared"


def test_the_ground_of_a_moving_camera_stays() -> None:
    pose = np.array([[0.0, 0, 1, 2], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    ground = GroundPlane.from_fixed_frame(pose, 0.2)
    lines = make_ground_lines(FrameContext(None, pose, ground), pose)
    assert lines is not None
    assert lines[..., 2] == pytest.approx(0.2)
    assert np.abs(lines[..., :2]).max() == pytest.approx(10), "around the origin of the fixed frame"


def test_velocities_over_the_ground_are_drawn_along_the_cameras_axes(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    pose = np.array([[0.0, 0, 1, 2], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    people = dataclasses.replace(
        make_walking_people(0).select(np.array([0])), velocity_frame="fixed"
    )  # 0.5 m/s along x
    with RerunRecording(tmp_path / "drive.rrd", make_topology(Body("low"))) as writer:
        writer.add(make_frame(people), people, FrameContext(None, pose))
        writer.add(make_frame(people), people)
    read = Read(tmp_path / "drive.rrd")
    assert read.frames(f"{PEOPLE}/velocities", "vectors") == [0], "unknown without the pose"
    (vector,) = read.values(f"{PEOPLE}/velocities", "vectors")[0]
    assert vector == pytest.approx([0, 0, 0.5]), "forward"
    (sizes,) = read.values(f"{PEOPLE}/velocity_covariances", "half_sizes")[0]
    assert sorted(sizes) == pytest.approx([0.1, 0.2, 0.3])


def test_truth_beside_predictions(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    people = make_walking_people(0)
    truth = dataclasses.replace(people, vertices=people.vertices[:, :0], track_id=np.array([1, 2]))
    with RerunRecording(tmp_path / "both.rrd", make_topology(Body("low"))) as writer:
        writer.add(make_frame(people), people, FrameContext(truth=people))
        writer.add(make_frame(people), people, FrameContext(truth=truth))
        writer.add(make_frame(people), people)
    read = Read(tmp_path / "both.rrd")
    for entity, color in ((f"{TRUE}/meshes/3", TRUTH_COLOR), (f"{PEOPLE}/meshes/3", get_track_color(3))):
        (value,) = read.values(entity, "albedo_factor")
        assert tuple(value[0] >> shift & 255 for shift in (24, 16, 8)) == color
    assert read.frames(f"{TRUE}/meshes/3", "vertex_positions") == [0]
    assert read.frames(f"{TRUE}/bones", "strips") == [1], "without a mesh: bones"
    assert read.frames(f"{TRUE}/names", "labels") == [0, 1]
    assert read.values(f"{TRUE}/names", "labels")[1][0].startswith("true #1 · ")
    assert read.frames("/world/true_trails", "strips") == [0, 1]
    assert read.frames("/world/camera/image/true_skeletons", "strips") == [0, 1]


def test_the_number_of_chunks_does_not_follow_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of the chunks stays in memory until the file is closed."""
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    monkeypatch.setattr(rerun_output, "BATCH_FRAMES", 20)
    with RerunRecording(tmp_path / "long.rrd", make_topology(Body("low"))) as writer:
        for index in range(60):
            people = make_walking_people(index % 5)
            writer.add(dataclasses.replace(make_frame(people), stamp=0.1 * index), people)
    chunks = list(Read(tmp_path / "long.rrd").reader.stream())
    count = sum(str(chunk.entity_path) == f"{PEOPLE}/names" for chunk in chunks)
    assert count == 3
    assert len(chunks) < 60, "of all entities"


def test_a_viewer_gets_constants_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Viewers that connect late, or whose memory is full, have no old data."""
    rerun = pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    monkeypatch.setattr(rerun_rows, "REPEAT_FRAMES", 4)
    batches = []
    for is_viewer in (False, True):
        stream = rerun.RecordingStream("test")
        stream.set_sinks(rerun.FileSink(str(tmp_path / f"{is_viewer}.rrd")))
        batches.append(ColumnBatch(rerun, stream, 1, is_viewer=is_viewer))
    scene = RerunScene(batches, make_topology(Body("low")))
    ground = GroundPlane(np.array([0.0, -1, 0]), -1.5)
    for index in range(10):
        people = make_walking_people(0 if index < 6 else FRAMES)  # person 8 leaves
        scene.add(dataclasses.replace(make_frame(people), ground=ground), people, FrameContext(ground=ground))
    for batch in batches:
        batch.stream.disconnect()
    expected = {False: ([0], [0], [0]), True: ([0, 4, 8], [0, 4], [0, 4, 8])}
    for is_viewer, (present, gone, constant) in expected.items():
        read = Read(tmp_path / f"{is_viewer}.rrd")
        assert read.frames(f"{PEOPLE}/meshes/3", "triangle_indices") == present
        assert read.frames(f"{PEOPLE}/meshes/8", "triangle_indices") == gone
        assert read.frames("/world/ground", "strips") == constant
        assert read.frames("/world", "xyz") == constant


def test_a_viewer_that_is_closed_does_not_damage_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is written in batches in spite of the viewer, and completed without it."""
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    monkeypatch.setattr(rerun_output, "BATCH_FRAMES", 20)
    viewer = Viewer("web", find_free_port())
    with (
        contextlib.closing(viewer),
        RerunRecording(tmp_path / "walk.rrd", make_topology(Body("low")), viewer) as writer,
    ):
        for index in range(40):
            if index == 10:
                viewer.close()
            writer.add(
                dataclasses.replace(make_frame(make_walking_people(0)), stamp=0.1 * index), make_walking_people(0)
            )
    assert caplog.messages == ["the viewer was closed before the end"]
    read = Read(tmp_path / "walk.rrd")
    assert len(read.values(f"{PEOPLE}/meshes/3", "vertex_positions")) == 40
    assert sum(str(chunk.entity_path) == f"{PEOPLE}/names" for chunk in read.reader.stream()) == 2


def test_an_interrupted_recording_can_be_opened(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")

    def interrupted() -> None:
        with RerunRecording(tmp_path / "cut.rrd", make_topology(Body("low"))) as writer:
            for index in range(5):
                writer.add(make_frame(make_walking_people(index)), make_walking_people(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(Read(tmp_path / "cut.rrd").values(f"{PEOPLE}/meshes/3", "vertex_positions")) == 5


def test_an_almost_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    with RerunRecording(tmp_path / "full.rrd", make_topology(Body("low"))) as writer:
        writer.add(make_frame(make_walking_people(0)), make_walking_people(0))
        monkeypatch.setattr(rerun_output, "MIN_FREE_BYTES", 10**18)
        with pytest.raises(UserError, match="are free; make space"):
            writer.add(make_frame(make_walking_people(1)), make_walking_people(1))
    assert len(Read(tmp_path / "full.rrd").values(f"{PEOPLE}/meshes/3", "vertex_positions")) == 1


def test_the_command(tmp_path: Path, small_checkpoint: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    (tmp_path / "in").mkdir()
    save_image(tmp_path / "in" / "a.png", image)
    arguments: list[object] = ["run", tmp_path / "in", "--out", tmp_path / "out", "--save", "params,rrd"]
    arguments += ["--mesh", "low", "--checkpoint", small_checkpoint, "--device", "cpu", "--max-people", "2"]
    arguments += ["--score-threshold", "0"]
    assert main([*map(str, arguments)]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.npz", "in.rrd"}
    saved, read = np.load(tmp_path / "out" / "a.npz"), Read(tmp_path / "out" / "in.rrd")
    meshes = [entity for entity in read.rows if entity.startswith(f"{PEOPLE}/meshes/")]
    assert len(meshes) == len(saved["score"]) > 0
    assert main([*map(str, arguments)]) == 2, "nothing is replaced"
    assert main([*map(str, arguments), "--overwrite"]) == 0


@pytest.mark.parametrize("options", [["--save", "rrd", "--out", "out"], ["--view"], ["--view", "web"]])
def test_without_the_extra(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rerun", None)  # as without an installation: importing raises ImportError
    save_image(tmp_path / "a.png", np.zeros((48, 64, 3), np.uint8))
    assert main(["run", "a.png", *options, "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "multihmr2 run: rerun is not installed: pip install 'multihmr2_ros[view]'\n"


@pytest.mark.parametrize("options", [[], ["--save", "rrd"], ["--save", "params", "--view", "web"]])
def test_results_need_a_folder(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image(tmp_path / "a.png", np.zeros((48, 64, 3), np.uint8))
    assert main(["run", str(tmp_path / "a.png"), *options]) == 2
    assert "expected --out DIR" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "wep", "web:", "web:0", "web:70000", "native:1"])
def test_unknown_viewers(text: str) -> None:
    with pytest.raises(UserError, match="--view takes native, web or web:PORT"):
        parse_view(text)


def test_no_display_and_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match="no display for the viewer; use --view web"):
        Viewer("native")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="cannot be used"):
            Viewer("web", other.getsockname()[1])
    with pytest.raises(UserError, match="between 1 and 65535, got 99999"):
        Viewer("web", 99999)


def test_the_web_viewer_is_for_this_machine_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
    port = find_free_port()
    viewer = Viewer("web", port)
    try:
        with RerunRecording(None, make_topology(Body("low")), viewer, "walk") as writer:
            writer.add(make_frame(make_walking_people(0)), make_walking_people(0))
        assert b"<html" in urllib.request.urlopen(viewer.address, timeout=60).read(2000).lower()
        listening = subprocess.run(
            ["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=True
        )
        places = [line.split()[1] for line in listening.stdout.splitlines() if f":{port:04X} " in line]
        assert places
        assert all(place.startswith("0100007F") for place in places), "127.0.0.1 alone"
    finally:
        viewer.close()
    with socket.socket() as probe, pytest.raises(OSError, match="refused"):
        probe.connect(("127.0.0.1", port))


def compute_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Return the volume (m³) inside a mesh (V, 3), (F, 3); negative if triangles face inwards."""
    a, b, c = vertices[faces].astype(np.float64).transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def test_normals_of_a_tetrahedron_face_outwards() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    normals = compute_vertex_normals(corners, faces)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)
    assert ((corners - corners.mean(axis=0)) * normals).sum(axis=1).min() > 0.3
    assert compute_volume(corners, faces) == pytest.approx(1 / 6)


def test_simplified_meshes_keep_the_shape() -> None:
    body = Body("full")
    kept, faces = simplify_mesh(body.template, body.faces)
    assert MAX_VERTICES / 2 < len(kept) <= MAX_VERTICES
    assert faces.max() == len(kept) - 1
    full, small = body.template[np.unique(body.faces)], body.template[kept]
    assert np.abs(np.ptp(full, axis=0) - np.ptp(small, axis=0)).max() < 0.05
    assert compute_volume(small, faces) == pytest.approx(compute_volume(body.template, body.faces), rel=0.1), (
        "triangles keep their side"
    )
    low = Body("low")
    kept, faces = simplify_mesh(low.template, low.faces)
    assert np.array_equal(kept[faces], low.faces)


def test_trails_end_with_their_tracks_and_need_increasing_stamps() -> None:
    def update(tracks: list[int], stamp_s: float) -> list[list[float]]:
        places = np.array([[10 * track + stamp_s, 0, 0] for track in tracks], np.float32).reshape(-1, 3)
        return [line[:, 0].tolist() for line in trails.update(tracks, places, stamp_s)]

    trails = Trails()
    assert update([1, 2], 0.0) == [[10], [20]]
    assert update([2, 1], 1.0) == [[20, 21], [10, 11]]
    assert update([1], 1.0 + TRAIL_S) == [[11, 11 + TRAIL_S]], "at most the last 5 s"
    assert update([1, 2], 7.0) == [[16, 17], [27]], "a new track of an old number"
    assert update([1, 2], 3.0) == [[13], [23]], "after the clock jumped back"
    assert [update([0], 0.0) for _ in range(3)] == [[[0]]] * 3, "images without stamps"
    assert update([], 1.0) == []


def test_people_without_a_track_have_no_trail() -> None:
    kinds = ("LineStrips2D", "LineStrips3D", "Points3D", "Arrows3D", "Ellipsoids3D")
    rr, rows = SimpleNamespace(**dict.fromkeys(kinds)), RowList()
    writer = PeopleRows(rr, rows, BodyTopology(np.zeros((0, 3), int), None, np.zeros((0, 2), int)), PREDICTED)
    people = dataclasses.replace(standing(3), track_id=np.array([-1, 4, -1]))
    for index in range(3):
        writer.add(people, 0.1 * index, np.eye(4))
    trails = [row for entity, row in rows.rows if entity == PREDICTED.trails]
    assert [[len(line) for line in row["strips"]] for row in trails] == [[1], [2], [3]]
    red, green, blue = get_track_color(4)
    assert trails[-1]["colors"].tolist() == [red << 24 | green << 16 | blue << 8 | 255]


class RowList:
    """Keeps rows instead of sending them, so that no rerun is needed."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, Any]]] = []

    def add(self, entity: str, archetype: Any, **fields: Any) -> None:
        self.rows.append((entity, fields))


def test_ellipsoids_have_the_covariances_axes() -> None:
    from scipy.spatial.transform import Rotation

    root = np.random.default_rng(0).normal(size=(20, 3, 3))
    covariance = root @ root.transpose(0, 2, 1)
    half_sizes, quaternions = compute_principal_axes(covariance)
    axes = Rotation.from_quat(quaternions).as_matrix() * half_sizes[:, None]
    assert axes @ axes.transpose(0, 2, 1) == pytest.approx(covariance, abs=1e-4)


def test_nothing_is_imported_unless_asked() -> None:
    code = "import multihmr2_ros.media.rerun_output, sys; print('rerun' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
