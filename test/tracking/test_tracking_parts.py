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

"""Parts of the tracker against independent computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multihmr2_ros.tracking import TrackerConfig
from multihmr2_ros.tracking.appearance import AppearanceBank, normalize
from multihmr2_ros.tracking.motion import MotionHistory, compute_motion_similarity, extrapolate, make_pelvis_state
from multihmr2_ros.tracking.tracker import assign_tracks
from test.helpers.tracking_oracle import quaternion


@pytest.mark.parametrize("capacity", [7, 40, 1000])  # overflows in a frame, now and then, never
@pytest.mark.parametrize("temperature", [0.1, 15.0])
def test_appearance_votes_equal_brute_force_while_the_ring_turns(capacity: int, temperature: float) -> None:
    generator = np.random.default_rng(capacity)
    bank = AppearanceBank(capacity, nearest_neighbors=5, temperature=temperature)
    kept: list[tuple[np.ndarray, int, int]] = []
    for frame in range(120):
        bank.remove_old(frame - 10)
        kept = [entry for entry in kept if entry[2] > frame - 10]
        query = normalize(generator.normal(size=(3, 16)))
        track_ids, share = bank.compute_similarity(query)
        assert track_ids.tolist() == sorted({track_id for _, track_id, _ in kept})
        for row, feature in enumerate(query):
            nearest = sorted((float(np.linalg.norm(feature - entry[0])), entry[1]) for entry in kept)[:5]
            votes = np.exp([-distance / temperature for distance, _ in nearest])
            expected = [
                sum(vote for vote, (_, owner) in zip(votes, nearest, strict=True) if owner == track_id)
                for track_id in track_ids
            ]
            np.testing.assert_allclose(share[row], np.array(expected) / votes.sum(), atol=1e-5)
        n = int(generator.integers(0, 10))
        added, owners = normalize(generator.normal(size=(n, 16))), generator.integers(0, 6, n)
        bank.add(added, owners, frame)
        kept = [*kept, *((row, int(owner), frame) for row, owner in zip(added, owners, strict=True))][-capacity:]
        assert len(bank) == len(kept)


def test_appearance_of_people_who_are_remembered_exactly_and_of_no_feature_at_all() -> None:
    bank = AppearanceBank(10, nearest_neighbors=35, temperature=0.1)
    features = normalize(np.concatenate([np.eye(4), np.zeros((1, 4))]))
    bank.add(features, np.arange(5), 0.0)
    track_ids, share = bank.compute_similarity(features)
    assert np.isfinite(share).all()
    np.testing.assert_allclose(share.sum(axis=1), 1)
    np.testing.assert_allclose(np.diag(share)[:4], 1, atol=1e-3)
    assert track_ids.tolist() == [0, 1, 2, 3, 4]


def test_extrapolation_equals_ridge_regression_by_least_squares() -> None:
    generator = np.random.default_rng(0)
    histories, expected = [], []
    for count in (1, 2, 7, 8, 9, 30):
        history = MotionHistory(8)
        times = 5000 + np.cumsum(generator.choice([0.5, 1.0, 3.0], count))
        states = generator.normal(size=(count, 7))
        for time, state in zip(times, states, strict=True):
            history.add(time, state)
        histories.append(history)
        times, states = times[-8:] - 5100, states[-8:]
        design = np.column_stack([np.append(times, np.sqrt(20)), np.append(np.ones_like(times), 0)])
        expected.append(np.linalg.lstsq(design, np.vstack([states, np.zeros(7)]), rcond=None)[0][1])
    np.testing.assert_allclose(extrapolate(histories, 5100.0, 20.0), expected, atol=1e-9)


def test_extrapolation_of_one_instant_and_without_penalty_stays_finite() -> None:
    history = MotionHistory(8)
    for value in (1.0, 3.0):
        history.add(4.0, np.full(7, value))
    for penalty in (0.0, 20.0):
        np.testing.assert_allclose(extrapolate([history], 9.0, penalty), np.full((1, 7), 2.0))
    assert extrapolate([], 9.0, 20.0).shape == (0, 7)


def test_motion_similarity_by_hand() -> None:
    config = TrackerConfig.reference()
    turned = Rotation.from_rotvec([0, 0.5, 0]).as_matrix()
    state = make_pelvis_state(np.array([[0.5, 0.5, -1.0]]), np.eye(3)[None])
    other = make_pelvis_state(np.array([[0.8, 0.9, -1.6]]), turned[None])
    expected = np.exp(-0.5 / 1) * np.exp(-0.6 / 3) * np.exp(-0.5 / 20)
    np.testing.assert_allclose(compute_motion_similarity(state, other, config), [[expected]])
    np.testing.assert_allclose(compute_motion_similarity(state, state, config), [[1.0]], atol=1e-8)
    vanished = np.concatenate([state[:, :3], np.zeros((1, 4))], axis=1)  # an extrapolation through zero
    np.testing.assert_allclose(compute_motion_similarity(state, vanished, config), [[np.exp(-np.pi / 20)]])


def test_pelvis_state_has_the_quaternion_with_w_not_negative() -> None:
    matrices = Rotation.from_quat(np.random.default_rng(0).normal(size=(200, 4))).as_matrix()
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3)).as_matrix()
    matrices = np.concatenate([matrices, half_turns])
    state = make_pelvis_state(np.zeros((len(matrices), 3)), matrices)
    assert (state[:, 6] >= 0).all()
    expected = np.array([quaternion(matrix) for matrix in matrices])
    np.testing.assert_allclose(np.abs(np.sum(state[:, 3:] * expected, axis=1)), 1, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 3), (4, 2), (2, 5)])
def test_assignment_equals_trying_every_one(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(shape[0] * 10 + shape[1])
    for _ in range(40):
        score = generator.random(shape)
        column = assign_tracks(score, 0.6)
        taken = column[column >= 0]
        assert len(set(taken.tolist())) == len(taken)
        assert (score[column >= 0, taken] >= 0.6).all()
        # Costs as published: 1 − score, or 0.4 + 1e-5 for rejected pairs; all pairs are assigned if possible.
        cost = np.where(score < 0.6, 0.4 + 1e-5, 1 - score)
        n, m = shape
        if n <= m:
            ways = [list(zip(range(n), columns, strict=True)) for columns in itertools.permutations(range(m), n)]
        else:
            ways = [list(zip(rows, range(m), strict=True)) for rows in itertools.permutations(range(n), m)]
        cheapest = min(ways, key=lambda way: sum(cost[pair] for pair in way))
        expected = np.full(n, -1)
        for row, best in cheapest:
            if score[row, best] >= 0.6:
                expected[row] = best
        np.testing.assert_array_equal(column, expected)


def test_assignment_of_nothing() -> None:
    assert assign_tracks(np.zeros((0, 3)), 0.5).shape == (0,)
    assert assign_tracks(np.zeros((3, 0)), 0.5).tolist() == [-1, -1, -1]
