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

"""Errors of bodies and places, matching and detection: against independent computations, and invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from multihmr2_ros.metrics.bodies import (
    align_procrustes,
    centered_point_error,
    pair_procrustes_error,
    point_error,
    procrustes_error,
    translation_aligned_error,
)
from multihmr2_ros.metrics.boxes import box_iou, points_to_boxes
from multihmr2_ros.metrics.detection import DetectionCounts, normalized_error
from multihmr2_ros.metrics.matching import joint_distance, match_people
from multihmr2_ros.metrics.placement import (
    depth_order,
    field_of_view_error,
    relative_distance_error,
    root_position_error,
    root_position_error_per_axis,
)

SEEDS = st.integers(0, 2**32 - 1)


def make_bodies(seed: int, people: int = 3, points: int = 20) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Return predicted and true points (n, P, 3) m: people a few meters away, predicted with errors of centimeters."""
    generator = np.random.default_rng(seed)
    true = generator.normal(0, 0.4, (people, points, 3)) + generator.uniform((-2, -1, 2), (2, 1, 8), (people, 1, 3))
    return true + generator.normal(0, 0.05, true.shape), true, generator


def make_similarity(generator: np.random.Generator) -> tuple[np.ndarray, float, np.ndarray]:
    return Rotation.random(random_state=generator).as_matrix(), generator.uniform(0.3, 3), generator.normal(0, 5, 3)


# --- errors of bodies


def test_point_error_is_in_millimeters() -> None:
    true = np.zeros((2, 4, 3))
    predicted = true.copy()
    predicted[0, :, 2] = 0.05
    predicted[1, 0, 0] = 0.4  # one of four points
    assert point_error(predicted, true) == pytest.approx([50.0, 100.0])


@given(SEEDS)
@settings(max_examples=30)
def test_pelvis_centered_error_ignores_translation(seed: int) -> None:
    predicted, true, generator = make_bodies(seed)
    shift = generator.normal(0, 3, (3, 1, 3))
    before = centered_point_error(predicted, true, predicted[:, 0], true[:, 0])
    after = centered_point_error(predicted + shift, true, predicted[:, 0] + shift[:, 0], true[:, 0])
    assert after == pytest.approx(before, abs=1e-6)


@given(SEEDS)
@settings(max_examples=30)
def test_procrustes_error_ignores_similarity_and_is_the_least(seed: int) -> None:
    predicted, true, generator = make_bodies(seed)
    rotation, scale, shift = make_similarity(generator)
    error = procrustes_error(predicted, true)
    assert procrustes_error(scale * predicted @ rotation.T + shift, true) == pytest.approx(error, abs=1e-6)
    assert procrustes_error(scale * true @ rotation.T + shift, true) == pytest.approx(np.zeros(3), abs=1e-6)
    aligned = align_procrustes(predicted, true)
    least = ((aligned - true) ** 2).sum(axis=(1, 2))
    nudged = aligned.mean(axis=1, keepdims=True)
    turn = Rotation.from_rotvec(generator.normal(0, 0.01, 3)).as_matrix()
    others = (nudged + (aligned - nudged) @ turn.T, nudged + (aligned - nudged) * 1.01, aligned + 0.01)
    for other in others:
        assert (((other - true) ** 2).sum(axis=(1, 2)) >= least - 1e-12).all()


@pytest.mark.parametrize("seed", range(10))
def test_procrustes_alignment_equals_romas_registration(seed: int) -> None:
    import roma  # loads PyTorch's compiler, so only here

    predicted, true, _ = make_bodies(seed)
    if seed % 2:  # a mirror image must not be mirrored back
        predicted = predicted * (-1, 1, 1)
    rotation, shift, scale = roma.rigid_points_registration(
        torch.from_numpy(predicted), torch.from_numpy(true), compute_scaling=True
    )
    expected = scale[:, None, None].numpy() * predicted @ rotation.numpy().transpose(0, 2, 1) + shift[:, None].numpy()
    assert align_procrustes(predicted, true) == pytest.approx(expected, abs=1e-9)


