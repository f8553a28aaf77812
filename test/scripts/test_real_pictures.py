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

"""`scripts/real_pictures.py`: the printed table, with the ground truth in place of a network's detections."""

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
from multihmr2_ros.network.movenet import MoveNet
from multihmr2_ros.training.readers.common import compute_hash_share
from test import paths
from test.helpers.annotated_images import CHILD, MAN, NOBODY, WOMAN, make_annotation, make_keypoints, write_labels


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(paths.ROOT / "scripts"))
    import real_pictures

    return real_pictures


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
        return self.module.Found(np.append(np.full(len(people), 0.8), 0.3), box, make_keypoints(box))

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
    write_labels(deci, ["a.png"], [make_annotation(MAN), make_annotation(WOMAN)])
    write_labels(
        folder / "real/open-mmlab_mmpose/coco/test_coco.json",
        ["b.png"],
        [make_annotation(WOMAN), make_annotation(CHILD)],
    )
    trained_on = next(name for name in (f"{number}.png" for number in range(100)) if compute_hash_share(name) >= 0.1)
    people = [make_annotation(MAN, agreement=0.01), make_annotation(WOMAN, image_id=2, agreement=0.01)]
    write_labels(folder / "people/person_keypoints.json", [name, trained_on], people)
    return folder


def run_command(command: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(command, "MeshFinder", Oracle)
    monkeypatch.setattr(command, "MoveNetFinder", Oracle)
    monkeypatch.setattr(command, "resolve_checkpoint", Path)
    monkeypatch.setattr(sys, "argv", ["real_pictures.py", *map(str, options)])
    status: int = command.main()
    return status


def read_cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_table_has_a_column_for_each_checkpoint(
    command: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [data, "--parts", "coco,people", "--checkpoint", "folder/seer.safetensors", "--movenet", "blind"]
    assert run_command(command, monkeypatch, *options, "--json", tmp_path / "figures.json") == 0
    rows = read_cells(capsys.readouterr().out)
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


def test_overlays_are_in_a_folder_for_each_checkpoint_and_part(
    command: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(command, monkeypatch, data, "--parts", "coco", "--overlays", tmp_path / "overlays") == 0
    written = sorted(str(path.relative_to(tmp_path / "overlays")) for path in tmp_path.glob("overlays/**/*.png"))
    assert written == ["nano/coco/a.png", "nano/coco/b.png"]


def test_a_part_without_its_data_does_not_affect_the_others(
    command: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = data / "people/person_keypoints.json"
    labels.unlink()
    assert run_command(command, monkeypatch, data, "--parts", "people,coco") == 2
    output = capsys.readouterr()
    assert "COCO, 2 images" in output.out
    assert "COCO, 2 images, 3 people: recall % 100.0, precision % 100.0, OKS of those found 1.00" in output.err
    (problem,) = [line for line in output.err.splitlines() if line.startswith("real_pictures: ")]
    assert str(labels) in problem


def test_an_unknown_part_is_named(
    command: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_command(command, monkeypatch, data, "--parts", "coco,dogs")
    assert "'dogs'" in capsys.readouterr().err


def test_columns_have_unique_names(command: ModuleType) -> None:
    assert command.column_names(["nano", "runs/a/network.safetensors", "runs/b/network.safetensors"]) == [
        "nano", "a-network", "b-network",
    ]  # fmt: skip
    with pytest.raises(UserError, match="a-network"):
        command.column_names(["x/a/network.safetensors", "y/a/network.safetensors"])


def test_movenet_has_no_tracks(
    command: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(command.PARTS, "mot", lambda column: [command.Figures("MOT17", {"IDF1 %": 50.0})])
    assert run_command(command, monkeypatch, data, "--parts", "mot,coco", "--movenet", "all") == 0
    rows = read_cells(capsys.readouterr().out)
    assert [row[1:] for row in rows if row[0] == "IDF1 %"] == [["50.0", "–"]]
    assert [row[1:] for row in rows if row[0] == "recall %"] == [["100.0", "100.0"]] * 3


def test_movenet_finds_boxes_around_keypoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With random weights: tests the conversion of the image for the network and of its output."""
    monkeypatch.syspath_prepend(str(paths.ROOT / "scripts"))
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
