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

"""Training of the network with MoveNet's encoder: losses, gradients, learning rates, initial weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.movenet import MoveNetOutputs
from multihmr2_ros.network.proposals import find_centers, propose_people
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.initial_network import make_network
from multihmr2_ros.training.keypoint_losses import encoder_keypoint_loss
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.matching import Matches
from multihmr2_ros.training.optimizer import OptimizerConfig, limit_gradients, make_optimizer
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.trainer import Trainer
from test.helpers.movenet_network import TINY, make_batch, make_movenet_network
from test.helpers.training_samples import body

pytestmark = pytest.mark.usefixtures("one_thread", "without_curves")


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


def test_every_part_gets_a_gradient_and_the_encoder_can_be_frozen() -> None:
    model, data = make_movenet_network(), make_batch()
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
    trainer = Trainer(make_movenet_network(), body(), frozen_encoder, Path(), torch.device("cpu"))
    frozen = [name for name, value in trainer.network.named_parameters() if not value.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.pretrained.") for name in frozen)


def test_a_run_is_resumed_from_the_same_initial_encoder(tmp_path: Path) -> None:
    """Groups of the optimizer are ordered by their rates, which depend on the initial weights of the encoder."""
    run, again = (
        Trainer(make_movenet_network(seed), body(), TrainingConfig(), tmp_path, torch.device("cpu")) for seed in (0, 1)
    )
    for value in run.network.parameters():
        value.grad = torch.zeros_like(value)
    run.optimizer.step()
    run.save()
    with pytest.raises(UserError, match="started from another encoder; resume with the same --encoder-weights"):
        again.resume()


def test_pretrained_convolutions_have_the_encoders_learning_rate_relative_to_their_weights() -> None:
    model = make_movenet_network()
    optimizer = make_optimizer(model, OptimizerConfig(encoder_factor=0.1, learning_rate=1.0))
    peak = {id(value): group["peak"] for group in optimizer.param_groups for value in group["params"]}
    for name, value in model.named_parameters():
        if name.startswith("backbone.pretrained."):
            channels = value.detach().abs() if value.ndim == 1 else value.detach().flatten(1).square().mean(1).sqrt()
            assert 0.1 * channels.min() <= peak[id(value)] <= 0.1 * channels.median() + 1e-6, name
        else:
            assert peak[id(value)] == 1.0, name


def test_gradients_of_pretrained_convolutions_are_clipped_separately() -> None:
    model = make_movenet_network()
    for name, value in model.named_parameters():
        value.grad = torch.full_like(value, 1e4 if name.startswith("backbone.pretrained.") else 1e-6)
    norm = limit_gradients(model, OptimizerConfig(gradient_norm=1.0))
    assert 0 < norm < 0.1
    assert model.person.pose[0].weight.grad.mean() == pytest.approx(1e-6)
    pretrained = [value.grad for name, value in model.named_parameters() if name.startswith("backbone.pretrained.")]
    assert torch.nn.utils.get_total_norm(pretrained) == pytest.approx(1.0, rel=1e-3)


def test_a_network_can_start_with_the_encoder_of_another(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, file in enumerate(files):
        checkpoint.save_network(make_movenet_network(seed), file)
    session = Session(tmp_path, TINY, TrainingConfig(), start_from=files[0], encoder_weights=files[1])
    found, own, other = make_network(session), *(checkpoint.load_network(file) for file in files)
    for name, value in found.state_dict().items():
        expected = (other if name.startswith("backbone.pretrained.") else own).state_dict()[name]
        assert torch.equal(value, expected), name
    with pytest.raises(UserError, match="--encoder-weights"):
        make_network(Session(tmp_path, TINY, TrainingConfig()))
