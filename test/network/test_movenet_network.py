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

"""The pretrained encoder, queries initialized from its people, features cached on disk, poses from keypoints."""

from __future__ import annotations

import dataclasses
import importlib.util
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NANO, NetworkConfig
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.movenet import MoveNet, MoveNetOutputs, load_encoder
from multihmr2_ros.network.proposals import WINDOW, find_centers, propose_people, sample_at
from multihmr2_ros.training.body_losses import keypoint_similarity_loss
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.feature_cache import (
    SETTINGS_FILE,
    CachedBatches,
    check_encoder,
    check_track_features,
    list_missing_batches,
    read_batch,
    write_batch,
)
from multihmr2_ros.training.initial_network import make_network
from multihmr2_ros.training.keypoint_losses import encoder_keypoint_loss
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.lifting import (
    KeypointBatches,
    MixedBatches,
    compute_lifting_losses,
    make_pose_bank,
    simulate_detected_keypoints,
)
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.matching import Matches
from multihmr2_ros.training.optimizer import OptimizerConfig, limit_gradients, make_optimizer
from multihmr2_ros.training.readers import EmptyImageReader, HashSplit
from multihmr2_ros.training.readers.common import compute_hash_share
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.trainer import Trainer
from test.helpers.nano_network import NARROW, nano_network, random_targets
from test.helpers.scripts import load_script
from test.helpers.signals import send_signal_to_loop
from test.helpers.training_samples import body
from test.paths import SHARED

WEIGHTS = SHARED / "data/pretrained/movenet_multipose.safetensors"
REFERENCE = SHARED / "tools/movenet_reference.py"
TINY = dataclasses.replace(NANO, max_grid=8, **NARROW)
SIZE = (192, 256)
pytestmark = pytest.mark.usefixtures("one_thread", "without_curves")
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"MoveNet's weights are not in {WEIGHTS.parent}")


def network(seed: int = 0) -> MultiHMR2:
    torch.manual_seed(seed)
    return initialize(MultiHMR2(TINY))


def batch(images: int = 2, people: int = 3) -> Batch:
    torch.manual_seed(1)
    image = torch.randint(0, 256, (images, 3, *SIZE), dtype=torch.uint8)
    targets = random_targets(images, people, SIZE)
    return Batch(image, targets, torch.zeros(images, dtype=torch.bool), ("a",) * images)


def converted(folder: Path) -> Path:
    load_script("convert_movenet").convert(WEIGHTS, folder / "movenet.safetensors")
    return folder / "movenet.safetensors"


