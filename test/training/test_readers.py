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

"""Readers of real data sets, on tiny files of the real formats."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multihmr2_ros.body import Body
from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.export import save_image
from multihmr2_ros.training.data import collate
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.readers import BedlamReader, CocoReader, EmptyImageReader, HashSplit, PseudoTruthReader
from multihmr2_ros.training.readers.bedlam import BODY_25
from multihmr2_ros.training.readers.common import center_from_keypoints, compute_hash_share
from test import paths
from test.helpers.nano_network import TINY, make_nano_network
from test.helpers.training_samples import make_sample

REAL = paths.SHARED / "data" / "real"


def write_image(folder: Path, name: str, size: tuple[int, int] = (64, 48)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    save_image(folder / name, np.full((size[1], size[0], 3), 90, np.uint8))


def make_keypoints(**named: tuple[float, float, int]) -> list[float]:
    rows = np.zeros((17, 3))
    for name, value in named.items():
        rows[{"nose": 0, "left_eye": 1, "right_eye": 2, "left_shoulder": 5, "left_hip": 11}[name]] = value
    return rows.ravel().tolist()


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "empty.jpg"):
        write_image(tmp_path, name)
    people = [
        {"image_id": 7, "iscrowd": 0, "bbox": [10, 5, 20, 40], "keypoints": make_keypoints(nose=(20, 9, 2))},
        {"image_id": 7, "iscrowd": 1, "bbox": [30, 5, 30, 20], "keypoints": [0] * 51},
        {"image_id": 7, "iscrowd": 0, "bbox": [1, 1, 5, 5], "keypoints": make_keypoints(left_hip=(3, 3, 1))},
        {"image_id": 3, "iscrowd": 0, "bbox": [2, 2, 9, 9], "keypoints": make_keypoints(left_eye=(4, 4, 1))},
    ]
    for number, person in enumerate(people):
        person |= {"id": number, "category_id": 1, "num_keypoints": 1, "segmentation": [], "area": 9.0}
    images = [{"id": key, "file_name": name} for key, name in ((7, "a.jpg"), (3, "b.jpg"), (9, "empty.jpg"))]
    path = tmp_path / "person_keypoints.json"
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}))
    return path


def test_coco_ignores_annotations_of_other_images(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = json.loads(coco.read_text())
    content["images"] = [entry for entry in content["images"] if entry["id"] != 3]
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    coco.write_text(json.dumps(content))
    reader = CocoReader(coco.parent, coco)
    assert len(reader) == 1
    assert reader.sample(0).origin == "a.jpg"
    assert "skipped 1 annotations of images that the file does not list" in caplog.text


def test_coco_supervises_keypoints_and_scores_only(coco: Path) -> None:
    reader = CocoReader(coco.parent, coco)
    assert len(reader) == 2
    assert reader.sample(0).origin == "b.jpg"  # by image id
    sample = reader.sample(1)
    assert sample.k is None
    assert sample.score_supervised
    assert list(sample.ignore) == [False, True, True]  # crowd; a hip alone does not determine the position of the head
    assert not sample.has_body.any()
    assert not sample.has_place.any()
    assert sample.location[0].tolist() == [20, 9]
    assert sample.box[0].tolist() == [10, 5, 30, 45]
    assert sample.keypoint_visible.sum(axis=1).tolist() == [1, 0, 1]
    targets = collate([sample], [False]).targets
    assert targets.present.tolist() == [[True, False, False]]
    assert not targets.has_k.any()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"images": 3, "annotations": []}'])
def test_coco_reports_files_of_another_format(coco: Path, content: str) -> None:
    coco.write_text(content)
    with pytest.raises(UserError, match="is not a COCO keypoint file"):
        CocoReader(coco.parent, coco)


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, None]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"bbox": [1, 2, 3, 10**400]},
        {"keypoints": ["x"] * 51},
        {"keypoints": [None] * 51},
        {"keypoints": [1e30] * 51},
    ],
)
def test_wrong_coco_annotations_are_reported_in_one_line_at_opening(coco: Path, changes: dict[str, object]) -> None:
    content = json.loads(coco.read_text())
    content["annotations"][1] |= changes
    coco.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a COCO keypoint file"):
        CocoReader(coco.parent, coco)


def test_coco_people_without_keypoints_are_ignored(coco: Path) -> None:
    content = json.loads(coco.read_text())
    for person, keypoints in zip(content["annotations"], (None, [], [0] * 51), strict=False):
        person["keypoints"] = keypoints
    coco.write_text(json.dumps(content))
    assert CocoReader(coco.parent, coco).sample(1).ignore.all()


def test_missing_folders_and_files_are_reported_in_one_line(tmp_path: Path, coco: Path) -> None:
    for reader, path in ((CocoReader, coco), (BedlamReader, coco), (PseudoTruthReader, coco)):
        with pytest.raises(UserError, match="does not exist"):
            reader(tmp_path / "nowhere", path)
    with pytest.raises(UserError, match="cannot read"):
        CocoReader(coco.parent, tmp_path / "no.json")
    with pytest.raises(UserError, match=r"as a file of fitted bodies, an \.npz file"):
        PseudoTruthReader(coco.parent, tmp_path / "no.npz")


@pytest.mark.skipif(not REAL.is_dir(), reason="the development data are not here")
def test_real_coco_annotations_are_read() -> None:
    annotations = REAL / "open-mmlab_mmpose" / "coco" / "test_coco.json"
    reader = CocoReader(annotations.parent, annotations)
    samples = [reader.sample(index) for index in range(len(reader))]
    assert sum(int((~sample.ignore).sum()) for sample in samples) >= 5
    for sample in samples:
        inside = sample.location[~sample.ignore]
        assert (inside >= 0).all()
        assert (inside <= sample.size).all()


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([0], (0, 0)),  # the nose
        ([1, 2, 3], (2, 20)),  # midpoint of eyes and an ear
        ([5, 6, 11, 12], (3.4, 34)),  # midpoint of hips (11.5, 115), past that of shoulders (5.5, 55) by 0.35
        ([5, 11], None),
        ([], None),
    ],
)
def test_where_the_center_is_seen(seen: list[int], expected: tuple[float, float] | None) -> None:
    points = np.stack([np.arange(17), 10 * np.arange(17)], axis=1).astype(np.float32)[None]
    visible = np.zeros((1, 17), bool)
    visible[0, seen] = True
    location, known = center_from_keypoints(points, visible)
    assert known[0] == (expected is not None)
    assert location[0] == pytest.approx(expected or (0, 0), rel=1e-6)


def test_keypoints_missing_in_a_file_do_not_stop_training(tmp_path: Path, body: Body) -> None:
    """NaN in a file is masked and set to zero: a masked NaN would still give a gradient of NaN."""
    for name in ("seq/a.png", "seq/b.png"):
        write_image(tmp_path, name)
    keypoints = np.random.default_rng(0).uniform(5, 40, (3, 60, 3))
    keypoints[:, 4] = np.nan  # the right wrist
    sample = BedlamReader(tmp_path, write_bedlam_labels(tmp_path / "labels.npz", gtkps=keypoints)).sample(1)
    assert sample.keypoint_visible.sum(axis=1).tolist() == [16, 16]
    batch = collate([sample], [True], TINY.track_feature_width)
    network = make_nano_network()
    outputs = network.predict_for_training(torch.zeros(1, 3, 48, 64, dtype=torch.uint8), batch.targets.k, batch.k_given)
    terms = compute_losses(network, outputs, batch.targets, body, LossConfig())
    torch.stack(list(terms.values())).sum().backward()
    assert terms["reprojection"] > 0
    assert terms["keypoint_map"] == 0  # other people in the image are not annotated
    assert all(value.grad.isfinite().all() for value in network.parameters() if value.grad is not None)


def write_bedlam_labels(path: Path, **changes: object) -> Path:
    generator = np.random.default_rng(0)
    labels: dict[str, object] = {
        "imgname": np.array(["seq/b.png", "seq/a.png", "seq/b.png"]),
        "cam_int": np.tile(np.array([[70.0, 0, 32], [0, 70, 24], [0, 0, 1]]), (3, 1, 1)),
        "gtkps": generator.uniform(5, 40, (3, 60, 3)),
        "hand_det_conf": np.zeros((3, 2)),
        "motion_info": np.array([{"any": "object"}] * 3),  # pickled: must not be loaded
    }
    np.savez(path, **{key: value for key, value in (labels | changes).items() if value is not None})
    return path


def test_bedlam_supervises_keypoints_and_cameras(tmp_path: Path) -> None:
    for name in ("seq/a.png", "seq/b.png"):
        write_image(tmp_path, name)
    reader = BedlamReader(tmp_path, write_bedlam_labels(tmp_path / "labels.npz"))
    sample = reader.sample(1)
    assert len(reader) == 2
    assert len(sample) == 2
    assert not sample.score_supervised
    assert not sample.has_body.any()
    assert sample.k is not None
    truth = np.load(tmp_path / "labels.npz")["gtkps"]
    np.testing.assert_allclose(sample.keypoints[1, 9], truth[2, 7, :2], rtol=1e-6)  # left wrist
    np.testing.assert_allclose(sample.location[0], truth[0, 0, :2], rtol=1e-6)  # nose
    assert sorted(BODY_25) == [0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hand_det_conf": None}, "of the first BEDLAM"),
        ({"gtkps": None}, "expected gtkps in"),
        ({"gtkps": np.zeros((3, 17, 3))}, "must have numbers gtkps"),
        ({"gtkps": np.full((3, 60, 3), "a")}, "must have numbers gtkps"),
        ({"gtkps": np.zeros((2, 60, 3))}, "must have numbers gtkps"),
        ({"cam_int": np.full((3, 3, 3), np.nan)}, "finite numbers cam_int"),
        ({"cam_int": np.zeros((3, 3, 3))}, "cam_int must be focal lengths above 0, got .* in row 0"),
        ({"imgname": np.array("seq/a.png")}, r"text imgname \(N,\)"),
        ({"imgname": np.array([{"an": "object"}] * 3)}, "cannot read .* as a BEDLAM2 label file"),
        ({"cam_int": np.tile(np.array([[70.0, 0, 24], [0, 70, 32], [0, 0, 1]]), (3, 1, 1))}, "is rotated by 90"),
    ],
)
def test_bedlam_refuses_ambiguous_files(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_image(tmp_path, "seq/a.png")
    with pytest.raises(UserError, match=message):
        BedlamReader(tmp_path, write_bedlam_labels(tmp_path / "labels.npz", **changes))


def write_pseudo_labels(path: Path, **changes: object) -> Path:
    sample = make_sample(1, 3)
    labels: dict[str, object] = {
        "image": np.array(["b.png", "a.png", "b.png"]),
        "shape": sample.shape,
        "rotations": sample.rotations,
        "box": sample.box,
        "k": np.tile(sample.k, (3, 1, 1)),
        "centre": sample.centre,
    }
    np.savez(path, **{key: value for key, value in (labels | changes).items() if value is not None})
    return path


@pytest.mark.parametrize("flags", [{}, {"complete": True}, {"metric": True}])
def test_fitted_bodies_supervise_bodies_and_the_optional_fields(tmp_path: Path, flags: dict[str, bool]) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path, name, (160, 120))
    reader = PseudoTruthReader(tmp_path, write_pseudo_labels(tmp_path / "labels.npz", **flags))
    sample, truth = reader.sample(1), make_sample(1, 3)
    assert sample.origin == "b.png"
    assert sample.has_body.all()
    assert sample.score_supervised == flags.get("complete", False)
    assert (sample.k is not None) == flags.get("metric", False)
    assert sample.has_place.all() == flags.get("metric", False)
    np.testing.assert_allclose(sample.rotations, truth.rotations[[0, 2]])
    np.testing.assert_allclose(sample.location, project(truth.centre[[0, 2]].astype(float), truth.k), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": None}, "expected k in"),
        ({"shape": np.zeros((3, 10))}, r"shape must have the shape \(3, 6\)"),
        ({"shape": np.full((3, 6), "a")}, "shape must be numbers, got <U1"),
        ({"shape": np.full((3, 6), None)}, "cannot read .* as a file of fitted bodies"),
        ({"rotations": np.full((3, 163, 3, 3), np.nan)}, "rotations must be finite, got nan in row 0"),
        ({"rotations": np.full((3, 163, 3, 3), 2 * np.eye(3))}, "must be rotation matrices, got others in row 0"),
        ({"rotations": np.full((3, 163, 3, 3), -np.eye(3))}, "must be rotation matrices, got others in row 0"),
        ({"shape": np.full((3, 6), 1.7)}, r"shape must be phenotypes from 0 to 1, got \[1.7.*\] in row 0"),
        ({"box": np.array([[1, 2, 30, 40], [5, 2, 4, 40], [1, 2, 30, 40]])}, r"x0 < x1.*got \[ 5.,  2.,  4.*in row 1"),
        ({"k": np.tile(np.diag([-70.0, 70, 1]), (3, 1, 1))}, r"k must be focal lengths above 0, got \[-70"),
        ({"k": np.tile(np.diag([70.0, 70, 2]), (3, 1, 1))}, r"k must be \[\[fx, s, cx\].*in row 0"),
        ({"centre": np.full((3, 3), -2.0)}, r"centre must be in front of the camera, z above 0, got -2.* in row 0"),
        (
            {"pictures": np.array(["a.png", "b.png"]), "image_size": np.full((2, 2), 3)},
            "box must be at least partly inside the image, got .* in row 0",
        ),
        ({"image": np.zeros(3)}, "image must be text, got float64"),
        ({"placed": np.full(3, "yes")}, "placed must be bool"),
        ({"complete": np.array([True, False])}, r"complete must be one bool, got bool \(2,\)"),
        ({"complete": True, "pictures": np.zeros((3, 2))}, r"pictures must have the shape \(3,\)"),
    ],
)
def test_wrong_files_of_fitted_bodies_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PseudoTruthReader(tmp_path, write_pseudo_labels(tmp_path / "labels.npz", **changes))


def test_image_names_outside_the_folder_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path, "secret.png", (160, 120))
    (tmp_path / "images").mkdir()
    names = np.array(["../secret.png", str(tmp_path / "secret.png"), "../secret.png"])
    reader = PseudoTruthReader(tmp_path / "images", write_pseudo_labels(tmp_path / "labels.npz", image=names))
    for index in range(2):
        with pytest.raises(UserError, match="image names must be paths inside"):
            reader.sample(index)


@pytest.mark.parametrize("damage", ["truncated", "flipped bytes", "foreign", "one array"])
def test_damaged_label_files_are_reported_in_one_line(tmp_path: Path, damage: str) -> None:
    whole = write_pseudo_labels(tmp_path / "labels.npz")
    content = whole.read_bytes()
    for place in range(40, len(content), len(content) // 40):
        if damage == "flipped bytes":
            whole.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        elif damage == "truncated":
            whole.write_bytes(content[:place])
        elif damage == "foreign":
            whole.write_bytes(b"\xff\xd8\xff\xe0" + content[:place])
        else:
            with whole.open("wb") as file:
                np.save(file, np.zeros(3))
        with contextlib.suppress(UserError):  # some bytes have no effect
            PseudoTruthReader(tmp_path, whole)
            assert damage == "flipped bytes"


def test_impossible_keypoints_are_not_visible(tmp_path: Path) -> None:
    write_image(tmp_path, "b.png", (160, 120))
    keypoints = np.full((3, 17, 2), 20.0)
    keypoints[0, 3], keypoints[1, 5] = np.nan, 1e30
    labels = write_pseudo_labels(
        tmp_path / "labels.npz",
        keypoints=keypoints,
        keypoint_visible=np.ones((3, 17), bool),
        image=np.array(["b.png"] * 3),
    )
    visible = PseudoTruthReader(tmp_path, labels).sample(0).keypoint_visible
    assert np.argwhere(~visible).tolist() == [[0, 3], [1, 5]]


def test_a_share_of_a_dataset_is_held_out_by_name(tmp_path: Path) -> None:
    for number in range(60):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    reader = EmptyImageReader(tmp_path)
    kept = HashSplit(reader, 0.25)
    assert 30 < len(kept) < 57
    assert all(compute_hash_share(kept.sample(row).origin) >= 0.25 for row in range(len(kept)))
    assert len(reader.sample(0)) == 0
    assert reader.sample(0).score_supervised
    assert compute_hash_share("a/b/c.jpg") == compute_hash_share("c.jpg") == pytest.approx(0.573054, abs=1e-6)
