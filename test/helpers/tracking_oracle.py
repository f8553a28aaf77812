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

"""Reference implementation of the published tracking method, and metrics for comparing trackers.

Uses no code of the package, because the package is tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from test.helpers.tracking_scenes import Sequence


class PublishedTracker:
    """Published tracker, frame by frame as in the specification, in float64; motion models are removed only in empty
    frames."""

    def __init__(self) -> None:
        self.bank: list[tuple[NDArray[np.float64], int, int]] = []
        self.motion: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
        self.next_id = 0

    def step(
        self,
        feature: NDArray[np.float32],
        location: NDArray[np.float64],
        rotation: NDArray[np.float64],
        t: int,
    ) -> list[int]:
        features = [row.astype(np.float64) / np.linalg.norm(row.astype(np.float64)) for row in feature]
        states = [np.concatenate([place, quaternion(matrix)]) for place, matrix in zip(location, rotation, strict=True)]
        known = sorted({track_id for _, track_id, _ in self.bank})
        ids = [-1] * len(features)
        if features and known:
            score = np.array(
                [
                    [(appearance[track_id] + 8 * self._motion_similarity(state, track_id, t)) / 9 for track_id in known]
                    for appearance, state in zip(map(self._appearance, features), states, strict=True)
                ]
            )
            size = max(score.shape)
            cost = np.full((size, size), 1e6)
            cost[: score.shape[0], : score.shape[1]] = np.where(1 - score > 1 - 0.69, 1 - 0.69 + 1e-5, 1 - score)
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if cost[row, column] <= 1 - 0.69:
                    ids[row] = known[column]
        for row, track_id in enumerate(ids):
            if track_id < 0:
                ids[row] = self.next_id
                self.next_id += 1
        self.bank = [entry for entry in self.bank if entry[2] > t + 1 - 50]
        if not features:
            self.motion = {key: seen for key, seen in self.motion.items() if seen[-1][0] > t + 1 - 50}
        for row, track_id in enumerate(ids):
            self.bank.append((features[row], track_id, t))
            self.motion[track_id] = [*self.motion.get(track_id, []), (t, states[row])][-8:]
        return ids

    def _appearance(self, feature: NDArray[np.float64]) -> dict[int, float]:
        nearest = sorted((float(np.linalg.norm(feature - kept)), track_id) for kept, track_id, _ in self.bank)[:35]
        votes = np.exp([-distance / 15 for distance, _ in nearest])
        share = dict.fromkeys((track_id for _, track_id, _ in self.bank), 0.0)
        for vote, (_, track_id) in zip(votes / votes.sum(), nearest, strict=True):
            share[track_id] += vote
        return share

    def _motion_similarity(self, state: NDArray[np.float64], track_id: int, t: int) -> float:
        times = np.array([seen for seen, _ in self.motion[track_id]], np.float64)
        values = np.array([value for _, value in self.motion[track_id]])
        # Ridge regression as least squares with one more row: sqrt(20) · slope = 0.
        design = np.column_stack([np.append(times - t, np.sqrt(20)), np.append(np.ones_like(times), 0)])
        intercept = np.linalg.lstsq(design, np.vstack([values, np.zeros(7)]), rcond=None)[0][1]
        cosine = abs(state[3:] @ intercept[3:]) / np.linalg.norm(intercept[3:])
        angle = 2 * np.arccos(min(cosine, 1))
        pixels = np.linalg.norm(state[:2] - intercept[:2])
        return float(np.exp(-pixels / 1) * np.exp(-abs(state[2] - intercept[2]) / 3) * np.exp(-angle / 20))


def quaternion(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion xyzw with w ≥ 0: the eigenvector of Bar-Itzhack's matrix for the largest eigenvalue."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix.astype(np.float64)
    symmetric = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    vector = np.linalg.eigh(symmetric)[1][:, -1]
    return -vector if vector[3] < 0 else vector


def published_ids(sequence: Sequence) -> NDArray[np.int64]:
    """Return the ids (M,) of the published method for frames 0, 1, 2, …"""
    tracker = PublishedTracker()
    ids: list[int] = []
    for t in range(len(sequence)):
        rows = sequence.rows(t)
        ids += tracker.step(sequence.feature[rows], sequence.location[rows], sequence.rotation[rows], t)
    return np.array(ids)


@dataclass(frozen=True)
class Score:
    """Scores of one tracker on detections of known people."""

    idf1: float
    mota: float
    id_switches: int


def score_ids(sequence: Sequence, ids: NDArray[np.int64]) -> Score:
    """Return IDF1 (Ristani et al. 2016) and MOTA (Bernardin, Stiefelhagen 2008) for detections of the ground truth.

    IDF1 = 2 IDTP / (true rows + given rows); IDTP is the largest number of rows that agree under a one-to-one mapping
    of people to ids.
    """
    real = sequence.true_person >= 0
    persons, person_row = np.unique(sequence.true_person[real], return_inverse=True)
    tracks, track_column = np.unique(ids[real], return_inverse=True)
    overlap = np.zeros((len(persons), len(tracks)), int)
    np.add.at(overlap, (person_row, track_column), 1)
    agreeing = overlap[linear_sum_assignment(-overlap)].sum()
    switches = 0
    last_id: dict[int, int] = {}
    for person, track_id in zip(sequence.true_person[real].tolist(), ids[real].tolist(), strict=True):
        switches += last_id.get(person, track_id) != track_id
        last_id[person] = track_id
    return Score(
        idf1=float(2 * agreeing / (real.sum() + len(ids))),
        mota=float(1 - ((~real).sum() + switches) / real.sum()),
        id_switches=switches,
    )
