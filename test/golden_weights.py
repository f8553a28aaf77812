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

"""The golden network: deterministic weights in the released layout (test/golden/weights.py), 1.6 GB once per run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from test.golden import weights

GOLDEN = Path(__file__).parent / "golden"


def released_state() -> dict[str, torch.Tensor]:
    """The 555 entries of the released layout; the constants hold what the file's own would."""
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())
    golden = np.load(GOLDEN / "network_dev.npz")
    state = {}
    for name, shape in layout.items():
        if any(word in name for word in weights.STRUCTURAL):
            state[name] = _constant(name, shape)
            continue
        value = weights.tensor(name, shape, int(golden["base"]))
        if name.endswith("mlp_conf.2.bias"):
            value = value + golden["shift_conf"].astype(np.float32)
        if name.endswith("mlp_dist.2.bias"):
            value = value + golden["shift_dist"].astype(np.float32)
        state[name] = torch.from_numpy(value)
    return state


def _constant(name: str, shape: list[int]) -> torch.Tensor:
    value = torch.ones(shape)
    if name.endswith("bias_mask"):
        value[shape[0] // 3 : 2 * shape[0] // 3] = 0
    return value


def save_released(path: Path) -> None:
    torch.save({"model_state_dict": released_state()}, path)
