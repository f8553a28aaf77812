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

"""`multihmr2 run`: the written results, and the messages for unusable inputs."""

from __future__ import annotations

import os
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

from multihmr2_ros.cli.main import main
from multihmr2_ros.media.video import VideoWriter
from test import paths
from test.helpers.bag_factory import camera_messages, write_bag

REAL = paths.SHARED / "data" / "real"


def picture(width: int = 96, height: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_picture(path: Path, **size: int) -> Path:
    Image.fromarray(picture(**size)).save(path)
    return path


def save_video(path: Path, frames: int = 5) -> Path:
    with VideoWriter(path, 96, 64, fps=10) as video:
        for index in range(frames):
            video.write(picture(seed=index), index / 10)
    return path


@pytest.fixture
def run(small_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*inputs: Path, options: str = "") -> int:
        fixed = ["--checkpoint", str(small_checkpoint), "--out", str(tmp_path / "out"), "--device", "cpu"]
        people = ["--score-threshold", "0", "--nms-distance", "0", "--max-people", "3", "--mesh", "low"]
        return main(["run", *map(str, inputs), *fixed, *people, *options.split()])

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_image(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(save_picture(tmp_path / "photo.png"), options="--save params,mesh,overlay") == 0
    assert names(tmp_path / "out") == ["photo.glb", "photo.npz", "photo_overlay.png"]
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
        save_picture(folder / name)
    assert run(folder, save_picture(tmp_path / "c.png")) == 0
    assert names(tmp_path / "out") == [f"{s}{end}" for s in "abc" for end in (".npz", "_overlay.png")]
    # Photographs are independent: people are not matched between images.
    ids = np.concatenate([np.load(tmp_path / "out" / f"{s}.npz")["track_id"] for s in "abc"])
    assert ids.tolist() == list(range(9))


def test_a_video_keeps_identities_and_time(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(save_video(tmp_path / "walk.mp4")) == 0
    assert names(tmp_path / "out") == [*(f"walk_{i:06d}.npz" for i in range(5)), "walk_overlay.mp4"]
    stamps = [float(np.load(tmp_path / "out" / f"walk_{i:06d}.npz")["stamp"]) for i in range(5)]
    np.testing.assert_allclose(stamps, np.arange(5) / 10, atol=1e-3)
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert [frame.time for frame in container.decode(stream)] == pytest.approx(stamps, abs=1e-3)


def test_line_breaks_in_a_name_do_not_break_the_summary_line(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(save_picture(tmp_path / "a\nb.png"), options="--save params") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/a?b.png: 1 frame, ")


def test_a_folder_as_a_video(run: Callable[..., int], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for index in range(3):
        save_picture(folder / f"{index}.png")
    assert run(folder, options="--save video") == 0
    assert names(tmp_path / "out") == ["folder_overlay.mp4"]
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
    assert run(save_picture(tmp_path / "a.png"), options=f"--save params {options}") == 0
    written = np.load(tmp_path / "out" / "a.npz")
    np.testing.assert_allclose(written["k"], k, rtol=1e-5)
    assert str(written["intrinsics_source"]) == "parameter"


def test_no_tracking(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(save_picture(tmp_path / "a.png"), options="--save params --no-track") == 0
    assert np.load(tmp_path / "out" / "a.npz")["track_id"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", ["L", "I;16", "CMYK", "1x1", "20000x20"])
def test_unusual_images(run: Callable[..., int], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "I;16":
        Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(path)
    elif kind == "CMYK":
        path = tmp_path / "a.jpg"
        Image.fromarray(picture()).convert("CMYK").save(path)
    elif "x" in kind:
        width, height = map(int, kind.split("x"))
        save_picture(path, width=width, height=height)
    else:
        Image.fromarray(picture()).convert(kind).save(path)
    assert run(path) == 0
    assert names(tmp_path / "out") == ["a.npz", "a_overlay.png"]


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def truncated(path: Path) -> Path:
    content = save_picture(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("no picture")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (empty, "a.png"), (truncated, "a.png"), (text, "a.png"), (text, "a.mp4"), (text, "a.txt"), (folder, "a"),
        (lambda path: path, "missing.png"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_used(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], name: str
) -> None:
    path = make(tmp_path / name)
    assert run(path, save_picture(tmp_path / "good.png")) == 2, "the mistake is told by the exit status …"
    assert names(tmp_path / "out") == ["good.npz", "good_overlay.png"], "… and the good input is not lost"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 run: ")]
    assert len(lines) == 1
    assert name in lines[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--save pictures", "pictures"),
        ("--k 0 0 0 0", "K"),
        ("--k nan 5 5 5", "K"),
        ("--vertical-fov 190", "--vertical-fov must be"),
        ("--vertical-fov 180", "between 0 and 180 degrees, got 180"),
        ("--vertical-fov nan", "between 0 and 180 degrees, got nan"),
        ("--score-threshold 2", "score_threshold"),
        ("--max-people 0", "max_people"),
        ("--device toaster", "toaster"),
        ("--device cuda:77", "cuda:77"),
        ("--precision fp16", "fp16"),
        ("--checkpoint nothing.pt", "nothing.pt"),
    ],
)
def test_mistakes_in_options(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, word: str
) -> None:
    assert run(save_picture(tmp_path / "a.png"), options=options) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert word in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "place"),
    [(["run", "", "--out", "o"], "run"), (["run", "a.jpg", "--out", " "], "--out"), (["train", "--out="], "--out"),
     (["evaluate", "a", "--checkpoint", "", "--out", "o"], "--checkpoint"), ([""], "multihmr2")],
)  # fmt: skip
def test_empty_arguments_are_not_the_current_folder(
    arguments: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"after '{place}', got an empty argument" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["run", "https://example.org/a.jpg", "--out", "o"], ["run", "RTSP://camera/live", "--out", "o"],
     ["evaluate", "a.mcap", "--checkpoint=http://example.org/a.pt", "--out", "o"]],
)  # fmt: skip
def test_urls_are_not_opened(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    (url,) = [argument for argument in arguments if "://" in argument]
    assert f"got the URL {url!r}; save it as a file first" in line
    assert not list(tmp_path.iterdir())


def test_two_inputs_of_one_name(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(save_picture(tmp_path / "a.png"), save_picture(tmp_path / "a.jpg")) == 2
    assert "same name" in capsys.readouterr().err


def test_a_damaged_image_of_a_folder(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "album").mkdir()
    save_picture(tmp_path / "album" / "good.png")
    truncated(tmp_path / "album" / "bad.png")
    assert run(tmp_path / "album") == 2
    assert names(tmp_path / "out") == ["good.npz", "good_overlay.png"]
    assert f"multihmr2 run: {tmp_path / 'album'}: 1 of 2 images could be read" in capsys.readouterr().err.splitlines()


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
    assert names(tmp_path / "out") == ["cut_overlay.mp4"], "what could be read is kept"
    with av.open(str(tmp_path / "out" / "cut_overlay.mp4")) as container:
        count = len(list(container.decode(video=0)))
    assert 10 < count < 60
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 run: "))
    assert line.startswith(f"multihmr2 run: {tmp_path / 'cut.mkv'}: {count} frames could be read; ")
    assert "the video ends" in line


@pytest.mark.parametrize("name", ["walk.mcap", "walk.db3", "walk"])
@pytest.mark.parametrize("encoding", ["bgr8", "jpeg"])
def test_a_bag(run: Callable[..., int], tmp_path: Path, name: str, encoding: str) -> None:
    write_bag(tmp_path / name, camera_messages(4, encoding))
    assert run(tmp_path / name, options="--save params,mesh,overlay,video") == 0
    stems = [f"walk_{i:06d}" for i in range(4)]
    expected = [f"{stem}{end}" for stem in stems for end in (".glb", ".npz", "_overlay.png")]
    assert names(tmp_path / "out") == sorted([*expected, "walk_overlay.mp4"])
    written = [np.load(tmp_path / "out" / f"{stem}.npz") for stem in stems]
    assert {str(each["intrinsics_source"]) for each in written} == {"K"}
    np.testing.assert_allclose(np.diff([float(each["stamp"]) for each in written]), 0.1, atol=1e-6)
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-3)


def test_a_bag_keeps_identities_and_has_defaults(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / "walk.mcap", camera_messages(3))) == 0
    assert names(tmp_path / "out") == [*(f"walk_{i:06d}.npz" for i in range(3)), "walk_overlay.mp4"]
    first, *_, last = (np.load(tmp_path / "out" / f"walk_{i:06d}.npz")["track_id"].tolist() for i in range(3))
    assert set(first) & set(last)


def test_a_bag_whose_clock_is_set_back(run: Callable[..., int], tmp_path: Path) -> None:
    messages = camera_messages(4)
    for _, _, message in messages[4:]:
        message.header.stamp.sec -= 100
    assert run(write_bag(tmp_path / "walk.mcap", messages)) == 0
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


@pytest.mark.parametrize("time_ns", [0, 1_700_000_000_000_000_000])
def test_a_bag_whose_messages_have_one_time_of_recording(run: Callable[..., int], tmp_path: Path, time_ns: int) -> None:
    """As from converters that do not set it. The stamps of the headers are used."""
    messages = [(topic, time_ns, message) for topic, _, message in camera_messages(5, calibrated=False)]
    assert run(write_bag(tmp_path / "walk.mcap", messages), options="--save video") == 0
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)


def test_a_bag_with_irregular_stamps(run: Callable[..., int], tmp_path: Path) -> None:
    messages = camera_messages(5, calibrated=False)
    jumps_ns = (0, 0, 86_400_000_000_000, 86_400_000_000_000, -100_000_000_000)  # 1 day later, then 100 s earlier
    stamps_ns = (0, 1000, 200_000_000, 350_000_000, 450_000_000)  # the second image: 1 µs after the first
    for (_, _, message), jump_ns, stamp_ns in zip(messages, jumps_ns, stamps_ns, strict=True):
        seconds, nanoseconds = divmod(messages[0][1] + jump_ns + stamp_ns, 10**9)
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
    assert run(write_bag(tmp_path / "walk.mcap", messages), options="--save video") == 0
    with av.open(str(tmp_path / "out" / "walk_overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.35, 0.45], abs=1e-3)


def test_a_bag_that_is_cut_off(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / "walk.mcap", camera_messages(12, size=(320, 240), calibrated=False))
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    assert run(path, save_picture(tmp_path / "good.png"), options="--save overlay,video") == 2
    written = names(tmp_path / "out")
    assert {"walk_overlay.mp4", "walk_000000_overlay.png", "good_overlay.png"} <= set(written)
    count = len([name for name in written if name.startswith("walk_0")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 run: ")]
    assert lines[0].startswith(f"multihmr2 run: {path}: {count} frames could be read; the bag is damaged or cut off (")
    assert len(lines) == 1


def test_the_topic_of_a_bag(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = camera_messages(2, calibrated=False)
    two = write_bag(tmp_path / "two.mcap", [*messages, *(("/other/image", time, each) for _, time, each in messages)])
    assert run(two) == 2
    assert "choose one with --topic: /camera/image_raw, /other/image" in capsys.readouterr().err
    assert run(two, options="--topic /other/image --save params") == 0
    assert run(save_picture(tmp_path / "a.png"), options="--topic /other/image") == 2
    assert "a.png is not a bag" in capsys.readouterr().err


def sizes_of(folder: Path) -> list[list[int]]:
    return [np.load(path)["image_size"].tolist() for path in sorted(folder.glob("*.npz"))]


def video_sizes(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        return [(frame.height, frame.width) for frame in container.decode(video=0)]


def write_changing_video(path: Path) -> Path:
    """Write H.264 of 96 x 64 px that continues with 128 x 128 px in the same stream, as in WebRTC recordings."""
    raw = path.with_suffix(".h264").open("wb")
    for index, (width, height) in enumerate(((96, 64), (128, 128))):
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
        encoder.options = {"bf": "0"}
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(picture(width, height, 2 * index + number), format="rgb24")
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
    assert sizes_of(tmp_path / "out") == [[64, 96]] * 2 + [[128, 128]] * 2
    assert video_sizes(tmp_path / "out" / "call_overlay.mp4") == [(64, 96)] * 4
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
            save_picture(tmp_path / "album" / f"{index}.png", width=width, height=height)
    else:
        messages = [camera_messages(3, size=size, calibrated=False)[index] for index, size in enumerate(sizes)]
        write_bag(tmp_path / "album", messages)
    assert run(tmp_path / "album", options="--save params,video") == 0
    assert sizes_of(tmp_path / "out") == [[height, width] for width, height in sizes]
    assert video_sizes(tmp_path / "out" / "album_overlay.mp4") == [(64, 96)] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert run(save_picture(tmp_path / "a.png")) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_output_is_a_file(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("in the way")
    assert run(save_picture(tmp_path / "a.png")) == 2
    assert "cannot create the folder" in capsys.readouterr().err


def test_the_command_itself(small_checkpoint: Path, tmp_path: Path) -> None:
    """Runs the command in a process: exit status, no traceback, only its own output."""
    good = ["run", str(save_picture(tmp_path / "a.png")), "--out", str(tmp_path / "out"), "--mesh", "low"]
    command = [sys.executable, "-m", "multihmr2_ros.cli.main", *good, "--checkpoint", str(small_checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("wrong", ["--checkpoint nothing.pt", "missing.png", "--k 0 0 0 0", "--vertical-fov 190"])
def test_mistakes_are_reported_before_pytorch_is_imported(tmp_path: Path, wrong: str) -> None:
    """The import takes seconds."""
    code = "import sys; sys.modules['torch'] = None; from multihmr2_ros.cli.main import main; sys.exit(main())"
    inputs = [] if wrong == "missing.png" else [str(save_picture(tmp_path / "a.png"))]
    command = [sys.executable, "-c", code, "run", *inputs, *wrong.split(), "--out", str(tmp_path / "out")]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not beside this checkout (../shared/data/real)")
def test_real_videos_and_photographs(run: Callable[..., int], tmp_path: Path) -> None:
    videos = [path for path in REAL.rglob("*") if path.suffix in (".mp4", ".avi")]
    photographs = [path for path in REAL.rglob("*") if path.suffix == ".jpg" and "MOT17" not in str(path)]
    assert run(*videos, *photographs, options="--save overlay") == 0
    stems = {path.stem for path in photographs}
    assert stems <= {name.removesuffix("_overlay.png") for name in names(tmp_path / "out")}
