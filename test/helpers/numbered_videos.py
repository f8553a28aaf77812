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

"""Videos whose images encode their index, and an assertion about sources that cannot be read."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.sources import open_source

WIDTH, HEIGHT, FRAMES, RATE = 160, 96, 40, 25


def make_image(index: int) -> np.ndarray:
    """Return (HEIGHT, WIDTH, 3) uint8: gray that encodes the index, noise that gives packets a size, a red top left
    corner."""
    noise = np.random.default_rng(index).integers(-20, 21, (HEIGHT, WIDTH, 1))
    image = (20 + 5 * index + noise).astype(np.uint8).repeat(3, axis=2)
    image[:32, :32] = (220, 30, 30)
    return image


def get_index(image: np.ndarray) -> int:
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
            frame = av.VideoFrame.from_ndarray(make_image(index), format="rgb24")
            frame.pts = tick
            frame.time_base = Fraction(1, RATE) if ticks is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def assert_refused(path: Path, words: str) -> None:
    """Assert that opening or iterating the source raises a UserError of one line that names the path."""
    with pytest.raises(UserError, match=words) as caught, open_source(path) as source:
        list(source)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
