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

"""`multihmr2 label`: from a COCO file to a file of bodies for training; user errors give one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.cli.main import main
from multihmr2_ros.labeling.annotations import read_coco
from multihmr2_ros.media.export import save_image
from multihmr2_ros.training.readers import PseudoTruthReader
from test.helpers.labeling_scenes import (
    FOV_RAD,
    HEIGHT,
    WIDTH,
    load_full_body,
    make_coco,
    make_prior,
    make_scene,
    save_coco,
    without,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def quick_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the command's own prior, computed only once."""
    make_prior()
    monkeypatch.setattr("multihmr2_ros.labeling.pose_prior.learn_pose_prior", lambda motions: make_prior())


def make_coco_content(n: int = 3) -> dict[str, Any]:
    """Return a COCO file of n people, one with few keypoints, a crowd, and a person of whom only the box is known."""
    people = make_scene(n, seed=8).people
    described = make_coco(people)
    few = make_coco(without(people, list(range(7, 17))))["annotations"][0]
    crowd = {"image_id": 7, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 50, 40], "keypoints": [0] * 51}
    boxed = {"image_id": 3, "category_id": 1, "iscrowd": 0, "bbox": [5, 6, 50, 40]}
    described["annotations"] += [few, crowd, boxed]
    return described


def label(source: Path, out: Path, *options: str) -> int:
    return main(["label", str(source), "--out", str(out), *options])


def test_a_coco_file_becomes_bodies_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = save_coco(tmp_path / "people.json", make_coco_content()), tmp_path / "bodies.npz"
    for name in ("a.jpg", "b.jpg"):
        save_image(tmp_path / name, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    assert label(source, out) == 0
    printed = capsys.readouterr().out
    assert "5 people and 1 uncertain people; 2 people have too few keypoints" in printed
    assert "3 bodies fitted, 0 rejected" in printed
    bodies = np.load(out, allow_pickle=False)
    assert bodies["pictures"].tolist() == ["a.jpg", "b.jpg"]
    assert bodies["rotations"].shape == (3, 163, 3, 3)
    assert not bodies["metric"]
    assert bodies["complete"]
    assert bodies["complete"].shape == bodies["metric"].shape == ()
    assert (bodies["error"] < 0.02).all()
    assert bodies["bone_seen"].sum(axis=1).tolist() == [16, 16, 16]
    assert bodies["other_ignore"].tolist() == [False, False, True]
    again = tmp_path / "again.npz"
    assert label(source, again) == 0
    assert again.read_bytes() == out.read_bytes()

    reader = PseudoTruthReader(tmp_path, out)
    empty, sample = reader.sample(0), reader.sample(1)
    assert (empty.origin, sample.origin) == ("a.jpg", "b.jpg")
    assert sample.score_supervised
    assert sample.k is None
    assert sample.has_body.tolist() == [True, True, True, False, False]
    assert sample.ignore.tolist() == [False, False, False, False, True]
    assert not sample.has_place.any()
    assert empty.ignore.tolist() == [True]  # the position of the head is unknown
    assert sample.keypoint_visible[:4].sum(axis=1).tolist() == [17, 17, 17, 7]
    nose = sample.keypoints[:3, 0]
    assert (np.linalg.norm(sample.location[:3] - nose, axis=1) < 12).all()  # the center vertex is near the nose


def test_bodies_are_on_the_labeled_image_whatever_its_orientation(tmp_path: Path) -> None:
    source, out = save_coco(tmp_path / "people.json", make_coco_content()), tmp_path / "bodies.npz"
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name, exif=turned)
    assert label(source, out) == 0
    assert [PseudoTruthReader(tmp_path, out).sample(row).size for row in (0, 1)] == [(WIDTH, HEIGHT)] * 2
    arrays = dict(np.load(out))
    del arrays["image_size"]
    np.savez(out, **arrays)
    assert PseudoTruthReader(tmp_path, out).sample(1).size == (HEIGHT, WIDTH)  # upright, as after detection


