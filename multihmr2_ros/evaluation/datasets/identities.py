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

"""Evaluation of the identities of people in a sequence with tracked boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets import MOT
from multihmr2_ros.evaluation.datasets.boxes import BoxSequence
from multihmr2_ros.evaluation.datasets.job import DatasetJob, Outcome, ProgressCallback, estimate_people
from multihmr2_ros.evaluation.scoring import compute_body_boxes, project_joints
from multihmr2_ros.evaluation.sequence_scoring import BoxStore
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.metrics.boxes import box_iou
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.identity import FrameBoxes, IdentityCounts, count_identities, match_boxes
from multihmr2_ros.people import People


def evaluate_tracked(job: DatasetJob, estimator: Any, progress: ProgressCallback, sequence: BoxSequence) -> Outcome:
    """Track the people of a sequence, and count matches, misses, false positives and identities.

    job        the data set and its settings
    estimator  estimates and tracks
    progress   wraps the frames with a progress bar
    sequence   images with true boxes
    """
    problems = list[str]()
    truth, predicted = BoxStore(), BoxStore()
    detections = scored = 0
    estimator.reset()
    for frame in progress(sequence.frames, sequence.name, len(sequence.frames)):
        try:
            people = estimate_people(estimator, job.intrinsics, frame.image, frame.stamp_s)
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


def _make_boxes(people: People, *, cut: bool) -> FrameBoxes:
    """Return the boxes around the projected meshes, cut to the image or not. People without an identity get one for
    this frame."""
    height, width = people.image_size
    box = compute_body_boxes(people, project_joints(people))
    if cut:
        box = np.clip(box, 0, [width, height, width, height])
    identity = people.track_id.astype(np.int64)
    return FrameBoxes(np.where(identity < 0, -1 - np.arange(len(identity)), identity), box)
