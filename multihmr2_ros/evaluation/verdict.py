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

"""A result in words: statements of fact, each with its numbers, without grades."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.comparison import Comparison, describe_intervals, judge_difference
from multihmr2_ros.evaluation.metric_definitions import METRICS
from multihmr2_ros.evaluation.postures import POSTURES
from multihmr2_ros.evaluation.report import format_number
from multihmr2_ros.evaluation.tables import PersonRows
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.metrics.uncertainty import compute_coverage

MIN_PEOPLE = 20  # smaller groups are not described
GOOD_RECALL = 0.9
MIN_BIAS = 0.01  # of the distance
ONE_SIGMA = 0.683


def describe(totals: Totals, rows: PersonRows) -> list[str]:
    """Return one sentence for each available result, the most important one first."""
    if not totals.with_truth:
        return [
            f"Without ground truth, detection cannot be evaluated. The {totals.frames} images contain "
            f"{totals.detections} detected people.",
            *_describe_latency(totals),
        ]
    return [
        *_describe_recall(totals),
        *_describe_range(rows),
        *_describe_postures(rows),
        *_describe_distance(totals, rows),
        *_describe_identity(totals),
        *_describe_latency(totals),
        *_describe_covariances(rows),
    ]


def _describe_recall(totals: Totals) -> list[str]:
    counts = totals.detection
    evaluated = counts.true_positives + counts.false_negatives
    if not evaluated:
        return [
            f"The ground truth contains no evaluated people; {counts.false_positives} detections are false positives."
        ]
    detected = f"{counts.true_positives} of {evaluated} instances"
    text = f"Recall: {100 * counts.recall:.0f} of 100 people are detected ({detected})"
    found = counts.true_positives + counts.false_positives
    if not found:
        return [f"{text}."]
    return [f"{text}; {100 * (1 - counts.precision):.0f} of 100 detections are false positives."]


def _describe_range(rows: PersonRows) -> list[str]:
    """Describe the distance beyond which the recall is below GOOD_RECALL."""
    distance = np.floor(rows["true_distance_m"])
    for start in np.unique(distance[np.isfinite(distance)]):
        count, recall, _ = rows.summarize_group(distance >= start, "mrpe_mm")
        if count >= MIN_PEOPLE and recall < GOOD_RECALL and start > np.nanmin(distance):
            return [f"At distances of {start:.0f} m and more, {100 * recall:.0f} of 100 people are detected."]
    return []


def _describe_postures(rows: PersonRows) -> list[str]:
    """Describe the posture with the lowest recall, if that is much lower than the overall recall."""
    _, overall, _ = rows.summarize_group(rows.matched | rows.missed, "mrpe_mm")
    each = [(rows.summarize_group(rows.posture == posture, "mrpe_mm"), posture) for posture in POSTURES]
    enough = [(recall, posture) for (count, recall, _), posture in each if count >= MIN_PEOPLE]
    recall, posture = min(enough, default=(math.nan, ""))
    if posture and recall < overall - 0.05:
        return [f"The recall is lowest for the posture {posture}: {100 * recall:.0f} of 100."]
    return []


def _describe_distance(totals: Totals, rows: PersonRows) -> list[str]:
    metrics = totals.compute_metrics()
    if "distance error" not in metrics:
        return []
    text = f"The mean distance error is {metrics['distance error'][0]:.1f} %"
    text += f", the mean position error {metrics['MRPE'][0] / 1000:.2f} m"
    signed = (rows.compute_distance() / rows["true_distance_m"] - 1)[rows.matched]
    bias = float(np.nanmean(signed)) if np.isfinite(signed).any() else math.nan
    if abs(bias) > MIN_BIAS:
        text += f"; predicted people are {100 * abs(bias):.1f} % too {'far' if bias > 0 else 'near'} on average"
    return [f"{text}."]


def _describe_identity(totals: Totals) -> list[str]:
    if totals.identity is None or not totals.identity.truth:
        return []
    switches, idf1 = totals.identity.switches, 100 * totals.identity.idf1
    changes = {0: "never change", 1: "change once"}.get(switches, f"change {switches} times")
    return [f"Track ids {changes}; {idf1:.0f} % of the bounding boxes have the correct identity (IDF1)."]


def _describe_latency(totals: Totals) -> list[str]:
    """Describe the latency: from stamp to publication for recorded people, else of the estimate."""
    latencies = totals.compute_latencies()
    for stage, words in (
        ("stamp to publication", "Latency from the stamp of an image to its message"),
        ("estimate", "Latency of the estimate"),
    ):
        if stage in latencies:
            p95 = latencies[stage]["p95_ms"]
            dropped = f"; {totals.dropped} images were dropped" if totals.dropped else ""
            return [f"{words}: at most {p95:.0f} ms for 95 of 100 images{dropped}."]
    return []


def _describe_covariances(rows: PersonRows) -> list[str]:
    text = []
    for name in ("pelvis", "velocity"):
        squared = remove_nan(rows[f"{name}_mahalanobis2"])
        if len(squared) < MIN_PEOPLE:
            continue
        share = float(compute_coverage(squared, np.array([ONE_SIGMA]))[0])
        fit = (
            "approximately correct"
            if abs(share - ONE_SIGMA) < 0.1
            else "too small"
            if share < ONE_SIGMA
            else "too large"
        )
        text.append(
            f"Stated covariances of the {name} are {fit}: {100 * share:.0f} % of the errors are inside the region that "
            f"is expected to contain {100 * ONE_SIGMA:.0f} %."
        )
    return text


def remove_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def list_key_numbers(totals: Totals) -> list[tuple[str, str, str]]:
    """Return label, value and remark of the numbers that are most important for a robot."""
    metrics, latencies = totals.compute_metrics(), totals.compute_latencies()
    chosen = [("detected", "recall", "recall"), ("distance error", "distance error", "of the distance"),
              ("identity", "IDF1", "IDF1"), ("id switches", "id switches", "in all sequences")]  # fmt: skip
    units = {metric.key: metric.unit for metric in METRICS}
    shown = [
        (label, f"{format_number(metrics[key][0], units[key])} {units[key]}".strip(), remark)
        for label, key, remark in chosen
        if key in metrics
    ]
    for stage in ("stamp to publication", "estimate"):
        if stage in latencies:
            shown.append(("latency", f"{latencies[stage]['p95_ms']:.0f} ms", f"{stage}, p95"))
            break
    return shown


def describe_comparison(comparisons: Sequence[Comparison]) -> list[str]:
    """Return one sentence for each kind of intrinsics."""
    sentences = []
    for each in comparisons:
        judged: dict[str, list[str]] = {"better": [], "worse": [], "": []}
        for found in each.differences:
            judged[judge_difference(found)].append(found.key)
        parts = [f"B is {word} in {', '.join(judged[word])}" for word in ("better", "worse") if judged[word]]
        text = "; ".join(parts) or (
            "no difference between A and B is significant" if each.units > 1 else "differences cannot be judged"
        )
        sentences.append(f"With {each.kind} intrinsics, {text} ({describe_intervals(each)}).")
    return sentences
