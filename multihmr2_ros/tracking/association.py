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

"""Which detection continues which track."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

_REJECTED_MARGIN = 1e-5  # a rejected pair costs this much more than the dearest accepted one
_PADDING_COST = 1e6


def assign(score: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Column for each row of a score matrix (n, m) that maximises the total score; (n,) int64, -1 for none.

    As published: costs 1 − score, pairs under the threshold made equally dear, a square matrix padded with a huge
    value, the Hungarian algorithm, and only pairs at or over the threshold count.
    """
    n, m = score.shape
    column_of_row = np.full(n, -1, np.int64)
    if n == 0 or m == 0:
        return column_of_row
    dearest = 1 - threshold
    cost = 1 - score
    padded = np.full((max(n, m), max(n, m)), _PADDING_COST)
    padded[:n, :m] = np.where(cost > dearest, dearest + _REJECTED_MARGIN, cost)
    rows, columns = linear_sum_assignment(padded)
    accepted = padded[rows, columns] <= dearest
    column_of_row[rows[accepted]] = columns[accepted]
    return column_of_row
