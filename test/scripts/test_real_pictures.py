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

"""`scripts/real_pictures.py`: which people are counted in images of real people, and the table of the whole command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.video import VideoWriter
from multihmr2_ros.network.movenet import MoveNet
from multihmr2_ros.people import People
from multihmr2_ros.training.readers.common import compute_hash_share
from test import paths
from test.helpers.people_factory import make_people, pinhole

SCRIPTS = paths.ROOT / "scripts"
NOBODY = np.zeros((0, 4))


@pytest.fixture
def detection(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import real_detection

    return real_detection


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import real_pictures

    return real_pictures


def keypoints_in(box: np.ndarray) -> np.ndarray:
    """Return keypoints (n, 17, 2) px, spread over the boxes (n, 4)."""
    share = np.random.default_rng(0).uniform(0.1, 0.9, (17, 2))
    return box[:, None, :2] + share * (box[:, None, 2:] - box[:, None, :2])


def score(detection: ModuleType, found: Any, people: Any, ignored: Any = NOBODY) -> Any:
    """Return the score of detected boxes for people who are counted and others who are ignored."""
    found, people, ignored = (np.array(boxes, float).reshape(-1, 4) for boxes in (found, people, ignored))
    box = np.vstack([people, ignored])
    keypoints = np.dstack([keypoints_in(box), np.full((len(box), 17), 2.0)])
    is_ignored = np.arange(len(box)) >= len(people)
    area = 0.53 * (box[:, 2:] - box[:, :2]).prod(axis=1)
    annotated = detection.AnnotatedImage(Path("picture.jpg"), box, is_ignored, keypoints, area)
    return detection.score_image(detection.Found(np.full(len(found), 0.9), found, keypoints_in(found)), annotated)


def counts(result: Any) -> tuple[int, int, int]:
    """Return the numbers of detections, false alarms and misses."""
    return result.counts.true_positives, result.counts.false_positives, result.counts.false_negatives


MAN, WOMAN, CHILD = (10, 10, 50, 110), (100, 20, 140, 140), (150, 100, 160, 130)


def test_perfect_predictions_score_one(detection: ModuleType) -> None:
    result = score(detection, [CHILD, WOMAN, MAN], [MAN, WOMAN], [CHILD])
    assert counts(result) == (2, 0, 0)
    assert result.counts.recall == result.counts.precision == result.mean_similarity == 1.0


def test_nobody_found_and_nobody_there(detection: ModuleType) -> None:
    assert counts(score(detection, NOBODY, [MAN])) == (0, 0, 1)
    assert counts(score(detection, [MAN], NOBODY)) == (0, 1, 0)
    assert counts(score(detection, NOBODY, NOBODY)) == (0, 0, 0)
    assert np.isnan(score(detection, NOBODY, [MAN]).mean_similarity)


@pytest.mark.parametrize(("height", "expected"), [(40, (1, 0, 0)), (39, (0, 1, 1))])
def test_a_person_is_found_from_an_overlap_of_two_fifths_on(
    detection: ModuleType, height: int, expected: tuple[int, int, int]
) -> None:
    assert counts(score(detection, [(0, 0, 50, height)], [(0, 0, 50, 100)])) == expected


def test_the_second_find_of_a_person_is_a_false_alarm(detection: ModuleType) -> None:
    assert counts(score(detection, [MAN, MAN], [MAN])) == (1, 1, 0)


def test_ignored_people_neither_help_nor_hurt(detection: ModuleType) -> None:
    assert counts(score(detection, [CHILD], NOBODY, [CHILD])) == (0, 0, 0)
    assert counts(score(detection, NOBODY, NOBODY, [CHILD])) == (0, 0, 0)
    larger = (150, 100, 160, 170)  # an IoU of 0.43, but less than half of it is inside
    assert counts(score(detection, [larger], NOBODY, [CHILD])) == (0, 0, 0)


def test_finds_mostly_inside_a_crowd_are_no_false_alarms(detection: ModuleType) -> None:
    crowd = (0, 0, 200, 100)
    inside, mostly, hardly = (10, 10, 30, 60), (50, 60, 70, 130), (90, 60, 110, 150)
    assert counts(score(detection, [inside, inside, mostly], NOBODY, [crowd])) == (0, 0, 0)
    assert counts(score(detection, [inside, hardly], NOBODY, [crowd])) == (0, 1, 0)
    assert counts(score(detection, [MAN], [MAN], [crowd])) == (1, 0, 0)


def test_somebody_who_counts_is_found_before_somebody_who_does_not(detection: ModuleType) -> None:
    beside = (12, 10, 52, 110)
    assert counts(score(detection, [beside], [MAN], [beside])) == (1, 0, 0)


def test_most_people_are_found_where_boxes_overlap(detection: ModuleType) -> None:
    """By largest overlap alone, the first detection would match the first person and the second would match none."""
    people = [(0, 0, 100, 100), (40, 0, 140, 100)]
    assert counts(score(detection, [(20, 0, 110, 100), (0, 0, 60, 100)], people)) == (2, 0, 0)


def test_only_scores_above_the_threshold_count(detection: ModuleType) -> None:
    box = np.array([MAN, WOMAN], float)
    found = detection.Found(np.array([0.9, 0.4]), box, keypoints_in(box))
    assert len(found.above(0.4).box) == 1
    assert len(found.above(0.39).box) == 2


def annotation(box: Any, image_id: int = 1, **changes: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    keypoints = np.hstack([keypoints_in(np.array([box], float))[0], np.full((17, 1), 2.0)])
    return {
        "image_id": image_id, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
        "keypoints": keypoints.ravel().tolist(), **changes,
    }  # fmt: skip


def write_labels(path: Path, names: list[str], people: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [{"id": 1}]}))
    return path


def test_small_and_crowd_annotations_are_ignored(detection: ModuleType, tmp_path: Path) -> None:
    people = [annotation((0, 0, 20, 60)), annotation((0, 0, 20, 59.9)), annotation((0, 0, 20, 80), iscrowd=1)]
    labels = write_labels(tmp_path / "labels.json", ["a.jpg"], people)
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60)
    assert annotated.ignored.tolist() == [False, True, True]
    assert annotated.path == tmp_path / "a.jpg"


def test_the_area_is_the_annotations_or_a_share_of_the_box(detection: ModuleType, tmp_path: Path) -> None:
    people = [annotation((0, 0, 20, 60), area=500), annotation((0, 0, 20, 60))]
    labels = write_labels(tmp_path / "labels.json", ["a.jpg"], people)
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60)
    assert annotated.area == pytest.approx([500, 0.53 * 1200])
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60, silhouettes=False)
    assert annotated.area == pytest.approx([0.53 * 1200] * 2)


def test_keypoints_count_where_teachers_agree(detection: ModuleType, tmp_path: Path) -> None:
    people = [annotation(MAN, agreement=0.049), annotation(WOMAN, agreement=0.05), annotation(WOMAN)]
    labels = write_labels(tmp_path / "labels.json", ["a.jpg"], people)
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60, agreed=True)
    assert (annotated.keypoints[..., 2] > 0).any(axis=1).tolist() == [True, False, False]
    (annotated,) = detection.read_annotated_images(labels, tmp_path, least_height_px=60)
    assert (annotated.keypoints[..., 2] > 0).all()


def test_a_tenth_is_held_out_by_the_files_name_alone(detection: ModuleType, tmp_path: Path) -> None:
    names = [f"some/folder/{number:04d}.jpg" for number in range(300)]
    labels = write_labels(tmp_path / "labels.json", names, [])
    held_out = {annotated.path.name for annotated in detection.read_annotated_images(
        labels, tmp_path, least_height_px=40, hash_below=0.1
    )}  # fmt: skip
    assert held_out == {Path(name).name for name in names if compute_hash_share(Path(name).name) < 0.1}
    assert 15 < len(held_out) < 50
    assert compute_hash_share("a.jpg") == compute_hash_share("images/a.jpg") == pytest.approx(0.31487, abs=1e-5)


# The whole command, with the ground truth in place of a network's detections.


class Oracle:
    """Detector that returns all people of this file's images, by the gray value, and a false alarm of score 0.3."""

    def __init__(self, checkpoint: str | Path, *_: Any) -> None:
        if str(checkpoint) == "blind":
            self.people: dict[int, np.ndarray] = {}
        else:
            self.people = {10: np.array([MAN, WOMAN], float), 20: np.array([WOMAN], float), 30: np.array([MAN], float)}
        self.module = sys.modules["real_detection"]

    def find(self, image: np.ndarray) -> Any:
        people = self.people.get(int(image[0, 0, 0]), NOBODY)
        box = np.vstack([people, [[0, 150, 20, 190]]])
        return self.module.Found(np.append(np.full(len(people), 0.8), 0.3), box, keypoints_in(box))

    def draw(self, image: np.ndarray, threshold: float) -> np.ndarray:
        return 255 - image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of images for `Oracle`, in the layout that the command expects."""
    folder = tmp_path / "data"
    name = next(name for name in (f"{number}.png" for number in range(100)) if compute_hash_share(name) < 0.1)
    annotated_images = [
        ("real/Deci-AI_super-gradients/pose_minicoco/images/train2017/a.png", 10),
        ("real/open-mmlab_mmpose/coco/b.png", 20),
        (f"people/images/{name}", 30),
    ]
    for path, gray in annotated_images:
        (folder / path).parent.mkdir(parents=True)
        Image.new("RGB", (200, 200), (gray, gray, gray)).save(folder / path)
    deci = folder / "real/Deci-AI_super-gradients/pose_minicoco/annotations/person_keypoints_train2017.json"
    write_labels(deci, ["a.png"], [annotation(MAN), annotation(WOMAN)])
    write_labels(
        folder / "real/open-mmlab_mmpose/coco/test_coco.json", ["b.png"], [annotation(WOMAN), annotation(CHILD)]
    )
    trained_on = next(name for name in (f"{number}.png" for number in range(100)) if compute_hash_share(name) >= 0.1)
    people = [annotation(MAN, agreement=0.01), annotation(WOMAN, image_id=2, agreement=0.01)]
    write_labels(folder / "people/person_keypoints.json", [name, trained_on], people)
    return folder


def run(command: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(command, "MeshFinder", Oracle)
    monkeypatch.setattr(command, "MoveNetFinder", Oracle)
    monkeypatch.setattr(command, "resolve_checkpoint", Path)
    monkeypatch.setattr(sys, "argv", ["real_pictures.py", *map(str, options)])
    status: int = command.main()
    return status


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_table_has_a_column_a_checkpoint(
    command: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [data, "--parts", "coco,people", "--checkpoint", "folder/seer.safetensors", "--movenet", "blind"]
    assert run(command, monkeypatch, *options, "--json", tmp_path / "figures.json") == 0
    rows = cells(capsys.readouterr().out)
    assert rows[0] == ["", "seer", "MoveNet MultiPose"]
    titles = [row[0] for row in rows if row[0].startswith("**")]
    assert [title.split(",")[-1].strip(" *") for title in titles] == ["3 people", "2 people", "1 people", "1 people"]
    assert titles[0].startswith("**COCO, 2 images")
    for figure, seen, unseen in (("recall %", "100.0", "0.0"), ("precision %", "100.0", "–"), ("OKS", "1.00", "–")):
        assert [row[1:] for row in rows if row[0].startswith(figure)] == [[seen, unseen]] * 4
    figures = json.loads((tmp_path / "figures.json").read_text())
    curve = figures["columns"]["seer"]["COCO, 2 images, 3 people"]["curve"]
    assert [point["threshold"] for point in curve] == pytest.approx(np.arange(0.1, 1.0, 0.1).tolist())
    assert [point["recall"] for point in curve] == [1.0] * 7 + [0.0] * 2
    assert [point["precision"] for point in curve] == pytest.approx([0.6] * 2 + [1.0] * 5 + [None] * 2)


def test_overlays_are_kept_apart_by_checkpoint_and_part(
    command: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(command, monkeypatch, data, "--parts", "coco", "--overlays", tmp_path / "overlays") == 0
    written = sorted(str(path.relative_to(tmp_path / "overlays")) for path in tmp_path.glob("overlays/**/*.png"))
    assert written == ["nano/coco/a.png", "nano/coco/b.png"]


def test_a_part_without_its_data_costs_no_other(
    command: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = data / "people/person_keypoints.json"
    labels.unlink()
    assert run(command, monkeypatch, data, "--parts", "people,coco") == 2
    output = capsys.readouterr()
    assert "COCO, 2 images" in output.out
    assert "COCO, 2 images, 3 people: recall % 100.0, precision % 100.0, OKS of those found 1.00" in output.err
    (problem,) = [line for line in output.err.splitlines() if line.startswith("real_pictures: ")]
    assert str(labels) in problem


def test_an_unknown_part_is_named(
    command: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, monkeypatch, data, "--parts", "coco,dogs")
    assert "'dogs'" in capsys.readouterr().err


def test_columns_have_names_of_their_own(command: ModuleType) -> None:
    assert command.column_names(["nano", "runs/a/network.safetensors", "runs/b/network.safetensors"]) == [
        "nano", "a-network", "b-network",
    ]  # fmt: skip
    with pytest.raises(UserError, match="a-network"):
        command.column_names(["x/a/network.safetensors", "y/a/network.safetensors"])


def test_movenet_has_no_tracks(
    command: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(command.PARTS, "mot", lambda column: [command.Figures("MOT17", {"IDF1 %": 50.0})])
    assert run(command, monkeypatch, data, "--parts", "mot,coco", "--movenet", "all") == 0
    rows = cells(capsys.readouterr().out)
    assert [row[1:] for row in rows if row[0] == "IDF1 %"] == [["50.0", "–"]]
    assert [row[1:] for row in rows if row[0] == "recall %"] == [["100.0", "100.0"]] * 3


def test_movenet_finds_boxes_around_keypoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With random weights: tests the conversion of the image for the network and of its output."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from real_movenet import MoveNetFinder

    torch.manual_seed(0)
    save_file(MoveNet().state_dict(), tmp_path / "movenet.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (60, 128, 3), np.uint8)
    finder = MoveNetFinder(tmp_path / "movenet.safetensors", 128, 0.0)
    found = finder.find(image)  # padded by two pixels above and below, not resized
    padded = np.pad(image, ((2, 2), (0, 0), (0, 0))).transpose(2, 0, 1)[None]
    with torch.inference_mode():
        features = finder.encoder(torch.from_numpy(padded / 127.5 - 1).float())
    assert len(found.score) > 0
    assert found.score == pytest.approx(features.center_logit[0].sigmoid().numpy())
    assert found.keypoints == pytest.approx(features.keypoints[0].numpy() - [0, 2], abs=1e-3)
    low, high = found.keypoints.min(axis=1), found.keypoints.max(axis=1)
    assert found.box == pytest.approx(np.clip(np.hstack([low, high]), 0, [128, 60, 128, 60]))
    assert finder.draw(image, 0.0).shape == image.shape
    assert (finder.draw(image, 1.0) == image).all()


# Videos.


@pytest.fixture
def videos(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import real_videos

    return real_videos


def identity_figures(videos: ModuleType, *frames: tuple[int, list[int]]) -> dict[str, float]:
    """Return the metrics of a video of ten frames, with the first person in 1 to 4 and the second in 6 to 8.

    frames: (frame, ids detected in it).
    """
    times = videos.IdentityTimes(videos.Presence(Path("video.mp4"), 10, ((1, 4), (6, 8))))
    for frame, ids in frames:
        times.add(frame, np.array(ids, np.int64))
    values: dict[str, float] = times.compute_metrics()[0]
    return values


def test_one_identity_each_is_perfect(videos: ModuleType) -> None:
    ids = {frame: [5] if 1 <= frame <= 4 else [6] if 6 <= frame <= 8 else [] for frame in range(10)}
    values = identity_figures(videos, *ids.items())
    assert values.pop("somebody found while nobody is there %") == 0
    assert list(values.values()) == [100] * 7


def test_shares_of_the_frames_found_and_of_all(videos: ModuleType) -> None:
    """The first person changes the id in one of three frames with detections; in one of two others there is a false
    alarm."""
    values = identity_figures(
        videos, (0, [9]), (1, [5]), (2, [5]), (3, [6]), (4, []), (5, []), (6, [7]), (7, [7, 8]), (8, [7])
    )
    assert values["somebody found while a person is there %"] == pytest.approx(100 * 6 / 7)
    assert values["somebody found while nobody is there %"] == 50
    assert values["one id, of a person's frames found, least %"] == pytest.approx(100 * 2 / 3)
    assert values["one id, of a person's frames found, mean %"] == pytest.approx(100 * 5 / 6)
    assert values["one id, of all of a person's frames, least %"] == 50
    assert values["that id's uniqueness, least %"] == 100


def test_an_id_that_two_people_have_is_not_unique(videos: ModuleType) -> None:
    values = identity_figures(videos, (1, [5]), (2, [5]), (3, [5]), (6, [5]))
    assert values["one id, of a person's frames found, least %"] == 100
    assert values["that id's uniqueness, least %"] == 25
    assert values["that id's uniqueness, mean %"] == 50


def test_somebody_who_is_never_found_has_no_identity(videos: ModuleType) -> None:
    values = identity_figures(videos, (1, [5]), (6, []))
    assert values["one id, of a person's frames found, least %"] == 0
    assert values["one id, of a person's frames found, mean %"] == 50


def write_video(path: Path, frames: int) -> Path:
    with VideoWriter(path, 64, 48, fps=10) as video:
        for number in range(frames):
            video.write(np.full((48, 64, 3), 20 * number, np.uint8), number / 10)
    return path


class Seer:
    """Estimator that returns one person of track 3 in bright frames."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def reset(self) -> None:
        self.stamps.clear()

    def step(self, frame: Frame, /) -> People:
        self.stamps.append(frame.stamp)
        bright = int(frame.image.mean() > 70)
        return make_people(bright, track_id=np.array([3][:bright]))


