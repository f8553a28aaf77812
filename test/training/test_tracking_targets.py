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

"""Tracking targets: the color layout distinguishes people, and SAM2's memory has the layout given in the paper."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.scene import SceneOptions
from multihmr2_ros.training.augmentation import AugmentationConfig
from multihmr2_ros.training.data import BatchConfig, Batches
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.render_processes import RenderProcesses
from multihmr2_ros.training.rendering import RenderCacheConfig, open_folder
from multihmr2_ros.training.tracking_targets import SAM2_FEATURE_WIDTH, ColorLayout, Sam2Memory
from multihmr2_ros.training.trainer import Trainer
from multihmr2_ros.training.training_log import read_log
from test.helpers.training_runs import NETWORK

pytestmark = pytest.mark.usefixtures("one_thread")

PEOPLE = 12


def draw_clothes(person: int) -> NDArray[np.float64]:
    """Return colors (4, 3) from head to feet: hair, top, trousers, shoes; the skin is equal for all."""
    return np.random.default_rng(1000 + person).uniform(0.05, 0.9, (4, 3))


def make_scene(person: int, frame: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
    """Return a person of another size, place, light and background per frame: image, box (1, 4), mask (1, H, W)."""
    generator = np.random.default_rng((person, frame))
    image = generator.uniform(0.2, 0.8, (6, 8, 3)).repeat(40, 0).repeat(40, 1)
    height, mask = int(generator.integers(60, 200)), np.zeros((1, 240, 320), bool)
    width, top, left = height // 3, int(generator.integers(0, 240 - height)), int(generator.integers(0, 250))
    edges = top + (height * np.array([0, 0.15, 0.55, 0.92, 1])).astype(int)
    sway = int(generator.integers(-2, 3))
    for color, upper, lower in zip(draw_clothes(person), edges[:-1], edges[1:], strict=True):
        image[upper:lower, left + 4 + sway : left + width - 4 + sway] = color
        mask[0, upper:lower, left + 4 + sway : left + width - 4 + sway] = True
    light = generator.uniform(0.6, 1.2)
    noisy = 255 * image * light + generator.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), np.array([[left, top, left + width, top + height]], float), mask


def test_people_are_distinguished_over_time() -> None:
    """The nearest other image, in L1, nearly always shows the same person."""
    describe = ColorLayout(256)
    rows = []
    for person in range(PEOPLE):
        for frame in range(4):
            image, box, _ = make_scene(person, frame)
            feature, known = describe(image, box)
            assert known.all()
            rows.append(feature[0])
    features, identity = np.array(rows), np.arange(PEOPLE).repeat(4)
    distance = np.abs(features[:, None] - features).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (identity[distance.argmin(axis=1)] == identity).mean() > 0.9
    assert abs(features.mean()) < 0.2
    assert 0.5 < features.std() < 1.5


def test_people_who_are_not_visible_have_no_feature() -> None:
    image, box, _ = make_scene(0, 0)
    boxes = np.concatenate([box, [[300, 10, 302, 200], [400, 10, 500, 90], [50, 50, 40, 40]]])
    feature, known = ColorLayout(32)(image, boxes)
    assert known.tolist() == [True, False, False, False]
    assert not feature[1:].any()
    feature, known = ColorLayout(32)(image, np.zeros((0, 4)))
    assert feature.shape == (0, 32)
    assert known.shape == (0,)


def test_a_width_gives_the_same_numbers_on_every_machine() -> None:
    image, box, _ = make_scene(3, 1)
    first, second = ColorLayout(64)(image, box)[0], ColorLayout(64)(image, box)[0]
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    black, _ = ColorLayout(64)(np.zeros_like(image), box)
    assert np.isfinite(black).all()


def make_small_encoder() -> Any:
    """Return the configuration of SAM2's image encoder, with few and narrow layers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.Sam2VisionConfig(
        backbone_config=transformers.Sam2HieraDetConfig(
            hidden_size=16,
            num_attention_heads=1,
            blocks_per_stage=[1, 1, 1, 1],
            embed_dim_per_stage=[16, 32, 64, 128],
            num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[8, 4, 14, 7],
            global_attention_blocks=[],
        ),
        backbone_channel_list=[128, 64, 32, 16],
    )


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of SAM2's architecture with a small encoder and random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("sam2")
    transformers.Sam2VideoModel(transformers.Sam2VideoConfig(vision_config=make_small_encoder())).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def sam2(sam2_folder: Path) -> Sam2Memory:
    return Sam2Memory(sam2_folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nothing", "expected a SAM2 model in .* omit --sam2"),
        ("no configuration", "cannot read the SAM2 model"),
        ("half", "cannot read the SAM2 model .* incomplete metadata"),
        ("of single images", "got a model without memory encoder"),
    ],
)
def test_sam2_must_be_there(tmp_path: Path, sam2_folder: Path, damage: str, message: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    if damage == "no configuration":
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    elif damage == "half":
        shutil.copytree(sam2_folder, folder)
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "of single images":
        transformers.Sam2Model(transformers.Sam2Config(vision_config=make_small_encoder())).save_pretrained(folder)
    with pytest.raises(UserError, match=message) as caught:
        Sam2Memory(folder)
    assert "\n" not in str(caught.value)


def test_sam2_describes_each_mask(sam2: Sam2Memory) -> None:
    image, _, mask = make_scene(0, 0)
    other = np.zeros_like(mask)
    other[0, 100:200, 200:260] = True
    masks = np.concatenate([mask, other, np.zeros_like(mask)])
    feature, known = sam2(image, masks)
    assert feature.shape == (3, SAM2_FEATURE_WIDTH)
    assert known.tolist() == [True, True, False]
    assert np.isfinite(feature).all()
    assert np.abs(feature[0] - feature[1]).max() > 0
    alone, _ = sam2(image, mask)
    np.testing.assert_allclose(alone[0], feature[0], atol=1e-4)


IMAGES = 3
RENDERS = ("--render-size", "96x72", "--people", "1", "3", "--held-out-images", "0")
SCENE = SceneOptions(width=96, height=72, people=(1, 3))


@pytest.fixture(scope="module")
def sam2_cache(sam2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache rendered by the command with SAM2's features."""
    folder = tmp_path_factory.mktemp("render_cache")
    options = ["--cache", str(folder), "--images", str(IMAGES), "--sam2", str(sam2_folder), *RENDERS]
    assert main(["train", "--render-only", *options]) == 0
    return folder


def render_again(seed: int, sam2: Sam2Memory) -> dict[int, NDArray[np.float32]]:
    """Return person_id → SAM2's memory for each person with a visible pixel in the seed's render, from the masks."""
    from multihmr2_ros.body import Body
    from multihmr2_ros.simulation.rendering.renderer import Renderer
    from multihmr2_ros.simulation.scene import sample_scene
    from multihmr2_ros.simulation.scene.posing import pose_scene

    body, generator = Body("full"), np.random.default_rng(seed)
    scene = sample_scene(generator, SCENE)
    posed = pose_scene(scene, 0.0, body)
    rendered = Renderer(body).render(scene, posed, generator)
    masks = np.stack([rendered.instances == row for row in range(len(posed.person_id))])
    feature, known = sam2(rendered.image, masks)
    return {int(posed.person_id[row]): feature[row] for row in np.flatnonzero(known)}


def test_renders_keep_what_sam2_says_of_their_masks(sam2_cache: Path, sam2: Sam2Memory) -> None:
    render_cache = RenderCache(sam2_cache)
    assert len(render_cache) == IMAGES
    for seed in range(IMAGES):
        sample = render_cache.sample(seed)
        expected = render_again(seed, sam2)
        assert sample.track_feature.shape == (len(sample), SAM2_FEATURE_WIDTH)
        assert sample.track_feature.dtype == np.float32
        assert sorted(expected) == sorted(sample.person_id)
        for person, feature in zip(sample.person_id, sample.track_feature, strict=True):
            np.testing.assert_allclose(feature, expected[person], rtol=1e-3, atol=1e-4)  # half precision


def test_batches_teach_the_stored_features_mirrored_and_cropped_as_they_are(sam2_cache: Path) -> None:
    render_cache = RenderCache(sam2_cache)
    varied = AugmentationConfig(flip=1.0)
    config = BatchConfig(8, 192, track_feature_width=SAM2_FEATURE_WIDTH, sam2_features=True, augmentation=varied)
    batch = Batches([(render_cache, 1.0)], config, 0)[0]
    targets = batch.targets
    assert targets.has_track_feature.any()
    assert torch.equal(targets.has_track_feature, targets.present)
    for image, slot in targets.present.nonzero().tolist():
        found = re.search(r"\[(\d+)\]", batch.origins[image])
        assert found is not None
        sample = render_cache.sample(int(found[1]))
        (row,) = np.flatnonzero((sample.shape == targets.shape[image, slot].numpy()).all(axis=1))
        np.testing.assert_array_equal(targets.track_feature[image, slot], sample.track_feature[row])


def test_the_command_learns_sam2s_features(
    sam2_cache: Path,
    sam2_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "save", lambda self: None)  # 330 MB, most of it for this feature's head
    network = dataclasses.replace(NETWORK, track_feature_width=SAM2_FEATURE_WIDTH)
    (tmp_path / "network.json").write_text(json.dumps(vars(network)))
    small = ["--network", str(tmp_path / "network.json"), "--batch-size", "4", "--loader-workers", "0"]
    command = ["train", "--out", str(tmp_path / "run"), "--cache", str(sam2_cache), "--steps", "1", "--device", "cpu"]
    command += [*small, *RENDERS, "--augmentation", "none=1"]
    assert main(command) == 2
    assert f"expected sam2 {sam2_folder} as in the existing files of" in capsys.readouterr().err
    assert main([*command, "--sam2", str(sam2_folder)]) == 0
    assert read_log(tmp_path / "run" / "log.jsonl")[0]["track_feature"] > 0


def test_renderers_report_a_wrong_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    config = RenderCacheConfig(tmp_path / "render_cache", SCENE, held_out_images=0, sam2=tmp_path)
    open_folder(config)
    with RenderProcesses(config, 1, images=1, niceness=0) as renderers:
        for process in multiprocessing.active_children():
            process.join(120)
        assert renderers.failed == 1
    assert f"renderer 0: expected a SAM2 model in {tmp_path}" in capfd.readouterr().err
