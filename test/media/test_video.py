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

"""Written videos: requirements of players, the frames' own times, true colors, complete files or none."""

import struct

import av
import cv2
import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.sources import open_source
from multihmr2_ros.media.video import VideoClock, VideoWriter
from test.helpers.full_disk import no_file_above

COLORS = np.array(
    [
        [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)],
        [(0, 0, 255), (128, 128, 128), (200, 120, 40), (30, 90, 160)],
        [(230, 159, 0), (204, 121, 167), (255, 255, 0), (0, 255, 255)],
    ],
    np.uint8,
)
PATCHES = COLORS.repeat(80, axis=0).repeat(80, axis=1)


def make_gray_image(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def list_boxes(content: bytes) -> list[str]:
    """Return the types of an mp4's outermost boxes, in order (ISO 14496-12, section 4.2)."""
    kinds, position = [], 0
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, position + 8)
        kinds.append(kind.decode())
        position += size
    assert position == len(content)
    return kinds


def test_videos_are_playable_by_browsers(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, 30.0) as writer:
        for index in range(10):
            writer.write(make_gray_image(20 * index), index / 30)
    kinds = list_boxes(path.read_bytes())
    assert kinds[0] == "ftyp"
    assert kinds.index("moov") < kinds.index("mdat")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 30
        assert stream.frames == 10
        assert float(stream.duration * stream.time_base) == pytest.approx(10 / 30)


@pytest.mark.parametrize(
    "stamps",
    [
        [7.0],
        [0.0, 0.1, 0.15, 0.9, 1.0, 3.0],
        [1_700_000_000.0 + index / 29.97 for index in range(40)],  # a robot's clock
        [index / 90_000 for index in range(5)],
        [0.0, 3600.0],
    ],
    ids=["one", "irregular", "epoch", "ticks", "an hour apart"],
)
def test_every_frame_keeps_its_time(tmp_path, stamps, caplog):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, 29.97) as writer:
        for index, stamp in enumerate(stamps):
            writer.write(make_gray_image(10 + 5 * index), stamp)
    frames = list(open_source(path))
    assert [frame.stamp for frame in frames] == pytest.approx([stamp - stamps[0] for stamp in stamps], abs=1e-5)
    assert [round((float(frame.image.mean()) - 10) / 5) for frame in frames] == list(range(len(stamps)))
    with av.open(str(path)) as container:
        stated = float(container.streams.video[0].duration * container.streams.video[0].time_base)
    assert stated == pytest.approx(stamps[-1] - stamps[0] + 1 / 29.97, abs=1e-3)  # players show the last one, too
    assert not caplog.records


@pytest.mark.parametrize("fps", [1e-9, 9e9], ids=["a year between two images", "a tenth of a nanosecond"])
def test_frame_periods_of_any_length(tmp_path, fps):
    clock, path = VideoClock(fps), tmp_path / "a.mp4"
    with VideoWriter(path, 64, 48, fps) as writer:
        times = [clock.to_time(0.0) for _ in range(3)]
        for time_s in times:
            writer.write(make_gray_image(90), time_s)
    assert [frame.stamp for frame in open_source(path)] == pytest.approx(times, abs=1e-5)


def test_colors_are_true(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, PATCHES.shape[1], PATCHES.shape[0], 10) as writer:
        for index in range(3):
            writer.write(PATCHES, index / 10)
    capture = cv2.VideoCapture(str(path))
    _, bgr = capture.read()
    capture.release()
    (first, *_) = open_source(path)
    for image in (first.image, bgr[:, :, ::-1]):
        np.testing.assert_allclose(image[40::80, 40::80].astype(int), COLORS, atol=6)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (6, 1)  # BT.601, limited: as converted


@pytest.mark.parametrize(("width", "height"), [(65, 48), (64, 47), (63, 47), (1, 1), (2, 2), (1921, 3)])
def test_odd_sizes_are_padded_with_their_border(tmp_path, width, height):
    path = tmp_path / "a.mp4"
    image = make_gray_image(40, height, width)
    image[-1] = 200
    image[:, -1] = 200
    with VideoWriter(path, width, height, 5) as writer:
        writer.write(image, 0.0)
    (frame,) = open_source(path)
    assert frame.image.shape == (height + height % 2, width + width % 2, 3)
    assert int(frame.image[-1, -1, 0]) == pytest.approx(200, abs=12)
    assert int(frame.image[-1, 0, 0]) == pytest.approx(200, abs=12)


def test_views_are_written_as_they_look(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 6)
    for name, view in (("view", image[:, ::-1]), ("copy", image[:, ::-1].copy())):
        with VideoWriter(tmp_path / f"{name}.mp4", 128, 96, 5) as writer:
            writer.write(view, 0.0)
    assert (tmp_path / "view.mp4").read_bytes() == (tmp_path / "copy.mp4").read_bytes()


def test_no_frame_no_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 48, 30):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.mp4"
    path.write_text("the old one")

    def fail() -> None:
        with VideoWriter(path, 64, 48, 30) as writer:
            writer.write(make_gray_image(1), 0.0)
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_at_any_time_is_reported_and_leaves_no_file(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(8)]

    def write(name: str) -> None:
        with VideoWriter(tmp_path / name, 128, 96, 30) as writer:
            for index, image in enumerate(images):
                writer.write(image, index / 30)

    write("whole.mp4")
    whole = (tmp_path / "whole.mp4").stat().st_size
    for limit in (0, 100, whole // 3, whole * 9 // 10, whole - 200, whole - 1):
        with pytest.raises(UserError, match=r"cannot write .*b\.mp4") as caught, no_file_above(limit):
            write("b.mp4")
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"], limit


def test_impossible_places_are_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(UserError, match=f"cannot write .*{folder}/a.mp4"):
            VideoWriter(tmp_path / folder / "a.mp4", 64, 48, 30)
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(UserError, match="cannot write"), VideoWriter(tmp_path / "a.mp4", 64, 48, 30) as writer:
        writer.write(make_gray_image(0), 0.0)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.mp4"}


def test_wrong_frames_are_refused(tmp_path):

    def write(*stamps: float) -> None:
        with VideoWriter(tmp_path / "a.mp4", 64, 48, 30) as writer:
            for stamp in stamps:
                writer.write(make_gray_image(0), stamp)

    for stamp in (1.0, 0.5, 1.000001):
        with pytest.raises(UserError, match="increase"):
            write(1.0, stamp)
    with pytest.raises(UserError, match=r"\(48, 64, 3\)"), VideoWriter(tmp_path / "a.mp4", 64, 48, 30) as writer:
        writer.write(make_gray_image(0, 64, 48), 0.0)
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="frame rate"):
            VideoWriter(tmp_path / "a.mp4", 64, 48, fps)
    assert not list(tmp_path.iterdir())


def test_a_missing_encoder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(av.codec, "codecs_available", {"h264", "mpeg4"})
    with pytest.raises(UserError, match="no libx264"):
        VideoWriter(tmp_path / "a.mp4", 64, 48, 30)