@needs_weights
def test_the_encoder_equals_the_reference(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("movenet_reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    encoder = MoveNet().eval()
    load_encoder(encoder, converted(tmp_path))
    image = torch.randint(0, 256, (2, 3, 96, 160)).float()
    with torch.inference_mode():
        features, heads = reference.load()(image)
        found = encoder(image / 127.5 - 1)
    for ours, theirs in (
        (found.context_16, features["c4"]),
        (found.context_32, features["c5"]),
        (found.finest, features["p2"]),
        (found.center, heads["center_0"][:, 0]),
        (found.keypoint, heads["kpt_heatmap_0"]),
        (found.regression.flatten(1, 2), heads["kpt_regress_0"]),
        (found.offset.flatten(1, 2), heads["kpt_offset_0"]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@needs_weights
def test_the_person_in_an_image_is_proposed_first(tmp_path: Path) -> None:
    """The skier of shared/cases: keypoints inside the body's box, the nose above the hips, high scores."""
    path = SHARED / "cases/in/skier.jpg"
    if not path.is_file():
        pytest.skip(f"the image {path} is not beside this checkout")
    encoder = MoveNet().eval()
    load_encoder(encoder, converted(tmp_path))
    image = Image.open(path).convert("RGB").resize((320, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        logit, keypoints, score = propose_people(encoder(pixels), 5)
    best = keypoints[0, 0]
    assert logit[0, 0] == logit.max()
    assert score[0, 0].mean() > 0.3
    assert best[0, 1] < best[11:13, 1].min() < best[15:17, 1].min()  # nose, hips, ankles from top to bottom
    assert (best >= 0).all()
    assert (best <= torch.tensor([320, 224])).all()


def test_proposals_are_decoded_as_centers_with_keypoints() -> None:
    """A single peak with a known regression: the keypoint moves to the nearby peak of the heat map, by its offset."""
    outputs = MoveNet().eval()(torch.zeros(1, 3, 64, 96))
    outputs = dataclasses.replace(
        outputs,
        center=torch.full_like(outputs.center, -9.0),
        keypoint=torch.full_like(outputs.keypoint, -9.0),
        regression=torch.zeros_like(outputs.regression),
        offset=torch.zeros_like(outputs.offset),
    )
    outputs.center[0, 8, 10] = 3.0
    outputs.regression[0, 4, :, 8, 10] = torch.tensor([-4.0, 6.0])  # y, x: to cell (4, 16)
    outputs.keypoint[0, 4, 4 - WINDOW + 1, 16 + 1] = 2.0
    outputs.offset[0, 4, :, 4 - WINDOW + 1, 16 + 1] = torch.tensor([0.25, -0.5])
    logit, keypoints, score = propose_people(outputs, 3)
    assert logit[0, 0] == 3.0
    np.testing.assert_allclose(keypoints[0, 0, 4], [4 * 16.5, 4 * (4 - WINDOW + 1.25)])
    np.testing.assert_allclose(score[0, 0, 4], torch.sigmoid(torch.tensor(2.0)))
    np.testing.assert_allclose(keypoints[0, 0, 3], [40, 32])  # no regression, no heat: the center


@torch.inference_mode()
def test_scores_and_positions_are_not_rounded_in_low_precision() -> None:
    encoder = network().set_precision(torch.bfloat16).backbone.pretrained
    assert encoder is not None
    outputs = encoder.movenet(torch.rand(1, 3, 64, 96).bfloat16())
    assert outputs.context_16.dtype == torch.bfloat16
    for values in (outputs.center, outputs.keypoint, outputs.regression, outputs.offset):
        assert not torch.equal(values, values.bfloat16().float())


def test_the_encoder_learns_to_propose_the_true_keypoints() -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = {"center": (), "keypoint": (17,), "regression": (17, 2), "offset": (17, 2)}
    maps = {
        name: (0.1 * torch.randn(1, *size, 48, 64, generator=generator)).requires_grad_()
        for name, size in sizes.items()
    }
    with torch.no_grad():
        maps["center"][0, 20, 15] = maps["center"][0, 24, 45] = 9.0
    unused = torch.zeros(1, 1, 1, 1)
    outputs = MoveNetOutputs(unused, unused, unused, **maps)
    spread = 60.0 * (torch.rand(1, 2, 17, 2, generator=generator) - 0.5)
    truth = spread + torch.tensor([[15.0, 20.0], [45.0, 24.0]])[:, None] * 4  # px, about the two centers
    known = torch.ones(1, 2, 17, dtype=torch.bool)
    truth[0, 1, 4], known[0, 1, 4] = 1e5, False
    _, cells = find_centers(outputs, 2)
    order = torch.tensor([0, 1]) if cells[0, 0, 1] == 15 else torch.tensor([1, 0])
    matches = Matches(torch.tensor([0, 0]), torch.arange(2), order, torch.zeros(1, 2, dtype=torch.bool))
    optimizer = torch.optim.Adam([value for name, value in maps.items() if name != "center"], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = encoder_keypoint_loss(outputs, 2, matches, truth, known)
        loss.backward()
        optimizer.step()
    _, keypoints, _ = propose_people(outputs, 2)
    error = (keypoints[0] - truth[0, order]).norm(dim=-1)[known[0, order]]
    assert error.max() < 1.0  # px
    # Also if a neighboring cell is selected: as of the pretrained weights, its offset leads to the keypoint.
    places = truth.flip(-1)[known] / 4  # (y, x) in cells
    keypoint = torch.arange(17).expand(1, 2, 17)[known]
    for step in torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]]):
        cell = places.round().long() + step
        found = cell + maps["offset"].detach()[0, keypoint, :, cell[:, 0], cell[:, 1]]
        assert (found - places).abs().max() < 0.25

    far = dataclasses.replace(matches, person=order.flip(0))  # neither query's center is near its person
    assert encoder_keypoint_loss(outputs, 2, far, truth, known) == 0


def test_sampling_is_bilinear_about_the_middles_of_cells() -> None:
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    points = torch.tensor([[[[0.0, 0.0], [3.0, 2.0], [1.5, 1.0]]]])
    np.testing.assert_allclose(sample_at(features, points).flatten(), [0.0, 11.0, 5.5], atol=1e-5)


def test_every_part_gets_a_gradient_and_the_encoder_can_be_frozen() -> None:
    model, data = network(), batch()
    for layer in model.decoder.layers:  # branches start at zero: the layers before them would have no gradient
        for branch in (layer.self_out, layer.cross_out, layer.mlp[2]):
            torch.nn.init.normal_(branch.weight, std=0.1)
    terms = compute_losses(
        model, model.predict_for_training(data.image, data.targets.k, data.k_given), data.targets, body(), LossConfig()
    )
    torch.stack(list(terms.values())).sum().backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    # Keypoints are selected on heat maps near their regression: only `encoder_keypoint` supervises the regression.
    # The layers before zeros have no gradient yet. Tracking features are trained by scripts/train_track_features.py.
    untaught = (
        "backbone.pretrained.movenet.regression", "detection.location.0", "proposals.refine", "person.track_feature",
    )  # fmt: skip
    assert all(name.startswith(untaught) for name in silent), silent
    frozen_encoder = TrainingConfig(optimisation=OptimizerConfig(encoder_factor=0))
    trainer = Trainer(network(), body(), frozen_encoder, Path(), torch.device("cpu"))
    frozen = [name for name, value in trainer.network.named_parameters() if not value.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.pretrained.") for name in frozen)


def test_a_run_is_resumed_from_the_same_initial_encoder(tmp_path: Path) -> None:
    """Groups of the optimizer are ordered by their rates, which depend on the initial weights of the encoder."""
    run, again = (Trainer(network(seed), body(), TrainingConfig(), tmp_path, torch.device("cpu")) for seed in (0, 1))
    for value in run.network.parameters():
        value.grad = torch.zeros_like(value)
    run.optimizer.step()
    run.save()
    with pytest.raises(UserError, match="started from another encoder; resume with the same --encoder-weights"):
        again.resume()


def test_pretrained_convolutions_learn_at_the_encoder_s_rate_relative_to_their_weights() -> None:
    model = network()
    optimizer = make_optimizer(model, OptimizerConfig(encoder_factor=0.1, learning_rate=1.0))
    peak = {id(value): group["peak"] for group in optimizer.param_groups for value in group["params"]}
    for name, value in model.named_parameters():
        if name.startswith("backbone.pretrained."):
            channels = value.detach().abs() if value.ndim == 1 else value.detach().flatten(1).square().mean(1).sqrt()
            assert 0.1 * channels.min() <= peak[id(value)] <= 0.1 * channels.median() + 1e-6, name
        else:
            assert peak[id(value)] == 1.0, name


def test_gradients_of_pretrained_convolutions_are_limited_by_themselves() -> None:
    model = network()
    for name, value in model.named_parameters():
        value.grad = torch.full_like(value, 1e4 if name.startswith("backbone.pretrained.") else 1e-6)
    norm = limit_gradients(model, OptimizerConfig(gradient_norm=1.0))
    assert 0 < norm < 0.1
    assert model.person.pose[0].weight.grad.mean() == pytest.approx(1e-6)
    pretrained = [value.grad for name, value in model.named_parameters() if name.startswith("backbone.pretrained.")]
    assert torch.nn.utils.get_total_norm(pretrained) == pytest.approx(1.0, rel=1e-3)


def test_features_on_disk_train_as_the_images_do(tmp_path: Path) -> None:
    model, data = network().eval(), batch()
    assert list_missing_batches(tmp_path, 2) == [0, 1]
    path = write_batch(tmp_path, 1, data, model)
    assert list_missing_batches(tmp_path, 2) == [0]
    again = read_batch(path)
    assert again.image.shape == data.image.shape
    torch.testing.assert_close(again.targets.location, data.targets.location)
    torch.testing.assert_close(again.targets.rotations, data.targets.rotations, atol=1e-3, rtol=0)
    with torch.no_grad():
        direct = model.predict_for_training(data.image, data.targets.k, data.k_given)
        kept = model.predict_for_training(again.image, again.targets.k, again.k_given, again.features)
    torch.testing.assert_close(kept.queries, direct.queries, atol=0.05, rtol=0.05)
    torch.testing.assert_close(kept.layers[-1].location, direct.layers[-1].location, atol=1.0, rtol=0)
    features = model.extract_features(data.image)
    with torch.inference_mode():
        direct = model(data.image, data.targets.k, data.k_given, 4)
        kept = model(torch.zeros_like(data.image), data.targets.k, data.k_given, 4, features=features)
    torch.testing.assert_close(kept.center, direct.center)
    torch.testing.assert_close(kept.rotations, direct.rotations)
    assert CachedBatches([tmp_path], 0)[5].origins == again.origins
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="remove it"):
        CachedBatches([tmp_path], 0)[0]
    with pytest.raises(UserError, match="none, found none; write them with --features-only"):
        CachedBatches([tmp_path, tmp_path / "none"], 0)


WRITE = ["--features-only", "--batch-size", "1"]


@pytest.fixture
def features(tmp_path: Path, render_cache: Path) -> tuple[Path, list[str]]:
    """Return a folder with the features of a batch, and the options that they were written with."""
    checkpoint.save_network(network(), tmp_path / "tiny.safetensors")
    data = ["--cache", str(render_cache), "--features", str(tmp_path / "features")]
    options = ["train", "--from", str(tmp_path / "tiny.safetensors"), "--encoder-rate", "0", *data]
    assert main([*options, *WRITE, "--batches", "1"]) == 0
    return tmp_path / "features", options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "expected seed 0 as in the existing files of"),
        (["--augmentation", "flip=0"], "expected augmentation.flip 0.5"),
        (["--encoder-weights", "{tmp}/other.safetensors"], "expected the encoder whose features are in"),
    ],
)
def test_a_folder_of_features_takes_no_batches_of_other_options(
    tmp_path: Path,
    features: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    folder, options = features
    checkpoint.save_network(network(1), tmp_path / "other.safetensors")
    assert main([*options, *WRITE, "--batches", "2"]) == 0
    changed = [*options, *(word.format(tmp=tmp_path) for word in change)]
    assert main([*changed, *WRITE, "--batches", "3"]) == 2
    assert message in capsys.readouterr().err
    assert len(list(folder.glob("batch-*"))) == 2


@pytest.mark.usefixtures("restore_signal_handlers")
def test_interrupted_writing_of_features_is_not_a_success(
    features: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with send_signal_to_loop(signal.SIGINT):
        assert main([*features[1], *WRITE, "--batches", "1000"]) == 128 + signal.SIGINT
    assert "stopped because SIGINT was received: " in capsys.readouterr().out


def test_only_the_encoder_of_the_features_is_trained_on(
    tmp_path: Path,
    features: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, options = features
    checkpoint.save_network(network(1), tmp_path / "other.safetensors")
    other = ["--encoder-weights", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "run")]
    assert main([*options, *other, "--device", "cpu", "--seed", "1"]) == 2  # another seed would be right
    assert "expected the encoder whose features are in" in capsys.readouterr().err
    check_encoder([folder], network())
    assert not caplog.messages
    (folder / SETTINGS_FILE).unlink()  # a folder of an earlier version
    check_encoder([folder], network(1))
    assert caplog.messages[-1].endswith("its features may be of another encoder")
    assert main([*options, *WRITE, "--batches", "2", "--seed", "1"]) == 0
    assert caplog.messages[-1].endswith("its batches may have other settings")


@pytest.mark.parametrize(
    "more",
    [["--empty-images", "{tmp}/photographs"], ["--augmentation", "flip=0"], ["--batch-size", "1"], ["--k-given", "1"]],
)
def test_options_of_images_are_refused_with_stored_features(
    tmp_path: Path, features: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    options = [*features[1], "--device", "cpu", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*options, *(word.format(tmp=tmp_path) for word in more)]) == 2
    assert f"{more[0]} has no effect on the stored batches of --features" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_reference_model_has_the_encoder_of_the_features(
    tmp_path: Path, features: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save_network(network(1), tmp_path / "other.safetensors")
    checkpoint.save_network(nano_network(), tmp_path / "without.safetensors")
    options = [*features[1], "--device", "cpu", "--steps", "1", "--loader-workers", "0", "--out", str(tmp_path / "run")]
    for name in ("other", "without"):
        assert main([*options, "--consistency-with", str(tmp_path / f"{name}.safetensors")]) == 2
        assert "expected a model with the encoder of --features for --consistency-with" in capsys.readouterr().err
    assert main([*options, "--consistency-with", str(tmp_path / "tiny.safetensors")]) == 0


def test_features_without_targets_of_tracking_features_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As written with nano, for a network whose tracking features come from queries."""
    model, data = network().eval(), batch()
    folders = [tmp_path / name for name in ("with", "without")]
    for folder, width in zip(folders, (16, 0), strict=True):
        folder.mkdir()
        targets = dataclasses.replace(data.targets, track_feature=torch.zeros(2, 3, width))
        write_batch(folder, 0, dataclasses.replace(data, targets=targets), model)
    check_track_features(folders[:1], 16)
    assert not caplog.messages
    check_track_features(folders, 16)
    assert len(caplog.messages) == 1
    assert f"not trained on {folders[1]}," in caplog.messages[0]
    with pytest.raises(UserError, match="expected tracking features of width 8 in"):
        check_track_features(folders, 8)


def test_poses_are_learned_from_keypoints_alone() -> None:
    """A few poses are overfitted: the pose loss falls to a fraction within seconds."""
    bank = make_pose_bank(body(), 12, None, 0)
    batches = KeypointBatches(bank, TINY.image_size, 24, 0)
    model = initialize(MultiHMR2(dataclasses.replace(TINY, decoder_width=128, head_width=256)))
    config = TrainingConfig(
        optimisation=OptimizerConfig(encoder_factor=0, learning_rate=2e-3, warmup_steps=5, weight_decay=0)
    )
    trainer = Trainer(model, body(), config, Path(), torch.device("cpu"))
    history = []
    for step in range(60):
        history.append(trainer.step(batches[step])[0])
        trainer.progress.step += 1
    first, last = (
        {key: np.mean([values[key] for values in part]) for key in history[0]} for part in (history[:5], history[-10:])
    )
    assert last["pose_columns"] < 0.8 * first["pose_columns"]
    assert last["root_columns"] < 0.9 * first["root_columns"]
    assert last["nearness"] < 0.6 * first["nearness"]


def test_people_behind_the_camera_have_no_location_loss() -> None:
    batch = KeypointBatches(make_pose_bank(body(), 12, None, 0), TINY.image_size, 24, 0)[0]
    terms = []
    for place in ([-0.23, -0.26, -0.03], [2.0, 1.0, -1.0]):
        pelvis = batch.pelvis.clone()
        pelvis[0] = torch.tensor(place) - batch.center[0]
        moved = dataclasses.replace(batch, pelvis=pelvis)
        terms.append(compute_lifting_losses(network(), moved, body(), LossConfig(depth=1.0)))
    for name in ("location", "nearness", "depth"):
        assert terms[0][name] > 0
        torch.testing.assert_close(terms[0][name], terms[1][name])


def test_detected_keypoints_are_noisy_where_their_scores_say_so() -> None:
    bank = make_pose_bank(body(), 40, None, 1)
    drawn = KeypointBatches(bank, 384, 400, 3)[0]
    again = KeypointBatches(bank, 384, 400, 3)[0]
    torch.testing.assert_close(drawn.rotations, again.rotations)
    other = KeypointBatches(bank, 384, 400, 3, rank=1)[0]  # of another process
    assert not torch.equal(drawn.pelvis, other.pelvis)
    true = torch.rand(400, 17, 2) * drawn.size[:, None]
    found, score = simulate_detected_keypoints(drawn, true, 384)
    error = (found - true).norm(dim=-1)
    sure = score > 0.5
    assert 0.3 < sure.float().mean() < 0.9
    assert error[sure].median() < 0.3 * error[score < 0.2].median()


def test_keypoint_steps_come_first_and_then_now_and_then() -> None:
    class Numbers:
        def __getitem__(self, step: int) -> int:
            return step

    class Negatives:
        def __getitem__(self, step: int) -> int:
            return -step

    mixed: Any = MixedBatches(Numbers(), Negatives(), steps=3, every=4)  # type: ignore[arg-type]
    assert [mixed[step] for step in range(9)] == [0, -1, -2, 3, -4, 5, 6, 7, -8]


def test_keypoint_similarity_is_coco_s_with_softened_sigmas() -> None:
    k = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]])
    points = torch.zeros(1, 17, 3)
    points[..., 2] = 2.0
    pixels, visible = torch.full((1, 17, 2), 50.0), torch.ones(1, 17, dtype=torch.bool)
    box = torch.tensor([[0.0, 0, 40, 100]])
    assert keypoint_similarity_loss(points, pixels, visible, k, box) == 0
    pixels[0, 5, 0] += 10
    expected = (1 - np.exp(-100 / (2 * 0.53 * 4000 * (2 * 2 * 0.079) ** 2))) / 17
    np.testing.assert_allclose(keypoint_similarity_loss(points, pixels, visible, k, box), expected, rtol=1e-5)
    exact = points.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda found: keypoint_similarity_loss(found, pixels.double(), visible, k.double(), box.double()), exact
    )
    visible[0, 5] = False
    assert keypoint_similarity_loss(points, pixels, visible, k, box) == 0


def test_a_share_of_a_dataset_is_held_out_by_name(tmp_path: Path) -> None:
    for number in range(60):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    reader = EmptyImageReader(tmp_path)
    kept = HashSplit(reader, 0.25)
    assert 30 < len(kept) < 57
    assert all(compute_hash_share(kept.sample(row).origin) >= 0.25 for row in range(len(kept)))
    assert len(reader.sample(0)) == 0
    assert reader.sample(0).score_supervised
    assert compute_hash_share("a/b/c.jpg") == compute_hash_share("c.jpg") == pytest.approx(0.573054, abs=1e-6)


def test_weights_files_hold_the_whole_network(tmp_path: Path) -> None:
    model = network().eval()
    checkpoint.save_network(model, tmp_path / "tiny.safetensors")
    people = Estimator.load(tmp_path / "tiny.safetensors", device="cpu").step(np.zeros((90, 160, 3), np.uint8))
    assert people.image_size == (90, 160)
    assert NetworkConfig.from_dict(vars(checkpoint.load_network(tmp_path / "tiny.safetensors").config)) == TINY


def test_a_network_can_go_on_with_the_encoder_of_another(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, file in enumerate(files):
        checkpoint.save_network(network(seed), file)
    session = Session(tmp_path, TINY, TrainingConfig(), start_from=files[0], encoder_weights=files[1])
    found, own, other = make_network(session), *(checkpoint.load_network(file) for file in files)
    for name, value in found.state_dict().items():
        expected = (other if name.startswith("backbone.pretrained.") else own).state_dict()[name]
        assert torch.equal(value, expected), name
    with pytest.raises(UserError, match="--encoder-weights"):
        make_network(Session(tmp_path, TINY, TrainingConfig()))


@pytest.mark.parametrize("size", [(64, 256), (256, 64), (32, 32), (256, 224)])
def test_any_shape_of_input_works(size: tuple[int, int]) -> None:
    model = network().eval()
    with torch.no_grad():
        found = model(torch.zeros(1, 3, *size, dtype=torch.uint8), torch.eye(3)[None], torch.tensor([False]), 5)
    assert found.rotations.isfinite().all()
    assert found.center.isfinite().all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"encoder": "resnet"}, "encoder must be"),
        ({"encoder": 3}, "encoder must be"),
        ({"patch_size": 16}, "patch_size 32"),
        ({"proposed_queries": True}, "proposed_queries"),
        ({"encoder": "vit"}, "local_attention"),
    ],
)
def test_configurations_that_cannot_be(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        dataclasses.replace(TINY, **change)


def test_the_encoder_is_taken_out_of_a_whole_network(tmp_path: Path) -> None:
    model = network()
    checkpoint.save_network(model, tmp_path / "whole.safetensors")
    encoder = MoveNet()
    load_encoder(encoder, tmp_path / "whole.safetensors")
    assert model.backbone.pretrained is not None
    for name, value in model.backbone.pretrained.movenet.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[name], value)


def test_other_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    for wrong in (path, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match="convert them again") as error:
            load_encoder(MoveNet(), wrong)
        assert "\n" not in str(error.value)


def test_bone_heads_are_near_cocos_keypoints() -> None:
    shape = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    posed = body()(shape, torch.eye(3).repeat(20, 163, 1, 1))
    apart = posed.joints[:, body().keypoint_bones] - regress_low_mesh_keypoints(body(), posed.vertices)
    assert (apart.norm(dim=-1).mean(0) < 0.06).all()
