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

"""Evaluation of one sequence: prefetch, estimate, score, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.background import BackgroundWriter, prefetch
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame, EvaluationSequence
from multihmr2_ros.evaluation.scoring import ScoringConfig
from multihmr2_ros.evaluation.sequence_scoring import SequenceScorer
from multihmr2_ros.evaluation.tables import FrameListener, open_tables
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.evaluation.true_velocities import add_true_velocities
from multihmr2_ros.frame import Frame, IntrinsicsChoice
from multihmr2_ros.people import People

ESTIMATE = "estimate"  # name of a stage


class PeopleEstimator(Protocol):
    """The methods of `Estimator` that evaluation uses."""

    @property
    def body(self) -> Any: ...

    @property
    def faces(self) -> NDArray[np.int32]: ...

    def step(self, frame: Frame, /) -> People: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class SequenceResult:
    """The result of one sequence.

    name        of the sequence
    path        of the bag or data set
    intrinsics  "given", "predicted" or "recorded"
    folder      with the sequence's files, relative to the folder of all results
    totals       the sums and counts that metrics are computed from
    problems    one line each
    wall_s      duration of the evaluation
    scores      of a data set, by name, such as COCO's AP
    """

    name: str
    path: str
    intrinsics: str
    folder: str
    totals: Totals
    problems: tuple[str, ...] = ()
    wall_s: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def describe_failure(path: Path, error: BaseException) -> str:
    """Return one line on an unexpected error in the evaluation of a bag."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{path}: the evaluation failed with {type(error).__name__} ({reason[:200]}); report this with the bag"


MakeListeners = Callable[[contextlib.ExitStack], list[FrameListener]]


def evaluate_sequence(
    sequence: EvaluationSequence,
    estimator: PeopleEstimator | None,
    intrinsics: IntrinsicsChoice,
    folder: Path,
    config: ScoringConfig,
    listeners: MakeListeners = lambda stack: [],
    progress: Callable[
        [Iterable[EvaluationFrame], EvaluationSequence], Iterable[EvaluationFrame]
    ] = lambda eval_frames, sequence: eval_frames,
) -> tuple[Totals, tuple[str, ...]]:
    """Evaluate every frame of a sequence, in order, and write the tables and the listeners' files.

    sequence    evaluation frames with truth
    estimator   None if people were recorded
    intrinsics  which intrinsics the estimator uses
    folder      for the files
    config      of the scoring
    listeners   makes further listeners; the stack closes them
    progress    wraps the frames with a progress bar

    Returns the totals, and the problems, one line each. A UserError ends the sequence; the results so far are kept.
    """
    scorer = SequenceScorer(config)
    problems: list[str] = []
    if estimator is not None:
        estimator.reset()
    with (
        _report_errors(problems),
        contextlib.ExitStack() as files,
    ):  # outermost, because a listener may open a file at the first frame
        listening = [*files.enter_context(open_tables(folder)), *listeners(files)]
        with (
            _report_errors(problems),
            BackgroundWriter[Any](lambda item: _score_and_write(scorer, listening, *item)) as writer,
            contextlib.closing(prefetch(add_true_velocities(sequence))) as ahead,
        ):
            for index, (eval_frame, waited_ms) in enumerate(_measure_reading(progress(ahead, sequence))):
                people, times = _estimate_people(eval_frame, estimator, intrinsics)
                writer.put((index, eval_frame, people, {**times, "wait for image": waited_ms} if times else {}))
    return scorer.compute_totals(), tuple(dict.fromkeys([*sequence.problems, *problems]))


@contextlib.contextmanager
def _report_errors(problems: list[str]) -> Iterator[None]:
    """Append a UserError of the block to problems, and continue after the block."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))


def _estimate_people(
    eval_frame: EvaluationFrame, estimator: PeopleEstimator | None, intrinsics: IntrinsicsChoice
) -> tuple[People, dict[str, float]]:
    """Return the recorded or the estimated people of a frame, and the durations (ms) by stage."""
    if eval_frame.people is not None:
        return eval_frame.people, {}
    if estimator is None or eval_frame.frame is None:
        raise UserError("expected images or recorded people, got none; evaluate a bag with images or recorded people")
    frame = intrinsics.apply(eval_frame.frame)
    begin_s = time.perf_counter()
    people = estimator.step(frame)
    return people, {ESTIMATE: 1e3 * (time.perf_counter() - begin_s)}


def _score_and_write(
    scorer: SequenceScorer,
    listeners: list[FrameListener],
    index: int,
    eval_frame: EvaluationFrame,
    people: People,
    times: dict[str, Any],
) -> None:
    """Score the people of a frame, and pass them and their score to the listeners."""
    score = scorer.add(eval_frame, people, times)
    for listener in listeners:
        listener.add(index, eval_frame, people, score)


def _measure_reading(eval_frames: Iterable[EvaluationFrame]) -> Iterator[tuple[EvaluationFrame, float]]:
    """Yield each frame, and the time (ms) spent waiting for it: 0 unless reading is slower than the estimator."""
    iterator = iter(eval_frames)
    while True:
        begin_s = time.perf_counter()
        try:
            eval_frame = next(iterator)
        except StopIteration:
            return
        yield eval_frame, 1e3 * (time.perf_counter() - begin_s)
