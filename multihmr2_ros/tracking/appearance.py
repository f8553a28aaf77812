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

"""Bank of appearance features; similarity of new detections to known tracks (paper, "Tracking in videos")."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError


class AppearanceBank:
    """Features of past frames with their track ids and frame numbers, in order of time.

    A ring buffer of `capacity` rows, allocated once: entries are never moved, and new ones overwrite the oldest when
    it is full. Features are stored L2-normalized in float32.
    """

    def __init__(self, capacity: int, nearest_neighbors: int, temperature: float) -> None:
        self._capacity = capacity
        self._nearest_neighbors = nearest_neighbors
        self._temperature = temperature
        self.clear()

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Remove all entries; the length of features may change afterwards."""
        self._feature = np.empty((0, 0), np.float32)  # (capacity, F) from the first entry on
        self._track_id = np.empty(self._capacity, np.int64)
        self._frame = np.empty(self._capacity, np.float64)
        self._first = 0
        self._count = 0

    def check_length(self, length: int) -> None:
        """Raise UserError unless stored features have this length."""
        if len(self._feature) and self._feature.shape[1] != length:
            raise UserError(
                f"Detections.feature: expected {self._feature.shape[1]} numbers per person as before, got {length}; "
                "call reset() when the network changes"
            )

    def remove_old(self, last_forgotten_frame: float) -> None:
        """Remove the entries up to and including this frame number."""
        frames = self._frame[self._list_rows()]
        forgotten = int(np.searchsorted(frames, last_forgotten_frame, side="right"))
        self._first = (self._first + forgotten) % self._capacity
        self._count -= forgotten

    def add(self, feature: NDArray[np.float32], track_id: NDArray[np.int64], frame: float) -> None:
        """Store unit features (n, F) of tracks (n,) at a frame number; frame numbers must not decrease."""
        if len(feature) == 0:
            return
        if len(self._feature) == 0:
            self._feature = np.empty((self._capacity, feature.shape[1]), np.float32)
        feature, track_id = feature[-self._capacity :], track_id[-self._capacity :]
        rows = (self._first + self._count + np.arange(len(feature))) % self._capacity
        self._feature[rows] = feature
        self._track_id[rows] = track_id
        self._frame[rows] = frame
        overwritten = max(0, self._count + len(feature) - self._capacity)
        self._first = (self._first + overwritten) % self._capacity
        self._count += len(feature) - overwritten

    def list_track_ids(self) -> NDArray[np.int64]:
        """Return the ids (m,) with an entry, ascending."""
        return np.unique(self._track_id[self._list_rows()])

    def compute_similarity(self, feature: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the ids (m,) with an entry, ascending, and each id's fraction (n, m) of the votes for a detection.

        The K entries nearest to a unit feature (n, F) vote; their votes are softmax(−distance / temperature). Distances
        are Euclidean, as in the released settings; the paper's text says L1.
        """
        track_ids, column = np.unique(self._track_id[self._list_rows()], return_inverse=True)
        n, m = len(feature), len(track_ids)
        if n == 0 or m == 0:
            return track_ids, np.zeros((n, m))
        distance = self._compute_distance(feature)
        k = min(self._nearest_neighbors, self._count)
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        nearest_distance = np.take_along_axis(distance, nearest, axis=1).astype(np.float64)
        vote = np.exp((nearest_distance.min(axis=1, keepdims=True) - nearest_distance) / self._temperature)
        vote /= vote.sum(axis=1, keepdims=True)
        cell = np.arange(n)[:, None] * m + column[nearest]
        share = np.bincount(cell.ravel(), weights=vote.ravel(), minlength=n * m).astype(np.float64)
        return track_ids, share.reshape(n, m)

    def _list_rows(self) -> NDArray[np.int64]:
        """Return the rows of the ring buffer with entries, oldest first."""
        return (self._first + np.arange(self._count)) % self._capacity

    def _compute_distance(self, feature: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the Euclidean distances (n, len(self)) between unit vectors, oldest entry first.

        |a − b|² = 2 − 2 a·b takes one matrix product. Float32 rounding puts equal features up to 5e-4 apart, far less
        than the distances between two images of one person and than any temperature in use.
        """
        # The number of rows is a multiple of four: a third faster.
        padded = np.zeros((-(-len(feature) // 4) * 4, feature.shape[1]), np.float32)
        padded[: len(feature)] = feature
        end = self._first + self._count
        stretches = [self._feature[self._first : end], self._feature[: max(0, end - self._capacity)]]
        cosine = np.concatenate([stretch @ padded.T for stretch in stretches])[:, : len(feature)].T
        return np.sqrt(np.maximum(2 - 2 * cosine, 0), order="C")


def normalize(feature: NDArray[Any]) -> NDArray[np.float32]:
    """Normalize rows (n, F) to length 1; rows of zeros stay zero."""
    norm = np.linalg.norm(feature, axis=1, keepdims=True)
    return (feature / np.maximum(norm, 1e-12)).astype(np.float32)
