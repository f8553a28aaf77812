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

"""Video metrics of `real_pictures.py`: presence, track ids, and positions in videos of calibrated cameras."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_finders import coco_joints

from multihmr2_ros.camera import compute_vertical_fov, project
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator
from multihmr2_ros.evaluation.datasets.files import parse_file, read_json
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.sources import open_source
from multihmr2_ros.metrics.bodies import centered_point_error, procrustes_error
from multihmr2_ros.metrics.matching import match_people
from multihmr2_ros.metrics.placement import field_of_view_error, relative_distance_error
from multihmr2_ros.people import People

# Joints that the triangulation and COCO's keypoints have in common, with their rows in COCO.
JOINTS = {
    "Nose": 0,
    "LShoulder": 5, "RShoulder": 6, "LElbow": 7, "RElbow": 8, "LWrist": 9, "RWrist": 10,
    "LHip": 11, "RHip": 12, "LKnee": 13, "RKnee": 14, "LAnkle": 15, "RAnkle": 16,
}  # fmt: skip
HIPS = [list(JOINTS).index(name) for name in ("LHip", "RHip")]

Show = Callable[[Frame, People], None]  # for overlays


@dataclass(frozen=True)
class Presence:
    """A video of several people, at most one at a time. intervals: (first, last) frame of each person."""

    video: Path
    frame_count: int
    intervals: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, labels: Path, data: Path) -> Presence:
        content = read_json(labels)

        def read() -> Presence:
            intervals = tuple((int(first), int(last)) for first, last in (each["frames"] for each in content["tracks"]))
            if not intervals:
                raise ValueError("nobody is in it")
            return cls(data / content["video"], int(content["n_frames"]), intervals)

        return parse_file(labels, read)

    def who(self, frame: int) -> int | None:
        """Return the row of the person in the frame; None for a frame without a person."""
        rows = [row for row, (first, last) in enumerate(self.intervals) if first <= frame <= last]
        return rows[0] if rows else None


@dataclass
class IdentityTimes:
    """Detections in the frames of a Presence, by row of the person; None: frames without a person.

    frames  number of frames used
    found   number of frames with a detection
    ids     number of frames of each track id
    """

    presence: Presence
    frames: Counter[int | None] = field(default_factory=Counter)
    found: Counter[int | None] = field(default_factory=Counter)
    ids: dict[int, Counter[int]] = field(default_factory=dict)

    def add(self, frame: int, track_ids: NDArray[np.int64]) -> None:
        who = self.presence.who(frame)
        self.frames[who] += 1
        self.found[who] += len(track_ids) > 0
        if who is not None:
            self.ids.setdefault(who, Counter()).update(track_ids.tolist())

    def compute_metrics(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Return the figures of all people together, and of each person.

        A person's id is the most frequent id in their frames; it is unique if no other person has it.
        """
        each = [self._person(row) for row in range(len(self.presence.intervals))]
        there = sum(count for who, count in self.frames.items() if who is not None)
        hits = sum(count for who, count in self.found.items() if who is not None)
        values = {
            "somebody found while a person is there %": percent(hits, there),
            "somebody found while nobody is there %": percent(self.found[None], self.frames[None]),
        }
        for name in (
            "one id, of a person's frames found",
            "one id, of all of a person's frames",
            "that id's uniqueness",
        ):
            shares = [person[f"{name} %"] for person in each]
            values[f"{name}, least %"] = float(np.min(shares))
            values[f"{name}, mean %"] = float(np.mean(shares))
        return values, each

    def _person(self, row: int) -> dict[str, float]:
        """Return the figures of one person; 0 if never detected."""
        ids = self.ids.get(row, Counter())
        track_id, count = ids.most_common(1)[0] if ids else (0, 0)
        everybody = sum(other[track_id] for other in self.ids.values())
        return {
            "one id, of a person's frames found %": percent(count, self.found[row]) if count else 0.0,
            "one id, of all of a person's frames %": percent(count, self.frames[row]) if count else 0.0,
            "that id's uniqueness %": percent(count, everybody) if count else 0.0,
        }


