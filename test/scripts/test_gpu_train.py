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

"""Data packed for training on another machine are unchanged after unpacking."""

from __future__ import annotations

import argparse
import dataclasses
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from scipy.spatial.transform import Rotation

from multihmr2_ros.errors import UserError
from multihmr2_ros.training.render_cache import RenderCache, write_shard
from multihmr2_ros.training.samples import Sample, make_blank_people, pack_samples
from test.helpers.scripts import load_script
from test.helpers.training_data_sets import make_data_set


def sample(people: int, seed: int) -> Sample:
    generator = np.random.default_rng(seed)
    arrays = make_blank_people(people)
    turns = Rotation.random(163 * people, random_state=seed).as_matrix() if people else np.zeros((0, 3, 3))
    arrays["rotations"] = turns.reshape(people, 163, 3, 3).astype(np.float32)
    arrays["centre"] = generator.normal(size=(people, 3)).astype(np.float32)
    smooth = np.linspace(0, 255, 64 * 48).reshape(48, 64, 1).repeat(3, 2).astype(np.uint8)
    return Sample(smooth, np.eye(3), True, f"seed {seed}", **arrays)


def test_renders_survive_packing(tmp_path: Path) -> None:
    gpu_train_data = load_script("gpu_train_data")
    samples = [sample(people, seed) for seed, people in enumerate((2, 0, 3))]
    source, packed = tmp_path / "seeds-0000000.safetensors", tmp_path / "files" / "seeds-0000000.xz"
    packed.parent.mkdir()
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in pack_samples(samples).items()}, source
    )
    gpu_train_data.pack_shard(source, packed)
    gpu_train_data.distribute(packed.parent, tmp_path)
    gpu_train_data.unpack([tmp_path / "part0"], tmp_path / "data")
    cache = RenderCache(tmp_path / "data" / "cache")
    assert len(cache) == 3
    for row, expected in enumerate(samples):
        found = cache.sample(row)
        np.testing.assert_allclose(found.rotations, expected.rotations, atol=2e-3)  # half precision
        np.testing.assert_array_equal(found.centre, expected.centre)
        assert np.abs(found.image.astype(int) - expected.image).mean() < 3


def test_images_are_packed_again_if_they_change_or_packing_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_train_data = load_script("gpu_train_data")
    files = tmp_path / "packed" / "files"
    files.mkdir(parents=True)
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    written: list[list[str]] = []
    write = gpu_train_data.write_tar

    def write_or_stop(path: Path, content: list[tuple[str, bytes]]) -> None:
        write(path, content)
        written.append([name for name, _ in content])
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(gpu_train_data, "write_tar", write_or_stop)

    def pack(names: str) -> None:
        gpu_train_data.pack_images(files, "people", [(name, tmp_path / f"{name}.png") for name in names], None, {})

    with pytest.raises(KeyboardInterrupt):
        pack("ab")
    for names in ("ab", "ab", "abc"):
        pack(names)
    assert written == [["a", "b"], ["a", "b"], ["a", "b", "c"]]


