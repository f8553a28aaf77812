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

"""Poses learned from keypoints alone: simulated detections, losses, alternation with images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.lifting import (
    KeypointBatches,
    MixedBatches,
    compute_lifting_losses,
    make_pose_bank,
    simulate_detected_keypoints,
)
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.trainer import Trainer
from test.helpers.movenet_network import TINY, make_movenet_network
from test.helpers.training_samples import body

pytestmark = pytest.mark.usefixtures("one_thread", "without_curves")


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
        terms.append(compute_lifting_losses(make_movenet_network(), moved, body(), LossConfig(depth=1.0)))
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


def test_keypoint_steps_come_first_and_then_at_intervals() -> None:
    class Numbers:
        def __getitem__(self, step: int) -> int:
            return step

    class Negatives:
        def __getitem__(self, step: int) -> int:
            return -step

    mixed: Any = MixedBatches(Numbers(), Negatives(), steps=3, every=4)  # type: ignore[arg-type]
    assert [mixed[step] for step in range(9)] == [0, -1, -2, 3, -4, 5, 6, 7, -8]


def test_bone_heads_are_near_cocos_keypoints() -> None:
    shape = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    posed = body()(shape, torch.eye(3).repeat(20, 163, 1, 1))
    apart = posed.joints[:, body().keypoint_bones] - regress_low_mesh_keypoints(body(), posed.vertices)
    assert (apart.norm(dim=-1).mean(0) < 0.06).all()
