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

"""Smoothing removes jitter without much lag, and a person keeps one size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.tracking import Detections, OneEuroConfig, TrackedFrame, Tracker, TrackerConfig
from multihmr2_ros.tracking.smoothing import Smoothed, smooth_rotations, smooth_vectors
from multihmr2_ros.tracking.track import RunningShape

RATE_HZ = 30.0
SMOOTH = TrackerConfig(depth_smoothing=OneEuroConfig(), rotation_smoothing=OneEuroConfig())


def one_person(pelvis: NDArray[np.float64], rotation: NDArray[np.float64], shape: NDArray[np.float64]) -> Detections:
    location = np.append(610 * pelvis[:2] / pelvis[2] / 768 + 0.5, -np.log(pelvis[2]))
    return Detections(np.ones((1, 4)), location[None], rotation[None], pelvis[None], shape[None], np.ones(1))


def follow(config: TrackerConfig, depths: NDArray[np.float64], rotations: Rotation) -> list[TrackedFrame]:
    """One person at these depths (T,) m on one viewing ray, with these rotations (T)."""
    tracker = Tracker(config)
    ray = np.array([0.2, 0.1, 1.0])
    return [
        tracker.update(one_person(ray * depth, rotation.as_matrix(), np.zeros(6)), step / RATE_HZ)
        for step, (depth, rotation) in enumerate(zip(depths, rotations, strict=True))
    ]


def test_smoothing_quietens_a_person_who_stands_still() -> None:
    generator = np.random.default_rng(0)
    depths = 4 * np.exp(0.03 * generator.normal(size=300))
    upright = Rotation.from_rotvec([0, 3.0, 0])
    rotations = upright * Rotation.from_rotvec(0.1 * generator.normal(size=(300, 3)))
    frames = follow(SMOOTH, depths, rotations)
    smooth_depths = np.array([frame.pelvis[0, 2] for frame in frames if frame.pelvis is not None])
    smooth_turns = (upright.inv() * Rotation.from_matrix([frame.rotation[0] for frame in frames])).magnitude()
    turns = (upright.inv() * rotations).magnitude()
    assert smooth_depths[30:].std() < 0.5 * depths[30:].std()
    assert np.sqrt(np.mean(smooth_turns[30:] ** 2)) < 0.6 * np.sqrt(np.mean(turns[30:] ** 2))
    assert smooth_depths[30:].mean() == pytest.approx(4, rel=0.01)


def test_smoothing_follows_a_step_within_a_quarter_of_a_second() -> None:
    depths = np.where(np.arange(60) < 30, 4.0, 3.0)
    rotations = Rotation.from_rotvec(np.where(np.arange(60) < 30, 0.0, 1.0)[:, None] * np.array([0, 1, 0]))
    frames = follow(SMOOTH, depths, rotations)
    assert frames[29].pelvis is not None
    assert frames[29].pelvis[0, 2] == pytest.approx(4.0)
    late = frames[30 + math.ceil(0.25 * RATE_HZ)]
    assert late.pelvis is not None
    assert abs(late.pelvis[0, 2] - 3.0) < 0.2
    assert (rotations[59].inv() * Rotation.from_matrix(late.rotation[0])).magnitude() < 0.2


def test_smoothed_pelvis_stays_on_its_viewing_ray() -> None:
    depths = 4 + np.sin(np.arange(50))
    for frame in follow(SMOOTH, depths, Rotation.identity(50)):
        assert frame.pelvis is not None
        np.testing.assert_allclose(frame.pelvis[0] / frame.pelvis[0, 2], [0.2, 0.1, 1.0])


def test_smoothing_is_off_unless_asked_for() -> None:
    depths = 4 + np.sin(np.arange(20))
    rotations = Rotation.from_quat(np.random.default_rng(0).normal(size=(20, 4)))
    for config in (TrackerConfig(), TrackerConfig.reference(RATE_HZ)):
        for depth, rotation, frame in zip(depths, rotations, follow(config, depths, rotations), strict=True):
            assert frame.pelvis is not None
            assert frame.pelvis[0, 2] == depth
            np.testing.assert_array_equal(frame.rotation[0], rotation.as_matrix())


def test_smoothing_changes_neither_ids_nor_velocities() -> None:
    depths = 4 + 0.1 * np.sin(np.arange(50))
    plain = follow(TrackerConfig(), depths, Rotation.identity(50))
    smooth = follow(SMOOTH, depths, Rotation.identity(50))
    for expected, frame in zip(plain, smooth, strict=True):
        np.testing.assert_array_equal(frame.track_id, expected.track_id)
        np.testing.assert_array_equal(frame.velocity, expected.velocity)


def test_smoothing_starts_afresh_with_a_new_track() -> None:
    tracker = Tracker(SMOOTH)
    for step in range(10):
        tracker.update(one_person(np.array([0, 0, 4.0]), np.eye(3), np.zeros(6)), step / RATE_HZ)
    turned = Rotation.from_rotvec([0, 2, 0]).as_matrix()
    later = tracker.update(one_person(np.array([0, 0, 8.0]), turned, np.ones(6)), 100.0)
    assert later.track_id.tolist() == [1]
    assert later.pelvis is not None
    assert later.shape is not None
    assert later.pelvis[0, 2] == pytest.approx(8.0)
    np.testing.assert_allclose(later.rotation[0], turned)
    np.testing.assert_array_equal(later.shape[0], np.ones(6))


def one_euro_of_the_paper(values: list[float], rate_hz: float, config: OneEuroConfig) -> list[float]:
    """Algorithm 1 of Casiez et al. (2012), for one number at a constant rate."""

    def alpha(cutoff_hz: float) -> float:
        return 1 / (1 + rate_hz / (2 * math.pi * cutoff_hz))

    smoothed, rate = values[0], 0.0
    result = [smoothed]
    for value in values[1:]:
        share = alpha(config.derivative_cutoff_hz)
        rate = share * (value - smoothed) * rate_hz + (1 - share) * rate
        share = alpha(config.min_cutoff_hz + config.speed_coefficient * abs(rate))
        smoothed = share * value + (1 - share) * smoothed
        result.append(smoothed)
    return result


def test_filter_equals_the_algorithm_of_the_paper_on_numbers_and_about_one_axis() -> None:
    config = OneEuroConfig(min_cutoff_hz=0.7, speed_coefficient=0.4, derivative_cutoff_hz=1.3)
    values = np.cumsum(np.random.default_rng(0).normal(size=100) * 0.1)
    expected = one_euro_of_the_paper(values.tolist(), 20.0, config)
    axis = np.array([0.6, 0.0, 0.8])
    vectors: list[Smoothed | None] = [None]
    rotations: list[Smoothed | None] = [None]
    for step, value in enumerate(values):
        matrix = Rotation.from_rotvec(value * axis).as_matrix()
        vectors = list(smooth_vectors(vectors, np.array([[value]]), step / 20, config))
        rotations = list(smooth_rotations(rotations, matrix[None], step / 20, config))
        assert vectors[0] is not None
        assert rotations[0] is not None
        assert vectors[0].value[0] == pytest.approx(expected[step])
        turn = Rotation.from_rotvec(-expected[step] * axis) * Rotation.from_matrix(rotations[0].value)
        assert turn.magnitude() == pytest.approx(0, abs=1e-6)


def test_smoothed_rotations_stay_rotations_and_second_looks_change_nothing() -> None:
    generator = np.random.default_rng(0)
    state: list[Smoothed | None] = [None]
    for step in range(500):
        matrix = Rotation.from_quat(generator.normal(size=4)).as_matrix()[None]
        state = list(smooth_rotations(state, matrix, step / RATE_HZ, OneEuroConfig()))
        again = smooth_rotations(state, np.eye(3)[None], step / RATE_HZ, OneEuroConfig())
        assert state[0] is not None
        np.testing.assert_allclose(again[0].value, state[0].value, atol=1e-12)
    assert state[0] is not None
    np.testing.assert_allclose(state[0].value @ state[0].value.T, np.eye(3), atol=1e-9)
    assert smooth_rotations([], np.zeros((0, 3, 3)), 0.0, OneEuroConfig()) == []


def test_half_turns_are_smoothed_without_breaking() -> None:
    state = list(smooth_rotations([None], np.eye(3)[None], 0.0, OneEuroConfig()))
    half_turn = Rotation.from_rotvec([0, np.pi, 0])
    state = smooth_rotations(state, half_turn.as_matrix()[None], 1 / RATE_HZ, OneEuroConfig())
    assert 0 < Rotation.from_matrix(state[0].value).magnitude() < np.pi
    assert np.isfinite(state[0].value).all()


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
    running = RunningShape(window_s=1e9)
    for step in range(20):
        mean = running.update(shapes[step], scores[step], step / RATE_HZ)
    np.testing.assert_allclose(mean, np.average(shapes, axis=0, weights=scores), rtol=1e-6)
    forgetful = RunningShape(window_s=2.0)
    for step in range(600):
        mean = forgetful.update(np.full(6, float(step >= 300)), 1.0, step / RATE_HZ)
    assert mean[0] == pytest.approx(1 - math.exp(-300 / RATE_HZ / 2.0), abs=1e-3)
    np.testing.assert_array_equal(RunningShape(1.0).update(np.ones(6), 0.0, 0.0), np.ones(6))  # a score of zero
