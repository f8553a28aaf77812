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

"""Counts of found and missed people, and errors normalized by them."""

from __future__ import annotations

from dataclasses import dataclass

NAN = float("nan")


@dataclass(frozen=True)
class DetectionCounts:
    """Counts of detections. Counts of several frames or bags can be added.

    true_positives   matched people
    false_positives  predictions without a person
    false_negatives  people without a prediction
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def precision(self) -> float:
        """Share of the predictions that are people; NaN without predictions."""
        return _divide(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the people that are found; NaN without people."""
        return _divide(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """TP / (TP + (FP + FN) / 2); NaN without people and predictions."""
        return _divide(self.true_positives, self.true_positives + 0.5 * (self.false_positives + self.false_negatives))


def normalized_error(error: float, counts: DetectionCounts) -> float:
    """Return an error divided by the F1 score (N-MPJPE, N-MRPE), so that leaving out difficult people is not an
    advantage.

    Infinite if no one was found.
    """
    if counts.f1 == 0:
        return float("inf")
    return error / counts.f1


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else NAN
