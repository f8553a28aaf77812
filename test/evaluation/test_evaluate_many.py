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

"""Evaluation of many bags in parallel, and comparison of results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation import results as files
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from multihmr2_ros.evaluation.cluster import run_in_cluster
from multihmr2_ros.evaluation.comparison import Comparison, compare, format_comparison
from multihmr2_ros.evaluation.metric_definitions import ERRORS, METRICS
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.totals import Sum, Totals
from multihmr2_ros.evaluation.verdict import describe_comparison
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.identity import IdentityCounts
from multihmr2_ros.people import People
from test.helpers.evaluation_bags import TruthfulEstimator, scene, write_scene

# --- comparison


def make_result(name: str, error_mm: float, people: int, found: int, switches: int = 0) -> SequenceResult:
    """Return a result of one sequence with the given error."""
    totals = Totals(
        frames=people,
        with_truth=people,
        detection=DetectionCounts(found, 0, people - found),
        sums={"MRPE": Sum(error_mm * found, found)},
        identity=IdentityCounts(truth=people, predicted=found, switches=switches, id_true_positives=found),
    )
    return SequenceResult(name, name, "given", "", totals)


def save(folder: Path, results: list[SequenceResult]) -> Path:
    folder.mkdir()
    files.write_results(folder, results, {}, {}, [])
    return folder


def select_metric(comparisons: list[Comparison], key: str) -> tuple[float, float, float, float]:
    (found,) = [each for each in comparisons[0].differences if each.key == key]
    return found.a, found.b, found.low, found.high


def test_differences_over_sequences(tmp_path: Path) -> None:
    """B is better by 5 mm on each of 20 sequences with different errors: the paired comparison detects it."""
    rng = np.random.default_rng(0)
    errors, sizes = rng.uniform(50, 500, 20), rng.integers(10, 1000, 20)
    a, b = (
        save(
            tmp_path / name,
            [
                make_result(f"s{i}", e - less, int(n), int(n))
                for i, (e, n) in enumerate(zip(errors, sizes, strict=True))
            ],
        )
        for name, less in (("a", 0), ("b", 5))
    )
    (comparison,) = compare(a, b)
    assert (comparison.units, comparison.drawn) == (20, "sequences")
    first, second, low, high = select_metric([comparison], "MRPE")
    assert first == pytest.approx((errors * sizes).sum() / sizes.sum())
    assert (second - first, low, high) == (pytest.approx(-5), pytest.approx(-5), pytest.approx(-5))
    (line,) = [line for line in format_comparison(a, b, [comparison]).splitlines() if line.startswith("MRPE ")]
    assert line.endswith("better")


def test_an_interval_that_ends_at_0_but_for_rounding_is_not_judged(tmp_path: Path) -> None:
    """B is better in x and equal in y but for rounding. A quarter of the bootstrap samples contains y only."""
    a = save(tmp_path / "a", [make_result("x", 100, 50, 50), make_result("y", 100, 50, 50)])
    b = save(tmp_path / "b", [make_result("x", 50, 50, 50), make_result("y", 100 - 1e-5, 50, 50)])
    comparisons = compare(a, b)
    *_, low, high = select_metric(comparisons, "MRPE")
    assert (low, high) == (pytest.approx(-50), pytest.approx(-1e-5))
    (line,) = [line for line in format_comparison(a, b, comparisons).splitlines() if line.startswith("MRPE ")]
    assert "better" not in line


def test_the_interval_is_as_wide_as_theory_says(tmp_path: Path) -> None:
    """Equally long sequences with normally distributed differences: ±1.96 standard errors."""
    rng = np.random.default_rng(1)
    differences = rng.normal(3.0, 10.0, 200)
    a = save(tmp_path / "a", [make_result(f"s{i}", 100, 50, 50) for i in range(200)])
    b = save(tmp_path / "b", [make_result(f"s{i}", 100 + each, 50, 50) for i, each in enumerate(differences)])
    first, second, low, high = select_metric(compare(a, b), "MRPE")
    spread = 1.96 * differences.std() / np.sqrt(200)
    assert second - first == pytest.approx(differences.mean())
    assert low == pytest.approx(differences.mean() - spread, abs=0.15 * spread)
    assert high == pytest.approx(differences.mean() + spread, abs=0.15 * spread)
    assert compare(a, b) == compare(a, b), "the draws are the same every time"


def nobody(index: int, people: People | None = None) -> People:
    return scene(index).select(np.zeros(3, bool))


def test_a_bag_without_true_people_counts_in_scores_of_identities(tmp_path: Path) -> None:
    """18 true boxes and 18 false positives, in one bag or in two: MOTA is 0, IDF1 is 2 * 18 / (18 + 36).

    HOTA's association is 1/2 in one bag, where half of each track is false, and 1 in two bags.
    """
    whole = write_scene(tmp_path / "whole.mcap", 12, truth=lambda index: (scene if index < 6 else nobody)(index))
    parts = [write_scene(tmp_path / "part1.mcap", 6), write_scene(tmp_path / "part2.mcap", 6, truth=nobody)]
    for paths, hota in (([whole], 50), (parts, 100 * 0.5**0.5)):
        jobs = [
            BagJob(path=path, out=tmp_path / "out", folder=path.stem, outputs=BagOutputs(video=False, bag=False))
            for path in paths
        ]
        done = [run_job(job, TruthfulEstimator()) for job in jobs]
        values = files.merge_results(done)["given"].compute_metrics()
        assert {key: values[key] for key in ("MOTA", "IDF1", "HOTA", "precision")} == {
            "MOTA": (pytest.approx(0), 18),
            "IDF1": (pytest.approx(200 / 3), 18),
            "HOTA": (pytest.approx(hota), 18),
            "precision": (pytest.approx(50), 36),
        }
    assert "IDF1" not in done[1].totals.compute_metrics(), "no row without true people"


def test_people_without_an_identity_are_not_the_same_in_two_frames(tmp_path: Path) -> None:
    """Six frames with three people, of whom only the first frame's have track ids."""

    def lose_ids(index: int, people: People) -> People:
        return dataclasses.replace(people, track_id=people.track_id if index == 0 else np.full(3, -1))

    path = write_scene(tmp_path / "walk.mcap", 6)
    job = BagJob(path=path, out=tmp_path / "out", outputs=BagOutputs(video=False, bag=False))
    values = run_job(job, TruthfulEstimator(lose_ids)).totals.compute_metrics()
    assert values["id switches"][0] == 15
    assert values["IDF1"][0] == pytest.approx(100 * 3 / 18)

    def zero_ids(index: int) -> People:
        return dataclasses.replace(scene(index), track_id=np.zeros(3, int))

    job = dataclasses.replace(job, path=write_scene(tmp_path / "zero.mcap", 6, truth=zero_ids))
    values = run_job(job, TruthfulEstimator()).totals.compute_metrics()
    assert values["recall"] == (100, 18)
    assert "IDF1" not in values, "true people with the same id have no identities"


