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

"""Bags of images as sequences for evaluation, with the true people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multihmr2_ros.bags.frames import COMPRESSED, RAW, BagSource
from multihmr2_ros.bags.humans import TRUTH_TOPIC, HumansMessage
from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.stamps import NS
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.ground_truth import GroundTruthReader, summarize_problems
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.sources import make_source_name
from multihmr2_ros.people import People
from multihmr2_ros.transform_tree import normalize_frame_name


@dataclasses.dataclass(frozen=True)
class MessageContext:
    """Data of an evaluation frame for the bag of predictions.

    frame_id  TF frame of the image
    truth     true people as recorded, or None
    is_moved  whether the truth was recorded in another TF frame than the image
    """

    frame_id: str
    truth: BagMessage | None = None
    is_moved: bool = False


class BagSequence:
    """The images of a bag as evaluation frames, each with the truth of the same stamp.

    truth          topic of the bag, or another bag
    frame_options  of `BagSource`: topic, depth_topic, ground_frame, fixed_frame

    If the truth is missing, or in a frame without a transform, the evaluation frames have no truth, and `problems`
    contains the reason.
    """

    def __init__(self, path: Path, truth: str = TRUTH_TOPIC, **frame_options: Any) -> None:
        self.name = make_source_name(path)
        self.problems: list[str] = []
        self._path, self._where = path, truth
        self._fixed_frame = str(frame_options.get("fixed_frame", ""))
        self._source = BagSource(path, **frame_options)
        self.fps, self.eval_frame_count = self._source.fps, self._source.frame_count

    def __iter__(self) -> Iterator[EvaluationFrame]:
        self.problems.clear()
        truth = self._open_truth()
        matched, has_stamps = 0, False
        try:
            for frame in self._source:
                header = self._source.header
                stamp_ns = header.stamp_ns
                has_stamps |= stamp_ns != 0
                found = None
                if truth is not None:
                    try:
                        found = truth.read_at(stamp_ns, header.frame_id, frame.k)
                    except UserError as error:
                        self.problems.append(str(error))
                matched += found is not None
                yield self._make_frame(frame, header.frame_id, stamp_ns or round(frame.stamp * NS), found)
        finally:
            self._source.close()
            if truth is not None:
                truth.close()
        if truth is not None and not matched and not self.problems:
            reason = "has the stamp of a ground truth message" if has_stamps else "has a stamp"
            self.problems.append(f"{self._path}: no image {reason}; record images and ground truth with the same clock")
        if self._source.damage:
            self.problems.append(self._source.damage)
        self.problems[:] = summarize_problems(self.problems)

    def _open_truth(self) -> GroundTruthReader | None:
        try:
            return GroundTruthReader(self._path, self._where, self._fixed_frame)
        except UserError as error:
            self.problems.append(f"{error}; only metrics without ground truth are computed")
            return None

    def _make_frame(
        self, frame: Frame, frame_id: str, stamp_ns: int, found: tuple[People, HumansMessage] | None
    ) -> EvaluationFrame:
        people, message = found or (None, None)
        source = MessageContext(frame_id)
        if message is not None:
            truth_frame_id = normalize_frame_name(message.decoded.header.frame_id)
            source = MessageContext(frame_id, message.recorded, truth_frame_id != normalize_frame_name(frame_id))
        return EvaluationFrame(stamp_ns=stamp_ns, frame=frame, truth=people, source=source)


def has_images(path: Path) -> bool:
    with BagReader(path) as bag:
        return any(topic.type_name in (RAW, COMPRESSED) for topic in bag.topics.values())


def has_topic(path: Path, topic: str) -> bool:
    with BagReader(path) as bag:
        return topic in bag.topics
