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

"""MOTA, IDF1 and HOTA against motmetrics and trackeval, on random and handmade sequences and published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multihmr2_ros.metrics.identity import HOTA_THRESHOLDS, FrameBoxes, IdentityCounts, count_identities, remove_ignored
from test import paths

trackeval = pytest.importorskip("trackeval", reason="install the test extra: trackeval is the peer of this test")

REAL = paths.SHARED / "data" / "real"
Sequence = list[FrameBoxes]


def make_random_sequence(seed: int, frames: int = 30, people: int = 5) -> tuple[Sequence, Sequence]:
    """Return people who walk and cross, and a tracker with misses, false positives, drift and swaps."""
    generator = np.random.default_rng(seed)
    place = generator.uniform(0, 300, (people, 2))
    speed = generator.normal(0, 6, (people, 2))
    name = np.arange(people) + 100
    truth, predicted = [], []
    for _ in range(frames):
        place = place + speed
        boxes = np.hstack([place, place + np.array([40, 90])])
        here = generator.random(people) < 0.9
        truth.append(FrameBoxes(np.arange(people)[here], boxes[here]))
        if generator.random() < 0.15:
            first, second = generator.choice(people, 2, replace=False)
            name[[first, second]] = name[[second, first]]
        if generator.random() < 0.1:
            name[generator.integers(people)] = name.max() + 1
        found = here & (generator.random(people) < 0.85)
        moved = boxes[found] + generator.normal(0, 7, (found.sum(), 1))
        invented = generator.random(generator.integers(0, 2)) * 300
        extra = np.stack([invented, invented, invented + 40, invented + 90], axis=1)
        ids = np.concatenate([name[found], 1000 + np.arange(len(extra))])
        predicted.append(FrameBoxes(ids, np.concatenate([moved, extra])))
    return truth, predicted


def compute_by_motmetrics(truth: Sequence, predicted: Sequence) -> dict[str, float]:
    motmetrics = pytest.importorskip("motmetrics", reason="install the test extra: it has the package")
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for true, found in zip(truth, predicted, strict=True):
        overlap = _iou(true.box, found.box)
        accumulator.update(true.identity, found.identity, np.where(overlap >= 0.5, 1 - overlap, np.nan))
    names = ["mota", "idf1", "num_switches", "num_misses", "num_false_positives"]
    summary = motmetrics.metrics.create().compute(accumulator, metrics=names)
    return {name: float(summary[name].iloc[0]) for name in names}


def compute_by_trackeval(truth: Sequence, predicted: Sequence) -> dict[str, float]:
    true_ids = {identity: row for row, identity in enumerate(sorted({i for f in truth for i in f.identity.tolist()}))}
    found_ids = {
        identity: row for row, identity in enumerate(sorted({i for f in predicted for i in f.identity.tolist()}))
    }
    data = {
        "gt_ids": [np.array([true_ids[i] for i in f.identity.tolist()], int) for f in truth],
        "tracker_ids": [np.array([found_ids[i] for i in f.identity.tolist()], int) for f in predicted],
        "similarity_scores": [_iou(a.box, b.box) for a, b in zip(truth, predicted, strict=True)],
        "num_gt_dets": sum(len(f.identity) for f in truth),
        "num_tracker_dets": sum(len(f.identity) for f in predicted),
        "num_gt_ids": len(true_ids),
        "num_tracker_ids": len(found_ids),
        "num_timesteps": len(truth),
    }
    hota = trackeval.metrics.HOTA().eval_sequence(data)
    identity = trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    return {"hota": float(np.mean(hota["HOTA"])), "idf1": float(identity["IDF1"])}


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersections over union, computed independently pair by pair."""
    out = np.zeros((len(a), len(b)))
    for i, (ax0, ay0, ax1, ay1) in enumerate(a):
        for j, (bx0, by0, bx1, by1) in enumerate(b):
            shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
            out[i, j] = shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)
    return out


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_the_peers_on_random_sequences(seed: int) -> None:
    truth, predicted = make_random_sequence(seed)
    ours, peer = count_identities(truth, predicted), compute_by_motmetrics(truth, predicted)
    other = compute_by_trackeval(truth, predicted)
    assert ours.switches == peer["num_switches"]
    assert ours.misses == peer["num_misses"]
    assert ours.false_positives == peer["num_false_positives"]
    assert ours.mota == pytest.approx(peer["mota"], abs=1e-12)
    assert ours.idf1 == pytest.approx(peer["idf1"], abs=1e-12)
    assert ours.idf1 == pytest.approx(other["idf1"], abs=1e-12)
    assert ours.hota == pytest.approx(other["hota"], abs=1e-9)