def test_a_video_is_watched_every_second_frame(videos: ModuleType, tmp_path: Path) -> None:
    seer, shown = Seer(), []
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"video": "video.mp4", "n_frames": 10, "tracks": [{"frames": [4, 9]}]}))
    write_video(tmp_path / "video.mp4", 10)
    presence = videos.Presence.read(labels, tmp_path)
    times = videos.watch(seer, presence, 2, lambda frame, people: shown.append(frame.name))
    assert seer.stamps == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert times.frames == {None: 2, 0: 3}
    assert times.found == {None: 0, 0: 3}
    assert shown == ["video_000000"]


def test_a_video_that_ends_too_early_is_refused(videos: ModuleType, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 5)
    with pytest.raises(UserError, match=r"video\.mp4 must have 10 frames, .*got 5"):
        list(videos.frames_of(path, 10, 1))


def body_joints(distance_m: float, x_m: float = 0.0) -> np.ndarray:
    """Return joints (13, 3) m of a person, with the midpoint of the hips on the camera's axis, shifted by x_m."""
    joints = np.random.default_rng(1).uniform(-0.5, 0.5, (13, 3))
    joints -= joints[[7, 8]].mean(axis=0)
    return np.asarray(joints + np.array([x_m, 0.0, distance_m]))


