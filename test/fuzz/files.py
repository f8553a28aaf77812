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

"""Fuzz targets for files chosen by users: motions, garments, images and videos."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from test.fuzz.messages import with_png_checksums
from test.fuzz.mutations import damaged_bytes, damaged_text
from test.fuzz.target import Target
from test.helpers.bag_factory import make_image

BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 1.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Spine
  {
    OFFSET 0.0 5.2 -0.1
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0.0 4.0 0.0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.008333
0 90 0 1 2 3 4 5 6
0 90.5 0.1 1 2 3 4 5 6
1 91 0.2 -1.5 2e0 3 4 5 6
"""


class Motions(Target):
    WORDS = (
        "{",
        "}",
        "ROOT",
        "JOINT",
        "End",
        "Site",
        "OFFSET",
        "CHANNELS",
        "MOTION",
        "Frames:",
        "100000",
        "Xrotation",
        "6",
    )

    def __init__(self, folder: Path) -> None:
        pass

    def damaged(self, rng: random.Random) -> bytes:
        return damaged_text(rng, BVH, self.WORDS)

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.simulation.motion.bvh import parse_bvh

        assert np.isfinite(parse_bvh(data).compute_positions()).all()


class Garments(Target):
    """Fuzz target for an .mhclo file and the .obj file that it names."""

    MHCLO = (
        "basemesh hm08\ntag Shoes\nname patch\nobj_file patch.obj\nx_scale 0 1 2.0\ny_scale 0 2 2.0\nz_scale 0 3 2.0\n"
        "verts 0\n5\n0 1 2 0.2 0.3 0.5 0.1 0.0 0.0\n0 1 2 0.5 0.5 0.0 0.0 0.2 0.0\n0 1 2 0.0 0.0 1.0 0.0 0.0 0.3\n"
        "delete_verts\n3 7 - 9 12\n"
    )
    OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nf 1/1 2/1 4/1 3/1\n"
    WORDS = ("verts", "delete_verts", "-", "x_scale", "obj_file", "v", "f", "1/1", "19157", "19158", "#", "tag")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def damaged(self, rng: random.Random) -> bytes:
        mhclo, obj = self.MHCLO.encode(), self.OBJ.encode()
        if rng.random() < 0.6:
            mhclo = damaged_text(rng, self.MHCLO, self.WORDS)
        else:
            obj = damaged_text(rng, self.OBJ, self.WORDS)
        return len(mhclo).to_bytes(4, "little") + mhclo + obj

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.simulation.appearance import garments

        length = int.from_bytes(data[:4], "little")
        (self.folder / "patch.mhclo").write_bytes(data[4 : 4 + length])
        (self.folder / "patch.obj").write_bytes(data[4 + length :])
        for cached in (garments.list_garments, garments.load_garment):
            cached.cache_clear()
        (file,) = garments.list_garments(self.folder)
        garment = garments.load_garment(file.path)
        assert np.isfinite(garment.offsets).all()
        assert garment.triangles.max() < len(garment.base)


class Images(Target):
    """Fuzz target for image files of every supported format."""

    KINDS = ("png", "jpeg", "bmp", "tiff", "webp")

    def __init__(self, folder: Path) -> None:
        self.path = folder / "damaged.png"
        self.seeds = []
        image = Image.fromarray(make_image(3, 24, 16))
        for kind in self.KINDS:
            for mode in ("RGB", "L", "P") if kind != "webp" else ("RGB", "RGBA"):
                file = io.BytesIO()
                if not (kind == "jpeg" and mode == "P"):
                    image.convert(mode).save(file, kind)
                    self.seeds.append(file.getvalue())
        self.seeds.append(cv2.imencode(".png", np.zeros((8, 8), np.uint16))[1].tobytes())

    def damaged(self, rng: random.Random) -> bytes:
        data = damaged_bytes(rng, rng.choice(self.seeds), rng.choice(self.seeds), head=200)
        return with_png_checksums(data) if data.startswith(b"\x89PNG") and rng.random() < 0.7 else data

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.media.images import read_image

        self.path.write_bytes(data)
        image = read_image(self.path)
        assert image.dtype == np.uint8
        assert image.ndim == 3


class Videos(Target):
    """Fuzz target for videos that pass PyAV's own checks."""

    KINDS = ((".mp4", "mpeg4"), (".avi", "mjpeg"), (".mkv", "libx264"), (".webm", "libvpx"))
    THREADED = 0x80  # in an input's first byte, together with its kind

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seeds = []
        for suffix, codec in self.KINDS:
            path = folder / f"seed{suffix}"
            _write_video(path, codec)
            self.seeds.append(path.read_bytes())

    def damaged(self, rng: random.Random) -> bytes:
        which = rng.randrange(len(self.seeds))
        threaded = self.THREADED if rng.random() < 0.05 else 0
        return bytes([which | threaded]) + damaged_bytes(
            rng, self.seeds[which], rng.choice(self.seeds), head=rng.choice((None, 1000))
        )

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.media.sources import open_source

        path = self.folder / f"damaged{self.KINDS[data[0] & ~self.THREADED][0]}"
        path.write_bytes(data[1:])
        with contextlib.nullcontext() if data[0] & self.THREADED else one_core(), open_source(path) as source:
            last_s = -1.0
            for frame in source:
                assert frame.image.ndim == 3
                assert last_s < frame.stamp < float("inf")
                last_s = frame.stamp


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Restrict the process to one core.

    FFmpeg starts threads according to the number of cores; for small images, starting them takes longer than decoding.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ctypes.CDLL(None).sched_getcpu()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _write_video(path: Path, codec: str) -> None:
    """Write a video of three images, enough for all kinds of frames."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height = 32, 24
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(make_image(index, 32, 24), format="rgb24")))
        container.mux(stream.encode(None))
