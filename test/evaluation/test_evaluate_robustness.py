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

"""Damaged and incomplete bags: each gives a clear message, and the available parts are evaluated."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multihmr2_ros.bags.humans import TRUTH_TOPIC, HumansReader
from multihmr2_ros.bags.transforms import BagTransforms
from multihmr2_ros.cli.main import main
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from multihmr2_ros.evaluation.ground_truth import GroundTruthReader, move_people
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.people import People
from multihmr2_ros.transform_tree import Pose
from test.helpers.bag_factory import transform, write_bag
from test.helpers.evaluation_bags import TruthfulEstimator, scene, stamp_of, write_scene


def evaluate(path: Path, **options: Any) -> SequenceResult:
    job = BagJob(path=path, out=path.parent / f"{path.stem}_out", outputs=BagOutputs(video=False, bag=False), **options)
    return run_job(job, TruthfulEstimator())


def get_line(result: SequenceResult) -> str:
    (line,) = result.problems
    assert "\n" not in line
    return line


def read_tables(path: Path) -> set[str]:
    return {each.name for each in (path.parent / f"{path.stem}_out").iterdir()}


def test_a_bag_that_is_cut_off(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "cut.mcap", 20)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    result = evaluate(path)
    assert "damaged or cut off" in get_line(result)
    assert 3 <= result.totals.with_truth <= 15
    assert result.totals.compute_metrics()["recall"][0] == 100
    assert read_tables(path) == {"frames.csv", "people.csv", "highlights.zip"}


@pytest.mark.parametrize(
    "stamp", [lambda index: 0, lambda index: stamp_of(index + 100) if index < 5 else stamp_of(index - 5)]
)
def test_clocks(tmp_path: Path, stamp: Callable[[int], int]) -> None:
    """Without a clock no messages can be matched; a clock that was set back is accepted."""
    path = write_scene(tmp_path / "clock.mcap", 10, stamp=stamp)
    result = evaluate(path)
    if stamp(0) == 0:
        assert "no image has a stamp" in get_line(result)
        assert result.totals.frames == 10
        return
    assert result.problems == ()
    assert result.totals.with_truth == 10
    assert result.totals.compute_metrics()["MRPE"][0] == pytest.approx(0, abs=1e-2)


def test_no_truth(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "plain.mcap", 5, truth=lambda index: None)
    result = evaluate(path)
    assert "no HumanArrays on /ground_truth/humans" in get_line(result)
    assert (result.totals.frames, result.totals.detections, result.totals.with_truth) == (5, 15, 0)
    assert result.totals.compute_metrics() == {}
    assert result.totals.compute_latencies()["estimate"]["count"] == 5


def test_truth_of_another_type_or_of_other_times(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "typed.mcap", 3)
    assert "expected multihmr2_ros/msg/HumanArray" in get_line(evaluate(path, truth="/camera/image_raw"))
    late = write_scene(tmp_path / "late.mcap", 3, images=False, stamp=lambda index: stamp_of(index + 100))
    plain = write_scene(tmp_path / "early.mcap", 3, truth=lambda index: None)
    assert "no image has the stamp of a ground truth message" in get_line(evaluate(plain, truth=str(late)))


def test_truth_in_another_bag(tmp_path: Path) -> None:
    truth = write_scene(tmp_path / "truth.mcap", 10, images=False)
    path = write_scene(tmp_path / "images.mcap", 6, truth=lambda index: None)
    result = evaluate(path, truth=str(truth))
    assert result.problems == ()
    assert result.totals.with_truth == 6
    assert "nothing.mcap does not exist" in get_line(evaluate(path, truth=str(tmp_path / "nothing.mcap")))


def test_truth_for_some_frames_only(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "some.mcap", 9, truth=lambda index: scene(index) if index % 3 == 0 else None)
    result = evaluate(path)
    assert result.problems == ()
    assert (result.totals.frames, result.totals.with_truth) == (9, 3)
    assert result.totals.compute_metrics()["precision"] == (100.0, 9), "frames without truth count nowhere"


@pytest.mark.parametrize("count", [0, 17])
@pytest.mark.parametrize("predicted", [0, 3])
def test_bones_of_another_rig(tmp_path: Path, count: int, predicted: int) -> None:
    def truth(index: int) -> People:
        people = scene(index)
        return dataclasses.replace(
            people,
            joints=people.joints[:, :count],
            joints_2d=people.joints_2d[:, :count],
            rotations=people.rotations[:, :count],
        )

    path = write_scene(tmp_path / "rig.mcap", 3, truth=truth)
    job = BagJob(path=path, out=tmp_path / "out", outputs=BagOutputs(video=False, bag=False, highlights=False))
    result = run_job(job, TruthfulEstimator(lambda index, people: people.select(np.arange(3) < predicted)))
    if count and not predicted:
        assert result.problems == (), "nobody is compared"
    else:
        assert "must have as many joints" in get_line(result)


def test_an_unexpected_error_affects_only_its_bag(tmp_path: Path) -> None:
    def fail(index: int, people: People) -> People:
        raise RuntimeError("two\nlines")

    path = write_scene(tmp_path / "walk.mcap", 2)
    result = run_job(
        BagJob(path=path, out=tmp_path / "out", outputs=BagOutputs(video=False, bag=False)), TruthfulEstimator(fail)
    )
    assert "the evaluation failed with RuntimeError (two lines)" in get_line(result)


def test_another_mesh_or_none_leaves_out_what_needs_vertices(tmp_path: Path) -> None:
    path = write_scene(
        tmp_path / "joints.mcap", 4, truth=lambda index: dataclasses.replace(scene(index), vertices=np.zeros((3, 0, 3)))
    )
    found = evaluate(path).totals.compute_metrics()
    assert "PVE" not in found
    assert found["MPJPE"][0] == pytest.approx(0, abs=1e-2)
    assert found["IDF1"][0] == 100


# --- frames of reference


def pose(angle_deg: float, *place: float) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", [0.3 * angle_deg, angle_deg, 20], degrees=True).as_matrix()
    result[:3, 3] = place
    return result


def seven(pose: np.ndarray) -> Pose:
    """Return the translation and the quaternion of a (4, 4) pose."""
    return (*pose[:3, 3].tolist(), *Rotation.from_matrix(pose[:3, :3]).as_quat().tolist())


CAMERA_IN_BASE = pose(35, 0.1, 0.2, 0.9)


def compute_base_pose(index: float) -> np.ndarray:
    """Return the pose of a robot that turns and drives at constant speed."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("z", 4 * index, degrees=True).as_matrix()
    result[:3, 3] = 0.1 * index, 0.05 * index, 0
    return result


