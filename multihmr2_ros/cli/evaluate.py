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

"""`multihmr2 evaluate`: evaluates bags and datasets against ground truth, and compares results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihmr2_ros.cli import options, result_files
from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator
    from multihmr2_ros.evaluation.bags import BagJob, EstimatorChoice
    from multihmr2_ros.evaluation.run import SequenceResult
    from multihmr2_ros.evaluation.scoring import ScoringConfig
    from multihmr2_ros.evaluation.totals import Totals

HELP = "compare people with ground truth: in bags, recordings of the live node, and datasets"
MAX_LISTED = 5  # inputs named at the end of the table


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


def run(args: argparse.Namespace) -> int:
    if args.compare is not None:
        return _compare(args)
    if not args.inputs or args.out is None:
        raise UserError("expected BAG… and --out DIR, or --compare A B; see `multihmr2 evaluate --help`")
    if args.dataset is not None:
        return _evaluate_dataset(args)
    if args.plots:
        from multihmr2_ros.evaluation.plots import check_matplotlib

        check_matplotlib()
    if args.rrd:
        from multihmr2_ros.media.rerun_recording import import_rerun

        import_rerun()
    _check_report_packages(args)
    _refuse_unreadable_bags(args.inputs)
    jobs = _make_jobs(args, _make_choice(args))
    earlier = _find_earlier_results(args, [job.folder for job in jobs], whole=args.overwrite)
    estimator = None
    if any(job.estimator is not None for job in jobs):
        from multihmr2_ros.weights import resolve_checkpoint

        resolve_checkpoint(args.checkpoint)
        if not _is_distributed(args):
            choice = _resolve_choice(args)
            jobs = _make_jobs(args, choice)
            estimator = choice.load()
    if earlier:
        _refuse_unreadable_jobs(jobs)
    results = _run_jobs(args, jobs, estimator, _OutputPreparer(args.out, earlier))
    return _finish(args, next((job.estimator for job in jobs if job.estimator is not None), None), results)


class _OutputPreparer:
    """Callback that makes the folder of the results and removes earlier results, once.

    It is called when all else is checked, so that a user's mistake does not cost the earlier results.
    """

    def __init__(self, out: Path, earlier: Sequence[Path]) -> None:
        self._out, self._earlier = out, earlier
        self.is_done = False

    def __call__(self) -> None:
        if not self.is_done:
            options.make_folder(self._out)
            result_files.remove_results(self._earlier)
            self.is_done = True


def _refuse_unreadable_bags(paths: Sequence[Path]) -> None:
    """Raise UserError if no bag can be opened: nothing is written or removed then. One of several may be unreadable."""
    from multihmr2_ros.bags.reading import BagReader

    errors = []
    for path in paths:
        try:
            with BagReader(path):
                return
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _refuse_unreadable_jobs(jobs: Sequence[BagJob]) -> None:
    """Raise UserError if no job finds its topics, so that its problems do not replace earlier results."""
    from multihmr2_ros.evaluation.bags import open_sequence
    from multihmr2_ros.evaluation.run import describe_failure

    errors = []
    for job in jobs:
        try:
            open_sequence(job)
            return
        except UserError as error:
            errors.append(error)
        except Exception as error:
            errors.append(UserError(describe_failure(job.path, error)))
    raise errors[0]


def _find_earlier_results(args: argparse.Namespace, folders: Sequence[str], *, whole: bool) -> list[Path]:
    """List the results to be replaced. Raises UserError if there are any and --overwrite is not given."""
    inputs = [*args.inputs, Path(args.truth)]  # a topic is no file and refuses nothing
    result_files.refuse_input_folder(args.out, inputs)
    earlier = result_files.find_existing_evaluation(args.out, folders, whole=whole)
    result_files.refuse_existing(earlier, inputs, overwrite=args.overwrite)
    return earlier


def _is_distributed(args: argparse.Namespace) -> bool:
    return bool(args.workers or args.scheduler)


def _resolve_choice(args: argparse.Namespace) -> EstimatorChoice:
    """Return the choice with device and precision resolved for this machine."""
    import dataclasses

    runtime = options.make_runtime(args)
    return dataclasses.replace(_make_choice(args), device=runtime.device, precision=runtime.precision)


def _make_jobs(args: argparse.Namespace, choice: EstimatorChoice) -> list[BagJob]:
    from multihmr2_ros.evaluation.bags import BagJob
    from multihmr2_ros.frame import IntrinsicsChoice
    from multihmr2_ros.media.sources import make_source_name

    options.check_distinct_names(args.inputs)
    kinds = ("given", "predicted") if args.intrinsics == "both" else (args.intrinsics,)
    scoring = _make_scoring_config(args)
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
                    video=args.video,
                    bag=args.bag,
                    rrd=args.rrd,
                    highlights=args.report,
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


def _run_jobs(
    args: argparse.Namespace, jobs: Sequence[BagJob], estimator: Estimator | None, prepare_output: _OutputPreparer
) -> list[SequenceResult]:
    from multihmr2_ros.evaluation.bags import run_job

    if _is_distributed(args):
        from multihmr2_ros.evaluation.cluster import run_in_cluster

        return run_in_cluster(run_job, jobs, args.workers, args.scheduler, prepare_output)
    prepare_output()
    return [run_job(job, estimator, progress=_show_progress) for job in jobs]


def _evaluate_dataset(args: argparse.Namespace) -> int:
    """Evaluate a dataset in one process, with the full mesh, because its keypoints are regressed from it."""
    import dataclasses

    from multihmr2_ros.evaluation.datasets.job import DatasetJob, resolve_job
    from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
    from multihmr2_ros.evaluation.published import format_published_table

    if args.rrd:
        raise UserError("--rrd is for bags, but --dataset is given; leave one of them out")
    if len(args.inputs) != 1 or _is_distributed(args) or args.intrinsics == "both":
        raise UserError(
            "--dataset needs one folder, --intrinsics given or predicted, and neither --workers nor --scheduler; "
            "change the options"
        )
    _check_report_packages(args)
    args.mesh, args.plots = "full", False
    choice = _resolve_choice(args)
    job = resolve_job(
        DatasetJob(
            args.dataset, args.inputs[0], args.out, args.split, args.regressor,
            options.make_intrinsics_choice(args, args.intrinsics), _make_scoring_config(args), args.report,
        )
    )  # fmt: skip
    earlier = _find_earlier_results(args, [], whole=True)
    estimator = choice.load()
    prepare_output = _OutputPreparer(args.out, earlier)
    results = evaluate_dataset(job, estimator, _show_bar, prepare_output)
    if not prepare_output.is_done:  # no sequence can be read
        if earlier:
            raise UserError(results[0].problems[0])
        prepare_output()
    own_configuration = {
        "split": job.split, "intrinsics": job.intrinsics.source, "scoring": dataclasses.asdict(job.scoring),
    }  # fmt: skip
    status = _finish(args, choice, results, own_configuration)
    own = {key: value for result in results for key, value in result.scores.items()}
    for totals in _merge_results(results).values():
        own |= {key: value for key, (value, _) in totals.compute_metrics().items()}
    for line in (own and _format_scores(results[0].scores), format_published_table(args.dataset, own)):
        if line:
            print(f"\n{line}")
    return status


def _format_scores(scores: dict[str, float]) -> str:
    return "   ".join(f"{name} {value:.1f}" for name, value in scores.items() if value == value)


def _merge_results(results: Sequence[SequenceResult]) -> dict[str, Totals]:
    from multihmr2_ros.evaluation.results import merge_results

    return merge_results(results)


def _show_progress(eval_frames: Iterable[Any], sequence: Any) -> Iterable[Any]:
    return _show_bar(eval_frames, sequence.name, sequence.eval_frame_count)


def _show_bar(eval_frames: Iterable[Any], name: str, total: int | None) -> Iterable[Any]:
    from multihmr2_ros.progress import make_progress_bar

    return make_progress_bar(eval_frames, name=name, unit="frame", total=total)


def _finish(
    args: argparse.Namespace,
    choice: EstimatorChoice | None,
    results: Sequence[SequenceResult],
    resolved: dict[str, Any] | None = None,
) -> int:
    """Write the results of all sequences together and print the table. Return 2 if there were problems, else 0.

    resolved: the dataset's own entries of the configuration.
    """
    import datetime

    from multihmr2_ros.evaluation import results as files
    from multihmr2_ros.evaluation.report import format_table

    problems = [problem for result in results for problem in result.problems]
    configuration = _describe_configuration(args, choice) | (resolved or {})
    timing = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "wall_s": sum(result.wall_s for result in results),
    }
    files.write_results(args.out, results, configuration, timing, problems)
    if args.plots:
        from multihmr2_ros.evaluation.plots import save_plots

        save_plots(args.out, results)
    if args.report:
        from multihmr2_ros.evaluation.report_page import write_report

        write_report(args.out, results, configuration, timing, problems)
    print(format_table(_merge_results(results)))
    names = [path.name for path in args.inputs]
    listed = ", ".join(names) if len(names) <= MAX_LISTED else f"{names[0]} … {names[-1]} ({len(names)})"
    print(f"\n{listed} → {args.out}")
    for problem in dict.fromkeys(problems):
        print(f"multihmr2 evaluate: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _describe_configuration(args: argparse.Namespace, choice: EstimatorChoice | None) -> dict[str, Any]:
    """Return all resolved settings that change a result. choice: None if recordings were scored."""
    import dataclasses

    from multihmr2_ros.weights import compute_sha256, resolve_checkpoint

    return {
        "inputs": [str(path) for path in args.inputs],
        "truth": args.truth,
        "topic": args.topic,
        **options.make_bag_cues(args),
        "recorded": args.recorded,
        "dataset": args.dataset,
        "split": args.split,
        "regressor": None if args.regressor is None else str(args.regressor),
        "intrinsics": args.intrinsics,
        "k": args.k,
        "vertical_fov_deg": args.vertical_fov,
        "estimator": None if choice is None else _describe_estimator(choice),
        "checkpoint_sha256": None if choice is None else compute_sha256(resolve_checkpoint(choice.checkpoint)),
        "scoring": dataclasses.asdict(_make_scoring_config(args)),
        "joints": args.dataset or "the heads of Anny's 163 bones, the pelvis first",
    }


def _describe_estimator(choice: EstimatorChoice) -> dict[str, Any]:
    """Return the arguments of the estimator, with the settings that follow from its network."""
    import dataclasses

    from multihmr2_ros.estimator import complete_config
    from multihmr2_ros.network.checkpoint import read_config
    from multihmr2_ros.weights import resolve_checkpoint

    config = complete_config(choice.config, read_config(resolve_checkpoint(choice.checkpoint)))
    return dataclasses.asdict(dataclasses.replace(choice, config=config))


def _make_choice(args: argparse.Namespace) -> EstimatorChoice:
    from multihmr2_ros.evaluation.bags import EstimatorChoice

    # Several workers share the cores.
    threads = args.threads or (1 if args.workers or args.scheduler else 0)
    config = options.make_estimator_config(args)
    return EstimatorChoice(str(args.checkpoint), args.device, args.precision, config, threads)


def _make_scoring_config(args: argparse.Namespace) -> ScoringConfig:
    from multihmr2_ros.evaluation.scoring import ScoringConfig

    return ScoringConfig(
        min_height_px=args.min_height,
        min_visible=args.min_visible,
        matching=args.matching,
        identities=args.track,
    )


def _check_report_packages(args: argparse.Namespace) -> None:
    if args.report:
        from multihmr2_ros.evaluation.report_page import check_report_packages

        check_report_packages()


def _compare(args: argparse.Namespace) -> int:
    """Print the table of a comparison; with --out, write the report, the only file."""
    from multihmr2_ros.evaluation.comparison import compare, format_comparison

    a, b = args.compare
    if args.inputs:
        raise UserError(f"--compare takes two result folders and no BAG, got {args.inputs[0]}; remove it")
    report = args.out / result_files.REPORT_FILE if args.out is not None and args.report else None
    if report is not None:
        _check_report_packages(args)
        result_files.refuse_existing([report] if report.exists() else [], [], overwrite=args.overwrite)
    comparisons = compare(a, b)
    print(format_comparison(a, b, comparisons))
    if report is not None:
        from multihmr2_ros.evaluation.report_page import write_comparison

        options.make_folder(args.out)
        print(f"\n→ {write_comparison(args.out, a, b, comparisons)}")
    return 0
