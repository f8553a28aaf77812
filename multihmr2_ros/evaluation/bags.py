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

"""One bag evaluated: what is to be done as plain data, which travels to other processes, and the doing of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihmr2_ros.bags.humans import HUMANS_TOPIC, TRUTH_TOPIC
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.bag_predictions import PredictionBag
from multihmr2_ros.evaluation.bag_sequences import BagSequence, RecordedSequence
from multihmr2_ros.evaluation.run import Camera, PeopleEstimator, SequenceResult, evaluate_sequence
from multihmr2_ros.evaluation.scoring import ScoringConfig
from multihmr2_ros.evaluation.tables import Listener
from multihmr2_ros.evaluation.tally import Tally
from multihmr2_ros.media.sources import source_name

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator, EstimatorConfig


@dataclass(frozen=True)
class EstimatorChoice:
    """How to make the estimator; the same choice is the same estimator within a process."""

    checkpoint: str
    device: str
    precision: str
    config: EstimatorConfig
    threads: int = 0

    def load(self) -> Estimator:
        from multihmr2_ros.estimator import Estimator, Runtime

        runtime = Runtime(self.device, self.precision, threads=self.threads)  # type: ignore[arg-type]
        return Estimator.load(self.checkpoint, self.device, config=self.config, runtime=runtime)


@dataclass(frozen=True)
class BagJob:
    """path: of the bag; out: the folder of all results, folder: that of this one, relative to it. truth: a topic or
    another bag. topic: of the images. humans: of recorded people; they are scored where recorded is set."""

    path: Path
    out: Path
    folder: str = ""
    truth: str = TRUTH_TOPIC
    topic: str | None = None
    humans: str = HUMANS_TOPIC
    recorded: bool = False
    camera: Camera = field(default_factory=Camera)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    video: bool = True
    bag: bool = True
    highlights: bool = True
    estimator: EstimatorChoice | None = None

    @property
    def kind(self) -> str:
        """Where the intrinsics come from, or that people were recorded with theirs."""
        return "recorded" if self.recorded else self.camera.source


Progress = Callable[[Iterable[Any], Any], Iterable[Any]]


def run_job(
    job: BagJob,
    estimator: PeopleEstimator | None = None,
    progress: Progress = lambda moments, sequence: moments,
) -> SequenceResult:
    """The result of a bag; what is wrong with the bag stands in its problems. estimator: in place of the job's."""
    begin_s = time.perf_counter()
    result = SequenceResult(source_name(job.path), str(job.path), job.kind, job.folder, Tally())
    try:
        sequence = (
            RecordedSequence(job.path, job.truth, job.humans)
            if job.recorded
            else BagSequence(job.path, job.truth, job.topic)
        )
        if estimator is None and not job.recorded:
            assert job.estimator is not None
            estimator = _estimator(job.estimator)
        folder = job.out / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        tally, problems = evaluate_sequence(
            sequence,
            estimator,
            job.camera,
            folder,
            job.scoring,
            lambda stack: _listeners(job, folder, sequence.fps, estimator, stack),
            progress,
        )
    except UserError as error:
        tally, problems = Tally(), (str(error),)
    except OSError as error:
        tally, problems = Tally(), (f"{job.path}: {error.strerror or error}; check the folder given with --out",)
    wall_s = time.perf_counter() - begin_s
    return dataclasses.replace(result, tally=tally, problems=problems, wall_s=wall_s)


@cache
def _estimator(choice: EstimatorChoice) -> Estimator:
    return choice.load()


def _listeners(
    job: BagJob, folder: Path, fps: float | None, estimator: PeopleEstimator | None, stack: contextlib.ExitStack
) -> list[Listener]:
    listeners: list[Listener] = []
    if job.video and estimator is not None and not job.recorded:
        from multihmr2_ros.evaluation.side_by_side import SideBySide

        listeners.append(SideBySide(folder / "overlay.mp4", estimator.faces, fps, stack))
    if job.highlights and estimator is not None and not job.recorded:
        from multihmr2_ros.evaluation.highlights import FILE, Highlights

        listeners.append(Highlights(folder / FILE, estimator.faces, stack))
    if job.bag and not job.recorded:
        listeners.append(PredictionBag(folder / "predictions.mcap", stack))
    return listeners
