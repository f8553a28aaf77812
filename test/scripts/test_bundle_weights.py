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
"""`scripts/bundle_weights.py`: weights of another architecture are refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.model import MultiHMR2
from test import paths
from test.helpers.small_network import SMALL


def test_weights_of_multi_hmr_are_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, architecture="multi-hmr")
    checkpoint.save_network(MultiHMR2(config), tmp_path / "a.safetensors")
    script = paths.ROOT / "scripts" / "bundle_weights.py"
    command = [
        sys.executable,
        str(script),
        str(tmp_path / "a.safetensors"),
        str(tmp_path),
        str(tmp_path / "b.safetensors"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "has the architecture multi-hmr" in line
