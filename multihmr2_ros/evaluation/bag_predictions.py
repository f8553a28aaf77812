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

"""Bags with predictions on /humans and the truth on /ground_truth/humans. Needs no ROS."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from multihmr2_ros.bags.humans import HUMAN_ARRAY, HUMANS_TOPIC, TRUTH_TOPIC, human_array_to_cdr
from multihmr2_ros.bags.stamps import NS
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.media.files import atomic_path
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.people_content import Timing, people_to_content
from multihmr2_ros.people import People


class PredictionBag:
    """Writer of predictions and truth to an .mcap file, which replaces an older one when the stack closes.

    The truth is copied as recorded. The messages' times are the images' stamps.
    """

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
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
