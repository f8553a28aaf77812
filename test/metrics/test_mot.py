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

"""MOTChallenge's metrics against TrackEval, from the same files: every class, every flag, overlapping crowds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.boxes import BoxSequence, list_mot_sequences
from multihmr2_ros.metrics.identity import FrameBoxes, count_identities

trackeval = pytest.importorskip("trackeval", reason="install the test extra: trackeval is the peer of this test")

FRAMES = 12
CLASSES = range(1, 13)


def write_sequence(folder: Path, name: str, seed: int) -> Path:
    """Write a crowd of all classes, considered or not, with people who occlude one another."""
    generator = np.random.default_rng(seed)
    sequence = folder / name
    (sequence / "gt").mkdir(parents=True)
    (sequence / "img1").mkdir()
    count = 14
    place = generator.uniform(1, 90, (count, 2))
    size = generator.uniform(25, 45, (count, 2))
    kind = generator.choice(CLASSES, count, p=[0.4, *[0.6 / 11] * 11])
    considered = np.where(kind == 1, generator.random(count) < 0.8, generator.random(count) < 0.3)
    rows = []
    for frame in range(1, FRAMES + 1):
        place = place + generator.normal(0, 3, (count, 2))
        for person in np.flatnonzero(generator.random(count) < 0.85):
            box = [*np.round(place[person], 1), *np.round(size[person], 1)]
            rows.append([frame, person + 1, *box, int(considered[person]), kind[person], 0.5])
        Image.new("L", (8, 8)).save(sequence / "img1" / f"{frame:06d}.jpg")
    (sequence / "gt" / "gt.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    (sequence / "seqinfo.ini").write_text(
        f"[Sequence]\nname={name}\nimDir=img1\nframeRate=30\nseqLength={FRAMES}\nimWidth=200\nimHeight=200\nimExt=.jpg\n"
    )
    return sequence


def make_predictions(sequence: Path, seed: int) -> list[list[float]]:
    """Return rows (frame, id, left, top, width, height) of a tracker: all classes, swaps and false positives."""
    generator = np.random.default_rng(seed + 1)
    names = np.arange(100)
    rows: list[list[float]] = []
    for line in (sequence / "gt" / "gt.txt").read_text().splitlines():
        frame, person, *box = [float(cell) for cell in line.split(",")[:6]]
        if generator.random() < 0.05:
            first, second = generator.choice(14, 2, replace=False) + 1
            names[[first, second]] = names[[second, first]]
        if generator.random() < 0.8:
            moved = np.round(np.array(box) + generator.normal(0, 4, 4), 2)
            rows.append([frame, float(names[int(person)]), *moved[:2], *np.maximum(moved[2:], 5)])
    for frame in range(1, FRAMES + 1):
        rows.append([frame, 500.0 + frame, *generator.uniform(1, 100, 2), 30.0, 30.0])
    unique = {(row[0], row[1]): row for row in rows}  # a swap may use an id twice
    return list(unique.values())


def compute_by_trackeval(folder: Path, sequence: Path, found: list[list[float]], benchmark: str) -> dict[str, Any]:
    tracker = folder / "trackers" / "ours" / "data"
    tracker.mkdir(parents=True)
    text = "".join(",".join(map(str, row)) + ",1,-1,-1,-1\n" for row in found)
    (tracker / f"{sequence.name}.txt").write_text(text)
    dataset = trackeval.datasets.MotChallenge2DBox({
        "GT_FOLDER": str(sequence.parent), "TRACKERS_FOLDER": str(folder / "trackers"), "BENCHMARK": benchmark,
        "SEQ_INFO": {sequence.name: FRAMES}, "SKIP_SPLIT_FOL": True, "PRINT_CONFIG": False,
        "TRACKERS_TO_EVAL": ["ours"], "GT_LOC_FORMAT": "{gt_folder}/{seq}/gt/gt.txt",
    })  # fmt: skip
    data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", sequence.name), "pedestrian")
    clear = trackeval.metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    identity = trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    hota = trackeval.metrics.HOTA().eval_sequence(data)
    return {**clear, **identity, "HOTA": float(np.mean(hota["HOTA"])), "dets": data["num_tracker_dets"]}


def read(sequence: Path) -> BoxSequence:
    ((_, make),) = list_mot_sequences(sequence.parent)
    made = make()
    assert made is not None
    return made


def compute_by_us(sequence: Path, found: list[list[float]]) -> Any:
    rows = np.array(found)
    truth, counting = [], []
    for frame in read(sequence).frames:
        here = rows[rows[:, 0] == int(frame.image.stem)]
        boxes = np.hstack([here[:, 2:4], here[:, 2:4] + here[:, 4:6]]) - 1.0
        truth.append(frame.truth)
        counting.append(frame.select_counted(FrameBoxes(here[:, 1].astype(np.int64), boxes)))
    return count_identities(truth, counting, as_trackeval=True)


@pytest.mark.parametrize("benchmark", ["MOT17", "MOT20"])
@pytest.mark.parametrize("seed", range(5))
def test_every_count_equals_trackevals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark: str, seed: int
) -> None:
    sequence = write_sequence(tmp_path / "gt", f"{benchmark}-{seed:02d}", seed)
    found = make_predictions(sequence, seed)
    peer = compute_by_trackeval(tmp_path, sequence, found, benchmark)
    ours = compute_by_us(sequence, found)
    assert ours.predicted == peer["dets"]
    assert (ours.misses, ours.false_positives, ours.switches) == (peer["CLR_FN"], peer["CLR_FP"], peer["IDSW"])
    assert ours.id_true_positives == peer["IDTP"]
    assert ours.mota == pytest.approx(peer["MOTA"], abs=1e-12)
    assert ours.idf1 == pytest.approx(peer["IDF1"], abs=1e-12)
    assert ours.hota == pytest.approx(peer["HOTA"], abs=1e-9)


def test_the_classes_matter(tmp_path: Path) -> None:
    """The comparison above would be meaningless if no prediction were on a distractor or on another box."""
    forgiven = {"MOT17": 0, "MOT20": 0}
    for benchmark in forgiven:
        for seed in range(4):
            sequence = write_sequence(tmp_path / f"{benchmark}{seed}", f"{benchmark}-01", seed)
            found = make_predictions(sequence, seed)
            forgiven[benchmark] += len(found) - compute_by_us(sequence, found).predicted
    assert 0 < forgiven["MOT17"] < forgiven["MOT20"]


def make_person(sequence: Path, kind: int, considered: int) -> BoxSequence:
    (sequence / "gt" / "gt.txt").write_text(f"1,1,11,11,30,60,{considered},{kind},1\n")
    return read(sequence)


@pytest.mark.parametrize(
    ("name", "parent", "is_forgiven"),
    [
        ("MOT20-01", "gt", True),
        ("MOT17-02-FRCNN", "MOT20", False),  # the sequence's own name is used first
        ("crowd", "MOT20", True),
        ("crowd", "gt", False),
    ],
)
def test_class_6_is_a_distractor_in_mot20(tmp_path: Path, name: str, parent: str, is_forgiven: bool) -> None:
    sequence = write_sequence(tmp_path / parent, name, 0)
    frame = make_person(sequence, 6, 0).frames[0]
    kept = frame.select_counted(FrameBoxes(np.array([7]), np.array([[10.0, 10, 40, 70]])))
    assert len(kept.identity) == (0 if is_forgiven else 1)


def test_a_prediction_on_a_car_before_a_distractor_counts(tmp_path: Path) -> None:
    """Matching uses all annotated boxes: a prediction that fits the car better is not ignored for the person on it."""
    sequence = write_sequence(tmp_path, "MOT17-01", 0)
    (sequence / "gt" / "gt.txt").write_text("1,1,11,11,30,60,0,3,1\n1,2,11,18,30,60,0,2,1\n")
    frame = read(sequence).frames[0]
    kept = frame.select_counted(FrameBoxes(np.array([7]), np.array([[10.0, 10, 40, 70]])))
    assert kept.identity.tolist() == [7]


ROW = "1,1,11,11,30,60,1,1,1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{ROW},-1\n" * 9, "line 1: expected the 9 columns of MOT17.*got 10 columns; MOT15"),
        (f"{ROW},-1\n" * 8, "line 1: expected the 9 columns"),
        (f"{ROW}\n1,1,2\n", "line 2: expected the 9 columns"),
        (f"{ROW}\n1,1,a,11,30,60,1,1,1\n", "could not convert"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, content: str, words: str) -> None:
    sequence = write_sequence(tmp_path, "MOT15-01", 0)
    (sequence / "gt" / "gt.txt").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read(sequence)
    assert "gt.txt" in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / ".DS_Store").write_bytes(b"x"),
        lambda folder: (folder / "._000001.jpg").write_bytes(b"x"),
        lambda folder: (folder / "Thumbs.db").write_bytes(b"x"),
    ],
)
def test_files_that_systems_leave_behind(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    sequence = write_sequence(tmp_path, "MOT17-01", 0)
    make(sequence / "img1")
    (sequence / "gt" / "._gt.txt").write_bytes(b"x")
    assert len(read(sequence).frames) == FRAMES


def test_an_image_without_a_number_is_named(tmp_path: Path) -> None:
    sequence = write_sequence(tmp_path, "MOT17-01", 0)
    (sequence / "img1" / "first.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"first\.jpg must be named after its frame number"):
        read(sequence)
