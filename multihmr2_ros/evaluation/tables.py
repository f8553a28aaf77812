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

"""The tables frames.csv and people.csv, with a row per frame and per person: written during evaluation, read
afterwards."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.metric_definitions import ERRORS, MOTION_ERRORS, Metric
from multihmr2_ros.evaluation.postures import classify_postures
from multihmr2_ros.evaluation.scoring import UNKNOWN_CUE, FrameScore, get_predicted_fov, get_true_fov
from multihmr2_ros.evaluation.sequence_scoring import make_frame_totals
from multihmr2_ros.evaluation.totals import CUES
from multihmr2_ros.files import atomic_path
from multihmr2_ros.metrics.bodies import MM_PER_M
from multihmr2_ros.people import People, PlacementCue

PERSON_ERRORS = tuple(metric for metric in ERRORS if metric.counted == "people" and metric not in MOTION_ERRORS)
MATCH, MISS, FALSE_POSITIVE, IGNORED = "match", "miss", "false positive", "ignored"


class FrameListener(Protocol):
    """A receiver of every evaluation frame in order, with its predictions and their score (None: no truth)."""

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None: ...


def format_column(metric: Metric) -> str:
    """Return the heading of a metric's column: PA-MPJPE → pa_mpjpe_mm."""
    unit = {"%": "_percent", "m/s": "_m_per_s", "1": ""}.get(metric.unit, f"_{metric.unit}")
    return f"{metric.key.lower().replace('-', '_').replace(' ', '_').replace('@', '_at_')}{unit}"


FRAME_COUNTS = ("with_truth", "detections", "ignored_truth", "ignored_found", "dropped")
FRAME_DETECTION = ("true_positives", "false_positives", "false_negatives")
FRAME_COLUMNS = (
    "frame", "stamp_s", *FRAME_COUNTS, *FRAME_DETECTION, "predicted_fov_deg", "true_fov_deg",
    *(name for metric in ERRORS for name in (format_column(metric), f"{format_column(metric)}_count")),
)  # fmt: skip
PERSON_COLUMNS = (
    "frame", "stamp_s", "outcome", "predicted_id", "true_id", "score", "visible", "true_distance_m",
    *(f"{who}_{axis}_m" for who in ("predicted", "true") for axis in "xyz"), *map(format_column, PERSON_ERRORS),
    "velocity_error_m_per_s", "pelvis_mahalanobis2", "velocity_mahalanobis2", "posture", "placement_cue",
    "distance_error_mm", "distance_z_score",
)  # fmt: skip
MOTION_CELLS = 3  # velocity_error_m_per_s and the two mahalanobis2
DISTANCE_CELLS = 3  # placement_cue and the columns after it
NUMBERS = (  # columns that PersonRows reads
    "frame", "score", "visible", "true_distance_m", "predicted_x_m", "predicted_y_m", "predicted_z_m", "true_x_m",
    "true_y_m", "true_z_m", "mrpe_mm", "mpjpe_mm", "velocity_error_m_per_s", "pelvis_mahalanobis2",
    "velocity_mahalanobis2",
)  # fmt: skip


