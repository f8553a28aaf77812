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

"""Evaluation of data sets of independent images: MSCOCO and Relative Human."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets import coco, relative_human
from multihmr2_ros.evaluation.datasets.job import DatasetJob, ProgressCallback, StartCallback, estimate_people
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.scoring import compute_body_boxes, project_joints
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.metrics.keypoints import ImageKeypoints, compute_coco_scores


def evaluate_coco(
    job: DatasetJob, split: str, estimator: Any, progress: ProgressCallback, start: StartCallback
) -> SequenceResult:
    """Evaluate COCO: independent images of unknown cameras. Arguments as in `evaluate_dataset`; split: of the job."""
    begin_s, images, problems = time.perf_counter(), [], list[str]()
    listed = list(coco.list_coco_images(job.folder, split))
    start()
    for image in progress(listed, split, len(listed)):
        try:
            people = estimate_people(estimator, job.intrinsics, image.path, reset=True, labeled_size=image.size)
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


def evaluate_relative_human(
    job: DatasetJob, split: str, estimator: Any, progress: ProgressCallback, start: StartCallback
) -> SequenceResult:
    """Evaluate Relative Human: independent images; people are matched by boxes. Arguments as in `evaluate_coco`."""
    begin_s, images, problems = time.perf_counter(), list[relative_human.DepthRelations](), list[str]()
    listed, detections = list(relative_human.list_relative_human_images(job.folder, split)), 0
    start()
    for image in progress(listed, split, len(listed)):
        try:
            people = estimate_people(estimator, job.intrinsics, image.path, reset=True)
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
