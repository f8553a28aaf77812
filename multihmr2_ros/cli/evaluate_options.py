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

"""Options of `multihmr2 evaluate`, and their conversion to jobs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.cli import options, result_files
from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.evaluation.bags import BagJob, EstimatorChoice
    from multihmr2_ros.evaluation.scoring import ScoringConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="BAG",
        help="rosbag2 folder, .mcap or .db3; with --dataset the folder of the dataset",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results; created if missing")
    result_files.add_overwrite(parser)
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="compare two result folders: B − A with 95 %% intervals; with --out also write a report.html",
    )
    _add_dataset(parser)
    parser.add_argument("--topic", help="image topic, raw or compressed (default: the only image topic)")
    parser.add_argument(
        "--recorded", nargs="?", const="/humans", metavar="TOPIC",
        help="evaluate the people that the live node published on TOPIC (default: /humans) instead of running the "
        "network; automatic for bags without images",
    )  # fmt: skip
    options.add_estimation(
        parser, mesh="low", mesh_help="mesh resolution; vertex errors need the same resolution in the ground truth"
    )
    options.add_camera(parser)
    options.add_bag_cues(parser)
    _add_scoring(parser)
    _add_outputs(parser)
    _add_processes(parser)


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparison with the ground truth")
    group.add_argument(
        "--truth", default="/ground_truth/humans", metavar="TOPIC|BAG",
        help="ground truth: topic of HumanArray messages whose scores are visible fractions, or another bag (default: "
        "%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--intrinsics", choices=("given", "predicted", "both"), default="given",
        help="intrinsics for positions: given (camera_info, --k or --vertical-fov), predicted by the network, or both "
        "for comparison (default: %(default)s, as in the node)",
    )  # fmt: skip
    group.add_argument(
        "--min-height", type=float, default=48.0, metavar="PX",
        help="ignore true people with a bounding box of a smaller height (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--min-visible", type=float, default=0.5, metavar="FRACTION",
        help="ignore true people whose visible fraction is smaller (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--matching",
        choices=("hungarian", "greedy"),
        default="hungarian",
        help="matching of predicted and true people in a frame (default: %(default)s)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("result files")
    for name, what in (
        ("video", "the overlay video"), ("bag", "a bag of predictions"), ("plots", "plots"), ("report", "report.html"),
    ):  # fmt: skip
        group.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=f"write {what} (default: on)"
        )
    group.add_argument(
        "--rrd",
        action="store_true",
        help="also write recording.rrd for the Rerun viewer: predictions beside the ground truth",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("parallel evaluation")
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="evaluate N bags in parallel, in Dask processes; 0: one after the other, without Dask (default: "
        "%(default)s)",
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="address of a Dask cluster with access to the same files")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    from multihmr2_ros.evaluation.datasets import DATASETS
    from multihmr2_ros.evaluation.published import ROWS

    parser.add_argument(
        "--dataset", choices=DATASETS, metavar="NAME",
        help=f"evaluate a dataset: %(choices)s; the paper's results are printed for comparison ({', '.join(ROWS)})",
    )  # fmt: skip
    parser.add_argument(
        "--split",
        help="part of the dataset (default: as in the paper); for cmu-panoptic, hi4d and harmony4d the camera "
        "(default: 00_16, the monocular one, cam01)",
    )
    parser.add_argument(
        "--regressor", type=Path, metavar="FILE",
        help="matrix (joints, 19158) or (joints + vertices, 19158) that computes the joints and vertices of the "
        "dataset's body model from Anny's vertices, .npy or sparse .npz",
    )  # fmt: skip


def is_distributed(args: argparse.Namespace) -> bool:
    return bool(args.workers or args.scheduler)


def make_choice(args: argparse.Namespace) -> EstimatorChoice:
    from multihmr2_ros.evaluation.bags import EstimatorChoice

    # Several workers share the cores.
    threads = args.threads or (1 if args.workers or args.scheduler else 0)
    config = options.make_estimator_config(args)
    return EstimatorChoice(str(args.checkpoint), args.device, args.precision, config, threads)


def make_scoring_config(args: argparse.Namespace) -> ScoringConfig:
    from multihmr2_ros.evaluation.scoring import ScoringConfig

    return ScoringConfig(
        min_height_px=args.min_height,
        min_visible=args.min_visible,
        matching=args.matching,
        identities=args.track,
    )


def resolve_choice(args: argparse.Namespace) -> EstimatorChoice:
    """Return the choice with device and precision resolved for this machine."""
    import dataclasses

    runtime = options.make_runtime(args)
    return dataclasses.replace(make_choice(args), device=runtime.device, precision=runtime.precision)


def make_jobs(args: argparse.Namespace, choice: EstimatorChoice) -> list[BagJob]:
    from multihmr2_ros.evaluation.bags import BagJob, BagOutputs
    from multihmr2_ros.frame import IntrinsicsChoice
    from multihmr2_ros.media.sources import make_source_name

    options.check_distinct_names(args.inputs)
    kinds = ("given", "predicted") if args.intrinsics == "both" else (args.intrinsics,)
    scoring = make_scoring_config(args)
    jobs = []
    for path in args.inputs:
        recorded = _find_recorded_topic(args, path)
        for kind in ("recorded",) if recorded else kinds:
            parts = [make_source_name(path)] if len(args.inputs) > 1 else []
            parts += [kind] if args.intrinsics == "both" and not recorded else []
            jobs.append(
                BagJob(
                    path=path,
                    out=args.out,
                    folder="/".join(parts),
                    truth=args.truth,
                    topic=args.topic,
                    depth_topic=args.depth_topic,
                    ground_frame=args.ground_frame,
                    fixed_frame=args.fixed_frame,
                    humans=recorded or "/humans",
                    recorded=recorded is not None,
                    intrinsics=IntrinsicsChoice() if recorded else options.make_intrinsics_choice(args, kind),
                    scoring=scoring,
                    outputs=BagOutputs(args.video, args.bag, args.rrd, args.report),
                    estimator=None if recorded else choice,
                )
            )
    return jobs


def _find_recorded_topic(args: argparse.Namespace, path: Path) -> str | None:
    """Return the topic of recorded people to score; None if the estimator processes the images."""
    from multihmr2_ros.evaluation.bag_sequences import has_images, has_topic

    if args.recorded is not None:
        return str(args.recorded)
    try:
        return "/humans" if not has_images(path) and has_topic(path, "/humans") else None
    except UserError:
        return None  # reported during its evaluation, so that the others are still evaluated
