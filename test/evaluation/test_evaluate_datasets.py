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
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from multihmr2_ros.camera import project
from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets import DATASETS
from multihmr2_ros.evaluation.datasets.run import DatasetJob, evaluate_dataset
from multihmr2_ros.evaluation.published import ROWS, format_published_table
from multihmr2_ros.evaluation.results import merge_results
from multihmr2_ros.frame import Frame, IntrinsicsChoice
from multihmr2_ros.people import People
from test import paths
from test.helpers.dataset_factory import (
    HEIGHT,
    WIDTH,
    Estimator,
    K,
    as_mesh,
    bodies,
    people_with,
    save_image,
    save_json,
    save_regressor,
)

REAL = paths.SHARED / "data" / "real"
PAPER = paths.SHARED / "paper" / "multi-hmr-2.txt"


def box_of(points: np.ndarray) -> list[float]:
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


# --- MSCOCO


def write_coco(folder: Path, places: list[np.ndarray]) -> None:
    """Write a data set; every image has these people, fully annotated, a crowd, and a person without keypoints."""
    images, annotations = [], []
    for index, place in enumerate(places):
        name = f"{index:012d}.jpg"
        save_image(folder / "val2017" / name)
        images.append({"id": index, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for person, points in enumerate(project(place, K)):
            box = box_of(points)
            keypoints = np.hstack([points, np.full((17, 1), 2)]).ravel().tolist()
            annotations.append({
                "id": 10 * index + person, "image_id": index, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
                "keypoints": keypoints, "bbox": box, "area": 0.6 * box[2] * box[3], "segmentation": [],
            })  # fmt: skip
    save_json(
        folder / "annotations" / "person_keypoints_val2017.json",
        {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]},
    )


def test_coco(tmp_path: Path) -> None:
    places = [bodies(2, 17, seed) for seed in range(4)]
    write_coco(tmp_path, places)
    perfect = Estimator(lambda index: people_with(places[index]))
    (result,) = evaluate_dataset(DatasetJob("mscoco", tmp_path, tmp_path), perfect)
    assert result.problems == ()
    assert (result.scores["AP"], result.scores["AR"], result.scores["people"]) == (100, 100, 8)
    # Half of the people are missed in every image: recall 50 %, and precision 1 up to there (51 of 101 levels).
    half = Estimator(lambda index: people_with(places[index][:1]))
    (result,) = evaluate_dataset(DatasetJob("mscoco", tmp_path, tmp_path), half)
    assert result.scores["AR"] == pytest.approx(50)
    assert result.scores["AP"] == pytest.approx(100 * 51 / 101)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("states", ["stored", "upright", "nothing"])
def test_coco_images_with_an_orientation(tmp_path: Path, orientation: int, states: str) -> None:
    """COCO's labels refer to the stored image, unless the size stated in the file is the size of the upright image."""
    write_coco(tmp_path, [bodies(1, 17, 0)])
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
        DatasetJob("mscoco", tmp_path, tmp_path), Looking(lambda _: people_with(bodies(1, 17, 0)))
    )
    assert result.problems == ()
    assert seen == [(WIDTH, HEIGHT) if states == "stored" else upright]
    assert result.scores["AP"] == pytest.approx(100, abs=1e-9)


