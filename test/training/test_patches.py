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

"""Targets of Multi-HMR per patch, its losses, and two people in one patch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import MULTI_HMR
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2, back_project
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.patches import assign_patches, match_patches, patch_score_loss
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.session_batches import mix_keypoint_batches
from multihmr2_ros.training.targets import Targets
from multihmr2_ros.training.trainer import Trainer
from test.helpers.nano_network import TINY, TINY_MULTI_HMR, make_random_targets
from test.helpers.training_runs import make_batches, make_config
from test.helpers.training_samples import body

SIZE = (192, 256)
OFF = {field.name: 0.0 for field in dataclasses.fields(LossConfig) if field.type == "float"}

pytestmark = pytest.mark.usefixtures("one_thread")


def make_targets(locations: list[tuple[float, float]], heights: list[float]) -> Targets:
    targets = Targets.empty(1, len(locations))
    targets.present[:] = targets.score_supervised[:] = True
    targets.location[0] = torch.tensor(locations)
    targets.box[0, :, 3] = torch.tensor(heights)
    return targets


def test_people_belong_to_the_patches_of_their_centers() -> None:
    """Also outside the image, where it is the nearest patch."""
    targets = make_targets([(100.0, 50.0), (-30.0, 500.0), (255.9, 0.1)], [50.0, 50.0, 50.0])
    person = assign_patches(targets, SIZE, 16).person
    assert person.shape == (1, 12, 16)
    assert {tuple(cell): int(person[0][tuple(cell)]) for cell in (person[0] >= 0).nonzero().tolist()} == {
        (3, 6): 0,
        (11, 0): 1,
        (0, 15): 2,
    }


def test_of_two_people_in_a_patch_the_larger_one_is_the_target() -> None:
    targets = make_targets([(100.0, 50.0), (105.0, 55.0)], [50.0, 90.0])
    assert int(assign_patches(targets, SIZE, 16).person[0, 3, 6]) == 1
    targets.present[0, 1] = False
    assert int(assign_patches(targets, SIZE, 16).person[0, 3, 6]) == 0
    targets.present[:] = False
    assert not assign_patches(targets, SIZE, 16).is_center.any()


def test_ignored_people_and_unsupervised_images_teach_no_score() -> None:
    targets = make_targets([(100.0, 50.0), (0.0, 0.0)], [50.0, 0.0])
    targets.present[0, 1], targets.ignore[0, 1] = False, True
    targets.box[0, 1] = torch.tensor([80.0, 32.0, 112.0, 96.0])
    found = assign_patches(targets, SIZE, 16)
    expected = torch.ones(12, 16, dtype=torch.bool)
    expected[2:6, 5:7] = False
    expected[3, 6] = True  # the person in front
    assert torch.equal(found.supervised[0], expected)
    targets.score_supervised[:] = False
    assert not assign_patches(targets, SIZE, 16).supervised.any()


def test_queries_are_matched_by_their_patch() -> None:
    targets = make_targets([(100.0, 50.0), (8.0, 8.0)], [50.0, 50.0])
    patch = torch.tensor([[5, 3 * 16 + 6, 0, 17]])
    matches = match_patches(patch, assign_patches(targets, SIZE, 16))
    assert (matches.image.tolist(), matches.query.tolist(), matches.person.tolist()) == ([0, 0], [1, 2], [0, 1])
    assert not matches.negative.any()


def test_the_score_is_learned_by_cross_entropy() -> None:
    targets = make_targets([(100.0, 50.0), (8.0, 8.0)], [50.0, 50.0])
    logit = torch.randn(1, 12, 16, dtype=torch.float64)
    score = torch.sigmoid(logit[0]).numpy()
    right = np.where(assign_patches(targets, SIZE, 16).is_center[0].numpy(), score, 1 - score)
    loss = patch_score_loss(logit, assign_patches(targets, SIZE, 16))
    assert float(loss) == pytest.approx(-np.log(right).sum() / 2)


def count_found(architecture: str) -> int:
    """Learn one image of two people whose centers share a patch, by heart; return the number of people found."""
    torch.manual_seed(0)
    sizes = dataclasses.replace(TINY if architecture == "multi-hmr-2" else TINY_MULTI_HMR, keypoint_maps=False)
    network, image = initialize(MultiHMR2(sizes)).train(), torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    targets, given = make_random_targets(1, 2, SIZE), torch.tensor([True])
    targets.location[0] = torch.tensor([[99.0, 99.0], [109.0, 109.0]])
    targets.centre[:] = back_project(targets.location, torch.tensor([[2.0, 4.0]]), targets.k)
    true = assign_patches(targets, SIZE, sizes.patch_size).is_center
    assert int(true.sum()) == 1
    weights = LossConfig(**(OFF | {"score": 2.0, "heatmap": 2.0, "location": 6.0, "nearness": 1.5, "auxiliary": 1.0}))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(60):
        outputs = network.predict_for_training(image, targets.k, given, None, true)
        optimizer.zero_grad()
        torch.stack(list(compute_losses(network, outputs, targets, body(), weights).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return int((network.eval()(image, targets.k, given, 10).score > 0.4).sum())


def test_two_people_in_one_patch_are_found_by_the_successor_only() -> None:
    """The documented limit of Multi-HMR: a patch detects one person at most."""
    assert count_found("multi-hmr-2") == 2
    assert count_found("multi-hmr") == 1


@pytest.mark.usefixtures("without_curves")
def test_the_loop_trains_saves_and_resumes(tmp_path: Path, render_cache: Path) -> None:
    sizes = dataclasses.replace(TINY_MULTI_HMR, image_size=96, max_grid=6)
    (tmp_path / "run").mkdir()

    def make_trainer(steps: int) -> Trainer:
        torch.manual_seed(0)
        return Trainer(MultiHMR2(sizes), body(), make_config(steps), tmp_path / "run", torch.device("cpu"))

    first = make_trainer(1)
    assert first.run(make_batches(render_cache, make_config(1)), show_progress=False)
    assert checkpoint.load_network(tmp_path / "run" / "network.safetensors").config == sizes
    again = make_trainer(2)
    again.resume()
    assert again.progress.step == 1
    before = again.network.decoder.to_query.weight.clone()
    assert again.run(make_batches(render_cache, make_config(2)), show_progress=False)
    assert not torch.equal(again.network.decoder.to_query.weight, before)


def test_a_model_of_the_other_architecture_can_be_the_reference(render_cache: Path) -> None:
    """The consistency terms compare people that both models match, each in its own way."""
    from multihmr2_ros.training.objective import TrainingObjective

    sizes = dataclasses.replace(TINY_MULTI_HMR, image_size=96, max_grid=6)
    torch.manual_seed(0)
    reference = MultiHMR2(dataclasses.replace(TINY, image_size=96, max_grid=6)).requires_grad_(False)
    weights = LossConfig(**(OFF | {"consistency_pose": 1.0}))
    terms = TrainingObjective(MultiHMR2(sizes), body(), weights, "fp32", reference)(
        make_batches(render_cache, make_config())[1]
    )
    assert terms["consistency_pose"] > 0


def test_keypoints_alone_cannot_train_it(tmp_path: Path) -> None:
    from multihmr2_ros.training.lifting import LiftingConfig

    session = Session(tmp_path, MULTI_HMR, make_config(), lifting=LiftingConfig(steps=1))
    with pytest.raises(UserError, match="queries start from keypoints: --network nano"):
        mix_keypoint_batches([], session)  # type: ignore[arg-type]
