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

"""The input of evaluation: sequences of evaluation frames, each with an image or recorded people, and the true
people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from multihmr2_ros.camera import compute_vertical_fov
from multihmr2_ros.frame import Frame
from multihmr2_ros.people import People


@dataclass(frozen=True)
class EvaluationFrame:
    """One frame of a sequence.

    stamp_ns        of the image
    frame           the estimator's input, with its depth, ground and camera pose; None if people were recorded
    people          recorded people; None if they are to be estimated from the frame
    truth           the true people in the camera's optical frame; None if unknown. score is the visible fraction of
                    each person in [0, 1], NaN if unknown
    times_ms        durations by the name of the stage
    dropped         images that a live node dropped since the previous frame
    source          data for the sequence's bag of predictions
    is_camera_true  whether the error of the field of view is computed even without true people
    """

    stamp_ns: int
    frame: Frame | None = None
    people: People | None = None
    truth: People | None = None
    times_ms: dict[str, float] = field(default_factory=dict)
    dropped: int = 0
    source: Any = None
    is_camera_true: bool = False

    @property
    def stamp_s(self) -> float:
        return self.stamp_ns * 1e-9

    @property
    def given_fov(self) -> float:
        """Vertical field of view (rad) from the calibration; NaN without one."""
        if self.frame is None or self.frame.k is None:
            return float("nan")
        return compute_vertical_fov(self.frame.k, self.frame.image.shape[0])


class EvaluationSequence(Protocol):
    """Evaluation frames in order of time. Identities are valid within a sequence.

    name              unique among the sequences that are evaluated together
    problems          reasons why the result is incomplete, one line each; complete after an iteration
    fps               None if unknown
    eval_frame_count  None if unknown
    """

    name: str
    problems: list[str]
    fps: float | None

    @property
    def eval_frame_count(self) -> int | None: ...

    def __iter__(self) -> Iterator[EvaluationFrame]: ...