def test_a_sequence_without_true_people_leaves_the_intervals(tmp_path: Path) -> None:
    empty = SequenceResult("empty", "", "given", "", Totals(frames=5, with_truth=5, identity=IdentityCounts()))
    people = [make_result(f"s{i}", 10, 50, 50) for i in range(3)]
    swapped = [make_result(f"s{i}", 10, 50, 50, switches=5) for i in range(3)]
    a, b = (save(tmp_path / name, [*each, empty]) for name, each in (("a", people), ("b", swapped)))
    for key, change in (("MOTA", -10), ("MRPE", 0)):
        first, second, low, high = select_metric(compare(a, b), key)
        assert (second - first, low, high) == (pytest.approx(change),) * 3


def test_only_common_sequences_are_compared(tmp_path: Path) -> None:
    a = save(tmp_path / "a", [make_result("x", 10, 5, 5), make_result("y", 20, 5, 4), make_result("z", 20, 5, 4)])
    b = save(tmp_path / "b", [make_result("y", 30, 5, 5), make_result("x", 10, 5, 5), make_result("w", 900, 9, 0)])
    first, second, *_ = select_metric(compare(a, b), "MRPE")
    assert (first, second) == (pytest.approx((50 + 80) / 9), pytest.approx(20))
    c = save(tmp_path / "c", [make_result("w", 900, 9, 1)])
    with pytest.raises(UserError, match=r"no common sequence with ground truth: x, y, z in .*, w in "):
        compare(a, c)


