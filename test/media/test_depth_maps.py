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

"""Depth maps of images: files and networks with which `multihmr2 run` places people, and their errors."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multihmr2_ros.bags.camera import CameraBag
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.cli.main import main
from multihmr2_ros.depth import depth_to_meters
from multihmr2_ros.errors import UserError
from multihmr2_ros.labeling.depth_model import DepthModel
from multihmr2_ros.media.images import read_depth_map
from multihmr2_ros.placement import RelativeDepthMap
from test.helpers.bag_factory import START_NS
from test.helpers.run_results import list_names, make_image, save_image
from test.media.test_images import make_png_chunk

WIDTH, HEIGHT = 96, 64
RAMP = np.linspace(0.2, 1.0, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


@pytest.fixture
def run(small_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    def run(source: Path, options: str) -> int:
        fixed = ["--checkpoint", str(small_checkpoint), "--out", str(tmp_path / "out"), "--device", "cpu"]
        people = ["--score-threshold", "0", "--nms-distance", "0", "--max-people", "3", "--mesh", "low"]
        return main(["run", str(source), *fixed, *people, *options.split()])

    return run


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Depth Anything with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=8, patch_size=14,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("depth")
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = {"image_processor_type": "DPTImageProcessor", "size": {"height": 56, "width": 56}, "do_pad": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize(
    ("name", "save", "kind"),
    [
        ("photo.npy", lambda path: np.save(path, RAMP), "inverse"),
        ("photo.npz", lambda path: np.savez(path, depth=RAMP, other=RAMP[:2]), "depth"),
        ("photo.png", lambda path: Image.fromarray((4000 * RAMP).astype(np.uint16)).save(path), "metric"),
    ],
)
def test_depth_maps_of_files(
    run: Callable[..., int],
    tmp_path: Path,
    maps: Path,
    name: str,
    save: Callable[[Path], None],
    kind: str,
) -> None:
    save(maps / name)
    image = save_image(tmp_path / "photo.png")
    assert run(image, options=f"--save params --depth-maps {maps} --depth-kind {kind}") == 0
    with np.load(tmp_path / "out" / "photo.npz") as found:
        assert np.isfinite(found["pelvis_covariance"]).all(), "how sure it is"


def test_a_network_of_transformers(run: Callable[..., int], tmp_path: Path, depth_model: Path) -> None:
    estimated = DepthModel(str(depth_model))(make_image())
    assert estimated.kind == "inverse"
    assert estimated.values.shape == (HEIGHT, WIDTH)
    assert run(save_image(tmp_path / "photo.png"), options=f"--save params --depth-model {depth_model}") == 0
    with np.load(tmp_path / "out" / "photo.npz") as found:
        assert np.isfinite(found["pelvis_covariance"]).all()


@pytest.mark.parametrize(
    ("values", "kind", "word"),
    [
        (RAMP[:32], "inverse", "size of the image, 96 x 64 px, got 96 x 32"),
        (RAMP[:32], "metric", "got 96 x 32 px"),
        (np.full_like(RAMP, np.nan), "inverse", "two different values"),
        (np.full_like(RAMP, np.nan), "metric", "no depth above 0 m"),
        (-RAMP, "metric", "no depth above 0 m"),
        (np.zeros_like(RAMP), "depth", "two different values"),
        (np.zeros((HEIGHT, WIDTH, 3), np.float32), "inverse", "(height, width) floats"),
        (np.array([{}]), "inverse", "Python objects"),
        (None, "inverse", "got none"),
    ],
)  # fmt: skip
def test_maps_that_cannot_be_used(
    run: Callable[..., int],
    tmp_path: Path,
    maps: Path,
    caplog: pytest.LogCaptureFixture,
    values: np.ndarray | None,
    kind: str,
    word: str,
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("bad", "good"):
        save_image(images / f"{name}.png")
    np.save(maps / "good.npy", RAMP)
    if values is not None:
        np.save(maps / "bad.npy", values, allow_pickle=True)
    assert run(images, options=f"--save params --depth-maps {maps} --depth-kind {kind}") == 2, (
        "the damaged map is an error …"
    )
    assert list_names(tmp_path / "out") == ["bad.npz", "good.npz"], "… and nothing is lost"
    lines = [record.getMessage() for record in caplog.records if "placed without a depth map" in record.getMessage()]
    assert len(lines) == 1
    assert word in lines[0]
    with np.load(tmp_path / "out" / "good.npz") as found:
        assert np.isfinite(found["pelvis_covariance"]).all()


def write_depth_bag(path: Path) -> Path:
    """Write a bag of two images (HEIGHT, WIDTH) with depth images of 2 m."""
    with BagWriter(path) as writer:
        camera = CameraBag(writer)
        for index in range(2):
            time_ns = START_NS + index * 10**8
            camera.write_image(make_image(seed=index), time_ns, as_jpeg=False)
            camera.write_depth(np.full((HEIGHT, WIDTH), 2000, np.uint16), time_ns)
    return path


def test_a_bag_keeps_its_measured_depth_where_a_map_is_missing(
    run: Callable[..., int], tmp_path: Path, maps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_depth_bag(tmp_path / "walk.mcap")
    assert run(bag, options="--save params") == 0
    measured = np.load(tmp_path / "out" / "walk_000001.npz")["pelvis"]
    np.save(maps / "walk_000000.npy", RAMP)
    assert run(bag, options=f"--save params --overwrite --depth-maps {maps}") == 2
    assert "walk_000001.npy, .npz or .png in" in caplog.text
    assert "its measured depth is used instead" in caplog.text
    assert "placed without a depth map" not in caplog.text
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "walk_000001.npz")["pelvis"], measured)


@pytest.mark.parametrize("source", ["--depth-maps", "--depth-model"])
def test_depth_topic_and_depth_maps_exclude_each_other(
    run: Callable[..., int], tmp_path: Path, maps: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    bag = write_depth_bag(tmp_path / "walk.mcap")
    assert run(bag, options=f"--save params --depth-topic /camera/depth/image_raw {source} {maps}") == 2
    assert "expected --depth-topic TOPIC, --depth-maps or --depth-model, got two of them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"text"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_damaged_files(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name) as error:
        read_depth_map(path)
    assert "allow_pickle" not in str(error.value), "no unsafe advice"


def test_a_damaged_compressed_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, depth=RAMP)
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30  # after the header of the zip file's first entry
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the depth map .*a\.npz \(Error -3"):
        read_depth_map(path)


def test_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    header = make_png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + make_png_chunk(b"IDAT", zlib.compress(bytes(1000))))
    with pytest.raises(UserError, match=r"a\.png has more than \d+ pixels; scale it down first"):
        read_depth_map(path)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i2", ">i2"])
def test_integers_of_16_bits_are_millimeters(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "a.npy", np.array([[2500, 0], [-1 if "i" in kind else 40_000, 1]], kind))
    np.save(tmp_path / "b.npy", np.array([[2.5, 0], [0 if "i" in kind else 40, 0.001]], np.float64))
    integers, meters = (depth_to_meters(read_depth_map(tmp_path / name)) for name in ("a.npy", "b.npy"))
    np.testing.assert_allclose(integers, meters)


@pytest.mark.parametrize("kind", ["u1", "i1", "u4", "i4", "i8", "?", "c8"])
def test_integers_of_unknown_unit_are_refused(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2), kind))
    with pytest.raises(UserError, match=r"must be .* floats or 16-bit integers"):
        read_depth_map(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--depth-maps nowhere", "--depth-maps must be a folder"),
        ("--depth-model .", "without config.json"),
        ("--depth-model /nowhere/model", "got /nowhere/model without config.json"),
        ("--depth-maps . --depth-model .", "got both"),
        ("--depth-kind metric", "--depth-kind is for --depth-maps"),
        ("--depth-kind inverse --depth-model .", "--depth-kind is for --depth-maps"),
    ],
)
def test_mistakes_in_options(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(save_image(tmp_path / "a.png"), options=options) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert word in error
    assert list_names(tmp_path / "out") == []


def test_maps_are_relative_by_default() -> None:
    assert RelativeDepthMap(RAMP).kind == "inverse"
