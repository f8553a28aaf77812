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

"""Images, folders and videos as one iterator of frames."""

import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.sources import VIDEO_SUFFIXES, apply_display_matrix, open_source
from test import paths

REAL = paths.SHARED / "data" / "real"
WIDTH, HEIGHT, FRAMES, RATE = 160, 96, 40, 25

# container and encoder; all are read back as such
VIDEO_KINDS = {
    "mp4": ("mp4", "libx264", {}),
    "mp4, index first": ("mp4", "libx264", {"movflags": "faststart"}),
    "mov": ("mov", "mpeg4", {}),
    "avi": ("avi", "mpeg4", {}),
    "mkv": ("mkv", "libx264", {}),
    "webm": ("webm", "libvpx-vp9", {}),
}


def picture(index: int) -> np.ndarray:
    """Return (HEIGHT, WIDTH, 3) uint8: gray that encodes the index, noise that gives packets a size, a red top left
    corner."""
    noise = np.random.default_rng(index).integers(-20, 21, (HEIGHT, WIDTH, 1))
    image = (20 + 5 * index + noise).astype(np.uint8).repeat(3, axis=2)
    image[:32, :32] = (220, 30, 30)
    return image


def index_of(image: np.ndarray) -> int:
    """Return the index of an image from the gray outside of the corner."""
    return round((float(image[48:, 64:].mean()) - 20) / 5)


