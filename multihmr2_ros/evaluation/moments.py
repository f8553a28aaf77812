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

"""What evaluation reads: sequences of moments, each an image or a recording, with the truth about its people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import vertical_fov
from multihmr2_ros.people import Frame, People


def _no_boxes() -> NDArray[np.float64]:
    return np.zeros((0, 4))


@dataclass(frozen=True)
class Moment:
    """One instant of a sequence.

    stamp_ns  of the image
    frame     the image; None where people were recorded
    people    who was recorded there; None where the estimator is to look at the image
    truth     the true people in the camera's optical frame; None where there is no truth about this instant. score is
              the visible fraction of each person in [0, 1], NaN where unknown
    ignored   (r, 4) px, (x0, y0, x1, y1) of regions in which nobody is annotated
    times_ms  what is known about time, by the name of the stage
    dropped   images that a live node left out since the moment before
    source    what the sequence needs to write the moment again
    is_camera_true  whether the error of the field of view counts even where there is no truth about people
    """

    stamp_ns: int
    frame: Frame | None = None
    people: People | None = None
    truth: People | None = None
    ignored: NDArray[np.float64] = field(default_factory=_no_boxes)
    times_ms: dict[str, float] = field(default_factory=dict)
    dropped: int = 0
    source: Any = None
    is_camera_true: bool = False

    @property
    def stamp_s(self) -> float:
        return self.stamp_ns * 1e-9

    @property
    def given_fov(self) -> float:
        """Vertical field of view (rad) that the calibration says; NaN without one."""
        if self.frame is None or self.frame.k is None:
            return float("nan")
        return vertical_fov(self.frame.k, self.frame.image.shape[0])


class Sequence(Protocol):
    """Moments in order of time; identities hold within a sequence.

    name      unique among the sequences that are evaluated together
    problems  after an iteration: one line for each thing that makes its result less than whole
    fps, moment_count: None where unknown
    """

    name: str
    problems: list[str]
    fps: float | None

    @property
    def moment_count(self) -> int | None: ...

    def __iter__(self) -> Iterator[Moment]: ...
