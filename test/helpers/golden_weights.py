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

"""The golden network: deterministic weights in the released layout (test/golden/weights.py), 1.6 GB, created once per
run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from test import paths
from test.golden import weights

GOLDEN = paths.GOLDEN


def released_state() -> dict[str, torch.Tensor]:
    """Return the 555 entries of the released layout; the constants have the values of the released file."""
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())
    golden = np.load(GOLDEN / "network_dev.npz")
    base = int(golden["base"])
    shifts = {name: golden[name].astype(np.float32) for name in ("shift_conf", "shift_dist")}

    def entry(name: str, shape: list[int]) -> torch.Tensor:
        if any(word in name for word in weights.STRUCTURAL):
            return _constant(name, shape)
        value = weights.tensor(name, shape, base)
        if name.endswith("mlp_conf.2.bias"):
            value = value + shifts["shift_conf"]
        if name.endswith("mlp_dist.2.bias"):
            value = value + shifts["shift_dist"]
        return torch.from_numpy(value)

    with ThreadPoolExecutor() as pool:  # NumPy draws without holding the GIL
        return dict(zip(layout, pool.map(entry, layout, layout.values()), strict=True))


def _constant(name: str, shape: list[int]) -> torch.Tensor:
    value = torch.ones(shape)
    if name.endswith("bias_mask"):
        value[shape[0] // 3 : 2 * shape[0] // 3] = 0
    return value


def save_released(path: Path) -> None:
    torch.save({"model_state_dict": released_state()}, path)
