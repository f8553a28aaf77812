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

"""Fuzz targets for data sets: folders with one damaged file."""

from __future__ import annotations

import abc
import io
import json
import pickle
import random
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import sparse

from multihmr2_ros.evaluation.datasets import boxes, coco, emdb, harmony4d, hi4d, joints, panoptic, threedpw, videos
from multihmr2_ros.frame import Frame
from multihmr2_ros.media import sources
from test.fuzz.mutations import damaged_bytes, damaged_text, damaged_value
from test.fuzz.target import Target
from test.helpers.calibrated_videos import ANIPOSE, POSE2SIM, write_recording
from test.helpers.dataset_factory import make_joints, open_sequences
from test.helpers.dataset_files import write_coco, write_mot17, write_panoptic, write_posetrack, write_threedpw
from test.helpers.smpl_datasets import POINTS, write_emdb, write_harmony4d, write_hi4d


class DataSets(Target):
    """Base class for data sets.

    The first byte of an input selects a file of the folder, and the rest is its content; the other files are valid.
    Images are not read: another target covers them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make()
        self.paths = self.found()
        self.seeds = [path.read_bytes() for path in self.paths]

    @abc.abstractmethod
    def make(self) -> None:
        """Write the valid folder."""

    @abc.abstractmethod
    def found(self) -> list[Path]:
        """Return the paths of the files to damage."""

    @abc.abstractmethod
    def read(self, path: Path) -> None:
        """Read the data set; path is the damaged file."""

    def damaged(self, rng: random.Random) -> bytes:
        which = rng.randrange(len(self.paths))
        return bytes([which]) + self.damage(rng, self.seeds[which])

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        return damaged_bytes(rng, seed, rng.choice(self.seeds), head=rng.choice((None, 400)))

    def parse(self, data: bytes) -> None:
        path = self.paths[data[0]]
        path.write_bytes(data[1:])
        try:
            with mock.patch.object(joints, "read_image", return_value=np.zeros((24, 32, 3), np.uint8)):
                self.read(path)
        finally:
            path.write_bytes(self.seeds[data[0]])


def read_eval_frames(sequences: Iterable[Any]) -> None:
    for sequence in sequences:
        for eval_frame in sequence or ():
            assert np.isfinite(eval_frame.given_fov)
            assert eval_frame.truth is None or len(eval_frame.truth.joints) == len(eval_frame.truth.track_id)


def damaged_pickle(rng: random.Random, content: Any, seed: bytes) -> bytes:
    if rng.random() < 0.5:
        return damaged_bytes(rng, seed, seed, head=rng.choice((None, 600)))
    for _ in range(rng.choice((1, 1, 2))):
        content = damaged_value(rng, content)
    return pickle.dumps(content, rng.randrange(2, 6))


class Pickles(DataSets):
    """Pickles of 3DPW and EMDB."""

    def make(self) -> None:
        write_threedpw(self.folder / "3dpw", np.full((2, 3, 24, 3), 3.0))
        people = np.stack([make_joints(1, POINTS)[0]] * 2)
        write_emdb(self.folder / "emdb", people)

    def found(self) -> list[Path]:
        return sorted(self.folder.glob("**/*.pkl"))

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        return damaged_pickle(rng, pickle.loads(seed), seed)

    def read(self, path: Path) -> None:
        read_eval_frames(open_sequences(threedpw.list_threedpw_sequences(self.folder / "3dpw")))
        read_eval_frames(open_sequences(emdb.list_emdb_sequences(self.folder / "emdb")))


class Archives(DataSets):
    """.npz files of Hi4D and EMDB, damaged inside and outside of the zip members."""

    def make(self) -> None:
        write_hi4d(self.folder / "hi4d", make_joints(2, POINTS)[None])
        write_emdb(self.folder / "emdb", make_joints(1, POINTS))

    def found(self) -> list[Path]:
        return sorted(self.folder.glob("**/*.npz"))

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        return damaged_archive(rng, seed, rng.choice(self.seeds))

    def read(self, path: Path) -> None:
        read_eval_frames(open_sequences(hi4d.list_hi4d_sequences(self.folder / "hi4d")))
        read_eval_frames(open_sequences(emdb.list_emdb_sequences(self.folder / "emdb")))


def damaged_archive(rng: random.Random, seed: bytes, other: bytes) -> bytes:
    if rng.random() < 0.3:
        place = rng.choice((0, max(len(seed) - 1200, 0)))  # the central directory is at the end
        return seed[:place] + damaged_bytes(rng, seed[place:], other, head=rng.choice((None, 400)))
    again = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as source, zipfile.ZipFile(again, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if rng.random() < 0.3:
                content = damaged_bytes(rng, content, other, head=128)
            if rng.random() < 0.98:
                target.writestr(name, content)
    return again.getvalue()


class Colmap(DataSets):
    """Cameras and people of Harmony4D."""

    WORDS = ("OPENCV_FISHEYE", "#", "cam02/00001.jpg", "7", "0.5", "-1", "cam02/x.jpg")

    def make(self) -> None:
        self.sequence = write_harmony4d(self.folder, make_joints(2, POINTS)[None], glasses=True)

    def found(self) -> list[Path]:
        workplace = self.sequence / "colmap" / "workplace"
        people = self.sequence / "processed_data" / "smpl" / "00001.npy"
        glasses = workplace / "colmap_from_aria_transforms.pkl"
        return [workplace / "cameras.txt", workplace / "images.txt", glasses, people]

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        place = self.seeds.index(seed)
        if place < 2:
            return damaged_text(rng, seed.decode(), self.WORDS)
        return damaged_pickle(rng, pickle.loads(seed), seed) if place == 2 else super().damage(rng, seed)

    def read(self, path: Path) -> None:
        read_eval_frames(open_sequences(harmony4d.list_harmony4d_sequences(self.folder, "cam02")))


class Calibrations(DataSets):
    """TOML calibration of videos; the image of the only video is generated."""

    WORDS = ("cam_01", "[", "]", "inf", "nan", "-1", "true", "[metadata]", "1979-05-27", "{}", "[[cam_01]]", '"A"')

    def make(self) -> None:
        write_recording(self.folder, POSE2SIM)

    def found(self) -> list[Path]:
        return sorted(self.folder.glob("**/*.toml"))

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        return damaged_text(rng, rng.choice((POSE2SIM, ANIPOSE.replace('"A"', '"cam01"'))), self.WORDS)

    def read(self, path: Path) -> None:
        frame = Frame(np.zeros((240, 320, 3), np.uint8), name="")
        with mock.patch.object(sources.VideoSource, "_frames", return_value=(each for each in [frame])):
            read_eval_frames(open_sequences(videos.list_calibrated_videos(self.folder)))


class Annotations(DataSets):
    """Annotations in JSON, and text files of MOT."""

    WORDS = ("[Sequence]", "frameRate=0", "imDir=..", "imDir=img1", "%(x)s", "=", "nan", "1,1")

    def make(self) -> None:
        write_coco(self.folder / "coco", [make_joints(2, 17)])
        write_posetrack(self.folder / "posetrack", [[100.0, 100, 50, 120], [300, 100, 50, 120]])
        write_panoptic(self.folder / "panoptic", make_joints(2, 17))
        write_mot17(self.folder / "mot", [[100.0, 100, 50, 120], [300, 100, 50, 120], [500, 100, 50, 120]])

    def found(self) -> list[Path]:
        return [path for suffix in ("json", "ini", "txt") for path in sorted(self.folder.glob(f"**/*.{suffix}"))]

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        if not seed.startswith(b"{"):
            return damaged_text(rng, seed.decode(), self.WORDS).replace(b" ", b",")
        return damaged_json(rng, seed)

    def read(self, path: Path) -> None:
        for image in coco.list_coco_images(self.folder / "coco"):
            assert isinstance(image.path, Path)
            assert len({len(each) for each in image.truth.values()}) == 1
        for sequence in open_sequences(boxes.list_mot_sequences(self.folder / "mot")):
            assert all(np.isfinite(frame.stamp_s) for frame in sequence.frames)
        open_sequences(boxes.list_posetrack_sequences(self.folder / "posetrack"))
        read_eval_frames(open_sequences(panoptic.list_panoptic_sequences(self.folder / "panoptic")))


def damaged_json(rng: random.Random, seed: bytes) -> bytes:
    if rng.random() < 0.3:
        return damaged_bytes(rng, seed, seed)
    content = json.loads(seed)
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = damaged_value(rng, content)
    return json.dumps(content).encode("utf-8", "surrogatepass")


class Regressors(DataSets):
    """Regressor weights as .npy, and as sparse and dense .npz."""

    def make(self) -> None:
        weights = sparse.random_array((24, 19158), density=1e-4, rng=np.random.default_rng(0))
        np.save(self.folder / "dense.npy", weights.toarray().astype(np.float16))
        np.savez_compressed(self.folder / "dense.npz", weights.toarray())
        for kind in ("csr", "csc", "coo"):
            sparse.save_npz(self.folder / f"{kind}.npz", weights.asformat(kind))

    def found(self) -> list[Path]:
        return sorted(self.folder.glob("*.np[yz]"))

    def damage(self, rng: random.Random, seed: bytes) -> bytes:
        if seed.startswith(b"PK"):
            return damaged_archive(rng, seed, seed)
        return damaged_bytes(rng, seed, seed, head=128)

    def read(self, path: Path) -> None:
        mesh = np.ones((1, 19158, 3), np.float32)
        assert joints.make_point_regressor(path, 24)(mesh).shape == (1, 24, 3)
