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

"""Scores of identities over time, from boxes with identities: MOTA, IDF1 and HOTA.

Sources: Bernardin & Stiefelhagen 2008 (MOTA), Ristani et al. 2016 (IDF1), Luiten et al. 2021 (HOTA). Counts of
sequences are added and then divided, so many sequences are combined exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from multihmr2_ros.metrics.boxes import FloatArray, box_area, box_iou, polygon_intersection
from multihmr2_ros.metrics.matching import assign

MIN_IOU = 0.5
IGNORED_SHARE = 0.1
CONTINUITY_BONUS = 1000.0  # TrackEval's value, larger than any sum of overlaps
HOTA_THRESHOLDS = np.arange(0.05, 0.99, 0.05)


@dataclass(frozen=True)
class FrameBoxes:
    """The boxes of one frame: identity (n,) and box (n, 4) as (x0, y0, x1, y1) px. Identities are unique."""

    identity: NDArray[np.int64]
    box: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(set(self.identity.tolist())) != len(self.identity):
            raise ValueError(f"a frame names one identity twice: {sorted(self.identity.tolist())}")
        if self.box.shape != (len(self.identity), 4):
            raise ValueError(f"expected boxes ({len(self.identity)}, 4), got {self.box.shape}")


@dataclass(frozen=True)
class IdentityCounts:
    """The counts that the scores are computed from.

    truth                              true boxes
    predicted                          predicted boxes
    misses, false_positives, switches  of MOTA
    id_true_positives                  of IDF1
    hota_true_positives                (19,) for IoU thresholds 0.05 … 0.95
    hota_association                   (19,) sum of A(c) over true positives c
    """

    truth: int = 0
    predicted: int = 0
    misses: int = 0
    false_positives: int = 0
    switches: int = 0
    id_true_positives: int = 0
    hota_true_positives: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(HOTA_THRESHOLDS)))
    hota_association: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(HOTA_THRESHOLDS)))

    def __add__(self, other: IdentityCounts) -> IdentityCounts:
        names = [each.name for each in dataclasses.fields(self)]
        return IdentityCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def mota(self) -> float:
        """1 − (misses + false positives + switches) / true boxes; at most 1, NaN without true boxes."""
        wrong = self.misses + self.false_positives + self.switches
        return 1 - wrong / self.truth if self.truth else float("nan")

    @property
    def idf1(self) -> float:
        """Share of boxes with the right identity under the best global assignment of identities; NaN without boxes."""
        boxes = self.truth + self.predicted
        return 2 * self.id_true_positives / boxes if boxes else float("nan")

    @property
    def hota(self) -> float:
        """Mean over thresholds of √(detection accuracy · association accuracy); NaN without boxes."""
        if not self.truth + self.predicted:
            return float("nan")
        hits = self.hota_true_positives
        detection = hits / np.maximum(1, self.truth + self.predicted - hits)
        association = self.hota_association / np.maximum(1, hits)
        return float(np.sqrt(detection * association).mean())


def count_identities(
    truth: Sequence[FrameBoxes],
    predicted: Sequence[FrameBoxes],
    min_iou: float = MIN_IOU,
    *,
    as_trackeval: bool = False,
) -> IdentityCounts:
    """Return the counts of one sequence.

    truth         true boxes of each frame
    predicted     predicted boxes of the same frames, in the same order
    min_iou       for matches of MOTA and IDF1
    as_trackeval  whether MOTA's counts are TrackEval's, for comparison with published results of MOTChallenge: it keeps
                  pairs of the last frame only, not older ones, and then maximizes the sum of overlaps instead of the
                  number of pairs
    """
    if len(truth) != len(predicted):
        raise ValueError(f"expected as many predicted frames as true ones, got {len(predicted)} and {len(truth)}")
    overlaps = [box_iou(true.box, found.box) for true, found in zip(truth, predicted, strict=True)]
    count_errors = _count_clear_trackeval if as_trackeval else _count_clear
    misses, false_positives, switches = count_errors(truth, predicted, overlaps, min_iou)
    return IdentityCounts(
        truth=sum(len(frame.identity) for frame in truth),
        predicted=sum(len(frame.identity) for frame in predicted),
        misses=misses,
        false_positives=false_positives,
        switches=switches,
        id_true_positives=_count_id_true_positives(truth, predicted, overlaps, min_iou),
        **_count_hota(truth, predicted, overlaps),
    )


def remove_ignored(
    truth: FrameBoxes, predicted: FrameBoxes, regions: Sequence[FloatArray], min_iou: float = MIN_IOU
) -> FrameBoxes:
    """Return the predictions of a frame that are scored, given ignored regions, polygons (k, 2) px (PoseTrack21).

    These are the matched ones, and unmatched ones with at most a tenth of their area inside any region.
    """
    if not regions or len(predicted.identity) == 0:
        return predicted
    inside = np.max([polygon_intersection(predicted.box, region) for region in regions], axis=0)
    kept = inside <= IGNORED_SHARE * box_area(predicted.box)
    kept[match_boxes(box_iou(predicted.box, truth.box), min_iou)[:, 0]] = True
    return FrameBoxes(predicted.identity[kept], predicted.box[kept])


def _count_clear(
    truth: Sequence[FrameBoxes],
    predicted: Sequence[FrameBoxes],
    overlaps: Sequence[NDArray[np.float64]],
    min_iou: float,
) -> tuple[int, int, int]:
    """Count misses, false positives and switches. Pairs of earlier frames are kept while they overlap; the others are
    assigned. Of two people who last had the same predicted identity, the one who had it later keeps it."""
    partner: dict[int, tuple[int, int]] = {}  # true identity → number of the last frame, its predicted identity there
    misses = false_positives = switches = 0
    for number, (true, found, overlap) in enumerate(zip(truth, predicted, overlaps, strict=True)):
        allowed = overlap >= min_iou
        columns = {identity: column for column, identity in enumerate(found.identity.tolist())}
        pairs = []
        known = [(partner[identity], row) for row, identity in enumerate(true.identity.tolist()) if identity in partner]
        for (_, other), row in sorted(known, reverse=True):
            column = columns.get(other)
            if column is not None and allowed[row, column]:
                pairs.append((row, column))
                allowed[row], allowed[:, column] = False, False
        pairs += [(int(row), int(column)) for row, column in assign(1 - overlap, allowed)]
        for row, column in pairs:
            identity, other = int(true.identity[row]), int(found.identity[column])
            switches += identity in partner and partner[identity][1] != other
            partner[identity] = number, other
        misses += len(true.identity) - len(pairs)
        false_positives += len(found.identity) - len(pairs)
    return misses, false_positives, switches


def _count_clear_trackeval(
    truth: Sequence[FrameBoxes],
    predicted: Sequence[FrameBoxes],
    overlaps: Sequence[NDArray[np.float64]],
    min_iou: float,
) -> tuple[int, int, int]:
    """Count misses, false positives and switches as TrackEval's CLEAR does."""
    partner: dict[int, int] = {}  # true identity → its last predicted identity
    last: dict[int, int] = {}  # the same, only of the last frame with people and predictions
    misses = false_positives = switches = 0
    for true, found, overlap in zip(truth, predicted, overlaps, strict=True):
        pairs = np.zeros((0, 2), np.int64)
        if len(true.identity) and len(found.identity):
            kept = np.array([last.get(identity) for identity in true.identity.tolist()], object)[:, None]
            stays = np.asarray(kept == found.identity[None].astype(object), bool)
            pairs = match_boxes(overlap, min_iou, bonus=CONTINUITY_BONUS * stays)
            names = {int(true.identity[row]): int(found.identity[column]) for row, column in pairs}
            switches += sum(partner.get(identity, other) != other for identity, other in names.items())
            partner |= names
            last = names
        misses += len(true.identity) - len(pairs)
        false_positives += len(found.identity) - len(pairs)
    return misses, false_positives, switches