def test_one_sequence_of_boxes_has_no_intervals(tmp_path: Path) -> None:
    a, b = (save(tmp_path / name, [make_result("x", error, 5, 5)]) for name, error in (("a", 10), ("b", 20)))
    comparisons = compare(a, b)
    first, second, low, high = select_metric(comparisons, "MRPE")
    assert (first, second) == (10, 20)
    assert np.isnan([low, high]).all()
    assert "no intervals" in format_comparison(a, b, comparisons)
    assert "cannot be judged (no intervals" in describe_comparison(comparisons)[0]
    (a / "frames.csv").touch()
    with pytest.raises(UserError, match=r"cannot read .*frames.csv"):
        compare(a, b)


def test_scores_of_a_whole_data_set_are_not_compared(tmp_path: Path) -> None:
    scored = SequenceResult("val2017", "", "predicted", "", Totals(frames=5), scores={"AP": 50.0})
    a, b = (save(tmp_path / name, [scored]) for name in "ab")
    with pytest.raises(UserError, match="--compare does not support them"):
        compare(a, b)


def move_pelvis(people: People, meters: float) -> People:
    """Move the pelvises, not the bodies, away from the camera."""
    return dataclasses.replace(people, pelvis=people.pelvis + np.float32([0, 0, meters]))


def test_blocks_of_one_sequence(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "walk.mcap", 40)
    for name, offset in (("a", 0.1), ("b", 0.03)):

        def change(index: int, people: People, offset: float = offset) -> People:
            return move_pelvis(people, offset + 0.001 * (index % 3))

        done = run_job(
            BagJob(path=path, out=tmp_path / name, outputs=BagOutputs(video=False, bag=False)),
            TruthfulEstimator(change),
        )
        files.write_results(tmp_path / name, [done], {}, {}, [])
    comparisons = compare(tmp_path / "a", tmp_path / "b")
    assert (comparisons[0].units, comparisons[0].drawn) == (10, "blocks of 4 frames")
    first, second, low, high = select_metric(comparisons, "MRPE")
    assert (second - first, low, high) == (pytest.approx(-70, abs=0.01),) * 3
    assert np.isnan(select_metric(comparisons, "IDF1")[2]), "identities are no sum over blocks"