def make_frames(*rows: list[tuple[int, float]]) -> Sequence:
    """Return frames of boxes of 10 × 10 px at x; a frame is a list of (identity, x)."""
    return [
        FrameBoxes(
            np.array([identity for identity, _ in row], np.int64),
            np.array([(x, 0, x + 10, 10) for _, x in row], float).reshape(-1, 4),
        )
        for row in rows
    ]


HAND_MADE = {
    # name: (truth, predicted, MOTA, IDF1, switches)
    "perfect": (
        make_frames([(1, 0), (2, 50)], [(1, 1), (2, 51)]), make_frames([(7, 0), (8, 50)], [(7, 1), (8, 51)]), 1, 1, 0
    ),
    "all missed": (make_frames([(1, 0)], [(1, 0)]), make_frames([], []), 0, 0, 0),
    "only inventions": (make_frames([(1, 0)], [(1, 0)]), make_frames([(5, 90)], [(5, 90)]), -1, 0, 0),
    "a duplicate": (make_frames([(1, 0)], [(1, 0)]), make_frames([(5, 0), (6, 1)], [(5, 0), (6, 1)]), 0, 2 * 2 / 6, 0),
    "ids swapped once": (
        make_frames(*[[(1, 0), (2, 50)]] * 4),
        make_frames(*[[(7, 0), (8, 50)]] * 2, *[[(8, 0), (7, 50)]] * 2),
        1 - 2 / 8, 0.5, 2,
    ),
    "a new id halfway": (make_frames(*[[(1, 0)]] * 4), make_frames(*[[(7, 0)]] * 3, [(9, 0)]), 0.75, 2 * 3 / 8, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_sequences(name: str) -> None:
    truth, predicted, mota, idf1, switches = HAND_MADE[name]
    counts = count_identities(truth, predicted)
    assert (counts.mota, counts.idf1, counts.switches) == (pytest.approx(mota), pytest.approx(idf1), switches)


def test_scores_without_people_are_undefined() -> None:
    counts = count_identities(make_frames([], []), make_frames([], []))
    assert np.isnan([counts.mota, counts.idf1, counts.hota]).all()
    assert count_identities([], []).truth == 0


def test_sequences_merge_exactly() -> None:
    """The added counts of two sequences equal those of both in one run if no person is in both."""
    first, second = make_random_sequence(1), make_random_sequence(2)

    def renamed(sequence: Sequence) -> Sequence:
        return [FrameBoxes(frame.identity + 100_000, frame.box) for frame in sequence]

    added = count_identities(*first) + count_identities(*second)
    together = count_identities(first[0] + renamed(second[0]), first[1] + renamed(second[1]))
    assert added.id_true_positives == together.id_true_positives
    assert (added.mota, added.idf1) == (together.mota, together.idf1)
    combined = trackeval.metrics.HOTA().combine_sequences({"a": _compute_hota(first), "b": _compute_hota(second)})
    assert added.hota == pytest.approx(float(np.mean(combined["HOTA"])), abs=1e-9)


def _compute_hota(sequence: tuple[Sequence, Sequence]) -> dict[str, np.ndarray]:
    counts = count_identities(*sequence)
    hits = counts.hota_true_positives
    association = counts.hota_association / np.maximum(1, hits)
    zero = np.zeros(len(HOTA_THRESHOLDS))
    return {
        "HOTA_TP": hits, "HOTA_FN": counts.truth - hits, "HOTA_FP": counts.predicted - hits,
        "AssA": association, "AssRe": zero, "AssPr": zero, "LocA": zero,
    }  # fmt: skip


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@example(1357, 2)  # two people last had the same predicted identity
@settings(max_examples=25)
def test_order_of_people_does_not_matter(seed: int, shuffle: int) -> None:
    truth, predicted = make_random_sequence(seed, frames=8, people=4)
    generator = np.random.default_rng(shuffle)

    def shuffled(sequence: Sequence) -> Sequence:
        orders = [generator.permutation(len(frame.identity)) for frame in sequence]
        return [FrameBoxes(f.identity[o], f.box[o]) for f, o in zip(sequence, orders, strict=True)]

    before, after = count_identities(truth, predicted), count_identities(shuffled(truth), shuffled(predicted))
    assert (after.mota, after.idf1) == (before.mota, before.idf1)
    assert after.hota == pytest.approx(before.hota, abs=1e-12)


def test_unmatched_predictions_in_ignored_regions_are_left_out() -> None:
    truth = make_frames([(1, 0)])[0]
    predicted = make_frames([(5, 0), (6, 100), (7, 108.5), (8, 200)])[0]
    regions = [make_rectangle(95.0, 109.5), make_rectangle(-5, 15)]  # the matched one is in a region and is kept
    kept = remove_ignored(truth, predicted, regions)
    assert kept.identity.tolist() == [5, 7, 8]  # of 7, exactly a tenth is inside
    assert remove_ignored(truth, predicted, []) is predicted


def make_rectangle(x0: float, x1: float) -> np.ndarray:
    """Return the corners of a rectangle 10 px high."""
    return np.array([[x0, 0], [x1, 0], [x1, 10], [x0, 10]], float)


def test_ignored_regions_are_polygons_not_their_bounding_boxes() -> None:
    predicted = make_frames([(5, 0), (6, 90)])[0]
    triangle = np.array([[0.0, 0], [100, 10], [0, 10]])  # both boxes are inside its bounding box
    assert remove_ignored(make_frames([])[0], predicted, [triangle]).identity.tolist() == [6]


def test_a_frame_cannot_name_somebody_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        FrameBoxes(np.array([3, 3]), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="as many predicted frames"):
        count_identities(make_frames([]), [])


@pytest.mark.skipif(not (REAL / "open-mmlab_mmtracking").exists(), reason="needs ../shared/data/real")
def test_published_reference_on_tud() -> None:
    """Two sequences with a published tracker's results: overall IDF1 0.624, MOTA 0.555."""
    folder = REAL / "open-mmlab_mmtracking" / "demo_MOT15_data" / "train"
    expected = json.loads((REAL / "derived" / "weak" / "mot_eval_reference.json").read_text())["expected"]
    total = IdentityCounts()
    for name in ("TUD-Campus", "TUD-Stadtmitte"):
        truth, predicted = read_mot(folder / name / "gt" / "gt.txt"), read_mot(folder / "results" / f"{name}.txt")
        every = sorted(set(truth) | set(predicted))
        nobody = FrameBoxes(np.zeros(0, np.int64), np.zeros((0, 4)))
        counts = count_identities([truth.get(i, nobody) for i in every], [predicted.get(i, nobody) for i in every])
        assert {
            "idf1": round(counts.idf1, 6), "mota": round(counts.mota, 6), "id_switches": counts.switches,
            "fp": counts.false_positives, "fn": counts.misses, "gt_boxes": counts.truth,
        } == expected[name]  # fmt: skip
        total += counts
    assert {"idf1": round(total.idf1, 6), "mota": round(total.mota, 6)} == expected["OVERALL"]
    assert (round(total.idf1, 3), round(total.mota, 3)) == (0.624, 0.555)


def read_mot(path: Path) -> dict[int, FrameBoxes]:
    rows = np.loadtxt(path, delimiter=",", ndmin=2)
    return {
        int(frame): FrameBoxes(part[:, 1].astype(int), np.hstack([part[:, 2:4], part[:, 2:4] + part[:, 4:6]]))
        for frame in np.unique(rows[:, 0])
        for part in [rows[rows[:, 0] == frame]]
    }
