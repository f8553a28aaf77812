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

"""The people that a live run recorded in a bag, as a sequence for evaluation, with the true people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.humans import (
    HUMANS_TOPIC,
    TRUTH_TOPIC,
    HumansMessage,
    HumansReader,
    estimate_image_size,
    find_recorded_image_size,
    people_from_human_array,
)
from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.ground_truth import GroundTruthReader, find_velocity_frame, summarize_problems
from multihmr2_ros.media.sources import make_source_name
from multihmr2_ros.people import People

CHECKED_MESSAGES = 20  # recorded messages with people whose frame is checked
MAX_SHIFT = 0.5  # of the image's longer side, between joints_2d and projected joints: more than by lens distortion


class RecordedPeopleSequence:
    """The people recorded by a live run, as evaluation frames. If a stamp has truth, but no message, all its people are
    misses."""

    fps: float | None = None

    def __init__(self, path: Path, truth: str = TRUTH_TOPIC, humans: str = HUMANS_TOPIC) -> None:
        self.name = make_source_name(path)
        self.problems: list[str] = []
        self._path, self._where, self._topic = path, truth, humans
        with HumansReader(path, humans) as recorded:
            self.eval_frame_count: int | None = len(recorded)

    def __iter__(self) -> Iterator[EvaluationFrame]:
        self.problems.clear()
        try:
            _check_optical_frame(self._path, self._topic)
            truth = GroundTruthReader(self._path, self._where, _find_velocity_frame(self._path, self._topic))
        except UserError as error:
            self.problems.append(f"{error}; only metrics without ground truth are computed")
            yield from self._read_without_truth()
            return
        try:
            yield from self._read_with_truth(truth)
        finally:
            truth.close()
        self.problems[:] = summarize_problems(self.problems)

    def _read_without_truth(self) -> Iterator[EvaluationFrame]:
        count_dropped = _DropCounter()
        with HumansReader(self._path, self._topic) as recorded:
            size = find_recorded_image_size(self._path, _find_frame_id(self._path, self._topic))
            for each in recorded.read_all():
                if any(each.decoded.k):
                    yield _make_recorded_frame(each, None, count_dropped(each), size)

    def _read_with_truth(self, truth: GroundTruthReader) -> Iterator[EvaluationFrame]:
        matched, count_dropped = 0, _DropCounter()
        with HumansReader(self._path, self._topic) as recorded:
            frame_id = _find_frame_id(self._path, self._topic)
            size = find_recorded_image_size(self._path, frame_id)
            for true in truth.read_messages():
                try:
                    people = truth.convert_people(true, frame_id, None)
                except UserError as error:
                    self.problems.append(str(error))
                    continue
                found = recorded.read_at(true.stamp_ns)
                if found is None or not any(found.decoded.k):
                    yield EvaluationFrame(
                        true.stamp_ns, people=people.select(np.zeros(len(people), bool)), truth=people
                    )
                    continue
                matched += 1
                yield _make_recorded_frame(found, people, count_dropped(found), size)
        if not matched and not self.problems:
            self.problems.append(
                f"{self._path}: no message on {self._topic} has the stamp of a ground truth message; record both with "
                "the same clock"
            )


class _DropCounter:
    """Counter of the images that a node dropped between recorded messages.

    Drops before the first message are not counted: the node may have run long before the recording.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def __call__(self, message: HumansMessage) -> int:
        total = int(message.decoded.dropped_frames)
        before, self._last = self._last, total
        return 0 if before is None else max(0, total - before)


def _make_recorded_frame(
    found: HumansMessage, truth: People | None, dropped: int, size: tuple[int, int] | None
) -> EvaluationFrame:
    message = found.decoded
    times = {
        "image received": 1e3 * message.age_at_receipt,
        "estimate": 1e3 * message.inference_time,
        "stamp to publication": 1e3 * message.total_latency,
    }
    people = people_from_human_array(message, estimate_image_size(message, size))
    return EvaluationFrame(found.stamp_ns, people=people, truth=truth, times_ms=times, dropped=dropped)


def _find_frame_id(path: Path, topic: str) -> str:
    """Return the TF frame of the first recorded message of an image. Raises UserError if there is none."""
    with HumansReader(path, topic) as humans:
        for each in humans.read_all():
            if any(each.decoded.k):
                return str(each.decoded.header.frame_id)
    raise UserError(f"{path}: no message on {topic} belongs to an image; check that the node was active")


def _check_optical_frame(path: Path, topic: str) -> None:
    """Raise UserError if the recorded people are not in a camera's optical frame, because of the node's target_frame.

    Their joints_2d are always in the image. In an optical frame the projected joints are near them, apart from lens
    distortion.
    """
    distances: list[NDArray[np.float64]] = []
    with HumansReader(path, topic) as recorded:
        for each in recorded.read_all():
            if len(distances) == CHECKED_MESSAGES:
                break
            people = people_from_human_array(each.decoded, estimate_image_size(each.decoded))
            known = np.isfinite(people.joints_2d).all(axis=2)
            if known.any() and people.joints.shape[:2] == known.shape and people.k[0, 0] > 0:
                projected = project(people.joints[known].astype(np.float64), people.k)
                shares = np.linalg.norm(projected - people.joints_2d[known], axis=1) / max(people.image_size)
                distances.append(np.nan_to_num(shares, nan=np.inf))  # behind the camera
                frame_id = each.decoded.header.frame_id
    if distances and np.median(np.concatenate(distances)) > MAX_SHIFT:
        raise UserError(
            f"people on {topic} of {path} are in {frame_id} (target_frame), not in the camera's frame; record them "
            "without target_frame"
        )


def _find_velocity_frame(path: Path, topic: str) -> str:
    """Return the TF frame of the velocities of the first recorded message with people, "" if there is none."""
    with HumansReader(path, topic) as humans:
        return next((find_velocity_frame(each.decoded) for each in humans.read_all() if each.decoded.humans), "")