@pytest.mark.parametrize("missing", ["every second", "first half"])
def test_blocks_contain_the_same_frames(tmp_path: Path, missing: str) -> None:
    """The error grows over time, and B, a recording without rows for images without truth, is 10 mm worse."""

    def moved(index: int, meters: float) -> People:
        return move_pelvis(scene(index), 0.02 + 0.01 * index + meters)

    def truth(index: int) -> People | None:
        return None if (index % 2 if missing == "every second" else index < 20) else scene(index)

    path = write_scene(tmp_path / "walk.mcap", 40, truth=truth, recorded=lambda index: moved(index, 0.01))
    for name in "ab":
        job = BagJob(path=path, out=tmp_path / name, recorded=name == "b", outputs=BagOutputs(video=False, bag=False))
        done = run_job(job, TruthfulEstimator(lambda index, people: moved(index, 0)))
        files.write_results(tmp_path / name, [done], {}, {}, [])
    comparisons = compare(tmp_path / "a", tmp_path / "b")
    assert (comparisons[0].units, comparisons[0].drawn) == (10, "blocks of 2 frames")
    first, second, low, high = select_metric(comparisons, "MRPE z")
    assert (second - first, low, high) == (pytest.approx(10, abs=0.01),) * 3


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", [make_result("x", 12.5, 7, 5, switches=2)])
    (sequence,) = files.read_results(folder)["sequences"]
    assert sequence["totals"].compute_metrics() == make_result("x", 12.5, 7, 5, switches=2).totals.compute_metrics()
    for text in ("", "[]", "{}", '{"format": 9}', '{"format": 1, "sequences": [{}]}'):
        (folder / "results.json").write_text(text)
        with pytest.raises(UserError, match="evaluate again") as caught:
            files.read_results(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "intrinsics", "folder", "with_truth", "sums", "configuration", "versions"])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_damaged_results_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, is_deleted: bool
) -> None:
    folder = save(tmp_path / "a", [make_result("x", 12.5, 7, 5), make_result("y", 12.5, 7, 5)])
    document = json.loads((folder / "results.json").read_text())
    part = document if key in document else document["sequences"][0]
    part[key] = None
    if is_deleted:
        del part[key]
    (folder / "results.json").write_text(json.dumps(document))
    assert main(["evaluate", "--compare", str(folder), str(folder), "--out", str(tmp_path / "compared")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was not written by `multihmr2 evaluate`" in line


def test_every_metric_has_one_name() -> None:
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    assert {metric.key for metric in ERRORS if metric.recalled} == {metric.key for metric in ERRORS} - {"FOV error"}


# --- several bags in parallel


@dataclasses.dataclass(frozen=True)
class Task:
    path: Path
    kind: str = "given"
    folder: str = ""


def evaluate_in_a_worker(task: Task) -> SequenceResult:
    """Return the truth as prediction; the bag's name may request a crash."""
    import os

    if "crash" in task.path.name:
        os._exit(1)
    if "raise" in task.path.name:
        raise RuntimeError("two\nlines")
    job = BagJob(
        path=task.path, out=task.path.parent / "out", folder=task.path.stem, outputs=BagOutputs(video=False, bag=False)
    )
    return run_job(job, TruthfulEstimator())


def test_workers_give_the_results_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is optional: pip install 'multihmr2_ros[eval]'")
    paths = [write_scene(tmp_path / f"{name}.mcap", frames) for name, frames in (("one", 3), ("two", 5))]
    tasks = [Task(paths[0]), Task(tmp_path / "raise.mcap"), Task(tmp_path / "nothing.mcap"), Task(paths[1])]
    together = run_in_cluster(evaluate_in_a_worker, tasks, workers=1)
    assert [each.name for each in together] == ["one", "raise", "nothing", "two"]
    assert "RuntimeError (two lines)" in together[1].problems[0]
    assert "does not exist; give a rosbag2 folder" in together[2].problems[0]
    alone = [evaluate_in_a_worker(Task(path)) for path in paths]
    merged, expected = files.merge_results(together)["given"], files.merge_results(alone)["given"]
    assert merged.compute_metrics() == expected.compute_metrics()
    assert merged.frames == 8


@pytest.mark.slow
def test_a_worker_that_dies_affects_only_its_bag(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is optional: pip install 'multihmr2_ros[eval]'")
    good = write_scene(tmp_path / "good.mcap", 3)
    dead, alive = run_in_cluster(evaluate_in_a_worker, [Task(tmp_path / "crash.mcap"), Task(good)], workers=1)
    assert "KilledWorker" in dead.problems[0]
    assert alive.totals.frames == 3


def test_without_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    path = write_scene(tmp_path / "live.mcap", 2, images=False, recorded=scene)
    assert main(["evaluate", str(path), "--out", str(tmp_path / "out"), "--workers", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'multihmr2_ros[eval]'" in line