def test_the_mesh_of_the_file_is_where_the_keypoints_are(tmp_path: Path) -> None:
    """Uses only the file and the body model, nothing of the fitter."""
    import torch

    source, out = save_coco(tmp_path / "people.json", make_coco_content(4)), tmp_path / "bodies.npz"
    assert label(source, out) == 0
    bodies = np.load(out)
    posed = load_full_body()(
        torch.from_numpy(bodies["shape"]), torch.from_numpy(bodies["rotations"].astype(np.float32))
    )
    vertices = posed.vertices.numpy()
    vertices = vertices + (bodies["centre"] - vertices[:, load_full_body().center_vertex])[:, None]
    points = load_full_body().regress_coco_keypoints(vertices)
    seen = points[..., :2] / points[..., 2:] * bodies["k"][:, 0, 0, None, None] + bodies["k"][:, None, :2, 2]
    off = np.linalg.norm(seen - bodies["keypoints"], axis=-1)[:, 5:].mean(axis=1)
    size = (bodies["box"][:, 2:] - bodies["box"][:, :2]).max(axis=1)
    assert (off / size < 0.025).all()  # shoulders and ankles are annotated higher than Anny's
    assert (vertices[..., 2] > 0.5).all()


def test_bodies_that_fit_badly_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = make_coco(make_scene(2, seed=9).people)
    generator = np.random.default_rng(0)
    points = np.array(described["annotations"][1]["keypoints"]).reshape(17, 3)
    points[:, :2] = points[generator.permutation(17), :2]  # no person
    described["annotations"][1]["keypoints"] = points.ravel().tolist()
    out = tmp_path / "bodies.npz"
    assert label(save_coco(tmp_path / "people.json", described), out) == 0
    assert "2 bodies fitted, 1 rejected" in capsys.readouterr().out
    bodies = np.load(out)
    assert len(bodies["image"]) == 1
    assert bodies["other_ignore"].tolist() == [False]  # still a person


def test_without_people_the_file_has_no_bodies(tmp_path: Path) -> None:
    out = tmp_path / "bodies.npz"
    source = save_coco(tmp_path / "people.json", make_coco(make_scene(1).people, annotations=[]))
    assert label(source, out, "--no-complete") == 0
    bodies = np.load(out)
    assert len(bodies["image"]) == len(bodies["other_image"]) == 0
    assert not bodies["complete"]


