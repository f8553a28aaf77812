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

"""Properties of the processor, and settings of threads and memory of this process. Standard library only."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import re
import sys
from pathlib import Path

# By default, OpenMP threads spin while they wait for each other. When another program uses one of their cores, each
# barrier lasts until the scheduler interrupts that program: one image took 20 times as long. Sleeping threads cost a
# few percent on a machine without other work.
PASSIVE_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
MAX_THREADS = 8  # by default: the network's operations are too small for more

# Parameters of mallopt (malloc.h) and their values. By default, glibc maps each tensor above 128 KiB anew and unmaps it
# when it is freed: each image then takes time to map and clear the same memory again.
_MIB = 1 << 20
ALLOCATOR = {"M_MMAP_THRESHOLD": (-3, 32 * _MIB), "M_TRIM_THRESHOLD": (-1, 256 * _MIB), "M_TOP_PAD": (-2, 64 * _MIB)}
ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


@functools.cache
def make_threads_wait_passively() -> bool:
    """Make OpenMP threads sleep while they wait. Call it before PyTorch is imported, which starts the threads.

    Does not change variables that the user has set. Returns False if PyTorch has already been imported.
    """
    if any(name in os.environ for name in PASSIVE_WAITING):
        return True  # set by the user
    if "torch" in sys.modules:
        return False
    os.environ.update(PASSIVE_WAITING)
    return True


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory (at most 256 MiB) for the next tensors.

    Returns False without glibc, and if the user has set one of glibc's variables.
    """
    if any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        _, set_option = library.gnu_get_libc_version, library.mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    refused = [name for name, (number, value) in ALLOCATOR.items() if set_option(number, value) != 1]
    return not refused


def count_available_cores() -> int:
    """Return the number of cores that this process may use; containers and taskset may reduce it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _read_core_quota())))


def _read_core_quota() -> float:
    """Return the control group's limit of processor time, in cores (`docker run --cpus`); infinity without a limit."""
    group = Path("/sys/fs/cgroup")
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # versions 2 and 1
        try:
            quota, period = " ".join((group / file).read_text() for file in files).split()
            if float(quota) > 0:  # version 1 writes -1 without a limit, version 2 "max"
                return float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf


def choose_default_threads() -> int:
    """Return the default number of threads of the network: OMP_NUM_THREADS, else half of the cores, at most 8.

    The other cores are left to other programs, because all threads wait for a thread without its own core. Returns 1 if
    waiting threads would spin.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    return min(MAX_THREADS, max(1, count_available_cores() // 2)) if make_threads_wait_passively() else 1


def read_cpu_description() -> str:
    """Return the text of /proc/cpuinfo, empty if it does not exist."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def read_processor_name() -> str:
    """Return the processor's model name if known, else its architecture."""
    found = re.search(r"^model name\s*:(.*)$", read_cpu_description(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def list_bf16_instructions(description: str) -> tuple[str, ...] | None:
    """Return the bf16 instruction sets in a /proc/cpuinfo text (x86: `flags`, ARM: `Features`).

    None if the text has no list of instruction sets.
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", description, re.MULTILINE)
    if found is None:
        return None
    return tuple(sorted({"avx512_bf16", "amx_bf16", "bf16"} & set(found[1].split())))


def choose_training_threads(loader_workers: int, render_workers: int) -> int:
    """Return the default number of threads of a training process.

    OMP_NUM_THREADS, else the number of cores minus loaders and renderers; 1 if waiting threads would spin.
    """
    if os.environ.get("OMP_NUM_THREADS") or not make_threads_wait_passively():
        return choose_default_threads()
    return max(1, count_available_cores() - loader_workers - render_workers)
