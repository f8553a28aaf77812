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

"""Estimator with known output for the node tests, without a network or weights."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.frame import Frame
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.people import BONE_COUNT, PHENOTYPE_LABELS, People
from test.helpers.people_factory import make_people, pinhole

PELVIS = np.array([[1.0, 0.2, 4.0]])
TETRAHEDRON = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
MESHES = {"low": (TETRAHEDRON, FACES), "full": (np.vstack([TETRAHEDRON, -TETRAHEDRON]), np.vstack([FACES, FACES + 4]))}


class StandInEstimator:
    """Estimator that returns one confirmed person at PELVIS, track 7, for every image; `people` may be changed. step
    takes seconds_s.

    last_frame: frame of the last step. last_image: its image without lens distortion. last_cues: its cues without lens
    distortion: depth, ground and fixed_from_camera if known, and fixed_frame.

    Thresholds, the number of people and the mesh are those of config.
    """

    def __init__(self, parameters: Any, seconds_s: float = 0.0) -> None:
        self.config = EstimatorConfig(mesh="low")
        self.runtime = Runtime("cpu")
        self.body = body("low")
        self.seconds_s = seconds_s
        self.people: dict[str, Any] = {"n": 1, "pelvis": PELVIS, "track_id": np.array([7])}
        self.resets = 0
        self.steps = 0
        self.last_frame = Frame(np.zeros((0, 0, 3), np.uint8))
        self.last_image = self.last_frame.image
        self.last_cues: dict[str, Any] = {}

    def step(self, frame: Frame, /) -> People:
        self.steps += 1
        self.last_frame, view = frame, frame.undistort()
        image, k = view.image, frame.k
        self.last_image = image
        cues = {"depth": view.depth, "ground": view.ground, "fixed_from_camera": view.fixed_from_camera}
        self.last_cues = {name: cue for name, cue in cues.items() if cue is not None}
        self.last_cues["fixed_frame"] = view.fixed_frame
        time.sleep(self.seconds_s)
        if not image.any():
            raise ZeroDivisionError("a black image")
        pelvis = self.people["pelvis"]
        people = make_people(
            **self.people,
            vertices=pelvis[:, None] + MESHES[self.config.mesh][0],
            k=pinhole(image_size=image.shape[:2]) if k is None else k,
            image_size=image.shape[:2],
            intrinsics_source=frame.intrinsics_source,
            stamp=frame.stamp,
        )
        people = dataclasses.replace(people, joints_2d=frame.points_as_recorded(people.joints_2d))
        return people.select(np.flatnonzero(people.score > self.config.score_threshold)[: self.config.max_people])

    def reconfigure(self, config: EstimatorConfig) -> None:
        if config.mesh != self.config.mesh:
            self.body = body(config.mesh)
        self.config = config

    def reset(self) -> None:
        self.resets += 1


def body(mesh: str) -> SimpleNamespace:
    return SimpleNamespace(
        bone_labels=tuple(f"bone_{index}" for index in range(BONE_COUNT)),
        bone_parents=(-1, *range(BONE_COUNT - 1)),
        phenotype_labels=PHENOTYPE_LABELS,
        faces=MESHES[mesh][1],
    )