def place_figures(videos: ModuleType, joints: list[np.ndarray], true: np.ndarray) -> dict[str, float]:
    errors, k = videos.VideoErrors(), pinhole()
    people = make_people(len(joints), k=k, predicted_vertical_fov=2 * np.arctan(0.5 * 480 / 500.0) + np.radians(3.0))
    errors.add(np.array(joints).reshape(-1, 13, 3), true, people, k)
    figures: dict[str, float] = (errors + videos.VideoErrors()).compute_metrics()
    return figures


def test_the_truth_has_no_errors_of_place_and_pose(videos: ModuleType) -> None:
    figures = place_figures(videos, [body_joints(4.0, 1.5), body_joints(4.0)], body_joints(4.0))
    assert list(figures.values()) == pytest.approx([100, 0, 0, 0, 3], abs=1e-6)


def test_errors_of_place_and_pose_are_what_was_changed(videos: ModuleType) -> None:
    true = body_joints(4.0)
    farther = place_figures(videos, [true + np.array([0, 0, 0.4])], true)
    assert list(farther.values()) == pytest.approx([100, 0, 0, 10, 3], abs=1e-6)
    hips = true[[7, 8]].mean(axis=0)
    larger = place_figures(videos, [hips + 1.1 * (true - hips)], true)
    assert larger["MPJPE mm"] == pytest.approx(100 * np.linalg.norm(true - hips, axis=1).mean())
    assert larger["PA-MPJPE mm"] == pytest.approx(0, abs=1e-6)


def test_nobody_found_leaves_the_field_of_view(videos: ModuleType) -> None:
    figures = place_figures(videos, [], body_joints(4.0))
    assert figures["person found %"] == 0
    assert np.isnan(figures["MPJPE mm"])
    assert figures["vertical field of view error, K not given °"] == pytest.approx(3)


def test_joints_are_found_by_their_names(videos: ModuleType, tmp_path: Path) -> None:
    names = ["Head", *reversed(videos.JOINTS), "LHeel"]
    joints = [[[float(row), 0.0, 3.0] for row in range(len(names))]]
    content = {"video": "v.mp4", "K": pinhole().tolist(), "joint_names": names, "joints_cam_m": joints}
    (tmp_path / "camera.json").write_text(json.dumps(content))
    video = videos.CalibratedVideo.read(tmp_path / "camera.json", tmp_path)
    assert video.joints.shape == (1, 13, 3)
    assert video.joints[0, :, 0].tolist() == [float(row) for row in range(13, 0, -1)]
