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

"""Shared helpers of the data set tests: an estimator that returns given people, and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from multihmr2_ros.evaluation.datasets.files import SequenceListing
from multihmr2_ros.frame import Frame
from multihmr2_ros.people import People
from test.helpers.people_factory import make_people, pinhole

WIDTH, HEIGHT = 640, 480
K = pinhole()


class Estimator:
    """Estimator that returns given people for each image; their vertices are the data set's joints."""

    faces = np.zeros((0, 3), np.int32)
    body = SimpleNamespace(regress_coco_keypoints=lambda vertices: vertices[:, :17])

    def __init__(self, people: Callable[[int], People]) -> None:
        self._people, self.index = people, -1

    def step(self, frame: Frame, /) -> People:
        self.index += 1
        return self._people(self.index)

    def reset(self) -> None:
        """Do nothing: there are no tracks."""


def open_sequences(listing: SequenceListing[Any]) -> list[Any]:
    return [read() for _, read in listing]


def make_people_with_vertices(vertices: np.ndarray, k: np.ndarray = K, **changes: Any) -> People:
    return make_people(len(vertices), vertices=vertices, pelvis=vertices.mean(axis=1), k=k, **changes)


def save_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40, 80, 120)).save(path)


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_joints(count: int, joints: int, seed: int = 0) -> np.ndarray:
    """Return joints (count, joints, 3) m of people in front of the camera, well separated."""
    rng = np.random.default_rng(seed)
    middle = np.stack([np.linspace(-1, 1, count), np.zeros(count), np.full(count, 4.0)], axis=1)
    return middle[:, None] + rng.uniform(-0.3, 0.3, (count, joints, 3)) * [1, 2.5, 1]


def save_regressor(path: Path) -> Path:
    """Save a regressor for which joint j is vertex j."""
    np.save(path, np.eye(24, 19158, dtype=np.float32))
    return path


def make_mesh(joints: np.ndarray) -> np.ndarray:
    vertices = np.zeros((len(joints), 19158, 3), np.float32)
    vertices[:, : joints.shape[1]] = joints
    return vertices
