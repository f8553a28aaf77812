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

import numpy as np

from multihmr2_ros.camera import project
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
    coco,
    emdb,
    harmony4d,
    hi4d,
    joints,
    panoptic,
    relative_human,
    smpl,
    threedpw,
    videos,
)
from multihmr2_ros.evaluation.datasets.files import SequenceListing
from multihmr2_ros.evaluation.evaluation_frames import EvaluationSequence
from multihmr2_ros.evaluation.highlights import FILE as HIGHLIGHTS
from multihmr2_ros.evaluation.highlights import HighlightWriter
from multihmr2_ros.evaluation.run import PeopleEstimator, SequenceResult, evaluate_sequence
from multihmr2_ros.evaluation.scoring import ScoringConfig, compute_body_boxes, project_joints
from multihmr2_ros.evaluation.sequence_scoring import BoxStore
from multihmr2_ros.evaluation.tables import FrameListener
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.frame import Frame, IntrinsicsChoice
from multihmr2_ros.media.images import read_image
from multihmr2_ros.metrics.boxes import box_iou
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.identity import FrameBoxes, IdentityCounts, count_identities, match_boxes
from multihmr2_ros.metrics.keypoints import ImageKeypoints, compute_coco_scores
from multihmr2_ros.people import People

SPLITS = {
    MSCOCO: "val2017", POSETRACK: "val", THREEDPW: "test", PANOPTIC: "00_16", EMDB: "emdb1", HARMONY4D: "cam01",
    RELATIVE_HUMAN: "test",
}  # fmt: skip
UNCALIBRATED = (MSCOCO, RELATIVE_HUMAN, MOT, POSETRACK)
SPLITTABLE = (*SPLITS, HI4D)  # Hi4D has no default split, because each sequence names its own camera

ProgressCallback = Callable[[Iterable[Any], str, int | None], Iterable[Any]]  # items, name, number of items if known
StartCallback = Callable[[], None]
Outcome = tuple[Totals, tuple[str, ...]]  # of a sequence, and its problems, one line each


@dataclasses.dataclass(frozen=True)
class DatasetJob:
    """Settings of the evaluation of a data set.

    name        one of DATASETS
    folder      of the data set, as unpacked
    out         folder of all results
    split       None: the default in SPLITS; for CMU Panoptic, Hi4D and Harmony4D the camera
    regressor   file of weights for the data set's joints, or None
    intrinsics  which intrinsics the estimator uses
    scoring     settings of the scoring
    highlights  whether the images for the report are written
    """

    name: str
    folder: Path
    out: Path
    split: str | None = None
    regressor: Path | None = None
    intrinsics: IntrinsicsChoice = dataclasses.field(default_factory=IntrinsicsChoice)
    scoring: ScoringConfig = dataclasses.field(default_factory=ScoringConfig)
    highlights: bool = True


