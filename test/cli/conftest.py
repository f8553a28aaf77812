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

"""Fixtures of the tests of commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from multihmr2_ros.cli.main import main


@pytest.fixture
def run(small_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    """Return a function that runs `multihmr2 run INPUTS --out tmp_path/out OPTIONS` and returns the exit status."""

    def run(*inputs: Path, options: str = "") -> int:
        fixed = ["--checkpoint", str(small_checkpoint), "--out", str(tmp_path / "out"), "--device", "cpu"]
        people = ["--score-threshold", "0", "--nms-distance", "0", "--max-people", "3", "--mesh", "low"]
        return main(["run", *map(str, inputs), *fixed, *people, *options.split()])

    return run
