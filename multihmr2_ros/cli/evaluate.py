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
from multihmr2_ros.cli.evaluate_options import (
    add_arguments,
    is_distributed,
    make_choice,
    make_jobs,
    make_scoring_config,
    resolve_choice,
)
from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator
    from multihmr2_ros.evaluation.bags import BagJob, EstimatorChoice
    from multihmr2_ros.evaluation.run import SequenceResult
    from multihmr2_ros.evaluation.totals import Totals

HELP = "compare people with ground truth: in bags, recordings of the live node, and datasets"
MAX_LISTED = 5  # inputs named at the end of the table
__all__ = ["HELP", "add_arguments", "run"]


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
    jobs = make_jobs(args, make_choice(args))
    earlier = _find_earlier_results(args, [job.folder for job in jobs], whole=args.overwrite)
    estimator = None
    if any(job.estimator is not None for job in jobs):
        from multihmr2_ros.weights import resolve_checkpoint

        resolve_checkpoint(args.checkpoint)
        if not is_distributed(args):
            choice = resolve_choice(args)
            jobs = make_jobs(args, choice)
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


def _run_jobs(
    args: argparse.Namespace, jobs: Sequence[BagJob], estimator: Estimator | None, prepare_output: _OutputPreparer
) -> list[SequenceResult]:
    from multihmr2_ros.evaluation.bags import run_job

    if is_distributed(args):
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
    if len(args.inputs) != 1 or is_distributed(args) or args.intrinsics == "both":
        raise UserError(
            "--dataset needs one folder, --intrinsics given or predicted, and neither --workers nor --scheduler; "
            "change the options"
        )
    _check_report_packages(args)
    args.mesh, args.plots = "full", False
    choice = resolve_choice(args)
    job = resolve_job(
        DatasetJob(
            args.dataset, args.inputs[0], args.out, args.split, args.regressor,
            options.make_intrinsics_choice(args, args.intrinsics), make_scoring_config(args), args.report,
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
        "scoring": dataclasses.asdict(make_scoring_config(args)),
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
