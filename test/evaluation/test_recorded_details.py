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

"""Additional data of recorded people: covariances in another frame, and image sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multihmr2_ros.bags.humans import estimate_image_size, find_recorded_image_size
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation import results
from multihmr2_ros.evaluation.ground_truth import move_people
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.network.config import NetworkConfig
from test.helpers.bag_factory import HEIGHT, START_NS, WIDTH, camera_info, camera_messages, write_bag
from test.helpers.people_factory import make_people


def test_covariances_turn_with_the_people() -> None:
    """Points drawn with the covariances and transformed one by one have the transformed covariances.

    Velocities keep the axes of their own frame.
    """
    people = make_people(2)
    spread = np.array([np.diag([0.01, 0.04, 0.25]), np.diag([0.2, 0.1, 0.4])])
    people = dataclasses.replace(people, pelvis_covariance=spread, velocity_covariance=2 * spread)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", [20, -70, 130], degrees=True).as_matrix()
    pose[:3, 3] = [1, 2, 3]
    there = move_people(people, pose)
    rng = np.random.default_rng(0)
    for row in range(2):
        points = rng.multivariate_normal(np.zeros(3), spread[row], 200_000) @ pose[:3, :3].T
        np.testing.assert_allclose(there.pelvis_covariance[row], np.cov(points.T), atol=5e-3)
    np.testing.assert_array_equal(there.velocity_covariance, 2 * spread)
    np.testing.assert_array_equal(there.velocity, people.velocity)
    unknown = move_people(dataclasses.replace(people, pelvis_covariance=np.full((2, 3, 3), np.nan)), pose)
    assert np.isnan(unknown.pelvis_covariance).all()


def make_message(width: int, height: int, k: np.ndarray, fov: float | None = None) -> Any:
    fov = 2 * float(np.arctan(height / (2 * k[1, 1]))) if fov is None else fov
    return SimpleNamespace(height=0, width=0, k=k.ravel(), vertical_fov=fov)


def test_sizes_of_images_whose_principal_point_is_not_in_the_middle() -> None:
    k = np.array([[500.0, 0, 300], [0, 510, 150], [0, 0, 1]])
    assert estimate_image_size(make_message(640, 480, k)) == (480, 600)  # the width is estimated
    assert estimate_image_size(make_message(640, 480, k), (480, 640)) == (480, 640)
    assert estimate_image_size(make_message(640, 480, k, np.nan)) == (300, 600)  # a message without a field of view
    assert estimate_image_size(make_message(640, 480, np.zeros((3, 3)), np.nan), (480, 640)) == (
        0,
        0,
    )  # a message without a camera matrix


@pytest.mark.parametrize("kind", ["images", "camera_info", "neither", "another camera's"])
def test_the_size_comes_from_the_bag(tmp_path: Path, kind: str) -> None:
    messages = camera_messages(1, calibrated=False)
    frame_id = messages[0][2].header.frame_id
    if kind in ("camera_info", "neither"):
        info = camera_info(START_NS)
        messages = [("/camera/camera_info" if kind == "camera_info" else "/other/camera_info", START_NS, info)]
        frame_id = info.header.frame_id if kind == "camera_info" else "elsewhere"
    elif kind == "another camera's":
        frame_id = "elsewhere"
    bag = write_bag(tmp_path / "bag.mcap", messages)
    expected = (HEIGHT, WIDTH) if kind in ("images", "camera_info") else None
    assert find_recorded_image_size(bag, frame_id) == expected


@pytest.mark.parametrize("count", [1, 5])
def test_a_network_with_too_few_shape_outputs(count: int) -> None:
    with pytest.raises(UserError, match="shape_outputs must be at least 6"):
        NetworkConfig(shape_outputs=count)


def test_metrics_have_rows_if_no_person_was_matched(tmp_path: Path) -> None:
    missed = Totals(frames=3, with_truth=3, detection=DetectionCounts(true_positives=0, false_negatives=5))
    without_truth = Totals(frames=3)
    sequences = [SequenceResult(name, "", name, "", totals) for name, totals in (("a", missed), ("b", without_truth))]
    results.write_results(tmp_path, sequences, {}, {}, [])
    document = results.read_results(tmp_path)
    rows = document["results"]["a"]["metrics"]
    for key in ("PVE", "MPJPE", "MRPE", "N-MPJPE", "FOV error"):
        assert (rows[key]["value"], rows[key]["count"]) == (None, 0)
    assert (rows["recall"]["value"], rows["recall"]["count"]) == (0, 5)
    assert "PVE" not in document["results"]["b"]["metrics"], "without truth it does not apply"