def test_coco_files_that_are_cut_down(tmp_path: Path) -> None:
    """Only some images exist, all annotations do; another file lacks iscrowd. An image whose size differs from its
    labels is omitted."""
    places = [bodies(2, 17, seed) for seed in range(4)]
    write_coco(tmp_path, places)
    path = tmp_path / "annotations" / "person_keypoints_val2017.json"
    document = json.loads(path.read_text())
    document["images"] = document["images"][1:3]
    for annotation in document["annotations"]:
        del annotation["iscrowd"]
    path.write_text(json.dumps(document))
    (result,) = evaluate_dataset(
        DatasetJob("mscoco", tmp_path, tmp_path), Estimator(lambda index: people_with(places[index + 1]))
    )
    assert result.problems == ()
    assert (result.totals.frames, result.scores["people"]) == (2, 4)
    assert result.scores["AP"] == pytest.approx(100, abs=1e-9)
    save_image(tmp_path / "val2017" / f"{1:012d}.jpg", (WIDTH // 2, HEIGHT // 2))
    (result,) = evaluate_dataset(
        DatasetJob("mscoco", tmp_path, tmp_path), Estimator(lambda index: people_with(places[index + 2]))
    )
    assert result.totals.frames == 1
    (problem,) = result.problems
    assert "its labels are for" in problem


# --- tracked boxes


def flat_people(boxes: list[list[float]], ids: list[int]) -> People:
    """Return people whose projected vertices have these boxes (x, y, width, height)."""
    depth, people = 3.0, []
    for x, y, width, height in boxes:
        corners = np.array([[x, y], [x + width, y + height]])
        people.append(np.hstack([(corners - K[:2, 2]) / K[0, 0] * depth, np.full((2, 1), depth)]))
    vertices = np.array(people).reshape(-1, 2, 3)
    return people_with(vertices, track_id=np.array(ids, np.int64))


def write_mot17(folder: Path, boxes: list[list[float]]) -> Path:
    """Write a sequence; the third person is static."""
    sequence = folder / "train" / "MOT17-99-FRCNN"
    rows = []
    for frame in range(1, 11):
        save_image(sequence / "img1" / f"{frame:06d}.jpg")
        for number, box in enumerate(boxes, start=1):
            kind, considered = (7, 0) if number == 3 else (1, 1)
            rows.append([frame, number, *np.add(box, [1, 1, 0, 0]), considered, kind, 1.0])
    (sequence / "gt").mkdir()
    (sequence / "gt" / "gt.txt").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    (sequence / "seqinfo.ini").write_text("[Sequence]\nname=MOT17-99-FRCNN\nimDir=img1\nframeRate=10\nimExt=.jpg\n")
    return sequence


def test_mot17(tmp_path: Path) -> None:
    """Two pedestrians and a static person, who counts neither as a miss nor, if detected, as a false positive."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120], [300, 100, 50, 120], [500, 100, 50, 120]]
    sequence = write_mot17(tmp_path, boxes)

    def found(index: int) -> People:
        ids = [7, 8, 9] if index < 5 else [8, 7, 9]
        return flat_people(boxes, ids) if index else flat_people(boxes[1:], ids[1:])

    (result,) = evaluate_dataset(DatasetJob("mot17", tmp_path, tmp_path), Estimator(found))
    identity = result.totals.identity
    assert identity is not None
    assert (identity.truth, identity.predicted, identity.misses, identity.false_positives) == (20, 19, 1, 0)
    assert identity.switches == 2
    assert result.totals.compute_metrics()["MOTA"][0] == pytest.approx(100 * (1 - 3 / 20))
    assert result.totals.compute_metrics()["IDF1"][0] == pytest.approx(100 * 2 * 10 / 39)

    damaged = shutil.copytree(sequence, tmp_path / "train" / "MOT17-98-FRCNN")
    for file, text in (
        ("seqinfo.ini", "frameRate=10\n"),
        ("seqinfo.ini", "[Sequence]\nframeRate=0\n"),
        ("gt/gt.txt", "a"),
    ):
        before = (damaged / file).read_text()
        (damaged / file).write_text(text)
        first, second = evaluate_dataset(DatasetJob("mot17", tmp_path, tmp_path), Estimator(found))
        assert "MOT17-98-FRCNN/gt/gt.txt" in first.problems[0]
        why = (
            "expected the 9 columns of MOT17"
            if file == "gt/gt.txt"
            else "does not have the documented format of its dataset"
        )
        assert why in first.problems[0]
        assert (second.name, second.problems, second.totals.frames) == ("MOT17-99-FRCNN", (), 10)
        (damaged / file).write_text(before)


def test_a_folder_of_links_to_sequences(tmp_path: Path) -> None:
    """Also with a link back to the folder itself."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120]]
    sequence, links = write_mot17(tmp_path / "whole", boxes), tmp_path / "links"
    links.mkdir()
    (links / "MOT17-02-FRCNN").symlink_to(sequence)
    (links / "back").symlink_to(links)
    found = Estimator(lambda index: flat_people(boxes, [1]))
    (result,) = evaluate_dataset(DatasetJob("mot17", links, tmp_path), found)
    assert (result.name, result.problems, result.totals.with_truth) == ("MOT17-02-FRCNN", (), 10)


def test_mot17_people_at_the_border_of_the_image(tmp_path: Path) -> None:
    """Their true boxes continue beyond the image: here, a third of each is inside."""
    boxes: list[list[float]] = [[-80.0, 100, 120, 240], [WIDTH - 40.0, 100, 120, 240]]
    write_mot17(tmp_path, boxes)
    (result,) = evaluate_dataset(
        DatasetJob("mot17", tmp_path, tmp_path), Estimator(lambda index: flat_people(boxes, [1, 2]))
    )
    assert result.totals.compute_metrics()["MOTA"][0] == pytest.approx(100)


def test_mot17_without_tracking(tmp_path: Path) -> None:
    """People without an identity are not the same in two frames; with --no-track, identities are not scored."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120], [300, 100, 50, 120]]
    write_mot17(tmp_path, boxes)
    job = DatasetJob("mot17", tmp_path, tmp_path)
    untracked = Estimator(lambda index: flat_people(boxes if index else boxes[:1], [-1, -1] if index else [-1]))
    (result,) = evaluate_dataset(job, untracked)
    identity = result.totals.identity
    assert identity is not None
    assert (identity.switches, identity.id_true_positives) == (17, 2)
    untracked = Estimator(lambda index: flat_people(boxes if index else boxes[:1], [-1, -1] if index else [-1]))
    job = dataclasses.replace(job, scoring=dataclasses.replace(job.scoring, identities=False))
    (result,) = evaluate_dataset(job, untracked)
    values = result.totals.compute_metrics()
    assert (values["recall"][0], values["precision"][0]) == (pytest.approx(95), 100)
    assert not {"IDF1", "MOTA", "HOTA", "id switches"} & values.keys()


@pytest.mark.parametrize("name", ["mot17", "calibrated-videos"])
def test_a_split_of_a_data_set_without_any_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="has no splits, got --split train"):
        evaluate_dataset(
            DatasetJob(name, tmp_path, tmp_path, "train"), Estimator(lambda index: people_with(np.zeros((0, 1, 3))))
        )


REGION = ([480, 640, 640, 480], [0, 0, 480, 480])  # x and y, px


def write_posetrack(folder: Path, boxes: list[list[float]], regions: Any = ([REGION[0]], [REGION[1]])) -> None:
    """Write four frames, the last one without ground truth, with ignored regions."""
    images, annotations = [], []
    for frame in range(4):
        name = f"images/val/000001_test/{frame:06d}.jpg"
        save_image(folder / name)
        images.append({
            "id": 10_000_000 + frame, "frame_id": 10_000_000 + frame, "vid_id": "000001", "nframes": 4,
            "file_name": name, "is_labeled": frame != 3, "has_labeled_person": frame != 3,
            "ignore_regions_x": regions[0], "ignore_regions_y": regions[1],
        })  # fmt: skip
        for track, box in enumerate(boxes if frame != 3 else []):
            annotations.append({
                "id": 10 * frame + track, "image_id": 10_000_000 + frame, "bbox": box, "bbox_head": box,
                "track_id": track, "person_id": 100 + track, "category_id": 1, "keypoints": [0] * 51,
            })  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": []}
    save_json(folder / "posetrack_data" / "val" / "000001_test.json", content)


@pytest.mark.parametrize("regions", [([REGION[0]], [REGION[1]]), REGION])  # one polygon is also stored without a list
def test_posetrack21(tmp_path: Path, regions: Any) -> None:
    """An ignored region, and a frame without ground truth, which is processed but not scored."""
    boxes: list[list[float]] = [[100.0, 100, 50, 120], [300, 100, 50, 120]]
    write_posetrack(tmp_path, boxes, regions)
    everyone = [*boxes, [520.0, 100, 50, 120], [200, 300, 40, 100]]  # in the region, and NaN

    (result,) = evaluate_dataset(
        DatasetJob("posetrack21", tmp_path, tmp_path), Estimator(lambda index: flat_people(everyone, [1, 2, 3, 4]))
    )
    assert (result.totals.frames, result.totals.with_truth) == (4, 3)
    assert result.totals.identity is not None
    assert (result.totals.identity.misses, result.totals.identity.false_positives) == (0, 3)
    assert result.totals.compute_metrics()["MOTA"][0] == pytest.approx(50)


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
    write_coco(tmp_path, [bodies(1, 17)])
    write_mot17(tmp_path, [[100.0, 100, 50, 120]])
    write_posetrack(tmp_path, [[100.0, 100, 50, 120]])
    focals = []

    class Looking(Estimator):
        def step(self, frame: Frame, /) -> People:
            focals.append(None if frame.k is None else frame.k[1, 1])
            return super().step(frame)

    job = DatasetJob(name, tmp_path, tmp_path, intrinsics=intrinsics)
    (result,) = evaluate_dataset(job, Looking(lambda index: people_with(bodies(1, 17))))
    assert (result.problems, result.intrinsics) == ((), kind)
    assert all(focal == (None if focal_px is None else pytest.approx(focal_px)) for focal in focals)


# --- 3D joints


def write_threedpw(folder: Path, camera: np.ndarray) -> None:
    """Write two actors seen by a moving camera; the second is not aligned in the last frame. camera (2, F, 24, 3) m."""
    frames = camera.shape[1]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler(
        "xyz", [[5.0 * i, 20, 3 * i] for i in range(frames)], degrees=True
    ).as_matrix()
    poses[:, :3, 3] = [[0.1 * i, 0.2, 1.0] for i in range(frames)]
    world = np.einsum("fji,pfkj->pfki", poses[:, :3, :3], camera - poses[:, None, :3, 3])
    valid = np.ones((2, frames), bool)
    valid[1, -1] = False
    data = {
        "sequence": "downtown_test_00", "cam_intrinsics": K, "cam_poses": poses, "campose_valid": list(valid),
        "jointPositions": [each.reshape(frames, 72) for each in world], "genders": ["m", "f"],
        "betas": [np.zeros(10)] * 2, "poses": [np.zeros((frames, 72))] * 2,
    }  # fmt: skip
    path = folder / "sequenceFiles" / "test" / "downtown_test_00.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(data, protocol=2))
    for frame in range(frames):
        save_image(folder / "imageFiles" / "downtown_test_00" / f"image_{frame:05d}.jpg")


def test_3dpw(tmp_path: Path) -> None:
    camera = np.stack([[np.add(body, [0.02 * frame, 0, 0]) for frame in range(4)] for body in bodies(2, 24)])
    write_threedpw(tmp_path, camera)

    def found(index: int) -> People:
        people = people_with(as_mesh(np.add(camera[:, index], [0, 0, 0.1])))
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
    (result,) = evaluate_dataset(job, Estimator(lambda index: people_with(np.zeros((0, 19158, 3)))))
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
        (result,) = evaluate_dataset(job, Estimator(lambda index: people_with(np.zeros((0, 19158, 3)))))
        assert f"{path} does not have the documented format of its dataset" in result.problems[0]


def test_a_sequence_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    write_threedpw(tmp_path, np.full((2, 3, 24, 3), 3.0))
    folder = tmp_path / "sequenceFiles" / "test"
    (folder / "a.pkl").write_bytes(b"")
    (folder / "z.pkl").write_bytes(b"")
    out = tmp_path / "out"
    job = DatasetJob("3dpw", tmp_path, out, regressor=save_regressor(tmp_path / "j.npy"))
    nobody = Estimator(lambda index: people_with(np.zeros((0, 19158, 3))))
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


def write_panoptic(folder: Path, coco: np.ndarray) -> None:
    """Write three frames of people with COCO's keypoints (t, 17, 3) m in the camera frame."""
    pairs = [(5, 6), (0,), (11, 12), (5,), (7,), (9,), (11,), (13,), (15,), (6,), (8,), (10,), (12,), (14,), (16,)]
    nineteen = np.stack([coco[:, list(rows)].mean(axis=1) for rows in [*pairs, (1,), (3,), (2,), (4,)]], axis=1)
    turn, shift = Rotation.from_euler("xyz", [10, 50, 5], degrees=True).as_matrix(), np.array([3.0, 1.0, 2.5])
    world_cm = 100 * (nineteen - shift) @ turn
    sequence = folder / "160422_haggling1"
    camera = {
        "name": "00_16", "type": "hd", "resolution": [WIDTH, HEIGHT], "K": K.tolist(), "distCoef": [0.0] * 5,
        "R": turn.tolist(), "t": (100 * shift)[:, None].tolist(),
    }  # fmt: skip
    save_json(sequence / "calibration_160422_haggling1.json", {"cameras": [camera]})
    for frame in range(3):
        people = [
            {"id": person, "joints19": np.hstack([joints, np.full((19, 1), 0.8)]).ravel().tolist()}
            for person, joints in enumerate(world_cm)
        ]
        name = f"{frame:08d}"
        save_json(sequence / "hdPose3d_stage1_coco19" / f"body3DScene_{name}.json", {"version": 0.7, "bodies": people})
        save_image(sequence / "hdImgs" / "00_16" / f"00_16_{name}.jpg")


def test_cmu_panoptic(tmp_path: Path) -> None:
    """Centimeters in the world frame; the neck is the midpoint of the shoulders, the body center the midpoint of the
    hips."""
    coco = bodies(2, 17)
    write_panoptic(tmp_path, coco)
    (result,) = evaluate_dataset(
        DatasetJob("cmu-panoptic", tmp_path, tmp_path / "out"),
        Estimator(lambda index: people_with(np.add(coco, [0.05, 0, 0]))),
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
        evaluate_dataset(job, Estimator(lambda index: people_with(np.zeros((0, 17, 3)))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": [{"id": 1}], "annotations": [{"category_id": 1}]}'])
def test_annotations_that_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "annotations" / "person_keypoints_val2017.json"
    path.parent.mkdir()
    path.write_text(content)
    (tmp_path / "val2017").mkdir()
    with pytest.raises(UserError, match="does not have the documented format of its dataset"):
        evaluate_dataset(
            DatasetJob("mscoco", tmp_path, tmp_path), Estimator(lambda index: people_with(np.zeros((0, 17, 3))))
        )


def test_published_rows() -> None:
    text = format_published_table("posetrack21", {"IDF1": 50.0, "MOTA": 40.0, "PVE": 1.0})
    lines = text.splitlines()
    assert lines[2].split() == ["this", "result", "50.0", "40.0"]
    assert any(line.split()[-2:] == ["75.2", "65.5"] for line in lines)
    assert format_published_table("mot17", {}) == ""
    assert all(len(line) <= 120 for name in ROWS for line in format_published_table(name, {}).splitlines())


WITH_PAIRS = ("MPJPE", "Pair-PA-MPJPE", "TA-PVE")
PAPER_TABLES = {  # number of the table → data sets and metrics of the last columns
    1: (("3dpw", ("PA-MPJPE", "MPJPE", "PVE", "TA-PVE")), ("emdb", ("PA-MPJPE", "MPJPE", "PVE", "Abs-PVE"))),
    2: (("hi4d", (*WITH_PAIRS, "F1")), ("harmony4d", (*WITH_PAIRS, "recall"))),
    3: (("cmu-panoptic", ("N-MPJPE", "N-MRPE")),),
    4: (("3dpw", ("FOV error",)), ("emdb", ("FOV error",))),
    5: (("mscoco", ("AP", "AP50", "AP75", "AR", "AR50", "AR75")),),
    6: (("posetrack21", ("IDF1", "MOTA")),),
}


@pytest.mark.skipif(not PAPER.is_file(), reason=f"the paper is not beside this checkout ({PAPER})")
@pytest.mark.parametrize("number", PAPER_TABLES)
def test_every_row_of_the_papers_tables_is_published(number: int) -> None:
    columns = [(name, key) for name, keys in PAPER_TABLES[number] for key in keys]
    table = PAPER.read_text().split(f"\nTable {number}: ")[1].split("\nTable ")[0].split("\n\n")[0]
    cell = r"( (?:-|\d+(?:\.\d)?))"
    rows = re.findall(rf"^.*?{len(columns) * cell}$", table, re.MULTILINE)
    assert len(rows) >= 3
    for cells in rows:
        found = {column: float(cell) for column, cell in zip(columns, cells, strict=True) if cell != " -"}
        for name, _ in PAPER_TABLES[number]:
            wanted = {key: value for (other, key), value in found.items() if other == name}
            assert any(wanted.items() <= row.items() for row in ROWS[name].values()), (name, wanted)


def test_the_command(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "coco", [bodies(1, 17)])
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
    write_coco(folder, [bodies(1, 17)])
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
@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not beside this checkout (../shared/data/real)")
def test_real_folders_are_read() -> None:
    mot = REAL / "mikel-brostrom_boxmot" / "MOT17-mini"
    nobody = Estimator(lambda index: people_with(np.zeros((0, 17, 3))))
    results = evaluate_dataset(DatasetJob("mot17", mot, mot), nobody)
    totals = merge_results(results)["predicted"]
    assert len(results) == 3
    assert totals.identity is not None
    assert totals.identity.misses == totals.identity.truth > 20
    coco = REAL / "Deci-AI_super-gradients" / "pose_minicoco"
    (result,) = evaluate_dataset(DatasetJob("mscoco", coco, coco, split="train2017"), nobody)
    assert result.scores["AR"] == 0
    assert result.totals.frames == 30
