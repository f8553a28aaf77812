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

"""`multihmr2 run` with images, folders and videos: the written results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from test import paths
from test.helpers.bag_factory import camera_messages, write_bag
from test.helpers.run_results import list_names, make_image, read_image_sizes, read_video_sizes, save_image, save_video

REAL = paths.SHARED / "data" / "real"


def test_an_image(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(save_image(tmp_path / "photo.png"), options="--save params,mesh,overlay") == 0
    assert list_names(tmp_path / "out") == ["photo.glb", "photo.npz", "photo_overlay.png"]
    people = np.load(tmp_path / "out" / "photo.npz")
    assert people["vertices"].shape == (3, 615, 3)
    assert people["track_id"].tolist() == [0, 1, 2]
    scene = trimesh.load(tmp_path / "out" / "photo.glb")
    assert {"person_0", "person_1", "person_2"} <= set(scene.graph.nodes)
    assert Image.open(tmp_path / "out" / "photo_overlay.png").size == (96, 64)
    assert "1 frame, 3 people (cpu, " in capsys.readouterr().out


def test_a_folder_and_an_image_get_defaults(run: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.jpg", "a.png"):
        save_image(folder / name)
    assert run(folder, save_image(tmp_path / "c.png")) == 0
    assert list_names(tmp_path / "out") == [f"{s}{end}" for s in "abc" for end in (".npz", "_overlay.png")]
    # Photographs are independent: people are not matched between images.
    ids = np.concatenate([np.load(tmp_path / "out" / f"{s}.npz")["track_id"] for s in "abc"])
    assert ids.tolist() == list(range(9))


def test_a_video_keeps_identities_and_time(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(save_video(tmp_path / "walk.mp4")) == 0
    assert list_names(tmp_path / "out") == [*(f"walk_{i:06d}.npz" for i in range(5)), "walk_overlay.mp4"]
    stamps = [float(np.load(tmp_path / "out" / f"walk_{i:06d}.npz")["stamp"]) for i in range(5)]
    np.testing.assert_allclose(stamps, np.arange(5) / 10, atol=1e-3)
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert [frame.time for frame in container.decode(stream)] == pytest.approx(stamps, abs=1e-3)


def test_line_breaks_in_a_name_do_not_break_the_summary_line(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(save_image(tmp_path / "a\nb.png"), options="--save params") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/a?b.png: 1 frame, ")


def test_a_folder_as_a_video(run: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for index in range(3):
        save_image(folder / f"{index}.png")
    assert run(folder, options="--save video") == 0
    assert list_names(tmp_path / "out") == ["folder_overlay.mp4"]
    with av.open(str(tmp_path / "out" / "folder_overlay.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3


@pytest.mark.parametrize(
    ("options", "k"),
    [
        ("--k 90 91 47 33", [[90, 0, 47], [0, 91, 33], [0, 0, 1]]),
        ("--vertical-fov 60", [[55.4256, 0, 48], [0, 55.4256, 32], [0, 0, 1]]),
    ],
)
def test_given_cameras(run: Callable[..., int], tmp_path: Path, options: str, k: list[list[float]]) -> None:
    assert run(save_image(tmp_path / "a.png"), options=f"--save params {options}") == 0
    written = np.load(tmp_path / "out" / "a.npz")
    np.testing.assert_allclose(written["k"], k, rtol=1e-5)
    assert str(written["intrinsics_source"]) == "parameter"


def test_no_tracking(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(save_image(tmp_path / "a.png"), options="--save params --no-track") == 0
    assert np.load(tmp_path / "out" / "a.npz")["track_id"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", ["L", "I;16", "CMYK", "1x1", "20000x20"])
def test_unusual_images(run: Callable[..., int], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "I;16":
        Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(path)
    elif kind == "CMYK":
        path = tmp_path / "a.jpg"
        Image.fromarray(make_image()).convert("CMYK").save(path)
    elif "x" in kind:
        width, height = map(int, kind.split("x"))
        save_image(path, width=width, height=height)
    else:
        Image.fromarray(make_image()).convert(kind).save(path)
    assert run(path) == 0
    assert list_names(tmp_path / "out") == ["a.npz", "a_overlay.png"]


def test_a_video_that_ends_early(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_video(tmp_path / "whole.mp4", frames=60)
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: int(0.6 * len(content))])
    assert run(tmp_path / "cut.mkv", options="--save video") == 2
    assert list_names(tmp_path / "out") == ["cut_overlay.mp4"], "what could be read is kept"
    with av.open(str(tmp_path / "out" / "cut_overlay.mp4")) as container:
        count = len(list(container.decode(video=0)))
    assert 10 < count < 60
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 run: "))
    assert line.startswith(f"multihmr2 run: {tmp_path / 'cut.mkv'}: {count} frames could be read; ")
    assert "the video ends" in line


def write_changing_video(path: Path) -> Path:
    """Write H.264 of 96 x 64 px that continues with 128 x 128 px in the same stream, as in WebRTC recordings."""
    raw = path.with_suffix(".h264").open("wb")
    for index, (width, height) in enumerate(((96, 64), (128, 128))):
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
        encoder.options = {"bf": "0"}
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(make_image(width, height, 2 * index + number), format="rgb24")
            raw.writelines(bytes(packet) for packet in encoder.encode(frame))
        raw.writelines(bytes(packet) for packet in encoder.encode(None))
    raw.close()
    with av.open(raw.name, "r", format="h264") as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(each for each in source.demux(video=0) if each.size):
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            target.mux(packet)
    return path


def test_a_video_whose_size_changes(run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(write_changing_video(tmp_path / "call.mkv"), options="--save params,video --k 90 90 48 32") == 0
    assert read_image_sizes(tmp_path / "out") == [[64, 96]] * 2 + [[128, 128]] * 2
    assert read_video_sizes(tmp_path / "out" / "call_overlay.mp4") == [(64, 96)] * 4
    (line,) = caplog.messages
    assert "expected images of 96 x 64 px, as the first one, got 128 x 128 px: call_000002" in line
    assert "scaled to fit" in line
    assert "--k is used for images of all sizes" in line


@pytest.mark.parametrize("kind", ["folder", "bag"])
def test_images_of_several_sizes(run: Callable[..., int], tmp_path: Path, kind: str) -> None:
    sizes = [(96, 64), (64, 96), (160, 120)]
    if kind == "folder":
        (tmp_path / "album").mkdir()
        for index, (width, height) in enumerate(sizes):
            save_image(tmp_path / "album" / f"{index}.png", width=width, height=height)
    else:
        messages = [camera_messages(3, size=size, calibrated=False)[index] for index, size in enumerate(sizes)]
        write_bag(tmp_path / "album", messages)
    assert run(tmp_path / "album", options="--save params,video") == 0
    assert read_image_sizes(tmp_path / "out") == [[height, width] for width, height in sizes]
    assert read_video_sizes(tmp_path / "out" / "album_overlay.mp4") == [(64, 96)] * 3


def test_the_command_itself(small_checkpoint: Path, tmp_path: Path) -> None:
    """Runs the command in a process: exit status, no traceback, only its own output."""
    good = ["run", str(save_image(tmp_path / "a.png")), "--out", str(tmp_path / "out"), "--mesh", "low"]
    command = [sys.executable, "-m", "multihmr2_ros.cli.main", *good, "--checkpoint", str(small_checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside this checkout (../shared/data/real)")
def test_real_videos_and_photographs(run: Callable[..., int], tmp_path: Path) -> None:
    videos = [path for path in REAL.rglob("*") if path.suffix in (".mp4", ".avi")]
    photographs = [path for path in REAL.rglob("*") if path.suffix == ".jpg" and "MOT17" not in str(path)]
    assert run(*videos, *photographs, options="--save overlay") == 0
    stems = {path.stem for path in photographs}
    assert stems <= {name.removesuffix("_overlay.png") for name in list_names(tmp_path / "out")}
