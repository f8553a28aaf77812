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

"""Evaluation of one bag: the job as plain data, which can be sent to other processes, and its execution."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihmr2_ros.bags.humans import HUMAN_ARRAY, HUMANS_TOPIC, TRUTH_TOPIC, human_array_to_cdr
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.bags.stamps import NS
from multihmr2_ros.bags.transforms import TF, TF_MESSAGE, TF_STATIC
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.bag_sequences import BagSequence
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.recorded_people import RecordedPeopleSequence
from multihmr2_ros.evaluation.run import PeopleEstimator, SequenceResult, describe_failure, evaluate_sequence
from multihmr2_ros.evaluation.scoring import ScoringConfig
from multihmr2_ros.evaluation.tables import FrameListener
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.files import atomic_path
from multihmr2_ros.frame import IntrinsicsChoice
from multihmr2_ros.media.sources import make_source_name
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.people import People

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator, EstimatorConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EstimatorChoice:
    """Arguments of an estimator. Equal choices share one estimator within a process."""

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
class BagOutputs:
    """The files written beside the tables. None of them is written for recorded people.

    video       predictions beside the truth
    bag         predictions and truth
    rrd         a Rerun recording of predictions and truth
    highlights  the images for the report
    """

    video: bool = True
    bag: bool = True
    rrd: bool = False
    highlights: bool = True


@dataclass(frozen=True)
class BagJob:
    """The evaluation of one bag.

    path          of the bag
    out           folder of all results
    folder        of this result, relative to out
    truth         topic, or another bag
    topic         of the images; None: the only one
    depth_topic   of depth images; None: the only suitable one; "off": none
    ground_frame  TF frame whose plane z = 0 is the ground; "": unknown
    fixed_frame   TF frame for the camera's poses; "": unknown
    humans        topic of recorded people
    recorded      whether recorded people are scored instead of new estimates
    intrinsics    which intrinsics the estimator uses
    scoring       settings of the scoring
    outputs       the files to write beside the tables
    estimator     arguments of the estimator to load if run_job gets none
    """

    path: Path
    out: Path
    folder: str = ""
    truth: str = TRUTH_TOPIC
    topic: str | None = None
    depth_topic: str | None = None
    ground_frame: str = ""
    fixed_frame: str = ""
    humans: str = HUMANS_TOPIC
    recorded: bool = False
    intrinsics: IntrinsicsChoice = field(default_factory=IntrinsicsChoice)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    outputs: BagOutputs = field(default_factory=BagOutputs)
    estimator: EstimatorChoice | None = None

    @property
    def kind(self) -> str:
        """Source of the intrinsics: "given", "predicted" or "recorded"."""
        return "recorded" if self.recorded else self.intrinsics.source


class PredictionBag:
    """Writer of predictions and truth to an .mcap file, which replaces an older one when the stack closes.

    The truth is copied as recorded, with /tf and /tf_static of the evaluated bag if it is in another frame than the
    images. The messages' times are the images' stamps.
    """

    def __init__(self, path: Path, evaluated: Path, stack: contextlib.ExitStack) -> None:
        self._evaluated = evaluated
        self._has_transforms = False
        temporary = stack.enter_context(atomic_path(path, keep_suffix=True))
        self._writer = stack.enter_context(BagWriter(temporary))

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: Any) -> None:
        source = eval_frame.source
        header = HeaderContent(*divmod(eval_frame.stamp_ns, NS), source.frame_id)
        content = people_to_content(
            people, header, Timing(), with_vertices=bool(people.vertices.shape[1] < 1000),
            fixed_frame="" if eval_frame.frame is None else eval_frame.frame.fixed_frame,
        )  # fmt: skip
        data = human_array_to_cdr(content)
        self._writer.write(HUMANS_TOPIC, HUMAN_ARRAY, data, max(eval_frame.stamp_ns, 0))
        if source.truth is not None:
            self._writer.write(TRUTH_TOPIC, HUMAN_ARRAY, source.truth.data, max(eval_frame.stamp_ns, 0))
        if source.is_moved and not self._has_transforms:
            self._has_transforms = True
            self._copy_transforms()

    def _copy_transforms(self) -> None:
        with BagReader(self._evaluated) as bag:
            known = {name for name, topic in bag.topics.items() if topic.type_name == TF_MESSAGE}
            topics = [name for name in (TF_STATIC, TF) if name in known]
            if not topics or bag.is_ros1:  # ROS 1 messages are not in CDR
                return
            for message in bag.messages(topics):
                self._writer.write(message.topic, message.type_name, message.data, message.time_ns)


Progress = Callable[[Iterable[Any], Any], Iterable[Any]]


def run_job(
    job: BagJob,
    estimator: PeopleEstimator | None = None,
    progress: Progress = lambda eval_frames, sequence: eval_frames,
) -> SequenceResult:
    """Evaluate a bag. Errors are in the result's problems.

    job        the bag and its settings
    estimator  used instead of the job's
    progress   wraps the frames with a progress bar
    """
    begin_s = time.perf_counter()
    result = SequenceResult(make_source_name(job.path), str(job.path), job.kind, job.folder, Totals())
    try:
        sequence = open_sequence(job)
        if estimator is None and not job.recorded:
            assert job.estimator is not None
            estimator = _load_estimator(job.estimator)
        folder = job.out / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        totals, problems = evaluate_sequence(
            sequence,
            estimator,
            job.intrinsics,
            folder,
            job.scoring,
            lambda stack: _open_listeners(job, folder, sequence.fps, estimator, stack),
            progress,
        )
    except UserError as error:
        totals, problems = Totals(), (str(error),)
    except OSError as error:
        totals, problems = Totals(), (f"{job.path}: {error.strerror or error}; check the folder of --out",)
    except Exception as error:  # one bag does not lose the results of the others
        logger.debug("%s", job.path, exc_info=True)
        totals, problems = Totals(), (describe_failure(job.path, error),)
    wall_s = time.perf_counter() - begin_s
    return dataclasses.replace(result, totals=totals, problems=problems, wall_s=wall_s)


def open_sequence(job: BagJob) -> BagSequence | RecordedPeopleSequence:
    """Return the evaluation frames of a job. Raises UserError if the bag or a topic cannot be read."""
    if job.recorded:
        return RecordedPeopleSequence(job.path, job.truth, job.humans)
    return BagSequence(
        job.path, job.truth, topic=job.topic, depth_topic=job.depth_topic, ground_frame=job.ground_frame,
        fixed_frame=job.fixed_frame,
    )  # fmt: skip


@cache
def _load_estimator(choice: EstimatorChoice) -> Estimator:
    return choice.load()


def _open_listeners(
    job: BagJob, folder: Path, fps: float | None, estimator: PeopleEstimator | None, stack: contextlib.ExitStack
) -> list[FrameListener]:
    """Open the outputs of a job; the stack closes them."""
    if job.recorded or estimator is None:
        return []
    outputs = job.outputs
    listeners: list[FrameListener] = []
    if outputs.video:
        from multihmr2_ros.evaluation.side_by_side import ComparisonVideo

        listeners.append(ComparisonVideo(folder / "overlay.mp4", estimator.faces, fps, stack))
    if outputs.highlights:
        from multihmr2_ros.evaluation.highlights import FILE, HighlightWriter

        listeners.append(HighlightWriter(folder / FILE, estimator.faces, stack))
    if outputs.rrd:
        from multihmr2_ros.evaluation.recording import FILE as RECORDING_FILE
        from multihmr2_ros.evaluation.recording import RecordingWriter

        listeners.append(RecordingWriter(folder / RECORDING_FILE, estimator.body, make_source_name(job.path), stack))
    if outputs.bag:
        listeners.append(PredictionBag(folder / "predictions.mcap", job.path, stack))
    return listeners
