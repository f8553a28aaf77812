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

"""What is counted and summed while frames go by. Tallies of sequences are added, and only then divided."""

from __future__ import annotations

import dataclasses
import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.metrics.detection import DetectionCounts, normalised
from multihmr2_ros.metrics.identity import IdentityCounts


@dataclass(frozen=True)
class Sum:
    """total: of finite numbers; count: how many."""

    total: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Sum:
        finite = np.asarray(values, np.float64).ravel()
        finite = finite[np.isfinite(finite)]
        return cls(math.fsum(finite.tolist()), finite.size)

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


@dataclass(frozen=True)
class Metric:
    """A row of every table. key: in results.json; recalled: misses do not enter it, so recall belongs beside it."""

    key: str
    unit: str
    counted: str
    recalled: bool = False
    higher_is_better: bool = False


MM = "mm"
ERRORS = (
    Metric("PVE", MM, "people", recalled=True),
    Metric("MPJPE", MM, "people", recalled=True),
    Metric("PA-MPJPE", MM, "people", recalled=True),
    Metric("Abs-PVE", MM, "people", recalled=True),
    Metric("TA-PVE", MM, "people", recalled=True),
    Metric("Pair-PA-MPJPE", MM, "pairs", recalled=True),
    Metric("MRPE", MM, "people", recalled=True),
    Metric("MRPE x", MM, "people", recalled=True),
    Metric("MRPE y", MM, "people", recalled=True),
    Metric("MRPE z", MM, "people", recalled=True),
    Metric("distance error", "%", "people", recalled=True),
    Metric("PCDR@0.2m", "%", "pairs", recalled=True, higher_is_better=True),
    Metric("PCDR children", "%", "pairs", recalled=True, higher_is_better=True),
    Metric("ordinal pairs", "%", "pairs", recalled=True, higher_is_better=True),
    Metric("FOV error", "deg", "frames"),
)
SCORES = (
    Metric("recall", "%", "people", higher_is_better=True),
    Metric("precision", "%", "detections", higher_is_better=True),
    Metric("F1", "%", "people", higher_is_better=True),
)
NORMALISED = (Metric("N-MPJPE", MM, "people"), Metric("N-MRPE", MM, "people"))
IDENTITY = (
    Metric("IDF1", "%", "boxes", higher_is_better=True),
    Metric("MOTA", "%", "boxes", higher_is_better=True),
    Metric("HOTA", "%", "boxes", higher_is_better=True),
    Metric("id switches", "", "boxes"),
)
METRICS = (*SCORES, *ERRORS, *NORMALISED, *IDENTITY)


@dataclass(frozen=True)
class Tally:
    """Everything that was counted in some frames.

    frames         with or without truth; with_truth: those that were scored
    detections     people that were predicted, in all frames
    ignored_truth  people too small or too hidden to be required; ignored_found: predictions of them, or in regions to
                   be ignored
    sums           of ERRORS, by key
    identity       None where truth or predictions carry no identities
    times_ms       every value, by the name of the stage; dropped: images that a live node left out
    """

    frames: int = 0
    with_truth: int = 0
    detections: int = 0
    ignored_truth: int = 0
    ignored_found: int = 0
    dropped: int = 0
    detection: DetectionCounts = field(default_factory=DetectionCounts)
    sums: dict[str, Sum] = field(default_factory=dict)
    identity: IdentityCounts | None = None
    times_ms: dict[str, array[float]] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        changes: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, dict):
                changes[each.name] = {
                    key: mine[key] + theirs[key] if key in mine and key in theirs else mine.get(key, theirs.get(key))
                    for key in {**mine, **theirs}
                }
            elif mine is None or theirs is None:
                changes[each.name] = theirs if mine is None else mine
            else:
                changes[each.name] = mine + theirs
        return Tally(**changes)

    def metrics(self) -> dict[str, tuple[float, int]]:
        """Value and count of each of METRICS that applies, in its unit; errors without anybody are left out."""
        counts = self.detection
        required = counts.true_positives + counts.false_negatives
        found = counts.true_positives + counts.false_positives
        values: dict[str, tuple[float, int]] = {}
        if self.with_truth:
            values["recall"] = 100 * counts.recall, required
            values["precision"] = 100 * counts.precision, found
            values["F1"] = 100 * counts.f1, required
        for metric in ERRORS:
            total = self.sums.get(metric.key, Sum())
            if total.count:
                values[metric.key] = (100 if metric.unit == "%" else 1) * total.mean, total.count
        for key, plain in (("N-MPJPE", "MPJPE"), ("N-MRPE", "MRPE")):
            if plain in values:
                values[key] = normalised(values[plain][0], counts), values[plain][1]
        if self.identity is not None:
            boxes = self.identity.truth
            values["IDF1"] = 100 * self.identity.idf1, boxes
            values["MOTA"] = 100 * self.identity.mota, boxes
            values["HOTA"] = 100 * self.identity.hota, boxes
            values["id switches"] = float(self.identity.switches), boxes
        return values

    def latencies(self) -> dict[str, dict[str, float]]:
        """p50, p95 and max in ms and the count, of every stage."""
        return {
            stage: {
                "p50_ms": float(np.percentile(values, 50)),
                "p95_ms": float(np.percentile(values, 95)),
                "max_ms": float(max(values)),
                "count": len(values),
            }
            for stage, values in self.times_ms.items()
            if len(values)
        }
