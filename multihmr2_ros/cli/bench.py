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

"""`multihmr2 bench`: measures latency per stage, throughput and memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from multihmr2_ros.cli import options
from multihmr2_ros.errors import UserError

HELP = "measure latency per stage, throughput and memory on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_checkpoint(parser)
    options.add_device(parser)
    options.add_threads(parser)
    parser.add_argument("--size", default="640x480", help="image size in px (default: %(default)s)")
    options.add_input_size(parser)
    parser.add_argument(
        "--precision",
        default=None,
        metavar="LIST",
        help="comma-separated precisions: fp32, bf16, fp16 (default: all that the device supports)",
    )
    parser.add_argument(
        "--mode", default=None, metavar="LIST",
        help="comma-separated execution modes: eager, compiled, graph, compiled-graph (default: eager on a CPU, all "
        "on a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--people",
        default="1,10,20",
        metavar="LIST",
        help="comma-separated numbers of people per image (default: %(default)s)",
    )
    parser.add_argument(
        "--mesh",
        choices=("full", "low"),
        default="full",
        help="mesh resolution: full (19158 vertices) or low (615 vertices) (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=None,
        help="number of timed frames per row (default: 5; 200 on a GPU and with --ros)",
    )
    parser.add_argument(
        "--ros", action="store_true",
        help="measure the ROS 2 messages and the node between processes instead, without weights; only --repeats and "
        "--json apply",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE as JSON")


def run(args: argparse.Namespace) -> int:
    if args.json is not None:
        options.check_writable(args.json)
    report, table = _report_ros(args) if args.ros else _report_estimator(args)
    print(table)
    if args.json is not None:
        from multihmr2_ros.files import atomic_path

        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _report_estimator(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from multihmr2_ros.benchmark import BenchmarkConfig, format_table, measure
    from multihmr2_ros.weights import resolve_checkpoint

    config = BenchmarkConfig.for_device(
        device=args.device,
        size=options.parse_size(args.size),
        precisions=_parse_names(args.precision),
        modes=_parse_names(args.mode),
        people=_parse_counts(args.people),
        mesh=args.mesh,
        repeats=args.repeats,
        threads=args.threads,
        input_size=args.input_size,
    )
    report = measure(resolve_checkpoint(args.checkpoint), config)
    return report, format_table(report)


def _report_ros(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    try:
        from multihmr2_ros.ros.benchmark import format_table, measure
    except ImportError as error:
        raise UserError(
            f"--ros needs ROS 2 and the messages of multihmr2_ros, but {error.name or error} cannot be imported; "
            "source your workspace's install/setup.bash, or scripts/env.sh after `make setup`"
        ) from error
    report = measure(200 if args.repeats is None else args.repeats)
    return report, format_table(report)


def _parse_names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _parse_counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(count) for count in text.split(","))
    except ValueError:
        raise UserError(f"--people must be whole numbers separated by commas, such as 1,20; got {text!r}") from None
