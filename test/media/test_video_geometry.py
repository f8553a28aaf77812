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

"""Rotated and mirrored videos, and videos of pixels that are not square."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from multihmr2_ros.media.sources import apply_display_matrix, open_source
from test.helpers.numbered_videos import HEIGHT, RATE, WIDTH, make_image, make_video

# Display matrix of a phone's video (a, b, c, d), by the quarter turns clockwise that make the stored image upright.
ROTATIONS = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


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
            container.mux(stream.encode(av.VideoFrame.from_ndarray(make_image(index), format="rgb24")))
        container.mux(stream.encode(None))
    if turned:
        set_rotation(path, ROTATIONS[1])
    frames = list(open_source(path))
    assert [frame.image.shape[:2] for frame in frames] == [size] * 2


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
