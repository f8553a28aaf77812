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

"""frames.csv and people.csv: a row per frame, a row per person, written while the frames go by."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.moments import Moment
from multihmr2_ros.evaluation.postures import classify_postures
from multihmr2_ros.evaluation.scoring import FrameScore, predicted_fov, true_fov
from multihmr2_ros.evaluation.sequence_scoring import frame_tally
from multihmr2_ros.evaluation.tally import ERRORS, Metric
from multihmr2_ros.media.files import atomic_path
from multihmr2_ros.metrics.uncertainty import squared_mahalanobis
from multihmr2_ros.people import People

PERSON_ERRORS = tuple(metric for metric in ERRORS if metric.counted == "people")
MATCH, MISS, FALSE_POSITIVE, IGNORED = "match", "miss", "false positive", "ignored"


class Listener(Protocol):
    """Takes every moment in order, with what was found and how it was scored (None: no truth)."""

    def add(self, index: int, moment: Moment, people: People, score: FrameScore | None) -> None: ...


def column(metric: Metric) -> str:
    """PA-MPJPE → pa_mpjpe_mm."""
    unit = {"%": "percent"}.get(metric.unit, metric.unit)
    return f"{metric.key.lower().replace('-', '_').replace(' ', '_').replace('@', '_at_')}_{unit}"


def scaled(metric: Metric) -> float:
    """From what scoring gives to the metric's unit."""
    return 100.0 if metric.unit == "%" else 1.0


FRAME_COUNTS = ("with_truth", "detections", "ignored_truth", "ignored_found", "dropped")
FRAME_DETECTION = ("true_positives", "false_positives", "false_negatives")
FRAME_COLUMNS = (
    "frame", "stamp_s", *FRAME_COUNTS, *FRAME_DETECTION, "predicted_fov_deg", "true_fov_deg",
    *(name for metric in ERRORS for name in (column(metric), f"{column(metric)}_count")),
)  # fmt: skip
PERSON_COLUMNS = (
    "frame", "stamp_s", "outcome", "predicted_id", "true_id", "score", "visible", "true_distance_m",
    *(f"{who}_{axis}_m" for who in ("predicted", "true") for axis in "xyz"), *map(column, PERSON_ERRORS),
    "velocity_error_m_per_s", "pelvis_mahalanobis2", "velocity_mahalanobis2", "posture",
)  # fmt: skip


MOTION_COLUMNS = 3  # of `_uncertainties`


class FrameTable:
    """frames.csv. Errors are the frame's means, each beside its count."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        writer.writerow(FRAME_COLUMNS)

    def add(self, index: int, moment: Moment, people: People, score: FrameScore | None) -> None:
        tally = frame_tally(moment, people, score)
        fov = true_fov(moment.truth, moment.given_fov)
        row: list[Any] = [index, _stamp(moment)]
        row += [getattr(tally, name) for name in FRAME_COUNTS]
        row += [getattr(tally.detection, name) for name in FRAME_DETECTION]
        row += [_number(np.degrees(predicted_fov(people))), _number(np.degrees(fov))]
        for metric in ERRORS:
            total = tally.sums.get(metric.key)
            row += ["", 0] if total is None else [_number(scaled(metric) * total.mean), total.count]
        self._writer.writerow(row)


class PersonTable:
    """people.csv. The errors of people who are matched and count; the others have empty cells."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._postures: list[str] = []  # of the frame's true people
        writer.writerow(PERSON_COLUMNS)

    def add(self, index: int, moment: Moment, people: People, score: FrameScore | None) -> None:
        truth = moment.truth
        if score is None or truth is None:
            return
        start = [index, _stamp(moment)]
        self._postures = classify_postures(truth.joints)
        motion = _uncertainties(people.select(score.pairs[:, 0]), truth.select(score.pairs[:, 1]))
        for row, (predicted, true) in enumerate(score.pairs.tolist()):
            errors = [scaled(metric) * _value(score, metric, row) for metric in PERSON_ERRORS]
            errors += motion[row].tolist()
            self._write([*start, MATCH], people, predicted, truth, true, errors)
        for true in score.misses.tolist():
            self._write([*start, MISS], None, 0, truth, true)
        for predicted in score.false_positives.tolist():
            self._write([*start, FALSE_POSITIVE], people, predicted, None, 0)
        for predicted in np.flatnonzero(score.excused).tolist():
            self._write([*start, IGNORED], people, predicted, None, 0)

    def _write(
        self, start: list[Any], people: People | None, predicted: int, truth: People | None, true: int,
        errors: list[float] | None = None,
    ) -> None:  # fmt: skip
        nothing = ("", "", "")
        self._writer.writerow([
            *start,
            "" if people is None else people.track_id[predicted],
            "" if truth is None else truth.track_id[true],
            "" if people is None else _number(people.score[predicted]),
            "" if truth is None else _number(truth.score[true]),
            "" if truth is None else _number(np.linalg.norm(truth.pelvis[true])),
            *(nothing if people is None else map(_number, people.pelvis[predicted])),
            *(nothing if truth is None else map(_number, truth.pelvis[true])),
            *([""] * (len(PERSON_ERRORS) + MOTION_COLUMNS) if errors is None else map(_number, errors)),
            "" if truth is None else self._postures[true],
        ])  # fmt: skip


@contextlib.contextmanager
def tables(folder: Path) -> Iterator[list[Listener]]:
    """Both tables in a folder; they appear whole when the block ends well."""
    with (
        atomic_path(folder / "frames.csv") as frames,
        atomic_path(folder / "people.csv") as people,
        open(frames, "w", newline="", encoding="utf-8") as frame_file,
        open(people, "w", newline="", encoding="utf-8") as people_file,
    ):
        yield [FrameTable(csv.writer(frame_file)), PersonTable(csv.writer(people_file))]


def _uncertainties(people: People, truth: People) -> NDArray[np.float64]:
    """(m, 3) of matched people, NaN where unknown: the velocity's error (m/s), and the squared Mahalanobis distances of
    pelvis and velocity under their stated covariances. A velocity over the ground is not compared with one relative to
    the camera."""
    velocity = (
        people.velocity if people.velocity_frame == truth.velocity_frame else np.full_like(people.velocity, np.nan)
    )
    return np.stack([
        np.linalg.norm(velocity - truth.velocity, axis=1),
        squared_mahalanobis(people.pelvis, truth.pelvis, people.pelvis_covariance),
        squared_mahalanobis(velocity, truth.velocity, people.velocity_covariance),
    ], axis=1)  # fmt: skip


def _value(score: FrameScore, metric: Metric, row: int) -> float:
    values = score.errors.get(metric.key, np.zeros(0))
    return float(values[row]) if len(values) == len(score.pairs) else np.nan


def _stamp(moment: Moment) -> str:
    return f"{moment.stamp_ns // 10**9}.{moment.stamp_ns % 10**9:09d}"


def _number(value: Any) -> str:
    return f"{value:.7g}" if np.isfinite(value) else ""