def test_procrustes_of_points_in_one_place() -> None:
    point, true = np.ones((1, 5, 3)), make_bodies(0, people=1, points=5)[1]
    assert np.isfinite(procrustes_error(point, true)).all()
    assert procrustes_error(true, point) == pytest.approx([0.0], abs=1e-9)
    assert procrustes_error(np.zeros((0, 5, 3)), np.zeros((0, 5, 3))).shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite_affect_only_their_person(value: float) -> None:
    predicted, true, _ = make_bodies(0, people=4)
    expected = procrustes_error(predicted, true), translation_aligned_error(predicted[:3], true[:3])
    true[3, 7, 1] = value
    error, translated = procrustes_error(predicted, true), translation_aligned_error(predicted, true)
    assert error[:3] == pytest.approx(expected[0][:3])
    assert translated[:3] == pytest.approx(expected[1])
    assert np.isnan([error[3], translated[3]]).all()
    assert np.isnan(translation_aligned_error(predicted[2:], true[2:])).all(), "one person has no common translation"
    assert np.isnan(pair_procrustes_error(predicted, true, np.array([[0, 1], [1, 3]]))).tolist() == [False, True]


@given(SEEDS)
@settings(max_examples=30)
def test_pairs_are_aligned_together_whatever_their_order(seed: int) -> None:
    predicted, true, generator = make_bodies(seed)
    pairs = np.array([[0, 1], [1, 2]])
    error = pair_procrustes_error(predicted, true, pairs)
    assert pair_procrustes_error(predicted, true, pairs[:, ::-1]) == pytest.approx(error, abs=1e-6)
    rotation, scale, shift = make_similarity(generator)
    assert pair_procrustes_error(scale * predicted @ rotation.T + shift, true, pairs) == pytest.approx(error, abs=1e-6)
    assert pair_procrustes_error(predicted, true, np.zeros((0, 2), int)).shape == (0,)


def test_pair_alignment_measures_wrong_relative_positions() -> None:
    predicted, true, _ = make_bodies(0)
    apart = predicted.copy()
    apart[0] += (0, 0, 1.0)
    assert procrustes_error(apart, true) == pytest.approx(procrustes_error(predicted, true), abs=1e-6)
    pair = np.array([[0, 1]])
    assert pair_procrustes_error(apart, true, pair) > pair_procrustes_error(predicted, true, pair) + 50


@given(SEEDS)
@settings(max_examples=30)
def test_translation_aligned_error_ignores_the_frames_translation(seed: int) -> None:
    predicted, true, generator = make_bodies(seed)
    error = translation_aligned_error(predicted, true)
    assert translation_aligned_error(predicted + generator.normal(0, 3, 3), true) == pytest.approx(error, abs=1e-6)
    assert translation_aligned_error(true + 1.0, true) == pytest.approx(np.zeros(3), abs=1e-6)
    order = generator.permutation(3)
    assert translation_aligned_error(predicted[order], true[order]) == pytest.approx(error[order], abs=1e-6)
    apart = true.copy()
    apart[0, :, 2] += 0.3  # of three people: 0.2 m off, and the two others 0.1 m
    assert translation_aligned_error(apart, true) == pytest.approx([200.0, 100.0, 100.0], abs=1e-6)


def test_translation_alignment_needs_two_people() -> None:
    predicted, true, _ = make_bodies(0, people=1)
    assert translation_aligned_error(predicted, true).shape == (0,)
    assert translation_aligned_error(predicted[:0], true[:0]).shape == (0,)


def test_different_points_are_refused() -> None:
    with pytest.raises(ValueError, match="same points"):
        point_error(np.zeros((2, 4, 3)), np.zeros((2, 5, 3)))


# --- places and cameras


def test_places() -> None:
    true = np.array([[0.0, 0, 4], [3, 0, 4]])
    predicted = np.array([[0.0, 0.3, 4.4], [3, 0, 4]])
    assert root_position_error(predicted, true) == pytest.approx([500.0, 0.0])
    assert root_position_error_per_axis(predicted, true)[0] == pytest.approx([0.0, 300.0, 400.0])
    assert relative_distance_error(true * 1.1, true) == pytest.approx([0.1, 0.1])
    assert field_of_view_error(np.radians([60.0, 40.0]), np.radians([55.0, 48.0])) == pytest.approx([5.0, 8.0])