def make_moving_camera(every: int = 2, frames: int = 10) -> list[tuple[str, int, Any]]:
    """Return /tf_static and /tf of a robot; /tf only for every second image, as odometry may not be synchronous."""
    messages = [("/tf_static", stamp_of(0), transform("base", "camera", seven(CAMERA_IN_BASE), 0))]
    messages += [
        ("/tf", stamp_of(index), transform("map", "base", seven(compute_base_pose(index)), stamp_of(index)))
        for index in range(0, frames + every, every)
    ]
    messages.append(("/tf", stamp_of(0), transform("map", "body_3", seven(np.eye(4)), stamp_of(0))))
    return messages


def make_people_in_map(index: int) -> People:
    return move_people(scene(index), compute_base_pose(index) @ CAMERA_IN_BASE)


@pytest.mark.parametrize("storage", ["mcap", "db3"])
def test_truth_in_the_map_of_a_moving_camera(tmp_path: Path, storage: str) -> None:
    path = write_scene(
        tmp_path / f"map.{storage}", 10, truth=make_people_in_map, frame_id="map", extra=make_moving_camera()
    )
    result = evaluate(path)
    assert result.problems == ()
    assert result.totals.compute_metrics()["MRPE"][0] == pytest.approx(0, abs=0.05)
    assert result.totals.compute_metrics()["MPJPE"][0] == pytest.approx(0, abs=0.05)


