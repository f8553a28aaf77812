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

"""People detected in images by models of transformers: tiny ones with random weights, generated here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.labeling.detection import MIN_SIZE_PX, PeopleDetector
from multihmr2_ros.media.export import save_image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an RT-DETR that detects people everywhere, with scores of about 0.5."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=None,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16], encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=12, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_n_points=2, anchor_image_size=None,
        id2label={0: "person", 1: "kite"}, label2id={"person": 0, "kite": 1},
    )  # fmt: skip
    model = transformers.RTDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for head in model.model.decoder.class_embed:
            head.bias[0] = 0.0  # scores about 0.5
            head.bias[1] = -9.0
    folder = tmp_path_factory.mktemp("detector")
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    save_processor(folder, image_processor_type="RTDetrImageProcessor", size=size, do_normalize=False, do_pad=False)
    return folder


@pytest.fixture(scope="module")
def pose_estimator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        out_indices=[1],
    )  # fmt: skip
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    folder = tmp_path_factory.mktemp("pose")
    transformers.VitPoseForPoseEstimation(config).save_pretrained(folder)
    size = {"height": 64, "width": 48}
    save_processor(folder, image_processor_type="VitPoseImageProcessor", size=size, do_affine_transform=True)
    return folder


def save_processor(folder: Path, **content: object) -> None:
    """Save the processor configuration as published beside models."""
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


def make_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3)).astype(np.uint8)


def test_people_have_boxes_and_keypoints_in_image_pixels(detector: Path, pose_estimator: Path) -> None:
    people = PeopleDetector(str(detector), str(pose_estimator))(make_image(), 3)
    assert people
    for person in people:
        assert person.image_index == 3
        x0, y0, x1, y1 = person.box
        assert 0 <= x0 < x1 <= 120
        assert 0 <= y0 < y1 <= 90
        assert person.keypoints.shape == (17, 2)
        assert ((person.weights > 0) == person.trusted).all()
        assert (person.keypoints[~person.trusted] == 0).all()
        assert person.unsure or max(x1 - x0, y1 - y0) >= MIN_SIZE_PX


def test_the_command_processes_every_image_of_a_folder(
    tmp_path: Path, detector: Path, pose_estimator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "images", tmp_path / "bodies.npz"
    folder.mkdir()
    for number in (2, 10):
        save_image(folder / f"{number}.png", make_image(number))
    (folder / "broken.png").write_bytes(b"not an image")
    models = ["--detector", str(detector), "--pose-estimator", str(pose_estimator)]
    assert main(["label", str(folder), "--out", str(out), "--device", "cpu", *models]) == 0
    bodies = np.load(out)
    assert bodies["pictures"].tolist() == ["2.png", "10.png"]
    assert not bodies["complete"]
    assert len(bodies["image"]) + len(bodies["other_image"]) > 0
    assert set(bodies["other_image"]) <= {"2.png", "10.png"}
    assert "bodies in 2 images" in capsys.readouterr().out


def test_folders_without_a_model_are_reported_in_one_line(tmp_path: Path, detector: Path, pose_estimator: Path) -> None:
    with pytest.raises(UserError, match=r"--detector must be a folder with config\.json"):
        PeopleDetector(str(tmp_path), str(pose_estimator))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"--pose-estimator .* cannot be loaded"):
        PeopleDetector(str(detector), str(tmp_path))
    with pytest.raises(UserError, match=r"--pose-estimator .* cannot be loaded|lacks weights"):
        PeopleDetector(str(detector), str(detector))


def test_without_transformers_one_line_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, detector: Path, pose_estimator: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"install 'multihmr2_ros\[train\]' with pip"):
        PeopleDetector(str(detector), str(pose_estimator))


def test_without_internet_a_hub_name_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, pose_estimator: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be loaded") as raised:
        PeopleDetector("no-such-owner/no-such-model", str(pose_estimator))
    assert "\n" not in str(raised.value)
