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

"""The evaluation of a data set as plain data, and the estimate of one of its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets import (
    EMDB,
    HARMONY4D,
    HI4D,
    MOT,
    MSCOCO,
    PANOPTIC,
    POSETRACK,
    RELATIVE_HUMAN,
    THREEDPW,
)
from multihmr2_ros.evaluation.scoring import ScoringConfig
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.frame import Frame, IntrinsicsChoice
from multihmr2_ros.media.images import read_image
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


def estimate_people(
    estimator: Any,
    intrinsics: IntrinsicsChoice,
    path: Path,
    stamp_s: float = 0.0,
    *,
    reset: bool = False,
    labeled_size: tuple[int, int] | None = None,
) -> People:
    """Estimate the people of an image file.

    intrinsics    which intrinsics the estimator uses
    path          of the image
    stamp_s       s, of the image
    reset         whether the image is independent of the images before it
    labeled_size  (width, height) px that the labels are for; None: any

    Raises UserError for an image that cannot be read, or of another size.
    """
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