def match_boxes(
    overlap: NDArray[np.float64], min_iou: float = MIN_IOU, *, bonus: NDArray[np.float64] | float = 0.0
) -> NDArray[np.int64]:
    """Return the pairs (m, 2) of row and column with the greatest sum of IoU and bonus, without pairs below min_iou."""
    allowed = overlap >= min_iou - np.finfo(np.float64).eps
    rows, columns = linear_sum_assignment(-np.where(allowed, overlap + bonus, 0.0))
    kept = allowed[rows, columns]
    return np.stack([rows[kept], columns[kept]], axis=1).astype(np.int64)


def _count_id_true_positives(
    truth: Sequence[FrameBoxes],
    predicted: Sequence[FrameBoxes],
    overlaps: Sequence[NDArray[np.float64]],
    min_iou: float,
) -> int:
    """Return the number of boxes that agree with the best fixed assignment of true to predicted identities."""
    _, _, together = _sum_over_frames(truth, predicted, [overlap >= min_iou for overlap in overlaps])
    rows, columns = linear_sum_assignment(-together)
    return int(together[rows, columns].sum())


def _count_hota(
    truth: Sequence[FrameBoxes], predicted: Sequence[FrameBoxes], overlaps: Sequence[NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Count HOTA's true positives and associations (Luiten et al., section 5).

    Matching in each frame prefers pairs that fit over the whole sequence.
    """
    shares = []
    for overlap in overlaps:
        either = overlap.sum(axis=0, keepdims=True) + overlap.sum(axis=1, keepdims=True) - overlap
        shares.append(np.divide(overlap, either, out=np.zeros_like(overlap), where=either > np.spacing(1)))
    true_ids, found_ids, together = _sum_over_frames(truth, predicted, shares)
    true_count, found_count = _count_appearances(truth, true_ids), _count_appearances(predicted, found_ids)
    pairs, hits = [np.zeros((2, 0), np.int64)], [np.zeros((len(HOTA_THRESHOLDS), 0), bool)]
    for true, found, overlap in zip(truth, predicted, overlaps, strict=True):
        rows = np.searchsorted(true_ids, true.identity)
        columns = np.searchsorted(found_ids, found.identity)
        shared = together[np.ix_(rows, columns)]
        either = true_count[rows, None] + found_count[columns] - shared
        a, b = linear_sum_assignment(-shared / np.maximum(either, np.spacing(1)) * overlap)
        pairs.append(np.stack([rows[a], columns[b]]))
        hits.append(overlap[a, b] >= HOTA_THRESHOLDS[:, None] - np.spacing(1))
    # Only pairs that occur are kept: people without an identity have a new one in every frame.
    (rows, columns), index = np.unique(np.hstack(pairs), axis=1, return_inverse=True)
    matches = np.stack([np.bincount(index.ravel(), each, len(rows)) for each in np.hstack(hits)])
    accuracy = matches / np.maximum(1, true_count[rows] + found_count[columns] - matches)
    return {
        "hota_true_positives": matches.sum(axis=1),
        "hota_association": (matches * accuracy).sum(axis=1),
    }


def _sum_over_frames(
    truth: Sequence[FrameBoxes],
    predicted: Sequence[FrameBoxes],
    weights: Sequence[NDArray[np.floating] | NDArray[np.bool_]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the sorted identities (t,) and (p,) of a sequence, and the sum over frames of each pair's weight (t,
    p)."""
    true_ids, found_ids = _list_identities(truth), _list_identities(predicted)
    total = np.zeros((len(true_ids), len(found_ids)))
    for true, found, weight in zip(truth, predicted, weights, strict=True):
        rows, columns = np.searchsorted(true_ids, true.identity), np.searchsorted(found_ids, found.identity)
        total[np.ix_(rows, columns)] += weight
    return true_ids, found_ids, total


def _list_identities(frames: Sequence[FrameBoxes]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(frame.identity for frame in frames)]))


def _count_appearances(frames: Sequence[FrameBoxes], identities: NDArray[np.int64]) -> NDArray[np.int64]:
    every = np.concatenate([np.zeros(0, np.int64), *(frame.identity for frame in frames)])
    return np.bincount(np.searchsorted(identities, every), minlength=len(identities))
