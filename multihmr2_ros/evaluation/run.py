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

"""Evaluates one sequence: read ahead, estimate, score, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.background import WriteBehind, read_ahead
from multihmr2_ros.evaluation.moments import Moment, Sequence
from multihmr2_ros.evaluation.scoring import ScoringConfig
from multihmr2_ros.evaluation.sequence_scoring import SequenceScorer
from multihmr2_ros.evaluation.tables import Listener, tables
from multihmr2_ros.evaluation.tally import Tally
from multihmr2_ros.evaluation.true_velocities import add_true_velocities
from multihmr2_ros.people import Frame, IntrinsicsSource, People

GIVEN, PREDICTED, RECORDED = "given", "predicted", "recorded"  # where the intrinsics of a result came from
ESTIMATE = "estimate"  # a stage's name


class PeopleEstimator(Protocol):
    """What evaluation needs of an Estimator."""

    @property
    def faces(self) -> NDArray[np.int32]: ...

    def step(
        self, image: NDArray[np.uint8], k: NDArray[np.float64] | None, stamp: float, *,
        intrinsics_source: IntrinsicsSource,
    ) -> People: ...  # fmt: skip

    def reset(self) -> None: ...


@dataclass(frozen=True)
class Camera:
    """The intrinsics that people are placed with: k (3, 3) px or vertical_fov_rad of the user, else those of the
    sequence where source is "given", else predicted."""

    source: str = GIVEN
    k: NDArray[np.float64] | None = None
    vertical_fov_rad: float | None = None

    def of(self, frame: Frame) -> tuple[NDArray[np.float64] | None, IntrinsicsSource]:
        height, width = frame.image.shape[:2]
        if self.source == PREDICTED:
            return None, IntrinsicsSource.PREDICTED
        if self.k is not None:
            return self.k, IntrinsicsSource.PARAMETER
        if self.vertical_fov_rad is not None:
            return intrinsics_from_fov(self.vertical_fov_rad, width, height), IntrinsicsSource.PARAMETER
        return frame.k, frame.intrinsics_source


@dataclass(frozen=True)
class SequenceResult:
    """What came of one sequence. folder: with its files, relative to that of all results."""

    name: str
    path: str
    intrinsics: str
    folder: str
    tally: Tally
    problems: tuple[str, ...] = ()
    wall_s: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)  # of a data set, by name, such as COCO's AP


MakeListeners = Callable[[contextlib.ExitStack], list[Listener]]


def evaluate_sequence(
    sequence: Sequence,
    estimator: PeopleEstimator | None,
    camera: Camera,
    folder: Path,
    config: ScoringConfig,
    listeners: MakeListeners = lambda stack: [],
    progress: Callable[[Iterable[Moment], Sequence], Iterable[Moment]] = lambda moments, sequence: moments,
) -> tuple[Tally, tuple[str, ...]]:
    """Every moment of a sequence, in order, none left out; the tables and what else listens appear in folder.

    estimator: not needed where people were recorded. progress wraps the moments with a progress bar. Returns the
    tally and what was wrong, a line each; a UserError in the middle ends the sequence and keeps what there is.
    """
    scorer = SequenceScorer(config)
    problems: list[str] = []
    if estimator is not None:
        estimator.reset()
    with _told(problems), contextlib.ExitStack() as files:  # outside: a listener may open a file with its first moment
        listening = [*files.enter_context(tables(folder)), *listeners(files)]
        with (
            _told(problems),
            WriteBehind[Any](lambda item: _take(scorer, listening, *item)) as writer,
            contextlib.closing(read_ahead(add_true_velocities(sequence))) as ahead,
        ):
            for index, (moment, waited_ms) in enumerate(_timed(progress(ahead, sequence))):
                people, times = _people(moment, estimator, camera)
                writer.put((index, moment, people, {**times, "wait for image": waited_ms} if times else {}))
    return scorer.tally(), tuple(dict.fromkeys([*sequence.problems, *problems]))


@contextlib.contextmanager
def _told(problems: list[str]) -> Iterator[None]:
    """A user's mistake ends the block and is noted: what was done until then stays."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))


def _people(moment: Moment, estimator: PeopleEstimator | None, camera: Camera) -> tuple[People, dict[str, float]]:
    if moment.people is not None:
        return moment.people, {}
    if estimator is None or moment.frame is None:
        raise UserError("there is neither an image nor somebody recorded; evaluate a bag with one or the other")
    k, source = camera.of(moment.frame)
    begin_s = time.perf_counter()
    people = estimator.step(moment.frame.image, k, moment.frame.stamp, intrinsics_source=source)
    return moment.frame.as_recorded(people), {ESTIMATE: 1e3 * (time.perf_counter() - begin_s)}


def _take(
    scorer: SequenceScorer, listeners: list[Listener], index: int, moment: Moment, people: People, times: dict[str, Any]
) -> None:
    score = scorer.add(moment, people, times)
    for listener in listeners:
        listener.add(index, moment, people, score)


def _timed(moments: Iterable[Moment]) -> Iterator[tuple[Moment, float]]:
    """Each moment, and for how long it was waited for (ms): 0 unless reading is slower than the estimator."""
    iterator = iter(moments)
    while True:
        begin_s = time.perf_counter()
        try:
            moment = next(iterator)
        except StopIteration:
            return
        yield moment, 1e3 * (time.perf_counter() - begin_s)
