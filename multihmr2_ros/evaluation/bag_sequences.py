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

"""Bags as sequences for evaluation: images, or recorded people, with the true people."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.frames import COMPRESSED, RAW, BagSource
from multihmr2_ros.bags.humans import (
    HUMANS_TOPIC,
    TRUTH_TOPIC,
    HumansMessage,
    HumansReader,
    estimate_image_size,
    find_recorded_image_size,
    people_from_human_array,
)
from multihmr2_ros.bags.reading import BagMessage, BagReader
from multihmr2_ros.bags.stamps import NS
from multihmr2_ros.bags.storage import is_bag
from multihmr2_ros.bags.transforms import BagTransforms
from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.sources import make_source_name
from multihmr2_ros.people import People
from multihmr2_ros.transform_tree import normalize_frame_name

logger = logging.getLogger(__name__)
CHECKED_MESSAGES = 20  # recorded messages with people whose frame is checked
MAX_SHIFT = 0.5  # of the image's longer side, between joints_2d and projected joints: more than by lens distortion


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


class GroundTruthReader:
    """Reader of the true people of a bag, in the camera's frame.

    where        a topic of the bag, or another bag
    fixed_frame  TF frame of predicted velocities over the ground, "" if there are none
    """

    def __init__(self, path: Path, where: str, fixed_frame: str = "") -> None:
        self._fixed_frame = normalize_frame_name(fixed_frame)
        other = None if where.startswith("/") and not is_bag(Path(where)) else Path(where)
        self._path = other or path
        self._humans = HumansReader(self._path, TRUTH_TOPIC if other else where)
        self._transforms: dict[tuple[str, str], BagTransforms] = {}
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._bag = path

    def read_at(
        self, stamp_ns: int, frame_id: str, k: NDArray[np.float64] | None
    ) -> tuple[People, HumansMessage] | None:
        """Return the people at a stamp, in the TF frame frame_id, and their message.

        k: (3, 3) px, used if the truth has no intrinsics. Returns None if there is no message with the stamp.
        """
        found = self._humans.read_at(stamp_ns)
        return None if found is None else (self.convert_people(found, frame_id, k), found)

    def convert_people(self, found: HumansMessage, frame_id: str, k: NDArray[np.float64] | None) -> People:
        """Return a message's people in the TF frame frame_id.

        Velocities keep their axes. They are NaN unless they are relative to frame_id or to fixed_frame, because they
        cannot be compared with velocities relative to another frame.
        """
        people = people_from_human_array(
            found.decoded, estimate_image_size(found.decoded, self._find_image_size(found))
        )
        if people.k[0, 0] <= 0 and k is not None:
            people = dataclasses.replace(people, k=k)
        source, target = normalize_frame_name(found.decoded.header.frame_id), normalize_frame_name(frame_id)
        if source != target:
            people = move_people(people, self._find_transform(target, source, found.stamp_ns))
        velocity_frame = find_velocity_frame(found.decoded)
        if velocity_frame == target:
            return dataclasses.replace(people, velocity_frame="camera")
        if velocity_frame == self._fixed_frame:
            return dataclasses.replace(people, velocity_frame="fixed")
        return dataclasses.replace(people, velocity=np.full((len(people), 3), np.nan), velocity_frame="fixed")

    def _find_image_size(self, found: HumansMessage) -> tuple[int, int] | None:
        frame_id = found.decoded.header.frame_id
        if frame_id not in self._sizes:
            self._sizes[frame_id] = find_recorded_image_size(self._bag, frame_id)
        return self._sizes[frame_id]

    def read_messages(self) -> Iterator[HumansMessage]:
        return self._humans.read_all()

    def __len__(self) -> int:
        return len(self._humans)

    def close(self) -> None:
        self._humans.close()

    def _find_transform(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        if (target, source) not in self._transforms:
            if not (target and source):
                raise UserError(
                    f"expected a TF frame of the ground truth and one of the images, got {source!r} and {target!r}; "
                    "record messages with header.frame_id"
                )
            self._transforms[target, source] = BagTransforms(self._bag, target, source)
        return self._transforms[target, source].target_from_source(stamp_ns)


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
        self.problems[:] = _summarize_problems(self.problems)

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
        self.problems[:] = _summarize_problems(self.problems)

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


def find_velocity_frame(message: Any) -> str:
    """Return the TF frame of the velocities of a HumanArray; the frame of its header if it has no people."""
    names = [human.velocity_frame for human in message.humans] or [message.header.frame_id]
    return normalize_frame_name(names[0])


def has_images(path: Path) -> bool:
    with BagReader(path) as bag:
        return any(topic.type_name in (RAW, COMPRESSED) for topic in bag.topics.values())


def has_topic(path: Path, topic: str) -> bool:
    with BagReader(path) as bag:
        return topic in bag.topics


def move_people(people: People, pose: NDArray[np.float64]) -> People:
    """Transform people to another frame of reference, all but their velocities, which are in a frame of their own.

    pose (4, 4): from the people's frame to the new one.
    """
    turn, shift = pose[:3, :3], pose[:3, 3]

    def move(points: Any) -> NDArray[np.float32]:
        return (np.asarray(points, np.float64) @ turn.T + shift).astype(np.float32)

    rotations = people.rotations.copy()
    if rotations.shape[1]:
        rotations[:, 0] = turn @ rotations[:, 0]
    return dataclasses.replace(
        people,
        joints=move(people.joints),
        pelvis=move(people.pelvis),
        vertices=move(people.vertices),
        pelvis_covariance=turn @ people.pelvis_covariance @ turn.T,
        rotations=rotations,
    )


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


def _summarize_problems(problems: list[str]) -> list[str]:
    """Keep the first problem of each kind, and count the others. Problems with transforms that differ only in their
    stamps are one kind."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.split(" is known from ")[0], []).append(problem)
    return [each[0] + (f" (and {len(each) - 1} similar problems)" if len(each) > 1 else "") for each in kinds.values()]
