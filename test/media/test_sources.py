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

"""Images and folders as iterators of frames, and damaged files of all kinds."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.sources import VIDEO_SUFFIXES, open_source
from test import paths
from test.helpers.numbered_videos import assert_refused, make_video

REAL = paths.SHARED / "data" / "real"


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


def test_images_that_share_a_stem_get_unique_names(tmp_path):
    for name in ("a.jpg", "a.png", "b.png"):
        save(tmp_path / name, 1)
    assert [frame.name for frame in open_source(tmp_path)] == ["a.jpg", "a.png", "b.png"]


def test_a_damaged_image_in_a_folder_is_named_and_skipped(tmp_path, caplog):
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


def test_unusable_sources_are_refused(tmp_path):
    assert_refused(tmp_path / "missing.png", "no file or folder")
    (tmp_path / "empty folder").mkdir()
    assert_refused(tmp_path / "empty folder", "holds no images")
    for name in ("notes.txt", "no suffix"):
        (tmp_path / name).write_text("text")
        assert_refused(tmp_path / name, "neither an image nor a video, by its name")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert_refused(tmp_path / "pipe.mp4", "is a device or a pipe")
    (tmp_path / "broken link.png").symlink_to(tmp_path / "nothing")
    assert_refused(tmp_path / "broken link.png", "no file or folder")
    for rate in (0, -1, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            open_source(tmp_path, images_per_second=rate)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "mp4", "avi", "mkv"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, suffix):
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


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared images are not here")
def test_real_images():
    paths = sorted(REAL.rglob("*.jpg"))
    assert len(paths) >= 40
    for path in paths:
        (frame,) = open_source(path)
        peer = cv2.imread(str(path))[:, :, ::-1]
        assert frame.image.shape == peer.shape
        assert np.abs(frame.image.astype(int) - peer).max() <= 3, path  # two builds of one JPEG library
