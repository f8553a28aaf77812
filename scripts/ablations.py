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

"""Train and measure the rows of the ablation table, and write the table into docs/ablations.md.

    python scripts/ablations.py --data ../shared/data --out ablations

Each row changes one option of the base row; `--list` prints the rows. All rows have the same encoder (nano's, frozen),
whose features are computed once, the same number of steps, and random initial weights of all other parts. A finished
run is a JSON file in OUT/results and is skipped; the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ablation_data import Plan, prepare
from ablation_rows import PLACED, ROWS, Row
from ablation_runs import run_row
from ablation_table import read_results, write_table

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path
from multihmr2_ros.training.config import NETWORKS
from multihmr2_ros.training.stopping import StopRequest, stop_on_signals

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations.md"
NUMBERS = ("steps", "batch_size", "batches", "renders", "test_images")  # options of the same names
SETTINGS = ("steps", "batch_size", "batches", "test_images", "image_size")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        print("\n".join(f"{row.name:18}{row.text}" for row in ROWS))
        return 0
    try:
        return run(args)
    except UserError as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nablations: interrupted; run the command again to continue", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = {field.name: field.default for field in dataclasses.fields(Plan)}
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("ablations"), help="folder (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="ROW", help="run only this row; may be repeated")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per row (default: %(default)s)")
    for name in NUMBERS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=plan[name], help="(default: %(default)s)")
    parser.add_argument("--depth-maps", type=Path, metavar="DIR", help="of the real images, for joint placement")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="document with the table's markers")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Run the rows that have no result yet, and write the table after each. Returns the exit status."""
    begin_s = time.monotonic()
    rows, plan = select_rows(args.only), make_plan(args)
    write_settings(plan)
    rows = [row for row in rows if is_possible(plan, row)]
    jobs = [(row, seed) for seed in range(args.seeds) for row in rows if not find_result(plan, row, seed).exists()]
    write_table(args.page, read_results(plan.out))
    failed = 0
    for row, seed in jobs:
        prepare(plan, row)
        failed += run_in_process(plan, row, seed) != 0
        write_table(args.page, read_results(plan.out))
    total_s = sum(result["seconds"] for result in read_results(plan.out))
    minutes = (time.monotonic() - begin_s) / 60
    print(f"{len(jobs) - failed} runs in {minutes:.0f} min, failed: {failed}; table: {args.page}")
    print(f"total time of all finished runs: {total_s / 60:.0f} min, without rendering, fitting and features")
    return 2 if failed else 0


def make_plan(args: argparse.Namespace) -> Plan:
    """Return the plan of the options. Raises UserError for unusable ones."""
    for name in (*NUMBERS, "seeds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if not args.data.is_dir():
        raise UserError(f"--data must be a folder with people, motions and backgrounds, got {args.data}")
    return Plan(args.data, args.out, args.depth_maps, **{name: getattr(args, name) for name in NUMBERS})


def select_rows(names: Sequence[str] | None) -> list[Row]:
    """Return the rows of these names, all without names. Raises UserError for an unknown name."""
    known = {row.name: row for row in ROWS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UserError(f"--only must be one of {', '.join(known)}; got {unknown[0]!r}")
    return [row for row in ROWS if names is None or row.name in names]


def find_obstacle(plan: Plan, row: Row) -> str | None:
    """Return why a row cannot run here; None if it can."""
    if PLACED in row.sources and plan.depth_maps is None:
        return "joint placement needs --depth-maps, depth maps of the real images"
    if row.network not in NETWORKS:
        return f"this version has no network {row.network}"
    return None


def is_possible(plan: Plan, row: Row) -> bool:
    """Return whether a row can run here; print the reason if not."""
    reason = find_obstacle(plan, row)
    if reason is not None:
        print(f"ablations: {row.name} is not run: {reason}", file=sys.stderr)
    return reason is None


def write_settings(plan: Plan) -> None:
    """Save the settings that all runs of a folder share. Raises UserError if the folder has others."""
    path, own = plan.out / "settings.json", {name: getattr(plan, name) for name in SETTINGS}
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for name, value in own.items():
            if theirs.get(name) != value:
                raise UserError(
                    f"{plan.out} has runs with {name} {theirs.get(name)}, not {value}; choose another --out"
                )
        return
    plan.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(own) + "\n", encoding="utf-8")


def find_result(plan: Plan, row: Row, seed: int) -> Path:
    return plan.out / "results" / f"{row.name}-{seed}.json"


def run_in_process(plan: Plan, row: Row, seed: int) -> int:
    """Run a row in a process of its own, whose memory is measured, and return its status.

    SIGINT and SIGTERM are passed on: the run saves its state and ends, and UserError is raised.
    """
    print(f"{row.name}, seed {seed} …", flush=True)
    process = multiprocessing.get_context("spawn").Process(
        target=run_row, args=(plan, row, seed, find_result(plan, row, seed))
    )
    stop, was_asked = StopRequest(), False
    with stop_on_signals(stop):
        process.start()
        while process.is_alive():
            process.join(0.5)
            if stop() and not was_asked:
                process.terminate()  # SIGTERM
                was_asked = True
    if was_asked:
        raise UserError(f"{stop.reason}; run the command again to continue")
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
