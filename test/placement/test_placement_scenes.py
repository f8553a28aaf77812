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

"""Placement on simulated RGB-D sequences: required accuracy, and calibration of its uncertainty."""

from __future__ import annotations

import numpy as np
import pytest

from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.frame import Frame
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.people import PlacementCue
from test.benchmarks.placement import PEOPLE, cost_ms
from test.helpers.rgbd_scenes import (
    INDEPENDENT,
    OPTIONS,
    OVERLAID,
    NetworkErrors,
    RgbdFrame,
    make_predicted,
    make_rgbd_frames,
    measure,
    summary,
)
from test.helpers.small_network import small_network

TIMES_S = (0.5, 1.5)


@pytest.fixture(scope="module")
def frames() -> list[RgbdFrame]:
    return [frame for seed in range(10) for frame in make_rgbd_frames(seed, OPTIONS, TIMES_S)]


def check(found: dict[str, np.ndarray], ground_ratio: float) -> None:
    """Check the required accuracy; `ground_ratio` for the ground alone."""
    before, by_depth, by_ground = (np.abs(found[name]) for name in ("network", "depth", "ground"))
    for group in (np.ones(len(before), bool), found["child"], found["occluded"]):
        assert np.median(by_depth[group]) < 0.3 * np.median(before[group])
        assert np.median(by_depth[group]) < 0.05
    assert by_depth.mean() < 0.3 * before.mean()
    assert np.median(by_ground) < ground_ratio * np.median(before)
    assert by_ground.mean() < ground_ratio * before.mean()
    for name in ("depth", "both"):
        within = np.abs(found[name]) / found[f"{name} sigma"]
        assert np.mean(within < 2) > 0.88, "about 95 % for an honest uncertainty"
        assert 0.45 < np.mean(within < 1) < 0.85, "about 68 %"


@pytest.mark.parametrize("errors", [OVERLAID, INDEPENDENT], ids=["overlaid", "independent"])
def test_a_depth_image_and_the_ground_put_people_where_they_are(frames: list[RgbdFrame], errors: NetworkErrors) -> None:
    # With independent errors the ground contributes only through the pelvis height: it must not increase errors.
    check(measure(frames, errors), 0.7 if errors is OVERLAID else 1.0)


@pytest.mark.parametrize("errors", [OVERLAID, INDEPENDENT], ids=["overlaid", "independent"])
def test_covariances_are_honest_across_the_ray(frames: list[RgbdFrame], errors: NetworkErrors) -> None:
    """Squared errors of two components, normalized by their covariance: 2 on average, below 5.99 for 95 %."""
    black = np.zeros((1, 1, 3), np.uint8)  # only the network uses the image
    estimator = Estimator(small_network(), EstimatorConfig(mesh="low"), Runtime("cpu", "fp32"))
    generator, squared = np.random.default_rng(0), []
    for frame in frames:
        people = estimator._place(
            make_predicted(frame, errors, generator), Frame(black, depth=frame.depth, ground=frame.ground)
        )
        for row in np.flatnonzero(frame.findable):
            place = people.pelvis[row].astype(float)
            across = np.linalg.svd(place[None])[2][1:]
            error = across @ (place - frame.posed.joints[row, 0])
            squared.append(error @ np.linalg.solve(across @ people.pelvis_covariance[row] @ across.T, error))
    assert 1.0 < np.mean(squared) < 2.6
    assert np.mean(np.array(squared) < 5.99) > 0.93


def test_the_body_becomes_truer_with_its_place(frames: list[RgbdFrame]) -> None:
    found = measure(frames, OVERLAID)
    for name in ("depth", "ground", "both"):
        assert np.std(found[f"{name} stature"]) < 0.7 * np.std(found["network stature"])


def test_most_people_are_placed_by_their_depth_and_the_depth_goes_before_the_ground(frames: list[RgbdFrame]) -> None:
    found = measure(frames, OVERLAID)
    assert np.mean(found["depth cue"] == PlacementCue.DEPTH) > 0.85
    assert np.mean(found["ground cue"] == PlacementCue.GROUND) > 0.4
    assert not np.any(found["ground cue"] == PlacementCue.DEPTH)
    assert not np.any(found["depth cue"] == PlacementCue.GROUND)
    np.testing.assert_array_equal(found["both cue"] == PlacementCue.DEPTH, found["depth cue"] == PlacementCue.DEPTH)


@pytest.mark.slow  # a minute; -s shows the figures
def test_the_figures_on_a_hundred_scenes() -> None:
    frames = [frame for seed in range(1000, 1100) for frame in make_rgbd_frames(seed, OPTIONS, TIMES_S)]
    for errors, ground_ratio in ((OVERLAID, 0.7), (INDEPENDENT, 1.0)):
        found = measure(frames, errors)
        print(f"\n{errors}\n{summary(found)}")
        check(found, ground_ratio)
    crowded = max(frames, key=lambda frame: len(frame.posed.shape))
    for name, (wall, processor) in cost_ms(crowded, "low", 100).items():
        print(f"{PEOPLE} people, {name}: {wall:.2f} ms, of the processor {processor:.2f} ms")