def test_renders_and_poses_are_packed_again_if_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_train_data = load_script("gpu_train_data")
    monkeypatch.setattr(gpu_train_data, "BANK_POSES", 2)
    people = tmp_path / "people"
    people.mkdir()
    make_data_set(people, "pseudo", ["0.png", "1.png"])
    for name, gray, seeds in (("old", 10, (0, 50)), ("new", 200, (0,))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            image = np.full((24, 32, 3), gray, np.uint8)
            write_shard(tmp_path / name, seed, [dataclasses.replace(sample(1, 0), image=image)] * 2)
    packed = tmp_path / "packed"

    def pack(cache: str) -> dict[str, int]:
        gpu_train_data.pack(
            argparse.Namespace(
                packed=packed, cache=tmp_path / cache, pseudo_truth=[people, people / "labels.npz"], empty_images=[],
                motions=None, hold_out=0.0, processes=1,
            )
        )  # fmt: skip
        return {path.name: path.stat().st_ino for path in (packed / "files").glob("*.xz")}

    first = pack("old")
    assert first.keys() == {"bank.xz", "seeds-0000000.xz", "seeds-0000050.xz"}
    assert pack("old") == first
    second = pack("new")
    assert second.keys() == {"bank.xz", "seeds-0000000.xz"}
    gpu_train_data.unpack([packed / "part0"], tmp_path / "data")
    cache = RenderCache(tmp_path / "data" / "cache")
    assert [round(cache.sample(row).image.mean()) for row in range(len(cache))] == [200, 200]
    assert second["bank.xz"] == first["bank.xz"]
    (packed / "bank.txt").write_text("walk.bvh 100\n")  # as if packed with motions
    assert pack("new")["bank.xz"] != second["bank.xz"]


def test_images_are_packed_as_they_were_labeled(tmp_path: Path) -> None:
    gpu_train_data = load_script("gpu_train_data")
    files, (width, height) = tmp_path / "packed" / "files", (64, 48)
    files.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:8, :8, 0] = 255  # red, at the upper left
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=turned, quality=95)
    (tmp_path / "damaged.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    sources = [(name, tmp_path / f"{name}.jpg") for name in ("a", "damaged")]
    for sizes, expected, corner in (({}, (height, width), -4), ({"a": (width, height)}, (width, height), 4)):
        gpu_train_data.pack_images(files, "people", sources, None, sizes)
        with tarfile.open(files / "people-0000.tar") as archive:
            assert archive.getnames() == ["a"]
            member = archive.extractfile("a")
            assert member is not None
            with Image.open(member) as image:
                assert image.size == expected
                red, green, _ = image.getpixel((corner % image.width, 4))
                assert red > 150 > green


def test_empty_images_of_one_name_are_refused(tmp_path: Path) -> None:
    gpu_train_data = load_script("gpu_train_data")
    folders = [tmp_path / side / "empty" for side in ("left", "right")]
    with pytest.raises(UserError, match="different names"):
        gpu_train_data.pack(argparse.Namespace(packed=tmp_path / "packed", empty_images=folders))


def test_parts_are_small_and_hold_every_file(tmp_path: Path) -> None:
    gpu_train_data = load_script("gpu_train_data")
    files = tmp_path / "files"
    files.mkdir()
    for number in range(7):
        (files / f"seeds-{number:07d}.xz").write_bytes(bytes(10_000_000))
    (files / "bodies.npz").write_bytes(bytes(5_000_000))
    for _ in range(2):  # packed again: old parts are removed
        gpu_train_data.distribute(files, tmp_path)
    parts = sorted(tmp_path.glob("part*"))
    assert all(sum(path.stat().st_size for path in part.iterdir()) <= gpu_train_data.PART_BYTES + 64 for part in parts)
    names = [path.name for part in parts for path in part.iterdir() if path.name != gpu_train_data.PACK_FILE]
    assert sorted(names) == sorted(path.name for path in files.iterdir())
    assert (parts[0] / "bodies.npz").exists()


def test_one_folder_holds_the_parts_of_one_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_train_data = load_script("gpu_train_data")
    monkeypatch.setattr(gpu_train_data, "PART_BYTES", 30)
    packs = [tmp_path / "first", tmp_path / "second"]
    for pack in packs:
        (pack / "files").mkdir(parents=True)
        for name in ("a.npz", "b.npz"):
            (pack / "files" / name).write_bytes(pack.name.encode() * 4)
        gpu_train_data.distribute(pack / "files", pack)
    data = tmp_path / "data"
    gpu_train_data.unpack([packs[0] / "part0"], data)
    gpu_train_data.unpack([packs[0] / "part1"], data)
    gpu_train_data.unpack([packs[0] / "part0", packs[0] / "part1"], data)
    with pytest.raises(UserError, match=r"expected parts of one pack in .*data, got files of 2"):
        gpu_train_data.unpack([packs[1] / "part0"], data)
    with pytest.raises(UserError, match="got files of 2"):
        gpu_train_data.unpack([pack / "part0" for pack in packs], tmp_path / "new")
    assert (data / "a.npz").read_bytes() == b"first" * 4
    (packs[0] / "files" / "seeds-0000000.xz").write_bytes(b"")  # renders may be added to a pack
    gpu_train_data.distribute(packs[0] / "files", packs[0])
    gpu_train_data.unpack([packs[0] / "part0"], data)
    (data / gpu_train_data.PACK_FILE).unlink()  # unpacked by an earlier version
    with pytest.raises(UserError, match="got files of 2"):
        gpu_train_data.unpack([packs[0] / "part0"], data)
    (packs[0] / "part0" / gpu_train_data.PACK_FILE).unlink()
    with pytest.raises(UserError, match="pack again"):
        gpu_train_data.unpack([packs[0] / "part0"], tmp_path / "new")
