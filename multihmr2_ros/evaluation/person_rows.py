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

"""The rows of people.csv as arrays, for verdicts and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.tables import FALSE_POSITIVE, MATCH, MISS

NUMBERS = (
    "frame", "score", "visible", "true_distance_m", "predicted_x_m", "predicted_y_m", "predicted_z_m", "true_x_m",
    "true_y_m", "true_z_m", "mrpe_mm", "mpjpe_mm", "velocity_error_m_per_s", "pelvis_mahalanobis2",
    "velocity_mahalanobis2",
)  # fmt: skip


@dataclass(frozen=True)
class PersonRows:
    """Rows (r,) of one or many people.csv. numbers: by column, NaN in empty cells. outcome, posture: text."""

    outcome: NDArray[np.str_]
    posture: NDArray[np.str_]
    numbers: dict[str, NDArray[np.float64]]

    @classmethod
    def read(cls, rows: Iterable[dict[str, str]]) -> PersonRows:
        """Raises UserError for a table of an earlier version, or of another program."""
        try:
            return cls._read(rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"people.csv was not written by this version ({error}); evaluate again") from None

    @classmethod
    def _read(cls, rows: Iterable[dict[str, str]]) -> PersonRows:
        outcome, posture, cells = [], [], []
        for row in rows:
            outcome.append(row["outcome"])
            posture.append(row["posture"])
            cells.append([float(row[name] or "nan") for name in NUMBERS])
        table = np.array(cells, np.float64).reshape(-1, len(NUMBERS))
        texts = np.array(outcome, np.str_), np.array(posture, np.str_)
        return cls(*texts, dict(zip(NUMBERS, table.T, strict=True)))

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        return self.numbers[column]

    @property
    def matched(self) -> NDArray[np.bool_]:
        return np.asarray(self.outcome == MATCH)

    @property
    def missed(self) -> NDArray[np.bool_]:
        return np.asarray(self.outcome == MISS)

    @property
    def false_positive(self) -> NDArray[np.bool_]:
        return np.asarray(self.outcome == FALSE_POSITIVE)

    def distance(self) -> NDArray[np.float64]:
        """(r,) m, of the predicted pelvis from the camera."""
        return np.asarray(np.sqrt(sum(self[f"predicted_{axis}_m"] ** 2 for axis in "xyz")), np.float64)

    def groups(self, of: NDArray[np.bool_], name: str) -> tuple[int, float, float]:
        """Of the true people in a mask (r,): how many, their recall, and the mean of a column over those found."""
        matched, missed = self.matched & of, self.missed & of
        count = int(matched.sum() + missed.sum())
        values = self[name][matched]
        values = values[np.isfinite(values)]
        recall = float(matched.sum() / count) if count else np.nan
        return count, recall, float(values.mean()) if len(values) else np.nan
