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

"""A Rerun recording of the predictions beside the truth."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.scoring import FrameScore
from multihmr2_ros.media.rerun_output import RerunRecording
from multihmr2_ros.media.rerun_people import BodyTopology
from multihmr2_ros.media.rerun_recording import FrameContext
from multihmr2_ros.people import People

FILE = "recording.rrd"


class RecordingWriter:
    """Writer of a Rerun recording of images, predictions and truth. The file is complete when the stack closes.

    path   of the recording
    body   the estimator's
    name   of the recording, in the viewer
    stack  closes it
    """

    def __init__(self, path: Path, body: Any, name: str, stack: contextlib.ExitStack) -> None:
        self._recording = stack.enter_context(RerunRecording(path, BodyTopology.from_body(body), name=name))

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None:
        if eval_frame.frame is not None:
            self._recording.add(eval_frame.frame, people, FrameContext.from_frame(eval_frame.frame, eval_frame.truth))
