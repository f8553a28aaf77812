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

"""Measure the cost of `multihmr2 run --save rrd` relative to `--save params`, on the same clip.

    multihmr2 simulate --out walk.mcap --seconds 30 --people 2 2 --format jpeg --seed 7
    python -m test.benchmarks.recording walk.mcap [--repeats 3] [-- further options of multihmr2 run]

The two commands alternate as processes of their own, with the start of the program. CPU time is of all threads; it
depends less on other programs on the machine than wall time.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KINDS = ("params", "rrd")


def run(clip: Path, kind: str, options: list[str]) -> tuple[float, float, int]:
    """Run the command; return its wall time and CPU time in s, and the size of its results in bytes."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "multihmr2_ros.cli.main", "run", str(clip), "--out", out, "--save", kind]
        before, begin_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([*command, "--quiet", *options], check=True)
        wall_s, after = time.perf_counter() - begin_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return wall_s, cpu_s, sum(path.stat().st_size for path in Path(out).iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("options", nargs="*", help="of multihmr2 run, after --")
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.repeats):
        runs.append([run(arguments.clip, kind, arguments.options) for kind in KINDS])
        (params_wall_s, params_cpu_s, _), (rrd_wall_s, rrd_cpu_s, _) = runs[-1]
        print(f"rrd / params: CPU {rrd_cpu_s / params_cpu_s:.3f}, wall {rrd_wall_s / params_wall_s:.3f}", flush=True)
    values = np.array(runs)
    ratios = np.median(values[:, 1] / values[:, 0], axis=0)
    for kind, (wall_s, cpu_s, size) in zip(KINDS, np.median(values, axis=0), strict=True):
        print(f"{kind:8s} CPU {cpu_s:.1f} s, wall {wall_s:.1f} s, {size / 1e6:.1f} MB")
    print(f"median ratio: CPU {ratios[1]:.3f}, wall {ratios[0]:.3f}")


if __name__ == "__main__":
    main()