def make_video(
    path: Path, encoder: str = "libx264", options: dict | None = None, ticks: list[int] | None = None
) -> Path:
    """Write images 0, 1 … at ticks / 1000 s, or FRAMES of them at RATE."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(encoder, rate=RATE)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, tick in enumerate(range(FRAMES) if ticks is None else ticks):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = tick
            frame.time_base = Fraction(1, RATE) if ticks is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def refuses(path: Path, words: str) -> None:
    """Assert that opening or iterating the source raises a UserError of one line that names the path."""
    with pytest.raises(UserError, match=words) as caught, open_source(path) as source:
        list(source)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Images and folders


def save(path: Path, value: int) -> None:
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


def test_an_image(tmp_path):
    save(tmp_path / "street.view.JPG", 90)
    with open_source(str(tmp_path / "street.view.JPG")) as source:
        assert source.fps is None
        assert source.frame_count == 1
        (frame,) = source
    assert frame.name == "street.view"
    assert frame.stamp == 0.0
    assert frame.k is None
    assert frame.image.shape == (4, 6, 3)


def test_a_folder_in_natural_order(tmp_path):
    names = ["2.png", "10.png", "img1.png", "img02.png", "img2.png", "img10.bmp", "Img11.png"]
    for value, name in enumerate(names):
        save(tmp_path / name, value)
    (tmp_path / "notes.txt").write_text("left out")
    save(tmp_path / ".hidden.png", 200)
    (tmp_path / "folder.png").mkdir()
    save(tmp_path / "folder.png" / "inside.png", 200)
    source = open_source(tmp_path)
    assert source.frame_count == 7
    frames = list(source)
    assert [frame.name for frame in frames] == [Path(name).stem for name in names]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == pytest.approx(range(7), abs=1)
    assert {frame.stamp for frame in frames} == {0.0}
    assert [frame.stamp for frame in open_source(tmp_path, images_per_second=4)] == [0.25 * i for i in range(7)]


def test_images_that_share_a_stem_get_names_of_their_own(tmp_path):
    for name in ("a.jpg", "a.png", "b.png"):
        save(tmp_path / name, 1)
    assert [frame.name for frame in open_source(tmp_path)] == ["a.jpg", "a.png", "b.png"]


def test_a_damaged_image_in_a_folder_is_named_and_costs_only_itself(tmp_path, caplog):
    save(tmp_path / "1.png", 1)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    save(tmp_path / "3.png", 3)
    source = open_source(tmp_path)
    assert [frame.name for frame in source] == ["1", "3"]
    assert source.damage == f"{tmp_path}: 2 of 3 images could be read"
    (record,) = caplog.records
    assert "2.png" in record.getMessage()


def test_a_folder_of_damaged_images_is_refused(tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(UserError, match="none of the 2 images"):
        list(open_source(tmp_path))


def test_what_is_no_source_is_refused(tmp_path):
    refuses(tmp_path / "missing.png", "no file or folder")
    (tmp_path / "empty folder").mkdir()
    refuses(tmp_path / "empty folder", "holds no images")
    for name in ("notes.txt", "no suffix"):
        (tmp_path / name).write_text("text")
        refuses(tmp_path / name, "neither an image nor a video, by its name")
    os.mkfifo(tmp_path / "pipe.mp4")
    refuses(tmp_path / "pipe.mp4", "is a device or a pipe")
    (tmp_path / "broken link.png").symlink_to(tmp_path / "nothing")
    refuses(tmp_path / "broken link.png", "no file or folder")
    for rate in (0, -1, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            open_source(tmp_path, images_per_second=rate)


# Videos


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_every_video_kind(tmp_path, kind, caplog):
    suffix, encoder, options = VIDEO_KINDS[kind]
    path = make_video(tmp_path / f"walk.{suffix}", encoder, options)
    with open_source(path) as source:
        assert source.fps == RATE
        assert source.frame_count in (FRAMES, None)
        frames = list(source)
        assert [frame.name for frame in frames] == [f"walk_{index:06d}" for index in range(FRAMES)]
        assert [frame.stamp for frame in frames] == pytest.approx([index / RATE for index in range(FRAMES)], abs=1e-6)
        assert [index_of(frame.image) for frame in frames] == list(range(FRAMES))
        assert all(frame.image.shape == (HEIGHT, WIDTH, 3) and frame.image.dtype == np.uint8 for frame in frames)
        np.testing.assert_allclose(frames[0].image[16, 16], (220, 30, 30), atol=6)
        # A second iteration starts at the first frame, even if a first one was not finished.
        first, again = iter(source), iter(source)
        assert next(again).name == "walk_000000"
        assert next(first, None) is None
        assert not source.damage
    assert next(again, None) is None  # closed
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_variable_frame_rates_keep_their_stamps(tmp_path, suffix, caplog):
    ticks = [0, 40, 60, 200, 233, 1000, 1001, 4000, 4040]
    frames = list(open_source(make_video(tmp_path / f"phone.{suffix}", ticks=ticks)))
    assert [frame.stamp for frame in frames] == pytest.approx([tick / 1000 for tick in ticks], abs=1e-9)
    assert [index_of(frame.image) for frame in frames] == list(range(len(ticks)))
    assert not caplog.records


def test_stamps_start_at_zero(tmp_path):
    frames = list(open_source(make_video(tmp_path / "late.mkv", ticks=[5000, 5040, 5100])))
    assert [frame.stamp for frame in frames] == pytest.approx([0.0, 0.04, 0.1])


@pytest.mark.parametrize("kind", ["mp4, index first", "avi", "mkv", "webm"])
@pytest.mark.parametrize("kept", [0.6, 0.9])
def test_a_cut_video_gives_its_whole_frames_and_says_so(tmp_path, kind, kept):
    suffix, encoder, options = VIDEO_KINDS[kind]
    content = make_video(tmp_path / f"whole.{suffix}", encoder, options).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    source = open_source(path)
    frames = list(source)
    assert 0.7 * kept * FRAMES < len(frames) < FRAMES
    for frame in frames:
        assert frame.stamp == pytest.approx(index_of(frame.image) / RATE, abs=1e-6)
    assert source.damage.startswith(f"{path}: {len(frames)} frames could be read; ")
    assert "\n" not in source.damage
    next(iter(source))
    assert not source.damage, "nothing is known yet of another iteration"


def test_damage_in_the_middle_loses_only_what_it_hit(tmp_path):
    path = make_video(tmp_path / "scratched.mkv", "mjpeg")
    content = bytearray(path.read_bytes())
    middle = content.index(b"\xff\xd8\xff", len(content) // 2)  # start of a frame's JPEG
    content[middle : middle + 1500] = bytes(1500)
    path.write_bytes(content)
    source = open_source(path)
    frames = list(source)
    assert len(frames) == FRAMES - 1
    assert [frame.stamp for frame in frames] == pytest.approx([index_of(frame.image) / RATE for frame in frames])
    assert source.damage == f"{path}: {FRAMES - 1} frames could be read; 1 damaged left out"


def test_a_video_left_halfway_is_not_complained_about(tmp_path):
    with open_source(make_video(tmp_path / "long.mp4")) as source:
        for frame in source:
            if frame.stamp > 0.3:
                break
    assert not source.damage


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    refuses(tmp_path / "empty.mp4", "empty")
    (tmp_path / "text.avi").write_text("not a video\n" * 50)
    refuses(tmp_path / "text.avi", "cannot read the video")
    content = make_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # its index was at the end
    refuses(tmp_path / "cut.mp4", "complete video")
    content = make_video(tmp_path / "fast.mp4", options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "index only.mp4").write_bytes(content[: content.index(b"mdat") + 40])
    refuses(tmp_path / "index only.mp4", "no frame")


@pytest.mark.parametrize("name", ["2024-05-01T12:00:00.mp4", "http:walk.mkv", "a?b#c%20d.mp4", "-i.mp4"])
def test_names_that_ffmpeg_would_take_for_something_else(tmp_path, monkeypatch, name):
    make_video(tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source(name))) == FRAMES
    assert len(list(open_source(tmp_path / name))) == FRAMES


def make_late_matroska(path: Path, late_s: float) -> Path:
    """Write sound from 0 s on, and a video from late_s on, as in a browser's recording."""
    make_video(path.with_suffix(".mp4"))
    with av.open(str(path.with_suffix(".mp4"))) as source, av.open(str(path), "w") as target:
        sound = target.add_stream("pcm_s16le", rate=8000, layout="mono")
        stream = target.add_stream_from_template(source.streams.video[0])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        target.mux(sound.encode(silence))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                packet.pts += round(late_s / packet.time_base)
                packet.dts += round(late_s / packet.time_base)
                target.mux(packet)
    return path