def test_scores_and_hidden_keypoints_weigh_less(tmp_path: Path) -> None:
    described = make_coco(make_scene(1).people)
    annotation = described["annotations"][0]
    annotation["keypoints"][2] = 1
    annotation["keypoint_score"] = [0.5] * 17
    people = read_coco(save_coco(tmp_path / "people.json", described), FOV_RAD).people
    assert people.weights[0].tolist() == [0.25] + [0.5] * 16
    assert people.trusted.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 3}, "is not a COCO keypoint file"),
        ({"images": [{"id": 7, "file_name": "../b.jpg", "width": 9, "height": 9}]}, "must be a path inside"),
        ({"images": [{"id": 7, "file_name": "b.jpg"}]}, "width"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3]}]}, "annotation 0 is invalid"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, float("nan"), 4]}]}, "4 finite numbers"),
        ({"annotations": [3]}, "annotation 0 is invalid"),
    ],
)
def test_invalid_coco_files_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    source = save_coco(tmp_path / "people.json", make_coco(make_scene(1).people, **change))
    assert label(source, tmp_path / "bodies.npz") == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vertical-fov", "0"], "--vertical-fov must be from 1 to 170"),
        (["--vertical-fov", "nan"], "--vertical-fov must be from 1 to 170"),
        (["--least-keypoints", "2"], "--least-keypoints must be from 4 to 17"),
        (["--most-error", "-1"], "--most-error must be above 0"),
        (["--motions", "nowhere"], "--motions must be a folder"),
        (["--detector", "PekingU/rtdetr_r50vd"], "are for a folder of images"),
        (["--pose-estimator", "."], "are for a folder of images"),
        (["--images", "."], "--images is for a COCO file with --depth-model"),
        (["--depth-kind", "metric"], "--depth-kind is for --depth-maps"),
        (["--out", "bodies.json"], "ends in .npz"),
        (["--out", "nowhere/bodies.npz"], "in an existing folder"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    source = tmp_path / "people.json"
    source.write_text(json.dumps(make_coco(make_scene(1).people)))
    assert label(source, tmp_path / "bodies.npz", *options) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.json"]


def test_a_box_whose_sides_vanish_in_rounding_is_unsure(tmp_path: Path) -> None:
    """Its keypoint errors, which are relative to the longer side, would be NaN, as would their mean."""
    described = make_coco(make_scene(1).people)
    described["annotations"][0]["bbox"] = [1e6, 1e6, 1e-3, 1e-3]
    assert read_coco(save_coco(tmp_path / "people.json", described), FOV_RAD).unsure.all()


def test_a_person_outside_the_image_is_unsure(tmp_path: Path) -> None:
    """Training refuses a fitted body outside the image."""
    described = make_coco(make_scene(1).people)
    described["annotations"][0]["bbox"] = [WIDTH + 5, 0, 20, 50]
    assert read_coco(save_coco(tmp_path / "people.json", described), FOV_RAD).unsure.all()


def test_annotations_of_unlisted_images_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    described = make_coco(make_scene(2).people)
    described["annotations"][0]["image_id"] = 99
    assert len(read_coco(save_coco(tmp_path / "people.json", described), FOV_RAD)) == 1
    assert "skipped 1 annotations of images that the file does not list" in caplog.text


def test_existing_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = save_coco(tmp_path / "people.json", make_coco(make_scene(1).people)), tmp_path / "bodies.npz"
    out.write_bytes(b"mine")
    assert label(source, out) == 2
    assert "already exists" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert label(tmp_path / "no.json", tmp_path / "new.npz") == 2
    assert "does not exist" in capsys.readouterr().err


def make_placed_people(n: int = 4) -> tuple[dict[str, Any], np.ndarray]:
    """Return a COCO file of n people, and an inverse depth map with the depth of the true hips in each person's box."""
    scene = make_scene(n, seed=8)
    described = make_coco(scene.people)
    depth = np.full((HEIGHT, WIDTH), 30.0, np.float32)
    distance = np.linspace(2.5, 8.0, n)
    boxes = np.array([entry["bbox"] for entry in described["annotations"][:n]])
    for row in np.argsort(-distance):
        x, y, width, height = boxes[row].astype(int)
        depth[max(y, 0) : y + height, max(x, 0) : x + width] = distance[row]
    return described, 3.0 + 7.0 / depth


def test_depth_maps_place_the_people_of_an_image_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described, values = make_placed_people()
    source, out, alone = save_coco(tmp_path / "people.json", described), tmp_path / "a.npz", tmp_path / "b.npz"
    for name in ("a.jpg", "b.jpg"):
        save_image(tmp_path / name, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    maps = tmp_path / "maps"
    maps.mkdir()
    np.save(maps / "b.npy", values.astype(np.float32))
    assert label(source, alone) == 0
    capsys.readouterr()
    assert label(source, out, "--depth-maps", str(maps)) == 0
    printed = capsys.readouterr().out
    assert "bodies placed by depth maps; median change of distance" in printed
    before, after = np.load(alone), np.load(out)
    assert set(after.files) - set(before.files) == {"placed", "distance_sigma_m"}
    placed = after["placed"]
    np.testing.assert_array_equal(after["centre"][~placed], before["centre"][~placed])
    np.testing.assert_array_equal(np.isfinite(after["distance_sigma_m"]), placed)
    sample = PseudoTruthReader(tmp_path, out).sample(1)
    assert sample.has_relative_place[: len(placed)].tolist() == placed.tolist()
    assert not sample.has_place.any()


@pytest.mark.parametrize("values", [np.full((HEIGHT, WIDTH), np.nan), np.ones((5, 5))])
def test_unusable_depth_maps_do_not_remove_bodies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: np.ndarray
) -> None:
    described, _ = make_placed_people()
    source, out = save_coco(tmp_path / "people.json", described), tmp_path / "a.npz"
    maps = tmp_path / "maps"
    maps.mkdir()
    np.save(maps / "b.npy", values)
    assert label(source, out, "--depth-maps", str(maps)) == 2
    assert "have no usable depth map" in capsys.readouterr().err
    assert not np.load(out)["placed"].any()
