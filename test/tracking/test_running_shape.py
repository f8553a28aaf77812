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

"""Estimation of one constant body shape per person."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from multihmr2_ros.tracking import Detections, Tracker
from multihmr2_ros.tracking.track import RunningMean

RATE_HZ = 30.0


def one_person(pelvis: NDArray[np.float64], rotation: NDArray[np.float64], shape: NDArray[np.float64]) -> Detections:
    location = np.append(610 * pelvis[:2] / pelvis[2] / 768 + 0.5, -np.log(pelvis[2]))
    return Detections(np.ones((1, 4)), location[None], rotation[None], pelvis[None], shape[None], np.ones(1))


def test_running_shape_converges_and_a_track_reports_it() -> None:
    generator = np.random.default_rng(0)
    true_shape = np.array([0.1, 0.9, 0.5, 0.4, 0.6, 0.3])
    tracker = Tracker()
    error = []
    for step in range(300):
        measured = true_shape + 0.1 * generator.normal(size=6)
        shape = tracker.update(one_person(np.array([0, 0, 4.0]), np.eye(3), measured), step / RATE_HZ).shape
        assert shape is not None
        error.append(np.abs(shape[0] - true_shape).max())
    assert error[-1] < 0.03
    assert error[-1] < 0.3 * np.mean(error[:5])


def test_running_shape_is_the_weighted_mean_and_forgets_with_its_window() -> None:
    shapes, scores = np.random.default_rng(0).random((20, 6)), np.random.default_rng(1).random(20)
    running = RunningMean(window_s=1e9)
    for step in range(20):
        mean = running.update(shapes[step], scores[step], step / RATE_HZ)
    np.testing.assert_allclose(mean, np.average(shapes, axis=0, weights=scores), rtol=1e-6)
    forgetful = RunningMean(window_s=2.0)
    for step in range(600):
        mean = forgetful.update(np.full(6, float(step >= 300)), 1.0, step / RATE_HZ)
    assert mean[0] == pytest.approx(1 - math.exp(-300 / RATE_HZ / 2.0), abs=1e-3)
    np.testing.assert_array_equal(RunningMean(1.0).update(np.ones(6), 0.0, 0.0), np.ones(6))  # a score of zero
