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

"""The options of one call of `multihmr2 train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import SampleSource
from multihmr2_ros.training.lifting import LiftingConfig
from multihmr2_ros.training.rendering import RenderCacheConfig


@dataclass(frozen=True)
class Session:
    """The options of one call of `multihmr2 train`.

    out                folder of the run
    network            sizes of a network that starts from random weights
    training           settings of the run
    render_cache       the render cache to train on
    render_workers     background processes that render during training
    datasets           readers of real data
    data               description of the training data, values of JSON by name; saved in the state, to list what
                       changed when the run is resumed
    render_share       fraction of renders among the images, if there are datasets
    start_from         weights file that the network starts from, instead of random weights
    encoder_weights    weights file of the pretrained encoder; replaces that of start_from
    features           folders of batches with features of the frozen encoder, to train on instead of images
    lifting            settings of steps on keypoints alone
    consistency_with   weights file of the reference model of the consistency losses
    resume             continue the run in `out`
    device             a PyTorch device, or auto
    time_limit_s       save and end after this time; None: no limit
    """

    out: Path
    network: NetworkConfig
    training: TrainingConfig
    render_cache: RenderCacheConfig | None = None
    render_workers: int = 0
    datasets: tuple[SampleSource, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    render_share: float = 0.5
    start_from: Path | None = None
    encoder_weights: Path | None = None
    features: tuple[Path, ...] = ()
    lifting: LiftingConfig | None = None
    consistency_with: Path | None = None
    resume: bool = False
    device: str = "auto"
    time_limit_s: float | None = None