def test_a_bag_of_predictions_contains_the_transforms_of_its_truth(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "map.mcap", 4, truth=make_people_in_map, frame_id="map", extra=make_moving_camera())
    assert run_job(BagJob(path=path, out=tmp_path, outputs=BagOutputs(video=False)), TruthfulEstimator()).problems == ()
    again = evaluate(tmp_path / "predictions.mcap", recorded=True)
    assert again.problems == ()
    assert again.totals.compute_metrics()["MRPE"][0] == pytest.approx(0, abs=0.05)


def test_recorded_people_in_a_target_frame(tmp_path: Path) -> None:
    """x forward, y left, z up: people in such a frame have no projection to the image."""
    base_from_camera = np.array([[0.0, 0, 1, 0.2], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    path = write_scene(
        tmp_path / "live.mcap", 4, images=False, recorded_frame="base_link",
        recorded=lambda index: move_people(scene(index), base_from_camera),
        extra=[("/tf_static", stamp_of(0), transform("base_link", "camera", seven(base_from_camera), 0))],
    )  # fmt: skip
    result = evaluate(path, recorded=True)
    assert "are in base_link (target_frame)" in get_line(result)
    assert (result.totals.frames, result.totals.detections, result.totals.with_truth) == (4, 12, 0)


def test_recorded_people_without_a_transform_of_the_truth(tmp_path: Path) -> None:
    path = write_scene(
        tmp_path / "live.mcap", 4, images=False, truth=make_people_in_map, frame_id="map", recorded=scene
    )
    assert "no transform between 'map' and 'camera'" in get_line(evaluate(path, recorded=True))


@pytest.mark.parametrize(("frame_id", "fixed_frame", "label"), [
    ("map", "/map", "fixed"), ("map", "odom", ""), ("map", "", ""), ("camera", "map", "camera"),
])  # fmt: skip
def test_true_velocities_are_kept_if_their_frame_is_that_of_the_predictions(
    tmp_path: Path, frame_id: str, fixed_frame: str, label: str
) -> None:
    def moving(index: int) -> People:
        people = make_people_in_map(index) if frame_id == "map" else scene(index)
        return dataclasses.replace(people, velocity=np.tile([1.0, 2.0, 3.0], (len(people), 1)))

    path = write_scene(tmp_path / "map.mcap", 3, truth=moving, frame_id=frame_id, extra=make_moving_camera())
    reader = GroundTruthReader(path, TRUTH_TOPIC, fixed_frame)
    found = reader.read_at(stamp_of(1), "camera", None)
    reader.close()
    assert found is not None
    people = found[0]
    if label:
        assert people.velocity_frame == label
        np.testing.assert_allclose(people.velocity, np.tile([1.0, 2.0, 3.0], (len(people), 1)))
    else:
        assert np.isnan(people.velocity).all()
    np.testing.assert_allclose(people.pelvis, scene(1).pelvis, atol=0.05)


def test_truth_in_the_map_without_transforms(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "map.mcap", 10, truth=make_people_in_map, frame_id="map")
    result = evaluate(path)
    assert "no transform between 'map' and 'camera'" in get_line(result)
    assert (result.totals.frames, result.totals.detections, result.totals.with_truth) == (10, 30, 0)


def test_transforms_that_end_early(tmp_path: Path) -> None:
    path = write_scene(
        tmp_path / "map.mcap", 10, truth=make_people_in_map, frame_id="map", extra=make_moving_camera(frames=5)
    )
    result = evaluate(path)
    assert "the transform of base in map is known from" in get_line(result)
    assert "and 2 similar problems" in get_line(result)
    assert result.totals.with_truth == 7
    assert result.totals.compute_metrics()["MRPE"][0] == pytest.approx(0, abs=0.05)


def test_transforms_are_chained_and_inverted(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "tf.mcap", make_moving_camera())
    half = round(stamp_of(0) + 1.37 * (stamp_of(1) - stamp_of(0)))
    there = BagTransforms(path, "camera", "map").target_from_source(half)
    back = BagTransforms(path, "map", "camera").target_from_source(half)
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(
        back, compute_base_pose(1.37) @ CAMERA_IN_BASE, atol=1e-4
    )  # along the chord, not the arc
    to_body = BagTransforms(path, "body_3", "camera").target_from_source(stamp_of(0))
    np.testing.assert_allclose(to_body, compute_base_pose(0) @ CAMERA_IN_BASE, atol=1e-9)
    np.testing.assert_allclose(BagTransforms(path, "map", "map").target_from_source(0), np.eye(4))


def test_truth_is_found_in_any_order(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "walk.mcap", 200, images=False)
    with HumansReader(path, "/ground_truth/humans") as humans_of:
        for index in (0, 150, 3, 199, 7, 7):
            found = humans_of.read_at(stamp_of(index))
            assert found is not None
            assert found.decoded.humans[0].pelvis.pose.position.x == pytest.approx(scene(index).pelvis[0, 0], abs=1e-6)
        assert humans_of.read_at(stamp_of(5) + 400_000) is not None, "rounded to milliseconds"
        assert humans_of.read_at(stamp_of(5) + 40_000_000) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_truth_that_is_not_finite_removes_only_its_errors(tmp_path: Path, value: float) -> None:
    """A joint, a pelvis and a vertex of different people are missing in frame 2; nobody becomes a miss."""

    def truth(index: int) -> People:
        people = scene(index)
        if index == 2:
            people.joints[0, 40], people.pelvis[1], people.vertices[2, 5] = value, value, value
        return people

    result = evaluate(write_scene(tmp_path / "walk.mcap", 4, truth=truth))
    assert result.problems == ()
    values = result.totals.compute_metrics()
    assert values["recall"] == values["precision"] == (100, 12)
    counts = {"MRPE": 11, "PA-MPJPE": 11, "MPJPE": 10, "PVE": 10, "TA-PVE": 11, "PCDR@0.2m": 10, "ordinal pairs": 10}
    assert {key: values[key][1] for key in counts} == counts
    assert values["PA-MPJPE"][0] == pytest.approx(0, abs=0.1)
    assert values["PCDR@0.2m"][0] == 100


# --- the command


@pytest.fixture
def command(small_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    def command(*arguments: object) -> int:
        fixed = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--max-people", "2"]
        return main(["evaluate", *map(str, arguments), *fixed, "--score-threshold", "0", "--no-video"])

    return command


def test_one_bad_bag_does_not_affect_the_others(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, empty = write_scene(tmp_path / "good.mcap", 3), tmp_path / "empty.mcap"
    empty.write_bytes(b"")
    out = tmp_path / "out"
    assert command(good, empty, "--out", out) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("multihmr2 evaluate: ")]
    assert len(lines) == 1
    assert "cannot read the bag" in lines[0]
    assert max(map(len, printed.out.splitlines())) <= 120
    assert len(printed.out.splitlines()) <= 45, "one screen"
    document = json.loads((out / "results.json").read_text())
    assert [(each["name"], each["frames"]) for each in document["sequences"]] == [("good", 3), ("empty", 0)]
    assert len(document["configuration"]["checkpoint_sha256"]) == 64
    estimator = document["configuration"]["estimator"]
    assert estimator["device"] == "cpu"
    assert (estimator["config"]["mesh"], estimator["config"]["tracker"]["confirm_hits"]) == ("low", 3)
    assert document["results"]["given"]["metrics"]["recall"]["count"] == 9
    assert {path.name for path in out.iterdir()} >= {"good", "results.json", "latency.png", "field_of_view.png"}
    assert {path.name for path in (out / "good").iterdir()} >= {"frames.csv", "people.csv", "predictions.mcap"}


def test_both_intrinsics_and_a_comparison(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scene(tmp_path / "walk.mcap", 12)
    assert command(path, "--out", tmp_path / "a", "--intrinsics", "both") == 0
    assert command(path, "--out", tmp_path / "b", "--no-plots", "--no-bag") == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "frames.csv", "people.csv", "results.json", "highlights.zip", "report.html",
    }  # fmt: skip
    capsys.readouterr()
    assert main(["evaluate", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (mrpe,) = [row for row in rows if row[:2] == ["MRPE", "mm"]]
    assert mrpe[4] == "+0.00", "the same bag with the same intrinsics"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected BAG"),
        (["{bag}"], "expected BAG"),
        (["{bag}", "--out", "{out}", "--min-visible", "2"], "visible"),
        (["{bag}", "--out", "{out}", "--vertical-fov", "190"], "--vertical-fov must be"),
        (["{bag}", "--out", "{out}", "--k", "0", "0", "0", "0"], "K must be"),
        (["{bag}", "{bag}", "--out", "{out}"], "results of the same name"),
        (["{bag}", "--out", "{out}", "--truth", "/nothing", "--no-plots"], "no HumanArrays on /nothing"),
        (["--compare", "{out}", "{out}"], "does not exist"),
    ],
)
def test_mistakes(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    bag = write_scene(tmp_path / "walk.mcap", 2)
    places = {"bag": bag, "out": tmp_path / "out"}
    assert command(*(argument.format(**places) for argument in arguments)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 evaluate: ")]
    assert len(errors) == 1
    assert words in errors[0]


def test_without_a_readable_bag_nothing_is_written_or_removed(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty.mcap"
    empty.touch()
    for bag, words in ((tmp_path / "nothing.mcap", "does not exist"), (empty, "cannot read the bag")):
        assert command(bag, "--out", out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert not out.exists()
    assert command(write_scene(tmp_path / "walk.mcap", 2), "--out", out, "--no-plots") == 0
    earlier = sorted(out.iterdir())
    assert command(tmp_path / "nothing.mcap", "--out", out, "--overwrite") == 2
    assert sorted(out.iterdir()) == earlier


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topic", "/nothing"], "/nothing"),
        (["--recorded", "/nothing"], "/nothing"),
        (["--workers", "-1"], "--workers must be at least 1"),
        (["--scheduler", "nonsense://"], "no Dask scheduler"),
    ],
)
def test_overwriting_removes_nothing_before_all_options_are_checked(
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    if "--workers" in arguments or "--scheduler" in arguments:
        pytest.importorskip("distributed", reason="Dask is optional: pip install 'multihmr2_ros[eval]'")
    path, out = write_scene(tmp_path / "walk.mcap", 2), tmp_path / "out"
    out.mkdir()
    for name in ("results.json", "frames.csv"):
        (out / name).write_text("of the earlier run")
    assert command(path, "--out", out, "--no-plots", "--overwrite", *arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 evaluate: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(
        ("results.json", "frames.csv"), "of the earlier run"
    )


def test_a_bag_of_recorded_people_is_recognized(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scene(tmp_path / "live.mcap", 8, images=False, recorded=scene)
    assert command(path, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "recorded: 8 frames, 24 detections; 8 frames with ground truth: 24 people detected, 0 missed"
    )
    assert "stamp to publication" in printed
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["configuration"]["estimator"] is None


@pytest.mark.parametrize(("name", "shown"), [(b"w\xe4lk", "w?lk"), (b"price_$^$", "price_$^$")])  # not UTF-8, not TeX
def test_unusual_names_of_bags(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes, shown: str
) -> None:
    path = write_scene(tmp_path / "live.mcap", 4, images=False, recorded=scene)
    bag, out = path.rename(tmp_path / f"{os.fsdecode(name)}.mcap"), tmp_path / "out"
    assert command(bag, "--out", out) == 0
    assert "MRPE" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} >= {"identities.png", "report.html", "results.json"}
    assert shown in (out / "report.html").read_text(encoding="utf-8")
    assert main(["evaluate", "--compare", str(out), str(out), "--out", str(tmp_path / "compared")]) == 0


def test_bags_without_recorded_people_are_refused(command: Callable[..., int], tmp_path: Path) -> None:
    path = write_bag(tmp_path / "tf.mcap", make_moving_camera())
    assert command(path, "--out", tmp_path / "out") == 2
