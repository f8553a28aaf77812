"""Fuzz targets that are files: bags, weights, motions, garments, pictures and videos."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from multihmr2_ros.ros.bags.frames import BagSource
from multihmr2_ros.ros.bags.writing import BagWriter
from test.bag_factory import camera_messages, picture, serialised, write_bag
from test.fuzz_messages import damaged_message, with_png_checksums
from test.fuzz_mutations import damaged_bytes, damaged_text, damaged_value
from test.fuzz_target import Target


class Bags(Target):
    """Single files of a bag. A part of them is sound, and the messages in it are not."""

    suffix = ".mcap"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / f"damaged{self.suffix}"
        self.messages = camera_messages(3, size=(24, 16)) + camera_messages(1, "jpeg", size=(24, 16))[1:]
        self.seeds = [
            write_bag(folder / f"seed_{index}{self.suffix}", camera_messages(3, encoding, size=(24, 16))).read_bytes()
            for index, encoding in enumerate(("rgb8", "jpeg"))
        ]

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.9:
            return damaged_bytes(rng, rng.choice(self.seeds), rng.choice(self.seeds), head=rng.choice((None, 600)))
        path = self.folder / f"made{self.suffix}"
        path.unlink(missing_ok=True)
        with BagWriter(path) as writer:
            for topic, time_ns, message in self.messages:
                data = damaged_message(rng, message) if rng.random() < 0.5 else serialised(message)
                writer.write(topic, message.__msgtype__, data, time_ns)
        return path.read_bytes()

    def parse(self, data: bytes) -> None:
        self.path.write_bytes(data)
        read_bag(self.path)


def read_bag(path: Path) -> None:
    with BagSource(path) as source:
        for frame in source:
            assert frame.image.ndim == 3
        assert "\n" not in source.damage


class McapBags(Bags):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        for name in ("ZSTD", "LZ4"):
            if hasattr(CompressionFormat, name):
                writer = Writer(folder / name, version=9, storage_plugin=StoragePlugin.MCAP)
                writer.set_compression(CompressionMode.STORAGE, getattr(CompressionFormat, name))
                with writer:
                    _write(writer, self.messages)
                self.seeds.append(next((folder / name).glob("*.mcap")).read_bytes())


def _write(writer: Any, messages: list[tuple[str, int, Any]]) -> None:
    from multihmr2_ros.ros.bags.definitions import typestore

    connections: dict[str, Any] = {}
    for topic, time_ns, message in messages:
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=typestore())
        writer.write(connections[topic], time_ns, serialised(message))


class Sqlite3Bags(Bags):
    suffix = ".db3"


class BagMetadata(Target):
    """metadata.yaml of a folder whose other files are sound."""

    WORDS = (
        "rosbag2_bagfile_information:",
        "- ",
        "zstd",
        "sqlite3",
        "mcap",
        "../seed",
        "!!python/object:os.system",
        "&a",
        "*a",
        "|",
        "-1",
    )

    def __init__(self, folder: Path) -> None:
        self.paths = [
            write_bag(folder / storage, camera_messages(2, size=(24, 16)), storage=storage)
            for storage in ("mcap", "sqlite3")
        ]
        self.seeds = [(path / "metadata.yaml").read_text() for path in self.paths]

    def damaged(self, rng: random.Random) -> bytes:
        which = rng.randrange(2)
        return bytes([which]) + damaged_text(rng, self.seeds[which], self.WORDS)

    def parse(self, data: bytes) -> None:
        path = self.paths[data[0]]
        (path / "metadata.yaml").write_bytes(data[1:])
        read_bag(path)


class Checkpoints(Target):
    """Weights in our own format: the header's JSON damaged as JSON, and all of the file as bytes."""

    def __init__(self, folder: Path) -> None:
        from multihmr2_ros.network import checkpoint
        from multihmr2_ros.network.config import NetworkConfig
        from multihmr2_ros.network.model import MultiHMR2

        self.path = folder / "damaged.safetensors"
        config = NetworkConfig(
            image_size=32, max_grid=2, encoder_width=8, encoder_depth=1, encoder_heads=1, register_tokens=1,
            decoder_width=4, decoder_depth=1, decoder_heads=1, decoder_head_width=4, decoder_mlp_width=4, queries=2,
            head_width=4, shape_outputs=11, track_feature_width=4,
        )  # fmt: skip
        checkpoint.save(MultiHMR2(config), self.path)
        self.seed = self.path.read_bytes()
        self.length = int.from_bytes(self.seed[:8], "little")
        self.header = json.loads(self.seed[8 : 8 + self.length])

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damaged_bytes(rng, self.seed, self.seed, head=rng.choice((None, 16, self.length)))
        header = dict(self.header)
        if rng.random() < 0.6:
            metadata = dict(header["__metadata__"])
            network = json.loads(metadata["network"])
            for _ in range(rng.choice((1, 1, 2, 3))):
                network = damaged_value(rng, network)
            metadata["network"] = json.dumps(network)
            header["__metadata__"] = metadata
        else:
            header = damaged_value(rng, header)
        content = json.dumps(header).encode()
        return len(content).to_bytes(8, "little") + content + self.seed[8 + self.length :]

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.network import checkpoint

        self.path.write_bytes(data)
        checkpoint.load(self.path)


