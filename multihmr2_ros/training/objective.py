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

"""The training objective: the loss terms of a batch, as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import list_bf16_instructions, read_cpu_description
from multihmr2_ros.network.model import MultiHMR2, TrainingOutputs
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.lifting import KeypointBatch, compute_lifting_losses
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.patches import assign_patches


class TrainingObjective(nn.Module):
    """Loss terms of a batch in one module; DistributedDataParallel must cover all uses of parameters."""

    def __init__(
        self, network: MultiHMR2, body: Body, config: LossConfig, precision: str, reference: MultiHMR2 | None
    ) -> None:
        super().__init__()
        self.network = network
        # In a dictionary, so that they are no submodules: neither is trained or synchronized between processes.
        self._fixed: dict[str, Any] = {"body": body, "reference": reference}
        self.config = config
        self.bf16 = precision == "bf16"

    def forward(self, batch: Batch | KeypointBatch) -> dict[str, Tensor]:
        """Return the weighted terms by name. The network runs under autocast; bodies and losses are in float32."""
        if isinstance(batch, KeypointBatch):
            return compute_lifting_losses(self.network, batch, self._fixed["body"], self.config)
        outputs = self._predict(self.network, batch)
        reference = None
        if self._fixed["reference"] is not None:
            with torch.no_grad():
                reference = (self._fixed["reference"], self._predict(self._fixed["reference"], batch))
        return compute_losses(self.network, outputs, batch.targets, self._fixed["body"], self.config, reference)

    def _predict(self, network: MultiHMR2, batch: Batch) -> TrainingOutputs:
        patches = None
        if network.config.is_multi_hmr:
            height, width = batch.image.shape[-2:]
            patches = assign_patches(batch.targets, (height, width), network.config.patch_size).is_center
        with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=self.bf16):
            return network.predict_for_training(batch.image, batch.targets.k, batch.k_given, batch.features, patches)


def resolve_precision(config: TrainingConfig, device: torch.device) -> str:
    """Return fp32 or bf16; "auto" is bf16 on hardware that computes in it. Raises UserError for bf16 on other
    hardware."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = bool(list_bf16_instructions(read_cpu_description()))
    if config.precision == "bf16" and not able:
        raise UserError("precision 'bf16' needs a device with bfloat16 support; use fp32 or auto")
    return "bf16" if able and config.precision != "fp32" else "fp32"
