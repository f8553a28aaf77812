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

"""Tracking features are trained to tell people apart, and nothing else of the network changes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.heads import make_mlp
from multihmr2_ros.weights import resolve_checkpoint
from test import paths
from test.helpers.scripts import load_script

PEOPLE = paths.SHARED / "data/people"
IMAGES = 12
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("train_track_features")


def test_the_loss_is_the_published_one(script: ModuleType) -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 4)
    person = torch.tensor([0, 0, 1, 1, 2, 2])
    unit = features / features.norm(dim=1, keepdim=True)
    terms = []
    for i in range(6):
        weights = {j: math.exp(float(unit[i] @ unit[j]) / script.TEMPERATURE) for j in range(6) if j != i}
        terms += [-math.log(weights[j] / sum(weights.values())) for j in weights if person[i] == person[j]]
    expected = sum(terms) / 6  # one positive per view
    assert float(script.contrastive_loss(features, person)) == pytest.approx(expected, rel=1e-5)


def test_people_in_one_view_only_are_rivals_but_not_counted(script: ModuleType) -> None:
    colors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.0, 0.05], [0.0, 1.0], [0.1, 1.0]])
    views = script.Views(colors, torch.tensor([0, 0, 1, 2, 2]), torch.zeros(5, dtype=torch.long))
    # The nearest view of the first person's first view is the lonely person 1; of its second view, too.
    assert script.measure_rank_1(torch.nn.Identity(), views) == (0.5, 0.5)


def test_training_separates_people(script: ModuleType) -> None:
    """People differ in one part of their colors; the greater part is noise."""
    torch.manual_seed(0)
    person = torch.arange(80).repeat_interleave(2)
    colors = torch.cat([2 * torch.randn(160, 24), 2 * torch.randn(80, 8).repeat_interleave(2, dim=0)], dim=1)
    views = script.Views(colors, person, person // 2)
    head = make_mlp(32, 32, 16)
    before = script.measure_rank_1(head, views)[0]
    script.fit(head, views, steps=150, seed=0)
    assert before < 0.3
    assert script.measure_rank_1(head, views)[0] > 0.9


@pytest.mark.skipif(not PEOPLE.is_dir(), reason=f"{PEOPLE} does not exist")
def test_only_the_tracking_features_of_nano_change(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((PEOPLE / "person_keypoints.json").read_text())
    counts: dict[int, int] = {}
    for person in content["annotations"]:
        counts[person["image_id"]] = counts.get(person["image_id"], 0) + (not person["iscrowd"])
    content["images"] = [image for image in content["images"] if counts.get(image["id"], 0) == 3][:IMAGES]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [person for person in content["annotations"] if person["image_id"] in kept]
    labels, out = tmp_path / "people.json", tmp_path / "out.safetensors"
    labels.write_text(json.dumps(content))
    arguments = ["nano", str(out), "--coco", str(PEOPLE / "images"), str(labels), "--hold-out", "0.4"]
    monkeypatch.setattr(sys, "argv", ["train_track_features", *arguments, "--images", "12", "--steps", "3"])
    assert script.main() == 0
    assert "the nearest view is the same person's for" in capsys.readouterr().out
    before, after = (checkpoint.load_network(path) for path in (resolve_checkpoint("nano"), out))
    assert after.config.body_colors
    others = {name for name in after.state_dict() if not name.startswith("person.track_feature.")}
    assert others == {name for name in before.state_dict() if not name.startswith("person.track_feature.")}
    assert all(torch.equal(after.state_dict()[name], before.state_dict()[name]) for name in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nano", "out.safetensors"], "give --coco or --pseudo-truth"),
        (["nano", "out.safetensors", "--hold-out", "0"], "--hold-out must be between 0 and 1"),
        (["nano", "missing/out.safetensors"], "missing"),
    ],
)
def test_wrong_arguments_are_one_line(
    script: ModuleType, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train_track_features", *arguments])
    assert script.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
