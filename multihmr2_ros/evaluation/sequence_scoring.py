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

"""Scoring of a sequence frame by frame; only sums are kept, not frames."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.scoring import FrameScore, ScoringConfig, compute_camera_errors, score_frame
from multihmr2_ros.evaluation.totals import CUES, VELOCITY_SAMPLES, Sum, Totals, collect_distance_samples
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.identity import FrameBoxes, count_identities
from multihmr2_ros.people import People


class SequenceScorer:
    """Scorer of evaluation frames in order. Keeps their sums, times, samples for quantiles, and boxes with
    identities."""

    def __init__(self, config: ScoringConfig) -> None:
        self._config = config
        self._total = Totals()
        self._times: dict[str, array[float]] = {}
        self._samples: dict[str, array[float]] = {}
        self._true_boxes, self._predicted_boxes = BoxStore(), BoxStore()
        self._is_named = self._is_unnamed = self._is_tracked = self._is_untracked = False

    def add(self, eval_frame: EvaluationFrame, people: People, times_ms: dict[str, float]) -> FrameScore | None:
        """Score the people of an evaluation frame; returns None without truth."""
        for stage, value in {**eval_frame.times_ms, **times_ms}.items():
            if np.isfinite(value):
                self._times.setdefault(stage, array("d")).append(value)
        score = None
        if eval_frame.truth is not None:
            score = score_frame(
                people, eval_frame.truth, self._config, eval_frame.given_fov,
                is_recorded=eval_frame.people is not None,
            )  # fmt: skip
            self._keep_boxes(people, score)
            self._keep_samples(score)
        self._total += make_frame_totals(eval_frame, people, score)
        return score

    def compute_totals(self) -> Totals:
        """Return the totals of all frames so far. A sequence without true people has identities, too: its predictions
        are false positives of the scores of identities when sequences are merged."""
        identity = None
        has_names = self._is_named or not self._is_unnamed
        has_tracks = self._is_tracked or not self._is_untracked
        if self._config.identities and self._total.with_truth and has_names and has_tracks:
            identity = count_identities(self._true_boxes.to_frames(), self._predicted_boxes.to_frames())
        return self._total + Totals(identity=identity, times_ms=self._times, samples=self._samples)

    def _keep_boxes(self, people: People, score: FrameScore) -> None:
        self._is_named |= bool((score.true_boxes.identity >= 0).any())
        self._is_unnamed |= bool((score.true_boxes.identity < 0).any())
        self._is_tracked |= bool((people.track_id >= 0).any())
        self._is_untracked |= bool((people.track_id < 0).any())
        self._true_boxes.append(score.true_boxes)
        self._predicted_boxes.append(score.predicted_boxes)

    def _keep_samples(self, score: FrameScore) -> None:
        self._extend(VELOCITY_SAMPLES, score.errors["velocity error"])
        for cue in CUES:
            rows = score.cues == cue
            for key, values in collect_distance_samples(cue, score.distances).items():
                self._extend(key, values[rows])

    def _extend(self, key: str, values: NDArray[np.float64]) -> None:
        finite = values[np.isfinite(values)]
        if len(finite):
            self._samples.setdefault(key, array("d")).extend(finite.tolist())


def make_frame_totals(eval_frame: EvaluationFrame, people: People, score: FrameScore | None) -> Totals:
    """Return the totals of one frame, without identities, times and samples."""
    if score is None:
        errors = compute_camera_errors(people, None, eval_frame.given_fov) if eval_frame.is_camera_true else {}
        sums = {key: Sum.from_values(values) for key, values in errors.items()}
        return Totals(frames=1, detections=len(people), dropped=eval_frame.dropped, sums=sums)
    counts = DetectionCounts(len(score.pairs), len(score.false_positives), len(score.misses))
    return Totals(
        frames=1,
        with_truth=1,
        detections=len(people),
        ignored_truth=int((~score.evaluated).sum()),
        ignored_found=int(score.ignored.sum()),
        dropped=eval_frame.dropped,
        detection=counts,
        sums={key: Sum.from_values(values) for key, values in score.errors.items()},
    )


class BoxStore:
    """Memory-saving storage for the FrameBoxes of a long sequence, in three arrays.

    Negative identities are of one frame only, so they are replaced by others that no other frame has.
    """

    def __init__(self) -> None:
        self._unnamed_count = 0
        self._count, self._identity, self._box = array("q"), array("q"), array("d")

    def append(self, boxes: FrameBoxes) -> None:
        self._count.append(len(boxes.identity))
        self._identity.extend(self._replace_negative(boxes.identity).tolist())
        self._box.extend(boxes.box.ravel().tolist())

    def _replace_negative(self, identity: NDArray[np.int64]) -> NDArray[np.int64]:
        is_unnamed = identity < 0
        count = int(is_unnamed.sum())
        identity = identity.copy()
        identity[is_unnamed] = -1 - self._unnamed_count - np.arange(count)
        self._unnamed_count += count
        return identity

    def to_frames(self) -> list[FrameBoxes]:
        if not self._count:
            return []
        ends = np.cumsum(self._count)[:-1]
        identities = np.split(np.array(self._identity, np.int64), ends)
        boxes = np.split(np.array(self._box, np.float64).reshape(-1, 4), ends)
        return [FrameBoxes(identity, box) for identity, box in zip(identities, boxes, strict=True)]
