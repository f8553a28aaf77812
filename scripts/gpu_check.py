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

"""`scripts/gpu_check.sh`: packs the missing dependencies of a bare machine, and runs the steps there.

Each step is a process with a time limit, so that a step that fails or hangs does not affect the others. Results are
written to DIR/gpu_check.json as soon as they are known; a table is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_check_pack import bare_python, pack, unpack

ROOT = Path(__file__).resolve().parents[1]
# Seconds that each step may take, in order of importance.
LIMITS_S = {
    "environment": 40,
    "weights": 60,
    "golden": 60,
    "large": 75,
    "profile": 30,
    "nano": 45,
    "threads": 35,
    "cameras": 40,
    "soak": 50,
    "training": 60,
    "compiled": 90,
}
LAST_LINES = 15  # of a failed step's output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "run"))
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "gpu")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU, without the packed dependencies")
    parser.add_argument("--steps", default=",".join(LIMITS_S), help="comma-separated steps (default: %(default)s)")
    parser.add_argument(
        "--budget-s", type=float, help="time limit of all steps together in s (default: 240; with --dry: none)"
    )
    args = parser.parse_args()
    if args.action == "pack":
        pack(args.folder)
        return 0
    steps = args.steps.split(",")
    unknown = [step for step in steps if step not in LIMITS_S]
    if args.out is None or unknown or not (args.folder / "python").is_dir():
        parser.error(f"expected --out DIR, steps of {', '.join(LIMITS_S)}, and a folder written by `pack`")
    budget_s = args.budget_s or (math.inf if args.dry else 240.0)
    return run(args.folder, args.out, steps, args.dry, budget_s)


def run(folder: Path, out: Path, steps: list[str], dry: bool, budget_s: float) -> int:
    """Run the steps and write their results to out/gpu_check.json. Return 1 if a step failed, else 0."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget_s
    work = Path(tempfile.mkdtemp(prefix="gpu_check-"))
    report: dict[str, Any] = {"dry": dry, "steps": {}}
    try:
        unpack(folder.resolve(), work / "anny")
        for step in steps:
            limit = min(10 * LIMITS_S[step] if dry else LIMITS_S[step], end - time.monotonic())
            report["steps"][step] = run_step(step, folder.resolve(), work, out, dry, limit)
            (out / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table(report))
    return int(any(step["status"] != "done" for step in report["steps"].values()))


def run_step(step: str, folder: Path, work: Path, out: Path, dry: bool, limit_s: float) -> dict[str, Any]:
    """Run one step in a process. Return its status, seconds and results; its output is written to out/<step>.log."""
    if limit_s < 5:
        return {"status": "skipped: no time left", "seconds": 0.0, "results": []}
    python, others = [sys.executable], os.environ.get("PYTHONPATH", "")
    if dry:  # so that packages installed here cannot replace packages missing in the folder
        python, others = bare_python(work / "packages")
    results, log = work / f"{step}.jsonl", out / f"{step}.log"
    environment = os.environ | {
        "ANNY_CACHE_DIR": str(work / "anny"),
        "XDG_CACHE_HOME": str(work / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        "PYTHONPATH": f"{ROOT}:{folder / 'python'}:{others}",
    }
    command = [*python, str(ROOT / "scripts" / "gpu_check_steps.py"), step, str(work), str(results)]
    begin = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *(["--dry"] if dry else [])],
            env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
            status = "done" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            _kill(process)
            status = f"exceeded {limit_s:.0f} s"
        except BaseException:  # Ctrl-C does not reach the step, which has its own session
            _kill(process)
            raise
    row: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - begin, 1)}
    row["results"] = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    if status != "done":
        row["output"] = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    print(f"{step}: {status}, {row['seconds']} s", flush=True)
    return row


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a step and its processes."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(report: dict[str, Any]) -> str:
    """Format the report as text, one line per result."""
    lines = []
    for name, step in report["steps"].items():
        lines.append(f"\n== {name}: {step['status']}, {step['seconds']} s")
        for result in step["results"]:
            lines.append("  " + "  ".join(f"{key} {_text(value)}" for key, value in result.items()))
        lines += [f"  | {line}" for line in step.get("output", [])]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_text(item)}" for key, item in value.items()) + "}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
