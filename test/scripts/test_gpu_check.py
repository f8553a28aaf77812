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

"""`scripts/gpu_check.sh`: the packed files suffice for a machine that has PyTorch, but neither Anny nor Warp."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multihmr2_ros.caches import find_body_cache
from test.helpers.scripts import load_script
from test.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import gpu_check_pack

sys.path.pop(0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with Anny and roma packed, without the body model's cache, which takes minutes."""
    folder = tmp_path_factory.mktemp("packed")
    for name, data in gpu_check_pack.PACKAGES.items():
        gpu_check_pack.copy_package(name, folder / name, data)
    return folder


def run_bare(code: str, packed: Path, links: Path) -> str:
    """Return the standard output of Python code on a stand-in for the bare machine."""
    python, others = gpu_check_pack.bare_python(links)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{packed}:{others}", "ANNY_CACHE_DIR": str(find_body_cache()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run([*python, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bare_machine_lacks_what_is_packed(tmp_path: Path) -> None:
    """Otherwise a dry run would use the packages installed here and would not show what the folder lacks."""
    look = "import importlib.metadata as m, importlib.util as u; "
    look += "print([d.metadata['Name'] for n in ('anny', 'roma', 'warp-lang') for d in m.distributions(name=n)], "
    look += "[u.find_spec(n) for n in ('anny', 'roma', 'warp')], u.find_spec('torch') is not None)"
    assert run_bare(look, tmp_path / "nothing", tmp_path / "links") == "[] [None, None, None] True\n"


def test_an_interrupted_check_ends_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check = load_script("gpu_check")
    steps: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            steps.append(self)
            raise KeyboardInterrupt

    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "gpu_check_steps.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu_check.run_step("nano", tmp_path, tmp_path, tmp_path, False, 10)
    assert [step.returncode for step in steps] == [-signal.SIGKILL]


def test_a_packed_anny_knows_its_version(packed: Path, tmp_path: Path) -> None:
    look = "import importlib.metadata as m; print(m.version('anny'), m.version('roma'))"
    expected = f"{importlib.metadata.version('anny')} {importlib.metadata.version('roma')}\n"
    assert run_bare(look, packed, tmp_path / "links") == expected


def test_an_estimator_needs_no_warp(packed: Path, tmp_path: Path) -> None:
    """The renderer's kernels need Warp; its wheel is too large for the bare machine. The import finder reports
    importers."""
    code = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "warp":
            asked.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
asked = []
sys.meta_path.insert(0, Refuse())
import numpy as np
from multihmr2_ros.body import Body
from multihmr2_ros.estimator import Estimator, EstimatorConfig, Runtime
from test.helpers.small_network import small_network
body = Body("low")
estimator = Estimator(small_network(), EstimatorConfig(score_threshold=0.0, mesh="low"), Runtime("cpu", "fp32"))
people = estimator.step(np.zeros((48, 64, 3), np.uint8))
print(body.vertex_count, people.vertices.shape[1:], "warp" in sys.modules, set(asked) <= {"warp"})
"""
    assert run_bare(code, packed, tmp_path / "links") == "615 (615, 3) False True\n"