def resolve_job(job: DatasetJob) -> DatasetJob:
    """Fill in the data set's default split, its pair distance, and the source of its intrinsics.

    Images of UNCALIBRATED have predicted intrinsics unless the job gives some. The paper aligns the two annotated
    people of Hi4D and Harmony4D at any distance from each other.
    """
    if job.split and job.name not in SPLITTABLE:
        raise UserError(f"{job.name} has no splits, got --split {job.split}; omit --split")
    scoring = job.scoring
    if job.name in (HI4D, HARMONY4D):
        scoring = dataclasses.replace(scoring, pair_distance_m=np.inf)
    intrinsics = job.intrinsics
    if job.name in UNCALIBRATED and intrinsics.k is None and intrinsics.vertical_fov_rad is None:
        intrinsics = IntrinsicsChoice("predicted")
    return dataclasses.replace(job, split=job.split or SPLITS.get(job.name), scoring=scoring, intrinsics=intrinsics)


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
        return [_evaluate_coco(job, split, estimator, progress, start)]
    if job.name == RELATIVE_HUMAN:
        return [_evaluate_relative_human(job, split, estimator, progress, start)]
    if job.name in (MOT, POSETRACK):
        found = (
            boxes.list_mot_sequences(job.folder)
            if job.name == MOT
            else boxes.list_posetrack_sequences(job.folder, split)
        )
        return _evaluate_each(
            job, found, job.intrinsics.source, partial(_evaluate_tracked, job, estimator, progress), start
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


def _evaluate_coco(
    job: DatasetJob, split: str, estimator: Any, progress: ProgressCallback, start: StartCallback
) -> SequenceResult:
    """Evaluate COCO: independent images of unknown cameras."""
    begin_s, images, problems = time.perf_counter(), [], list[str]()
    listed = list(coco.list_coco_images(job.folder, split))
    start()
    for image in progress(listed, split, len(listed)):
        try:
            people = _estimate(estimator, job.intrinsics, image.path, reset=True, labeled_size=image.size)
        except UserError as error:
            problems.append(str(error))
            continue
        keypoints = estimator.body.regress_coco_keypoints(people.vertices).astype(np.float64)
        score = people.score.astype(np.float64)
        images.append(ImageKeypoints(np.asarray(project(keypoints, people.k), np.float64), score, **image.truth))
    detections = sum(len(image.score) for image in images)
    people_count = sum(int((~image.crowd).sum()) for image in images)
    scores = {name: 100 * value if value >= 0 else np.nan for name, value in compute_coco_scores(images).items()}
    totals = Totals(frames=len(images), detections=detections)
    return SequenceResult(
        split, str(job.folder), job.intrinsics.source, "", totals, tuple(problems), time.perf_counter() - begin_s,
        {**scores, "people": people_count},
    )  # fmt: skip


def _evaluate_relative_human(
    job: DatasetJob, split: str, estimator: Any, progress: ProgressCallback, start: StartCallback
) -> SequenceResult:
    """Evaluate Relative Human: independent images; people are matched by their boxes."""
    begin_s, images, problems = time.perf_counter(), list[relative_human.DepthRelations](), list[str]()
    listed, detections = list(relative_human.list_relative_human_images(job.folder, split)), 0
    start()
    for image in progress(listed, split, len(listed)):
        try:
            people = _estimate(estimator, job.intrinsics, image.path, reset=True)
        except UserError as error:
            problems.append(str(error))
            continue
        detections += len(people)
        boxes_found = compute_body_boxes(people, project_joints(people))
        images.append(relative_human.compute_relations(image, boxes_found, people.pelvis[:, 2].astype(np.float64)))
    totals = Totals(frames=len(images), detections=detections)
    scores = relative_human.compute_relation_scores(images)
    wall_s = time.perf_counter() - begin_s
    return SequenceResult(split, str(job.folder), job.intrinsics.source, "", totals, tuple(problems), wall_s, scores)


def _evaluate_tracked(
    job: DatasetJob, estimator: Any, progress: ProgressCallback, sequence: boxes.BoxSequence
) -> Outcome:
    problems = list[str]()
    truth, predicted = BoxStore(), BoxStore()
    detections = scored = 0
    estimator.reset()
    for frame in progress(sequence.frames, sequence.name, len(sequence.frames)):
        try:
            people = _estimate(estimator, job.intrinsics, frame.image, frame.stamp_s)
        except UserError as error:
            problems.append(str(error))
            continue
        detections += len(people)
        if frame.counted:
            scored += 1
            truth.append(frame.truth)
            # True boxes of MOTChallenge continue beyond the image's borders.
            predicted.append(frame.select_counted(_make_boxes(people, cut=job.name != MOT)))
    detection, identity = _count_tracked(truth.to_frames(), predicted.to_frames(), job.scoring.identities)
    totals = Totals(len(sequence.frames), scored, detections, detection=detection, identity=identity)
    return totals, tuple(problems)


def _count_tracked(
    truth: list[FrameBoxes], predicted: list[FrameBoxes], identities: bool
) -> tuple[DetectionCounts, IdentityCounts | None]:
    """Count as TrackEval does. Without identities, each frame is matched on its own."""
    if identities:
        counts = count_identities(truth, predicted, as_trackeval=True)
        return DetectionCounts(counts.truth - counts.misses, counts.false_positives, counts.misses), counts
    detection = DetectionCounts()
    for true, found in zip(truth, predicted, strict=True):
        matched = len(match_boxes(box_iou(true.box, found.box)))
        detection += DetectionCounts(matched, len(found.identity) - matched, len(true.identity) - matched)
    return detection, None


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


def _estimate(
    estimator: Any,
    intrinsics: IntrinsicsChoice,
    path: Path,
    stamp_s: float = 0.0,
    *,
    reset: bool = False,
    labeled_size: tuple[int, int] | None = None,
) -> People:
    if reset:
        estimator.reset()
    image = read_image(path, labeled_size)
    if labeled_size is not None and labeled_size != (image.shape[1], image.shape[0]):
        raise UserError(
            f"{path} is {image.shape[1]} x {image.shape[0]} px, but its labels are for {labeled_size[0]} x "
            f"{labeled_size[1]} px; use the original images"
        )
    people: People = estimator.step(intrinsics.apply(Frame(image, stamp_s)))
    return people


def _make_boxes(people: People, *, cut: bool) -> FrameBoxes:
    """Return the boxes around the projected meshes, cut to the image or not. People without an identity get one for
    this frame."""
    height, width = people.image_size
    box = compute_body_boxes(people, project_joints(people))
    if cut:
        box = np.clip(box, 0, [width, height, width, height])
    identity = people.track_id.astype(np.int64)
    return FrameBoxes(np.where(identity < 0, -1 - np.arange(len(identity)), identity), box)