@pytest.mark.parametrize(
    ("predicted", "true", "right"),
    [
        ((2.0, 3.0), (4.0, 5.0), True),
        ((3.0, 2.0), (4.0, 5.0), False),
        ((2.0, 2.1), (4.0, 5.0), False),  # "the same" although one is nearer
        ((2.0, 2.1), (4.0, 4.1), True),
        ((2.1, 2.0), (4.0, 4.1), True),  # both "the same", whatever the sign
        ((2.0, 3.0), (4.0, 4.1), False),
    ],
)
def test_depth_order_of_a_pair(predicted: tuple[float, float], true: tuple[float, float], right: bool) -> None:
    def pelvis(depths: tuple[float, float]) -> np.ndarray:
        return np.array([[0.0, 0.0, z] for z in depths])

    assert depth_order(pelvis(predicted), pelvis(true)).tolist() == [right]
    assert depth_order(pelvis(predicted[::-1]), pelvis(true[::-1])).tolist() == [right]


def test_depth_order_counts_every_pair_once() -> None:
    assert depth_order(np.zeros((4, 3)), np.zeros((4, 3))).shape == (6,)
    assert depth_order(np.zeros((1, 3)), np.zeros((1, 3))).shape == (0,)


# --- matching and detection


def make_people_2d(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return keypoints (n, 6, 2) px of a crowd with overlapping boxes."""
    return generator.uniform(0, 120, (count, 1, 2)) + generator.uniform(-40, 40, (count, 6, 2))


@given(SEEDS, st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=60)
def test_matching_equals_brute_force(seed: int, found: int, there: int) -> None:
    generator = np.random.default_rng(seed)
    predicted, true = make_people_2d(generator, found), make_people_2d(generator, there)
    pairs = match_people(predicted, true, min_iou=0.3)
    distance = joint_distance(predicted, true) if found and there else np.zeros((found, there))
    overlap = box_iou(points_to_boxes(predicted), points_to_boxes(true))
    best = (0, 0.0)
    for size in range(min(found, there) + 1):
        for rows in itertools.combinations(range(found), size):
            for columns in itertools.permutations(range(there), size):
                if all(overlap[r, c] >= 0.3 for r, c in zip(rows, columns, strict=True)):
                    cost = sum(distance[r, c] for r, c in zip(rows, columns, strict=True))
                    best = min(best, (-size, cost))
    assert (-len(pairs), sum(distance[r, c] for r, c in pairs)) == (best[0], pytest.approx(best[1]))


def test_greedy_matching_takes_the_best_score_first() -> None:
    true = np.array([[[0.0, 0], [10, 10]], [[8, 0], [18, 10]]])
    predicted = true[:1] + np.array([[[5.0, 0]], [[0.0, 0]]])  # the first is slightly nearer to the second person
    assert match_people(predicted, true, method="hungarian").tolist() == [[0, 1], [1, 0]]
    assert match_people(predicted, true, method="greedy").tolist() == [[0, 1], [1, 0]]
    predicted = true[:1] + np.array([[[3.0, 0]], [[0.0, 0]]])
    assert match_people(predicted, true, method="greedy").tolist() == [[0, 0], [1, 1]]
    assert match_people(predicted, true, method="hungarian").tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="hungarian or greedy"):
        match_people(predicted, true, method="best")  # type: ignore[arg-type]


def test_people_whose_boxes_do_not_overlap_are_not_matched() -> None:
    true = np.array([[[0.0, 0], [10, 10]]])
    assert match_people(true + np.array([9.0, 0]), true).tolist() == [[0, 0]]  # IoU 0.0526
    assert match_people(true + np.array([9.1, 0]), true).tolist() == []
    unknown = np.full((1, 2, 2), np.nan)
    assert match_people(unknown, true).tolist() == []


def test_joints_missing_in_prediction_or_truth_do_not_count() -> None:
    true = np.array([[[0.0, 0], [10, 10], [np.nan, np.nan]]])
    predicted = np.array([[[3.0, 4], [10, 10], [500, 500]]])
    assert joint_distance(predicted, true) == pytest.approx(np.array([[2.5]]))


def test_detection_scores() -> None:
    counts = DetectionCounts(6, 2, 1) + DetectionCounts(2, 0, 1)
    assert (counts.precision, counts.recall) == (0.8, 0.8)
    assert counts.f1 == pytest.approx(8 / 10)
    assert normalized_error(100.0, counts) == pytest.approx(125.0)
    assert normalized_error(100.0, DetectionCounts(0, 3, 3)) == float("inf")
    nobody = DetectionCounts()
    assert np.isnan([nobody.precision, nobody.recall, nobody.f1]).all()
