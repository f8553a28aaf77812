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

"""Evaluation of a data set, with one result for each sequence."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets import (
    DATASETS,
    EMDB,
    HARMONY4D,
    HI4D,
    MOT,
    MSCOCO,
    PANOPTIC,
    POSETRACK,
    RELATIVE_HUMAN,
    THREEDPW,
    VIDEOS,
    boxes,
    emdb,
    harmony4d,
    hi4d,
    joints,
    panoptic,
    smpl,
    threedpw,
    videos,
)
from multihmr2_ros.evaluation.datasets.files import SequenceListing
from multihmr2_ros.evaluation.datasets.identities import evaluate_tracked
from multihmr2_ros.evaluation.datasets.images import evaluate_coco, evaluate_relative_human
from multihmr2_ros.evaluation.datasets.job import DatasetJob, Outcome, ProgressCallback, StartCallback, resolve_job
from multihmr2_ros.evaluation.evaluation_frames import EvaluationSequence
from multihmr2_ros.evaluation.highlights import FILE as HIGHLIGHTS
from multihmr2_ros.evaluation.highlights import HighlightWriter
from multihmr2_ros.evaluation.run import PeopleEstimator, SequenceResult, evaluate_sequence
from multihmr2_ros.evaluation.tables import FrameListener
from multihmr2_ros.evaluation.totals import Totals


def evaluate_dataset(
    job: DatasetJob,
    estimator: Any,
    progress: ProgressCallback = lambda items, name, count: items,
    start: StartCallback = lambda: None,
) -> list[SequenceResult]:
    """Evaluate a data set.

    job        the data set and its settings
    estimator  with the full mesh if keypoints are regressed from it
    progress   wraps items with a progress bar
    start      called before each sequence, when it has been read; not called for a sequence that cannot be read

    Raises UserError if the folder does not contain the data set. A sequence that cannot be read gives a result with a
    problem.
    """
    job = resolve_job(job)
    split = job.split or ""
    if job.name == MSCOCO:
        return [evaluate_coco(job, split, estimator, progress, start)]
    if job.name == RELATIVE_HUMAN:
        return [evaluate_relative_human(job, split, estimator, progress, start)]
    if job.name in (MOT, POSETRACK):
        found = (
            boxes.list_mot_sequences(job.folder)
            if job.name == MOT
            else boxes.list_posetrack_sequences(job.folder, split)
        )
        return _evaluate_each(
            job, found, job.intrinsics.source, partial(evaluate_tracked, job, estimator, progress), start
        )
    if job.name == PANOPTIC:
        points = panoptic.make_joint_regressor(estimator.body.regress_coco_keypoints)
        posed = joints.JointEstimator(estimator, points, panoptic.JOINTS, panoptic.ROOT)
        return _evaluate_in_order(job, panoptic.list_panoptic_sequences(job.folder, split), posed, progress, start)
    if job.name == VIDEOS:
        return _evaluate_in_order(job, videos.list_calibrated_videos(job.folder), estimator, progress, start)
    if job.name in (THREEDPW, EMDB, HI4D, HARMONY4D):
        return _evaluate_smpl(job, split, estimator, progress, start)
    raise UserError(f"the dataset must be one of {', '.join(DATASETS)}, got {job.name!r}")


def _evaluate_smpl(
    job: DatasetJob, split: str, estimator: Any, progress: ProgressCallback, start: StartCallback
) -> list[SequenceResult]:
    if job.name == EMDB and job.regressor is None:
        return _evaluate_in_order(
            job, emdb.list_emdb_sequences(job.folder, split, with_bodies=False), estimator, progress, start
        )
    points = smpl.make_smpl_regressor(job.regressor)
    posed = joints.JointEstimator(estimator, points, smpl.SMPL_JOINTS, smpl.SMPL_ROOT)
    read: dict[str, Callable[[Path, str], SequenceListing[joints.JointSequence]]] = {
        THREEDPW: threedpw.list_threedpw_sequences,
        EMDB: emdb.list_emdb_sequences,
        HI4D: hi4d.list_hi4d_sequences,
        HARMONY4D: harmony4d.list_harmony4d_sequences,
    }
    return _evaluate_in_order(job, read[job.name](job.folder, split), posed, progress, start)


def _evaluate_in_order(
    job: DatasetJob,
    found: SequenceListing[Any],
    estimator: PeopleEstimator,
    progress: ProgressCallback,
    start: StartCallback,
) -> list[SequenceResult]:
    """Evaluate sequences of frames in order. Each sequence has a folder with its name."""
    listing = list(found)
    names = [name for name, _ in listing]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"several sequences would have results of the name {', '.join(repeated)}; rename all but one")

    def evaluate(sequence: EvaluationSequence) -> Outcome:
        folder = job.out / sequence.name
        folder.mkdir(parents=True, exist_ok=True)

        def open_listeners(stack: contextlib.ExitStack) -> list[FrameListener]:
            return [HighlightWriter(folder / HIGHLIGHTS, estimator.faces, stack)] if job.highlights else []

        return evaluate_sequence(
            sequence, estimator, job.intrinsics, folder, job.scoring, open_listeners,
            progress=lambda eval_frames, each: progress(eval_frames, each.name, each.eval_frame_count),
        )  # fmt: skip

    results = _evaluate_each(job, listing, job.intrinsics.source, evaluate, start)
    return [dataclasses.replace(result, folder=result.name) for result in results]


def _evaluate_each(
    job: DatasetJob,
    listing: Iterable[tuple[str, Callable[[], Any]]],
    intrinsics: str,
    evaluate: Callable[[Any], Outcome],
    start: StartCallback,
) -> list[SequenceResult]:
    """Evaluate each item of a listing and return the results. An item that cannot be read does not stop the others.

    job         settings, and the folder of the results
    listing     name and reader of each item
    intrinsics  the kind noted in the results
    evaluate    scores an item
    start       called before each item is evaluated
    """
    results = []
    for name, read in listing:
        begin_s = time.perf_counter()
        try:
            sequence = read()
            if sequence is None:
                continue
            start()
            totals, problems = evaluate(sequence)
        except UserError as error:
            totals, problems = Totals(), (str(error),)
        except OSError as error:
            totals, problems = Totals(), (f"{name}: {error.strerror or error}; check the folder of --out",)
        wall_s = time.perf_counter() - begin_s
        results.append(SequenceResult(name, str(job.folder), intrinsics, "", totals, problems, wall_s))
    if not results:
        raise UserError(
            f"expected sequences of {job.split} in {job.folder}, found none; download them, or choose another --split"
        )
    return results
