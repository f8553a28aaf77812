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

"""CPU threads and glibc's memory: set if it has an effect, unchanged if the user made a choice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, UserError, hardware
from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.network.inference import Runtime
from test.helpers.small_network import small_network
from test.paths import ROOT

EVERYBODY = EstimatorConfig(score_threshold=0.0, max_people=2, mesh="low")
CHOSEN = ("OMP_NUM_THREADS", *hardware.PASSIVE_WAITING, *hardware.ALLOCATOR_VARIABLES)


def run_code(code: str, **environment: str) -> str:
    """Return standard output and error of a separate Python process, in which OpenMP prints its settings."""
    inherited = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=inherited | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment, cwd=ROOT,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from multihmr2_ros import Estimator",
        "from multihmr2_ros.cli.main import main; main(['weights', 'list']); import torch",
    ],
    ids=["Python", "command"],
)
def test_openmp_waits_passively(code: str) -> None:
    assert "GOMP_SPINCOUNT = '0'" in run_code(code)


def test_thread_settings_of_the_user_are_kept() -> None:
    said = run_code("from multihmr2_ros import Estimator", OMP_WAIT_POLICY="active")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in said
    assert "GOMP_SPINCOUNT = '0'" not in said


def test_one_thread_where_waiting_threads_would_spin() -> None:
    many = "import multihmr2_ros.hardware as h; h.count_available_cores = lambda: 12; "
    assert "threads 6" in run_code(f"{many} print('threads', h.choose_default_threads())")
    said = run_code(f"import torch; {many} print('threads', h.choose_default_threads())")
    assert "GOMP_SPINCOUNT = '0'" not in said
    assert "threads 1\n" in said


@pytest.mark.parametrize(
    ("cores", "chosen", "threads"),
    [
        (1, "", 1),
        (2, "", 1),
        (4, "", 2),
        (7, "", 3),
        (64, "", 8),
        (2, "5", 5),
        (8, "3,2", 3),
        (8, "none", 4),
        (8, "0", 4),
    ],
)
def test_default_threads(monkeypatch: pytest.MonkeyPatch, cores: int, chosen: str, threads: int) -> None:
    monkeypatch.setattr(hardware, "make_threads_wait_passively", lambda: True)
    monkeypatch.setattr(hardware, "count_available_cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    assert hardware.choose_default_threads() == threads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu.max": "no numbers"}, 16),
        ({}, 16),
    ],
)
def test_a_containers_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path if path == "/sys/fs/cgroup" else Path(path))
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda process: set(range(16)))
    assert hardware.count_available_cores() == cores


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_a_step_runs_on_the_threads_of_the_runtime(monkeypatch: pytest.MonkeyPatch, chosen: int) -> None:
    """In any thread, including the node's; afterwards the caller's own number is restored."""
    estimator = Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32", threads=chosen))
    seen: list[int] = []
    people = estimator.inference._predict_people

    def counted(*inputs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return people(*inputs)

    monkeypatch.setattr(estimator.inference, "_forward", counted)
    before = torch.get_num_threads()
    image = np.zeros((48, 64, 3), np.uint8)
    estimator.step(image)
    thread = threading.Thread(target=estimator.step, args=(image,))
    thread.start()
    thread.join()
    assert seen == [chosen, chosen]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [-1, 100_000])
def test_bad_numbers_of_threads(threads: int) -> None:
    with pytest.raises(UserError, match="threads must be from 0"):
        Runtime("cpu", threads=threads).resolve()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept() -> None:
    """A freed block of 24 MiB is reused, not mapped and cleared again: no new page faults."""
    code = """
import ctypes, resource
from multihmr2_ros.hardware import keep_freed_memory
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use():
    place = libc.malloc(24 << 20)
    ctypes.memset(place, 1, 24 << 20)
    libc.free(place)
use(); use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): use()
print('faults', resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept = run_code(code.replace("{call}", "assert keep_freed_memory()"))
    left_alone = run_code(code.replace("{call}", "assert not keep_freed_memory()"), MALLOC_TOP_PAD_="0")
    assert int(kept.split("faults")[1]) < 500 < int(left_alone.split("faults")[1])


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in hardware.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for broken in (OSError, TypeError, AttributeError):

        def library(name: None, error: type[Exception] = broken) -> Any:
            raise error

        monkeypatch.setattr(hardware.ctypes, "CDLL", library)
        assert not hardware.keep_freed_memory.__wrapped__()


@pytest.mark.slow  # the measurement needs a minute on a machine of constant speed
def test_busy_cores_do_not_multiply_the_time() -> None:
    done = subprocess.run([sys.executable, "-m", "test.benchmarks.busy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
