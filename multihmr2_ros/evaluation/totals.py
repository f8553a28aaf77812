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

"""Sums and counts that the metrics are computed from. Totals of sequences are added, then divided."""

from __future__ import annotations

import dataclasses
import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.metric_definitions import ERRORS, QUANTILES
from multihmr2_ros.metrics.detection import DetectionCounts, normalized_error
from multihmr2_ros.metrics.identity import IdentityCounts
from multihmr2_ros.metrics.placement import DistanceErrors, summarize_distance_errors
from multihmr2_ros.metrics.uncertainty import normalized_error_bounds
from multihmr2_ros.people import PlacementCue


@dataclass(frozen=True)
class Sum:
    """A sum of finite numbers. total: the sum; count: how many numbers."""

    total: float = 0.0
    count: int = 0

    @classmethod
    def from_values(cls, values: NDArray[Any]) -> Sum:
        finite = np.asarray(values, np.float64).ravel()
        finite = finite[np.isfinite(finite)]
        return cls(math.fsum(finite.tolist()), finite.size)

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


CUES = {PlacementCue.PRIOR: "prediction only", PlacementCue.GROUND: "ground", PlacementCue.DEPTH: "depth"}
DISTANCE_FIELDS = tuple(each.name for each in dataclasses.fields(DistanceErrors))
VELOCITY_SAMPLES = "velocity error"  # m/s, in Totals.samples
CALIBRATED = ("velocity", "pelvis")  # each has a NEES and a coverage


def collect_distance_samples(cue: PlacementCue, errors: DistanceErrors) -> dict[str, NDArray[np.float64]]:
    """Return the fields of DistanceErrors by their keys in Totals.samples, for people placed by a cue."""
    return {_make_sample_key(cue, field): getattr(errors, field) for field in DISTANCE_FIELDS}


def _make_sample_key(cue: PlacementCue, field: str) -> str:
    return f"{cue.name} {field}"


@dataclass(frozen=True)
class Totals:
    """The counts and sums of a set of frames.

    frames         with or without truth
    with_truth     frames that were scored
    detections     people that were predicted, in all frames
    ignored_truth  true people that are too small or too hidden to be scored
    ignored_found  predictions of ignored people
    dropped        images that a live node dropped
    detection      counts of matches, false positives and misses
    sums           of ERRORS, by key
    identity       None without truth, or if truth or predictions have no identities
    times_ms       every value, by the name of the stage
    samples        values for quantiles, by VELOCITY_SAMPLES and collect_distance_samples; not in results.json
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
    samples: dict[str, array[float]] = field(default_factory=dict)

    def __add__(self, other: Totals) -> Totals:
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
        return Totals(**changes)

    def compute_metrics(self) -> dict[str, tuple[float, int]]:
        """Return value, in its unit, and count of each of METRICS that applies, without errors that have no people."""
        counts = self.detection
        evaluated = counts.true_positives + counts.false_negatives
        found = counts.true_positives + counts.false_positives
        values: dict[str, tuple[float, int]] = {}
        if self.with_truth:
            values["recall"] = 100 * counts.recall, evaluated
            values["precision"] = 100 * counts.precision, found
            values["F1"] = 100 * counts.f1, evaluated
        for metric in ERRORS:
            total = self.sums.get(metric.key, Sum())
            if total.count:
                values[metric.key] = metric.scale * total.mean, total.count
        speeds = self.samples.get(VELOCITY_SAMPLES)
        if speeds:
            for metric, percent in zip(QUANTILES, (50, 95), strict=True):
                values[metric.key] = float(np.percentile(speeds, percent)), len(speeds)
        for key, plain in (("N-MPJPE", "MPJPE"), ("N-MRPE", "MRPE")):
            if plain in values:
                values[key] = normalized_error(values[plain][0], counts), values[plain][1]
        if self.identity is not None and self.identity.truth:
            boxes = self.identity.truth
            values["IDF1"] = 100 * self.identity.idf1, boxes
            values["MOTA"] = 100 * self.identity.mota, boxes
            values["HOTA"] = 100 * self.identity.hota, boxes
            values["id switches"] = float(self.identity.switches), boxes
        return values

    def compute_calibration(self) -> dict[str, dict[str, float]]:
        """Return the calibration of each of CALIBRATED with truth and finite covariances.

        nees       mean normalized error squared
        low, high  two-sided 95 % bounds of nees (`normalized_error_bounds`)
        inside_95  percent inside the 95 % ellipsoid
        count      of people
        """
        values = self.compute_metrics()
        calibration = {}
        for name in CALIBRATED:
            if f"{name} NEES" in values:
                nees, count = values[f"{name} NEES"]
                low, high = normalized_error_bounds(count)
                inside = values[f"{name} coverage"][0]
                calibration[name] = {"nees": nees, "low": low, "high": high, "inside_95": inside, "count": count}
        return calibration

    def summarize_distances(self) -> dict[str, dict[str, float]]:
        """Return summarize_distance_errors of the matched people for each of CUES that occurs."""
        summaries = {}
        for cue, title in CUES.items():
            errors = DistanceErrors(
                **{name: np.array(self.samples.get(_make_sample_key(cue, name), ())) for name in DISTANCE_FIELDS}
            )
            if len(errors.error_m):
                summaries[title] = dict(summarize_distance_errors(errors))
        return summaries

    def compute_latencies(self) -> dict[str, dict[str, float]]:
        """Return p50, p95 and max in ms and the count of every stage."""
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
