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

"""Bags of a camera with lens distortion: people are estimated in the undistorted image, joints_2d are px of the
recorded one."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from multihmr2_ros.cli.main import main
from multihmr2_ros.estimator import Estimator, EstimatorConfig, Runtime
from multihmr2_ros.evaluation.bag_sequences import BagSequence
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.run import evaluate_sequence
from multihmr2_ros.evaluation.scoring import FrameScore, ScoringConfig
from multihmr2_ros.evaluation.side_by_side import ComparisonVideo, draw_titled_image
from multihmr2_ros.frame import Frame, IntrinsicsChoice
from multihmr2_ros.media.sources import open_source
from multihmr2_ros.people import People
from test.helpers.bag_factory import START_NS, camera_info, camera_messages, write_bag
from test.helpers.people_factory import make_full_mesh, make_people
from test.helpers.small_network import small_network
from test.helpers.stand_in_estimator import FACES

D = (-0.2, 0.03, 0.01, -0.01, 0.0)
REACH = 1.0  # limit of x / z and y / z up to which the lens model is valid


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    messages = [*camera_messages(2, calibrated=False), ("/camera/camera_info", START_NS, camera_info(0, d=D))]
    return write_bag(tmp_path / "walk.mcap", messages)


def assert_recorded(joints: np.ndarray, joints_2d: np.ndarray, k: np.ndarray) -> None:
    """Assert that joints_2d (n, J, 2) are the joints (n, J, 3) projected with OpenCV's lens, not a pinhole."""
    joints, joints_2d = joints.reshape(-1, 3).astype(np.float64), joints_2d.reshape(-1, 2)
    plane = joints[:, :2] / joints[:, 2:]
    seen = (joints[:, 2] > 0.1) & (np.abs(plane) < REACH).all(axis=1)
    assert seen.sum() > 50
    expected, _ = cv2.projectPoints(joints[seen], np.zeros(3), np.zeros(3), k, np.array(D))
    np.testing.assert_allclose(joints_2d[seen], expected[:, 0], atol=0.02)
    assert np.abs(plane[seen] @ k[:2, :2].T + k[:2, 2] - joints_2d[seen]).max() > 1


def test_run(bag: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--mesh", "low", "--save", "params"]
    people = ["--score-threshold", "0", "--nms-distance", "0", "--max-people", "3"]
    assert main(["run", str(bag), "--out", str(tmp_path / "out"), *options, *people]) == 0
    for name in ("walk_000000", "walk_000001"):
        saved = np.load(tmp_path / "out" / f"{name}.npz")
        assert_recorded(saved["joints"], saved["joints_2d"], saved["k"])


class Kept:
    def __init__(self) -> None:
        self.people: list[People] = []

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None:
        self.people.append(people)


def test_evaluate(bag: Path, tmp_path: Path) -> None:
    kept = Kept()
    config = EstimatorConfig(score_threshold=0, nms_distance_m=0, max_people=3, mesh="low")
    estimator = Estimator(small_network(), config, Runtime("cpu", "fp32"))
    evaluate_sequence(BagSequence(bag), estimator, IntrinsicsChoice(), tmp_path, ScoringConfig(), lambda stack: [kept])
    assert len(kept.people) == 2
    for people in kept.people:
        assert_recorded(people.joints, people.joints_2d, people.k)


def test_boxes_lie_on_the_ideal_image_beside_each_other(tmp_path: Path) -> None:
    people = make_people(2)
    moved = dataclasses.replace(people, joints_2d=people.joints_2d + 40)
    frame = Frame(np.full((480, 640, 3), 128, np.uint8))
    images = []
    for name, truth in (("ideal", people), ("recorded", moved)):
        with contextlib.ExitStack() as stack:
            ComparisonVideo(tmp_path / f"{name}.mp4", FACES, 10, stack).add(
                0, EvaluationFrame(0, frame, truth=truth), people, None
            )
        (drawn,) = open_source(tmp_path / f"{name}.mp4")
        images.append(drawn.image)
    assert (images[0] != 128).any()
    np.testing.assert_array_equal(images[0], images[1])


def test_a_mesh_of_other_faces_is_drawn_as_a_box() -> None:
    people, frame = make_full_mesh(1, 0.0), Frame(np.full((480, 640, 3), 128, np.uint8))
    boxed = dataclasses.replace(people, vertices=people.vertices[:, :0])
    images = [draw_titled_image(frame, each, FACES, "truth", (640, 480)) for each in (people, boxed)]
    np.testing.assert_array_equal(*images)