def test_a_matroska_video_that_begins_late_is_whole(tmp_path):
    path = make_late_matroska(tmp_path / "late.mkv", 2.0)
    with av.open(str(path)) as container:
        (video,) = container.streams.video
        assert float(next(container.decode(video)).time) == pytest.approx(2.0, abs=0.01)
    source = open_source(path)
    assert len(list(source)) == FRAMES
    assert source.damage == ""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    count = len(list(source))
    assert 0 < count < FRAMES
    assert "ends" in source.damage


@pytest.mark.parametrize(
    ("pixel_aspect", "turned", "size"),
    [
        ("2:1", False, (HEIGHT, 2 * WIDTH)),
        ("8:9", False, (round(HEIGHT * 9 / 8), WIDTH)),
        ("2:1", True, (2 * WIDTH, HEIGHT)),  # the pixel aspect ratio is that of the stored image
        ("1:1", False, (HEIGHT, WIDTH)),
        ("1000:1", False, (HEIGHT, WIDTH)),  # not of a camera
    ],
)
def test_pixels_that_are_not_square(tmp_path, pixel_aspect, turned, size):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*map(int, pixel_aspect.split(":")))
        for index in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    if turned:
        set_rotation(path, ROTATIONS[1])
    frames = list(open_source(path))
    assert [frame.image.shape[:2] for frame in frames] == [size] * 2


def test_sound_without_pictures_is_refused(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    refuses(path, "no video stream")


def test_an_unknown_codec_is_refused(tmp_path):
    path = make_video(tmp_path / "strange.avi", "mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"Qx0!"))
    refuses(path, "no video stream that can be decoded")


def test_titles_in_another_encoding_do_no_harm(tmp_path):
    path = make_video(tmp_path / "old.mkv")
    content = path.read_bytes()
    assert content.count(b"Lavf") >= 1
    path.write_bytes(content.replace(b"Lavf", b"\xe4\xf6\xfc\xdf"))
    assert len(list(open_source(path))) == FRAMES


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "mp4", "avi", "mkv"])
def test_damaged_files_are_read_or_refused_but_nothing_else(tmp_path, suffix):
    rng = np.random.default_rng(0)
    whole = tmp_path / f"whole.{suffix}"
    if f".{suffix}" in VIDEO_SUFFIXES:
        make_video(whole, "mpeg4", {"movflags": "faststart"} if suffix == "mp4" else {}, ticks=[0, 40, 80, 120])
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(whole, exif=exif)
    content = whole.read_bytes()
    for index in range(40):
        # Half of the damage is in the headers.
        start = int(rng.integers(0, min(len(content), 700) if index % 2 else len(content)))
        length = int(rng.integers(1, 20))
        middle = (b"", rng.bytes(1), rng.bytes(length), bytes(length))[index % 4]
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(content[:start] + middle + content[start + length :])
        frames, message = [], f"read {path}"
        try:
            frames = list(open_source(path))
        except UserError as error:
            message = str(error)
        assert str(path) in message
        assert "\n" not in message
        stamps = [frame.stamp for frame in frames]
        assert stamps == sorted(set(stamps))
        assert all(frame.image.ndim == 3 and frame.image.dtype == np.uint8 for frame in frames)


