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

"""The true people of a bag, in the frame of its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.humans import (
    TRUTH_TOPIC,
    HumansMessage,
    HumansReader,
    estimate_image_size,
    find_recorded_image_size,
    people_from_human_array,
)
from multihmr2_ros.bags.storage import is_bag
from multihmr2_ros.bags.transforms import BagTransforms
from multihmr2_ros.errors import UserError
from multihmr2_ros.people import People
from multihmr2_ros.transform_tree import normalize_frame_name


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


def find_velocity_frame(message: Any) -> str:
    """Return the TF frame of the velocities of a HumanArray; the frame of its header if it has no people."""
    names = [human.velocity_frame for human in message.humans] or [message.header.frame_id]
    return normalize_frame_name(names[0])


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


def summarize_problems(problems: list[str]) -> list[str]:
    """Keep the first problem of each kind, and count the others. Problems with transforms that differ only in their
    stamps are one kind."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.split(" is known from ")[0], []).append(problem)
    return [each[0] + (f" (and {len(each) - 1} similar problems)" if len(each) > 1 else "") for each in kinds.values()]