class Witness:
    """Leaves a file behind when it is unpickled with code."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


class ReleasedCheckpoints(Target):
    """Pickled weights, damaged inside of the zip file and outside. Code in them must never run."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.witness = folder / "witness"
        self.path = folder / "damaged.pt"
        tensors = {"encoder.backbone.cls_token": torch.zeros(1, 1, 4), "a": torch.ones(3, dtype=torch.float16)}
        contents = [{"model_state_dict": tensors}, {"model_state_dict": tensors, "extra": Witness(str(self.witness))}]
        self.zips, self.pickles = [], []
        for content in contents:
            for is_zip, kept in ((True, self.zips), (False, self.pickles)):
                file = io.BytesIO()
                torch.save(content, file, _use_new_zipfile_serialization=is_zip)
                kept.append(file.getvalue())
        self.pickles += [pickle.dumps(content) for content in contents]
        self.opcodes = [pickle.dumps(Witness(str(self.witness)), protocol) for protocol in range(6)]

    def damaged(self, rng: random.Random) -> bytes:
        foreign = rng.choice(self.opcodes)
        if rng.random() < 0.4:
            return damaged_bytes(rng, rng.choice(self.pickles), foreign)
        if rng.random() < 0.3:
            return damaged_bytes(rng, rng.choice(self.zips), foreign, head=rng.choice((None, 600)))
        again = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(rng.choice(self.zips))) as source, zipfile.ZipFile(again, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name.endswith("data.pkl") or rng.random() < 0.2:
                    content = damaged_bytes(rng, content, foreign)
                if rng.random() < 0.98:
                    target.writestr(name, content)
        return again.getvalue()

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.network import checkpoint

        self.path.write_bytes(data)
        try:
            checkpoint.load(self.path)
        finally:
            assert not self.witness.exists(), "code of the file has run"


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
        from multihmr2_ros.simulation.bvh import parse_bvh

        assert np.isfinite(parse_bvh(data).positions()).all()


class Garments(Target):
    """An .mhclo and the .obj that it names."""

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
        from multihmr2_ros.simulation import garments

        length = int.from_bytes(data[:4], "little")
        (self.folder / "patch.mhclo").write_bytes(data[4 : 4 + length])
        (self.folder / "patch.obj").write_bytes(data[4 + length :])
        for cached in (garments.list_garments, garments.load_garment):
            cached.cache_clear()
        (file,) = garments.list_garments(self.folder)
        garment = garments.load_garment(file.path)
        assert np.isfinite(garment.offsets).all()
        assert garment.triangles.max() < len(garment.base)


class Pictures(Target):
    """Image files of every kind that is read."""

    KINDS = ("png", "jpeg", "bmp", "tiff", "webp")

    def __init__(self, folder: Path) -> None:
        self.path = folder / "damaged.png"
        self.seeds = []
        image = Image.fromarray(picture(3, 24, 16))
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
    """Videos, as far as PyAV's own checks do not end them before."""

    KINDS = ((".mp4", "mpeg4"), (".avi", "mjpeg"), (".mkv", "libx264"), (".webm", "libvpx"))

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seeds = []
        for suffix, codec in self.KINDS:
            path = folder / f"seed{suffix}"
            _write_video(path, codec)
            self.seeds.append(path.read_bytes())

    def damaged(self, rng: random.Random) -> bytes:
        which = rng.randrange(len(self.seeds))
        return bytes([which]) + damaged_bytes(
            rng, self.seeds[which], rng.choice(self.seeds), head=rng.choice((None, 1000))
        )

    def parse(self, data: bytes) -> None:
        from multihmr2_ros.media.sources import open_source

        path = self.folder / f"damaged{self.KINDS[data[0]][0]}"
        path.write_bytes(data[1:])
        with open_source(path) as source:
            last_s = -1.0
            for frame in source:
                assert frame.image.ndim == 3
                assert last_s < frame.stamp < float("inf")
                last_s = frame.stamp


def _write_video(path: Path, codec: str) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, 48, 32), format="rgb24")))
        container.mux(stream.encode(None))
