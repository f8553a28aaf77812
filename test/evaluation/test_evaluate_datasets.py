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

"""Data sets as tiny folders of their real formats; the estimator returns the ground truth or a modification of it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets import DATASETS
from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.evaluation.results import merge_results
from multihmr2_ros.frame import Frame, IntrinsicsChoice
from multihmr2_ros.people import People
from test import paths
from test.helpers.dataset_factory import (
    HEIGHT,
    WIDTH,
    Estimator,
    K,
    make_joints,
    make_mesh,
    make_people_with_vertices,
    save_image,
    save_regressor,
)
from test.helpers.dataset_files import write_coco, write_mot17, write_panoptic, write_posetrack, write_threedpw

REAL = paths.SHARED / "data" / "real"


def test_coco(tmp_path: Path) -> None:
    places = [make_joints(2, 17, seed) for seed in range(4)]
    write_coco(tmp_path, places)
    perfect = Estimator(lambda index: make_people_with_vertices(places[index]))
    (result,) = evaluate_dataset(DatasetJob("mscoco", tmp_path, tmp_path), perfect)
    assert result.problems == ()
    assert (result.scores["AP"], result.scores["AR"], result.scores["people"]) == (100, 100, 8)
    # Half of the people are missed in every image: recall 50 %, and precision 1 up to there (51 of 101 levels).
    half = Estimator(lambda index: make_people_with_vertices(places[index][:1]))
    (result,) = evaluate_dataset(DatasetJob("mscoco", tmp_path, tmp_path), half)
    assert result.scores["AR"] == pytest.approx(50)
    assert result.scores["AP"] == pytest.approx(100 * 51 / 101)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("states", ["stored", "upright", "nothing"])
def test_coco_images_with_an_orientation(tmp_path: Path, orientation: int, states: str) -> None:
    """COCO's labels refer to the stored image, unless the size stated in the file is the size of the upright image."""
    write_coco(tmp_path, [make_joints(1, 17, 0)])
    image = Image.new("RGB", (WIDTH, HEIGHT))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "val2017" / f"{0:012d}.jpg", exif=exif)
    is_turned = orientation in (6, 8)
    upright = (HEIGHT, WIDTH) if is_turned else (WIDTH, HEIGHT)
    path = tmp_path / "annotations" / "person_keypoints_val2017.json"
    document = json.loads(path.read_text())
    (entry,) = document["images"]
    size = {"stored": (WIDTH, HEIGHT), "upright": upright, "nothing": None}[states]
    if size is None:
        del entry["width"], entry["height"]
    else:
        entry["width"], entry["height"] = size
    path.write_text(json.dumps(document))
    seen = []

    class Looking(Estimator):
        def step(self, frame: Frame, /) -> People:
            seen.append((frame.image.shape[1], frame.image.shape[0]))
            return super().step(frame)

    (result,) = evaluate_dataset(
        DatasetJob("mscoco", tmp_path, tmp_path), Looking(lambda _: make_people_with_vertices(make_joints(1, 17, 0)))
    )
    assert result.problems == ()
    assert seen == [(WIDTH, HEIGHT) if states == "stored" else upright]
    assert result.scores["AP"] == pytest.approx(100, abs=1e-9)


