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

"""Training runs of a tiny network on drawn people, without loader processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import BatchConfig, Batches
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.trainer import Trainer
from test.helpers.nano_network import TINY
from test.helpers.training_samples import body

NETWORK = dataclasses.replace(TINY, image_size=96, max_grid=6)


def make_config(steps: int = 6, **changes: object) -> TrainingConfig:
    """Return a configuration of short steps, each of which is logged."""
    values: dict[str, object] = {
        "log_steps": 1,
        "validate_steps": 100,
        "checkpoint_steps": 100,
        "loader_workers": 0,
        "batch": BatchConfig(batch_size=2, image_size=96, track_feature_width=NETWORK.track_feature_width),
        "optimisation": OptimizerConfig(warmup_steps=2, decay_fraction=0.0),
    }
    return TrainingConfig(steps=steps, **(values | changes))  # type: ignore[arg-type]


def make_trainer(folder: Path, configuration: TrainingConfig, *, curves: bool = False, **changes: object) -> Trainer:
    """Return the trainer of a new network. Without curves, which take longer to draw than a few steps."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(configuration.seed)
    network = MultiHMR2(NETWORK)
    result = Trainer(network, body(), configuration, folder, torch.device("cpu"), **changes)  # type: ignore[arg-type]
    if result.log is not None and not curves:
        result.log.draw = lambda: None  # type: ignore[method-assign]
    return result


def make_batches(cache: Path, configuration: TrainingConfig) -> Batches:
    return Batches([(RenderCache(cache), 1.0)], configuration.batch, configuration.seed)