# Rotation. A phone's matrix: quarter turns clockwise that make the stored image upright.
ROTATIONS = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


def set_rotation(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Overwrite a, b, c, d of the display matrix in an mp4's track header (ISO 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (np.array(value << 16, ">i4").tobytes() for value in matrix)
    for offset, value in ((0, a), (4, b), (12, c), (16, d)):
        content[start + offset : start + offset + 4] = value
    path.write_bytes(content)


@pytest.mark.parametrize("turns", ROTATIONS)
def test_rotated_videos_come_upright(tmp_path, turns):
    path = make_video(tmp_path / "phone.mp4")
    set_rotation(path, ROTATIONS[turns])
    image = next(iter(open_source(path))).image
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[4:28, 4:28] = True  # of the red corner
    inside = np.rot90(inside, -turns)
    assert image.shape[:2] == inside.shape
    np.testing.assert_allclose(image[inside].astype(int), [(220, 30, 30)] * 24**2, atol=12)
    capture = cv2.VideoCapture(str(path))
    _, peer = capture.read()
    capture.release()
    assert peer.shape == image.shape
    assert np.abs(image.astype(int) - peer[:, :, ::-1]).mean() < 2


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    ],
)
def test_display_matrices_turn_and_mirror(matrix, expected):
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    a, b, c, d = matrix
    display_matrix = np.array([[a << 16, b << 16, 0], [c << 16, d << 16, 0], [0, 0, 1 << 30]], np.int32)
    np.testing.assert_array_equal(apply_display_matrix(image, display_matrix), expected(image))
    np.testing.assert_array_equal(apply_display_matrix(image, None), image)


# Real recordings: width, height, frames, frames per second.
REAL_VIDEOS = {
    "intel-iot-devkit_sample-videos/one-by-one-person-detection.mp4": (768, 432, 1394, 10),
    "CMU-Perceptual-Computing-Lab_openpose/video.avi": (1280, 720, 205, 50),
    "perfanalytics_pose2sim/S00_P00_SingleParticipant/S00_P00_T01_BalancingTrial/videos/cam01.mp4": (
        1080,
        1920,
        100,
        60,
    ),
    "perfanalytics_pose2sim/S00_P00_SingleParticipant/S00_P00_T01_BalancingTrial/videos/cam03.mp4": (
        1088,
        1920,
        100,
        60,
    ),
    "open-mmlab_mmpose/demo.mp4": (960, 540, 5, 5),
}


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared recordings are not here")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if size[2] > 1000 else ()) for name, size in REAL_VIDEOS.items()]
)
def test_real_videos(name, caplog):
    width, height, count, rate = REAL_VIDEOS[name]
    stamps = []
    with open_source(REAL / name) as source:
        assert source.fps == rate
        assert source.frame_count == count
        for frame in source:
            assert frame.image.shape == (height, width, 3)
            stamps.append(frame.stamp)
        assert not source.damage
    assert len(stamps) == count
    assert stamps[0] == 0.0
    assert np.diff(stamps) == pytest.approx(1 / rate)
    assert not caplog.records


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared pictures are not here")
def test_real_pictures():
    paths = sorted(REAL.rglob("*.jpg"))
    assert len(paths) >= 40
    for path in paths:
        (frame,) = open_source(path)
        peer = cv2.imread(str(path))[:, :, ::-1]
        assert frame.image.shape == peer.shape
        assert np.abs(frame.image.astype(int) - peer).max() <= 3, path  # two builds of one JPEG library
