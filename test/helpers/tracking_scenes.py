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

"""Detections with known identities for the tracker tests: the golden sequences, and simulated people in a room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.tracking import Detections, Tracker, TrackingResult
from test import paths

GOLDEN = paths.GOLDEN / "tracker_dev.npz"
GOLDEN_NAMES = ("few", "crowd", "long_gap")
SIDE_PX = 768
FOCAL_PX = 610.0


@dataclass(frozen=True)
class Sequence:
    """T frames of detections; rows offsets[t]:offsets[t + 1] belong to frame t. true_person (M,): -1 marks a false
    detection."""

    offsets: NDArray[np.int64]
    feature: NDArray[np.float32]
    location: NDArray[np.float64]
    rotation: NDArray[np.float64]
    true_person: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, frame: int) -> slice:
        return slice(self.offsets[frame], self.offsets[frame + 1])

    def detections(self) -> Iterator[Detections]:
        for frame in range(len(self)):
            rows = self.rows(frame)
            yield Detections(self.feature[rows], self.location[rows], self.rotation[rows])


def golden(name: str) -> tuple[Sequence, NDArray[np.int64]]:
    """Return a golden sequence and the ids (M,) of the published method."""
    with np.load(GOLDEN) as data:
        sequence = Sequence(
            offsets=data[f"{name}/offsets"],
            feature=data[f"{name}/features"],
            location=data[f"{name}/pelvis_uv_over_size_and_nearness"],
            rotation=data[f"{name}/rotmat"],
            true_person=data[f"{name}/true_person"],
        )
        return sequence, data[f"{name}/expected_track_id"]


def track(tracker: Tracker, sequence: Sequence, rate_hz: float = 1.0, start_s: float = 0.0) -> NDArray[np.int64]:
    """Return the ids (M,) of a tracker if frame t has the stamp start + t / rate."""
    answers: list[TrackingResult] = [
        tracker.update(detections, start_s + frame / rate_hz) for frame, detections in enumerate(sequence.detections())
    ]
    return np.concatenate([answer.track_id for answer in answers])


@dataclass(frozen=True)
class Room:
    """Settings of the simulation: people who walk between random places in front of a camera, at 30 frames per second.

    Half of the people who enter were in the room before. feature_noise: length of the noise on the unit features.
    feature_common: share of the feature that all people have in common; with 1, all features are equal.
    camera_yaw_rad_s: amplitude of the camera's rotation.
    """

    people: int = 6
    frames: int = 300
    feature_noise: float = 0.4
    feature_common: float = 0.0
    camera_yaw_rad_s: float = 0.0
    missed: float = 0.03
    false_positives: float = 0.02


def simulate(room: Room, seed: int) -> Sequence:
    """Simulate people who enter, walk, occlude one another, leave and return."""
    generator = np.random.default_rng(seed)
    walkers = _Walkers(room, generator)
    rows: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]] = []
    offsets = [0]
    for frame in range(room.frames):
        yaw = room.camera_yaw_rad_s * 3 / np.pi * np.sin(np.pi / 3 * frame / 30)
        walkers.step(frame)
        rows += walkers.detected(yaw)
        if generator.random() < room.false_positives:
            place = np.array([generator.random(), generator.uniform(0.3, 0.8), -np.log(generator.uniform(2, 8))])
            rows.append((walkers.new_feature(), place, Rotation.from_quat(generator.normal(size=4)).as_matrix(), -1))
        offsets.append(len(rows))
    feature, location, rotation, person = (np.array(column) for column in zip(*rows, strict=True))
    return Sequence(np.array(offsets), feature.astype(np.float32), location, rotation, person)


class _Walkers:
    """Positions on the floor (x, z) in meters, headings, and presence of the people."""

    def __init__(self, room: Room, generator: np.random.Generator) -> None:
        self.room, self.generator = room, generator
        self.common = self._direction()
        n = room.people
        self.place = np.stack([generator.uniform(-2.5, 2.5, n), generator.uniform(2.5, 8, n)], axis=1)
        self.goal = self.place.copy()
        self.velocity = np.zeros((n, 2))
        self.heading = generator.uniform(-np.pi, np.pi, n)
        self.present = generator.random(n) < 0.7
        self.change_frame = generator.integers(60, 250, n)
        self.person = np.arange(n)
        self.feature = np.array([self.new_feature() for _ in range(n)])

    def _direction(self) -> NDArray[np.float64]:
        vector = self.generator.normal(size=64)
        return vector / np.linalg.norm(vector)

    def new_feature(self) -> NDArray[np.float64]:
        mixed = self.room.feature_common * self.common + (1 - self.room.feature_common) * self._direction()
        return mixed / np.linalg.norm(mixed)

    def step(self, frame: int) -> None:
        for walker in np.flatnonzero(frame >= self.change_frame):
            self._come_or_go(walker, frame)
        to_goal = self.goal - self.place
        distance = np.linalg.norm(to_goal, axis=1, keepdims=True)
        wanted = to_goal * np.minimum(1.2, distance / 0.3) / np.maximum(distance, 1e-9)
        self.velocity += (wanted - self.velocity) * 0.1
        self.place += self.velocity / 30
        walking = np.linalg.norm(self.velocity, axis=1) > 0.2
        turn = np.angle(np.exp(1j * (np.arctan2(*self.velocity.T) - self.heading)))
        self.heading += np.where(walking, turn * 0.13, 0)
        for walker in np.flatnonzero((distance[:, 0] < 0.3) & (self.generator.random(len(distance)) < 0.02)):
            self.goal[walker] = self.generator.uniform((-3, 2), (3, 8))

    def _come_or_go(self, walker: int, frame: int) -> None:
        self.present[walker] = not self.present[walker]
        if not self.present[walker]:
            self.change_frame[walker] = frame + self.generator.integers(10, 120)
            return
        self.change_frame[walker] = frame + self.generator.integers(60, 250)
        self.place[walker] = (self.generator.choice([-2.5, 2.5]), self.generator.uniform(2.5, 8))
        if self.generator.random() < 0.5:
            self.person[walker] = self.person.max() + 1
            self.feature[walker] = self.new_feature()

    def detected(self, yaw: float) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]]:
        """Return feature, location, rotation and index of each person in the image who is not occluded by another."""
        cosine, sine = np.cos(yaw), np.sin(yaw)
        x = cosine * self.place[:, 0] - sine * self.place[:, 1]
        z = np.maximum(sine * self.place[:, 0] + cosine * self.place[:, 1], 0.3)
        u, v = FOCAL_PX * x / z + SIDE_PX / 2, FOCAL_PX * 0.6 / z + 330
        seen: list[int] = []
        rows = []
        for walker in np.argsort(z):
            if not self.present[walker] or z[walker] < 0.5 or not 0 < u[walker] < SIDE_PX:
                continue
            hidden = any(abs(u[walker] - u[other]) < 0.25 * FOCAL_PX / z[other] for other in seen)
            seen.append(walker)
            if not hidden and self.generator.random() > self.room.missed:
                rows.append(self._measured(walker, u[walker], v[walker], z[walker], yaw))
        return rows

    def _measured(
        self, walker: int, u: float, v: float, z: float, yaw: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
        noise = self.generator.normal(size=(4, 3))
        feature_noise = self.room.feature_noise / 8 * self.generator.normal(size=64)
        location = np.array([(u + 4 * noise[0, 0]) / SIDE_PX, (v + 4 * noise[0, 1]) / SIDE_PX, -np.log(z)])
        location[2] += 0.04 * noise[0, 2]
        upright = Rotation.from_rotvec([0, 0, np.pi]) * Rotation.from_rotvec([0, self.heading[walker] - yaw, 0])
        rotation = (upright * Rotation.from_rotvec(0.12 * noise[1])).as_matrix()
        return self.feature[walker] + feature_noise, location, rotation, int(self.person[walker])
