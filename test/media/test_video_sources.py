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

"""Videos as iterators of frames: kinds, stamps, damage, names."""

from pathlib import Path

import av
import numpy as np
import pytest

from multihmr2_ros.media.sources import open_source
from test import paths
from test.helpers.numbered_videos import FRAMES, HEIGHT, RATE, WIDTH, assert_refused, get_index, make_video

REAL = paths.SHARED / "data" / "real"

# container and encoder; all are read back as such
VIDEO_KINDS = {
    "mp4": ("mp4", "libx264", {}),
    "mp4, index first": ("mp4", "libx264", {"movflags": "faststart"}),
    "mov": ("mov", "mpeg4", {}),
    "avi": ("avi", "mpeg4", {}),
    "mkv": ("mkv", "libx264", {}),
    "webm": ("webm", "libvpx-vp9", {}),
}


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
        assert [get_index(frame.image) for frame in frames] == list(range(FRAMES))
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
    assert [get_index(frame.image) for frame in frames] == list(range(len(ticks)))
    assert not caplog.records


def test_stamps_start_at_zero(tmp_path):
    frames = list(open_source(make_video(tmp_path / "late.mkv", ticks=[5000, 5040, 5100])))
    assert [frame.stamp for frame in frames] == pytest.approx([0.0, 0.04, 0.1])


@pytest.mark.parametrize("kind", ["mp4, index first", "avi", "mkv", "webm"])
@pytest.mark.parametrize("kept", [0.6, 0.9])
def test_a_truncated_video_gives_its_complete_frames_and_reports_the_damage(tmp_path, kind, kept):
    suffix, encoder, options = VIDEO_KINDS[kind]
    content = make_video(tmp_path / f"whole.{suffix}", encoder, options).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    source = open_source(path)
    frames = list(source)
    assert 0.7 * kept * FRAMES < len(frames) < FRAMES
    for frame in frames:
        assert frame.stamp == pytest.approx(get_index(frame.image) / RATE, abs=1e-6)
    assert source.damage.startswith(f"{path}: {len(frames)} frames could be read; ")
    assert "\n" not in source.damage
    next(iter(source))
    assert not source.damage, "nothing is known yet of another iteration"


def test_damage_in_the_middle_affects_only_the_damaged_frames(tmp_path):
    path = make_video(tmp_path / "scratched.mkv", "mjpeg")
    content = bytearray(path.read_bytes())
    middle = content.index(b"\xff\xd8\xff", len(content) // 2)  # start of a frame's JPEG
    content[middle : middle + 1500] = bytes(1500)
    path.write_bytes(content)
    source = open_source(path)
    frames = list(source)
    assert len(frames) == FRAMES - 1
    assert [frame.stamp for frame in frames] == pytest.approx([get_index(frame.image) / RATE for frame in frames])
    assert source.damage == f"{path}: {FRAMES - 1} frames could be read; 1 damaged left out"


def test_leaving_a_video_early_is_not_reported_as_damage(tmp_path):
    with open_source(make_video(tmp_path / "long.mp4")) as source:
        for frame in source:
            if frame.stamp > 0.3:
                break
    assert not source.damage


def test_files_that_are_not_videos_are_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert_refused(tmp_path / "empty.mp4", "empty")
    (tmp_path / "text.avi").write_text("not a video\n" * 50)
    assert_refused(tmp_path / "text.avi", "cannot read the video")
    content = make_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # its index was at the end
    assert_refused(tmp_path / "cut.mp4", "complete video")
    content = make_video(tmp_path / "fast.mp4", options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "index only.mp4").write_bytes(content[: content.index(b"mdat") + 40])
    assert_refused(tmp_path / "index only.mp4", "no frame")


@pytest.mark.parametrize("name", ["2024-05-01T12:00:00.mp4", "http:walk.mkv", "a?b#c%20d.mp4", "-i.mp4"])
def test_file_names_with_a_special_meaning_for_ffmpeg(tmp_path, monkeypatch, name):
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


def test_sound_without_video_is_refused(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert_refused(path, "no video stream")


def test_an_unknown_codec_is_refused(tmp_path):
    path = make_video(tmp_path / "strange.avi", "mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"Qx0!"))
    assert_refused(path, "no video stream that can be decoded")


def test_titles_in_another_encoding_are_ignored(tmp_path):
    path = make_video(tmp_path / "old.mkv")
    content = path.read_bytes()
    assert content.count(b"Lavf") >= 1
    path.write_bytes(content.replace(b"Lavf", b"\xe4\xf6\xfc\xdf"))
    assert len(list(open_source(path))) == FRAMES


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