def test_coco_files_that_are_cut_down(tmp_path: Path) -> None:
    """Only some images exist, all annotations do; another file lacks iscrowd. An image whose size differs from its
    labels is omitted."""
    places = [make_joints(2, 17, seed) for seed in range(4)]
    write_coco(tmp_path, places)
    path = tmp_path / "annotations" / "person_keypoints_val2017.json"
    document = json.loads(path.read_text())
    document["images"] = document["images"][1:3]
    for annotation in document["annotations"]:
        del annotation["iscrowd"]
    path.write_text(json.dumps(document))
    (result,) = evaluate_dataset(
        DatasetJob("mscoco", tmp_path, tmp_path), Estimator(lambda index: make_people_with_vertices(places[index + 1]))
    )
    assert result.problems == ()
    assert (result.totals.frames, result.scores["people"]) == (2, 4)
    assert result.scores["AP"] == pytest.approx(100, abs=1e-9)
    save_image(tmp_path / "val2017" / f"{1:012d}.jpg", (WIDTH // 2, HEIGHT // 2))
    (result,) = evaluate_dataset(
        DatasetJob("mscoco", tmp_path, tmp_path), Estimator(lambda index: make_people_with_vertices(places[index + 2]))
    )
    assert result.totals.frames == 1
    (problem,) = result.problems
    assert "its labels are for" in problem


# --- splits and intrinsics


@pytest.mark.parametrize("name", ["mot17", "calibrated-videos"])
def test_a_split_of_a_data_set_without_any_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="has no splits, got --split train"):
        evaluate_dataset(
            DatasetJob(name, tmp_path, tmp_path, "train"),
            Estimator(lambda index: make_people_with_vertices(np.zeros((0, 1, 3)))),
        )


@pytest.mark.parametrize("name", ["mscoco", "mot17", "posetrack21"])
@pytest.mark.parametrize(
    ("intrinsics", "kind", "focal_px"),
    [
        (IntrinsicsChoice(), "predicted", None),
        (IntrinsicsChoice("predicted", K), "predicted", None),
        (IntrinsicsChoice("given", K), "given", K[1, 1]),
        (IntrinsicsChoice("given", None, np.radians(90)), "given", HEIGHT / 2),
    ],
)
def test_intrinsics_of_images_without_calibration(
    tmp_path: Path, name: str, intrinsics: IntrinsicsChoice, kind: str, focal_px: float | None
) -> None:
    write_coco(tmp_path, [make_joints(1, 17)])
    write_mot17(tmp_path, [[100.0, 100, 50, 120]])
    write_posetrack(tmp_path, [[100.0, 100, 50, 120]])
    focals = []

    class Looking(Estimator):
        def step(self, frame: Frame, /) -> People:
            focals.append(None if frame.k is None else frame.k[1, 1])
            return super().step(frame)

    job = DatasetJob(name, tmp_path, tmp_path, intrinsics=intrinsics)
    (result,) = evaluate_dataset(job, Looking(lambda index: make_people_with_vertices(make_joints(1, 17))))
    assert (result.problems, result.intrinsics) == ((), kind)
    assert all(focal == (None if focal_px is None else pytest.approx(focal_px)) for focal in focals)


# --- 3D joints


def test_3dpw(tmp_path: Path) -> None:
    camera = np.stack([[np.add(body, [0.02 * frame, 0, 0]) for frame in range(4)] for body in make_joints(2, 24)])
    write_threedpw(tmp_path, camera)

    def found(index: int) -> People:
        people = make_people_with_vertices(make_mesh(np.add(camera[:, index], [0, 0, 0.1])))
        return dataclasses.replace(people, predicted_vertical_fov=people.vertical_fov + np.radians(2))

    job = DatasetJob(
        "3dpw",
        tmp_path,
        tmp_path / "out",
        regressor=save_regressor(tmp_path / "j.npy"),
        intrinsics=IntrinsicsChoice("given"),
    )  # fmt: skip
    (result,) = evaluate_dataset(job, Estimator(found))
    assert result.problems == ()
    values = result.totals.compute_metrics()
    assert values["recall"] == (100.0, 7), "the actor who is not aligned is ignored"
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    assert values["MPJPE"][0] == pytest.approx(0, abs=0.01)
    assert values["FOV error"][0] == pytest.approx(2, abs=1e-4)
    assert (tmp_path / "out" / "downtown_test_00" / "people.csv").is_file()
    with pytest.raises(UserError, match="pass --regressor"):
        evaluate_dataset(dataclasses.replace(job, regressor=None), Estimator(found))


def test_pickles_that_hold_code_are_refused(tmp_path: Path) -> None:
    write_threedpw(tmp_path, np.full((2, 1, 24, 3), 3.0))
    path = tmp_path / "sequenceFiles" / "test" / "downtown_test_00.pkl"
    path.write_bytes(pickle.dumps({"sequence": print}))
    job = DatasetJob("3dpw", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, Estimator(lambda index: make_people_with_vertices(np.zeros((0, 19158, 3)))))
    (problem,) = result.problems
    assert str(path) in problem
    assert "must not contain builtins.print" in problem


def test_3dpw_with_truth_of_different_lengths(tmp_path: Path) -> None:
    write_threedpw(tmp_path, np.full((2, 3, 24, 3), 3.0))
    path = tmp_path / "sequenceFiles" / "test" / "downtown_test_00.pkl"
    job = DatasetJob("3dpw", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    data = pickle.loads(path.read_bytes())
    for change in (
        {"campose_valid": data["campose_valid"][:1]},
        {"campose_valid": [each[:1] for each in data["campose_valid"]]},
        {"jointPositions": [each[:1] for each in data["jointPositions"]]},
    ):
        path.write_bytes(pickle.dumps({**data, **change}))
        (result,) = evaluate_dataset(job, Estimator(lambda index: make_people_with_vertices(np.zeros((0, 19158, 3)))))
        assert f"{path} does not have the documented format of its dataset" in result.problems[0]


def test_a_sequence_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    write_threedpw(tmp_path, np.full((2, 3, 24, 3), 3.0))
    folder = tmp_path / "sequenceFiles" / "test"
    (folder / "a.pkl").write_bytes(b"")
    (folder / "z.pkl").write_bytes(b"")
    out = tmp_path / "out"
    job = DatasetJob("3dpw", tmp_path, out, regressor=save_regressor(tmp_path / "j.npy"))
    nobody = Estimator(lambda index: make_people_with_vertices(np.zeros((0, 19158, 3))))
    results = evaluate_dataset(job, nobody)
    assert [result.name for result in results] == ["a", "downtown_test_00", "z"]
    assert [len(result.problems) for result in results] == [1, 0, 1]
    assert [result.totals.frames for result in results] == [0, 3, 0]
    (folder / "a.pkl").unlink()
    (folder / "z.pkl").unlink()
    shutil.rmtree(out)
    out.mkdir()
    (out / "downtown_test_00").write_text("in the way of the folder")
    (result,) = evaluate_dataset(job, nobody)
    assert "check the folder of --out" in result.problems[0]


def test_cmu_panoptic(tmp_path: Path) -> None:
    """Centimeters in the world frame; the neck is the midpoint of the shoulders, the body center the midpoint of the
    hips."""
    coco = make_joints(2, 17)
    write_panoptic(tmp_path, coco)
    (result,) = evaluate_dataset(
        DatasetJob("cmu-panoptic", tmp_path, tmp_path / "out"),
        Estimator(lambda index: make_people_with_vertices(np.add(coco, [0.05, 0, 0]))),
    )
    assert result.problems == ()
    values = result.totals.compute_metrics()
    assert values["recall"] == (100.0, 6)
    assert values["MRPE x"][0] == pytest.approx(50, abs=0.01)
    assert values["N-MPJPE"][0] == pytest.approx(0, abs=0.01)


# --- damaged and unusual data


@pytest.mark.parametrize("name", DATASETS)
def test_a_folder_of_something_else(tmp_path: Path, name: str) -> None:
    job = DatasetJob(name, tmp_path, tmp_path, regressor=save_regressor(tmp_path / "j.npy"))
    with pytest.raises(UserError, match="give the unpacked folder of the dataset") as caught:
        evaluate_dataset(job, Estimator(lambda index: make_people_with_vertices(np.zeros((0, 17, 3)))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": [{"id": 1}], "annotations": [{"category_id": 1}]}'])
def test_annotations_of_another_format_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "annotations" / "person_keypoints_val2017.json"
    path.parent.mkdir()
    path.write_text(content)
    (tmp_path / "val2017").mkdir()
    with pytest.raises(UserError, match="does not have the documented format of its dataset"):
        evaluate_dataset(
            DatasetJob("mscoco", tmp_path, tmp_path),
            Estimator(lambda index: make_people_with_vertices(np.zeros((0, 17, 3)))),
        )


def test_the_command(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "coco", [make_joints(1, 17)])
    options = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--score-threshold", "0", "--max-people", "2"]
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "coco"), "--dataset", "mscoco", "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "mscoco: comparison with the paper" in printed
    assert "Multi-HMR 2.b" in printed
    document = json.loads((out / "results.json").read_text())
    assert document["sequences"][0]["scores"]["people"] == 1
    assert document["configuration"]["split"] == "val2017"
    assert document["configuration"]["intrinsics"] == document["sequences"][0]["intrinsics"] == "predicted"


def test_the_command_where_nothing_can_be_read(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for bags: one line per sequence, results.json, and exit status 2."""
    folder = tmp_path / "hi4d" / "pair00" / "dance00" / "cameras"
    folder.mkdir(parents=True)
    (folder / "rgb_cameras.npz").write_bytes(b"")
    options = ["--checkpoint", str(small_checkpoint), "--device", "cpu"]
    regressor = str(save_regressor(tmp_path / "j.npy"))
    arguments = ["evaluate", str(tmp_path / "hi4d"), "--dataset", "hi4d", "--out", str(tmp_path / "out"), *options]
    assert main([*arguments, "--regressor", regressor]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("multihmr2 evaluate: ")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(document["problems"]) == 1
    assert document["configuration"]["scoring"]["pair_distance_m"] is None, "no limit"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mscoco", ["--split", "val2018"], "person_keypoints_val2018.json"),
        ("mot17", [], "found no sequence"),
        ("3dpw", [], "pass --regressor"),
        ("3dpw", ["--regressor", "{regressor}"], "sequenceFiles/test"),
        ("hi4d", ["--regressor", "{regressor}"], "pair00"),
        ("emdb", ["--split", "emdb2"], "expected sequences of emdb2"),
        ("relative-human", [], "test_annots.npz"),
    ],
)
def test_overwriting_removes_nothing_before_the_data_set_is_read(
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: list[str],
    words: str,
) -> None:
    """The folder contains COCO, a damaged sequence of Hi4D, and a sequence of EMDB's first part."""
    folder, out = tmp_path / "data", tmp_path / "out"
    write_coco(folder, [make_joints(1, 17)])
    (folder / "pair00" / "dance00" / "cameras").mkdir(parents=True)
    (folder / "pair00" / "dance00" / "cameras" / "rgb_cameras.npz").write_bytes(b"")
    (folder / "P0" / "walk").mkdir(parents=True)
    (folder / "P0" / "walk" / "P0_walk_data.pkl").write_bytes(pickle.dumps({"emdb1": True, "emdb2": False}))
    out.mkdir()
    (out / "results.json").write_text("of the earlier run")
    regressor = save_regressor(tmp_path / "j.npy")
    arguments = ["evaluate", str(folder), "--dataset", name, "--out", str(out), "--overwrite"]
    arguments += [option.format(regressor=regressor) for option in options]
    assert main([*arguments, "--checkpoint", str(small_checkpoint), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert [path.read_text() for path in out.iterdir()] == ["of the earlier run"]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside this checkout (../shared/data/real)")
def test_real_folders_are_read() -> None:
    mot = REAL / "mikel-brostrom_boxmot" / "MOT17-mini"
    nobody = Estimator(lambda index: make_people_with_vertices(np.zeros((0, 17, 3))))
    results = evaluate_dataset(DatasetJob("mot17", mot, mot), nobody)
    totals = merge_results(results)["predicted"]
    assert len(results) == 3
    assert totals.identity is not None
    assert totals.identity.misses == totals.identity.truth > 20
    coco = REAL / "Deci-AI_super-gradients" / "pose_minicoco"
    (result,) = evaluate_dataset(DatasetJob("mscoco", coco, coco, split="train2017"), nobody)
    assert result.scores["AR"] == 0
    assert result.totals.frames == 30