def watch(estimator: Estimator, presence: Presence, every: int, show: Show) -> IdentityTimes:
    """Run the estimator on every n-th frame, in order and with tracking."""
    times = IdentityTimes(presence)
    estimator.reset()
    for number, frame in frames_of(presence.video, presence.frame_count, every):
        people = estimator.step(frame)
        times.add(number, people.track_id)
        if number % 100 < every:
            show(frame, people)
    return times


@dataclass(frozen=True)
class CalibratedVideo:
    """A video of a calibrated camera, and the joints of one person.

    k       (3, 3) px
    joints  (n_frames, 13, 3) m, JOINTS in the camera's frame, by triangulation, accurate to some centimeters
    """

    video: Path
    k: NDArray[np.float64]
    joints: NDArray[np.float64]

    @classmethod
    def read(cls, labels: Path, data: Path) -> CalibratedVideo:
        content = read_json(labels)

        def read() -> CalibratedVideo:
            columns = [content["joint_names"].index(name) for name in JOINTS]
            joints = np.array(content["joints_cam_m"], np.float64)[:, columns]
            return cls(data / content["video"], np.array(content["K"], np.float64).reshape(3, 3), joints)

        return parse_file(labels, read)


@dataclass
class VideoErrors:
    """Errors in one or more calibrated videos, one value per frame; errors of the body only if it was detected."""

    frames: int = 0
    mpjpe_mm: list[float] = field(default_factory=list)
    pa_mpjpe_mm: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    fov_deg: list[float] = field(default_factory=list)

    def add(
        self, joints: NDArray[np.float64], true: NDArray[np.float64], people: People, k: NDArray[np.float64]
    ) -> None:
        """Add the errors of one frame, for the detection that is nearest to the true person in the image.

        joints  (n, 13, 3) m, of the people detected with k given
        true    (13, 3) m, true joints
        people  the detections
        k       (3, 3) px, true intrinsics
        """
        self.frames += 1
        true_fov = np.array([compute_vertical_fov(k, people.image_size[0])])
        self.fov_deg += field_of_view_error(np.array([people.predicted_vertical_fov]), true_fov).tolist()
        pairs = match_people(project(joints, k), project(true[None], k))
        found = joints[pairs[:, 0]]
        same = np.repeat(true[None], len(found), axis=0)
        pelvis, true_pelvis = found[:, HIPS].mean(axis=1), same[:, HIPS].mean(axis=1)
        self.mpjpe_mm += centered_point_error(found, same, pelvis, true_pelvis).tolist()
        self.pa_mpjpe_mm += procrustes_error(found, same).tolist()
        self.distance += relative_distance_error(pelvis, true_pelvis).tolist()

    def __add__(self, other: VideoErrors) -> VideoErrors:
        return VideoErrors(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def compute_metrics(self) -> dict[str, float]:
        return {
            "person found %": percent(len(self.distance), self.frames),
            "MPJPE mm": mean(self.mpjpe_mm),
            "PA-MPJPE mm": mean(self.pa_mpjpe_mm),
            "distance error, K given %": 100 * mean(self.distance),
            "vertical field of view error, K not given °": mean(self.fov_deg),
        }


def measure_video(
    estimator: Estimator, video: CalibratedVideo, threshold: float, every: int, show: Show
) -> VideoErrors:
    """Measure positions with k given, and the predicted field of view.

    One step gives both, because the predicted field of view does not depend on the given K.
    """
    errors = VideoErrors()
    for number, frame in frames_of(video.video, len(video.joints), every):
        people = estimator.step(dataclasses.replace(frame, k=video.k))
        people = people.select(people.score > threshold)
        joints = coco_joints(estimator, people)[:, list(JOINTS.values())]
        errors.add(joints, video.joints[number], people, video.k)
        if number % 20 < every:
            show(frame, people)
    return errors


def frames_of(video: Path, count: int, every: int) -> Iterator[tuple[int, Frame]]:
    """Yield every n-th of the first `count` frames, with its number. Raises UserError if there are fewer frames."""
    number = -1
    with open_source(video) as frames:
        for number, frame in enumerate(frames):
            if number % every == 0:
                yield number, frame
            if number + 1 == count:
                return
    raise UserError(f"{video} must have {count} frames, as in its labels, got {number + 1}; download the video again")


def percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