class FrameTable:
    """Writer of frames.csv. Errors are the means over the frame, each with its count."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        writer.writerow(FRAME_COLUMNS)

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None:
        totals = make_frame_totals(eval_frame, people, score)
        fov = get_true_fov(eval_frame.truth, eval_frame.given_fov)
        row: list[Any] = [index, _format_stamp(eval_frame)]
        row += [getattr(totals, name) for name in FRAME_COUNTS]
        row += [getattr(totals.detection, name) for name in FRAME_DETECTION]
        row += [_format_number(np.degrees(get_predicted_fov(people))), _format_number(np.degrees(fov))]
        for metric in ERRORS:
            total = totals.sums.get(metric.key)
            row += ["", 0] if total is None else [_format_number(metric.scale * total.mean), total.count]
        self._writer.writerow(row)


class PersonTable:
    """Writer of people.csv. Only matched people that are scored have errors; the cells of others are empty."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._postures: list[str] = []  # of the frame's true people
        writer.writerow(PERSON_COLUMNS)

    def add(self, index: int, eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> None:
        truth = eval_frame.truth
        if score is None or truth is None:
            return
        start = [index, _format_stamp(eval_frame)]
        self._postures = classify_postures(truth.joints)
        for row, (predicted, true) in enumerate(score.pairs.tolist()):
            errors = [metric.scale * _get_value(score, metric, row) for metric in PERSON_ERRORS]
            errors += [score.errors["velocity error"][row], *score.mahalanobis2[row]]
            self._write([*start, MATCH], people, predicted, truth, true, errors, _format_distance(score, row))
        for true in score.misses.tolist():
            self._write([*start, MISS], None, 0, truth, true)
        for predicted in score.false_positives.tolist():
            self._write([*start, FALSE_POSITIVE], people, predicted, None, 0)
        for predicted in np.flatnonzero(score.ignored).tolist():
            self._write([*start, IGNORED], people, predicted, None, 0)

    def _write(
        self, start: list[Any], people: People | None, predicted: int, truth: People | None, true: int,
        errors: list[float] | None = None, distance: tuple[str, ...] = ("",) * DISTANCE_CELLS,
    ) -> None:  # fmt: skip
        nothing = ("", "", "")
        self._writer.writerow([
            *start,
            "" if people is None else people.track_id[predicted],
            "" if truth is None else truth.track_id[true],
            "" if people is None else _format_number(people.score[predicted]),
            "" if truth is None else _format_number(truth.score[true]),
            "" if truth is None else _format_number(np.linalg.norm(truth.pelvis[true])),
            *(nothing if people is None else map(_format_number, people.pelvis[predicted])),
            *(nothing if truth is None else map(_format_number, truth.pelvis[true])),
            *([""] * (len(PERSON_ERRORS) + MOTION_CELLS) if errors is None else map(_format_number, errors)),
            "" if truth is None else self._postures[true],
            *distance,
        ])  # fmt: skip


@contextlib.contextmanager
def open_tables(folder: Path) -> Iterator[list[FrameListener]]:
    """Write both tables to a folder; they appear, complete, when the block ends without an exception."""
    with (
        atomic_path(folder / "frames.csv") as frames,
        atomic_path(folder / "people.csv") as people,
        open(frames, "w", newline="", encoding="utf-8") as frame_file,
        open(people, "w", newline="", encoding="utf-8") as people_file,
    ):
        yield [FrameTable(csv.writer(frame_file)), PersonTable(csv.writer(people_file))]


def _format_distance(score: FrameScore, row: int) -> tuple[str, ...]:
    errors = score.distances
    millimeters = MM_PER_M * abs(float(errors.error_m[row]))
    cue = int(score.cues[row])
    name = "" if cue == UNKNOWN_CUE else CUES[PlacementCue(cue)]
    return name, _format_number(millimeters), _format_number(errors.z_score[row])


def _get_value(score: FrameScore, metric: Metric, row: int) -> float:
    values = score.errors.get(metric.key, np.zeros(0))
    return float(values[row]) if len(values) == len(score.pairs) else np.nan


def _format_stamp(eval_frame: EvaluationFrame) -> str:
    return f"{eval_frame.stamp_ns // 10**9}.{eval_frame.stamp_ns % 10**9:09d}"


def _format_number(value: Any) -> str:
    return f"{value:.7g}" if np.isfinite(value) else ""


@dataclass(frozen=True)
class PersonRows:
    """Rows (r,) of one or several people.csv. numbers: by column of NUMBERS, NaN for empty cells."""

    outcome: NDArray[np.str_]
    posture: NDArray[np.str_]
    numbers: dict[str, NDArray[np.float64]]

    @classmethod
    def read(cls, rows: Iterable[dict[str, str]]) -> PersonRows:
        """Read rows from csv.DictReader. Raises UserError for a table without the columns in NUMBERS."""
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

    def compute_distance(self) -> NDArray[np.float64]:
        """Return the distance (r,) m of the predicted pelvis from the camera."""
        return np.asarray(np.sqrt(sum(self[f"predicted_{axis}_m"] ** 2 for axis in "xyz")), np.float64)

    def summarize_group(self, mask: NDArray[np.bool_], name: str) -> tuple[int, float, float]:
        """Return count and recall of the true people in a mask (r,), and a column's mean over those that were found."""
        matched, missed = self.matched & mask, self.missed & mask
        count = int(matched.sum() + missed.sum())
        values = self[name][matched]
        values = values[np.isfinite(values)]
        recall = float(matched.sum() / count) if count else np.nan
        return count, recall, float(values.mean()) if len(values) else np.nan
