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

"""The network with MoveNet's pretrained encoder: parity, proposals, precision, configurations, weights files."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.movenet import MoveNet, load_encoder
from multihmr2_ros.network.proposals import WINDOW, propose_people, sample_at
from test.helpers.movenet_network import TINY, make_movenet_network
from test.helpers.scripts import load_script
from test.paths import SHARED

WEIGHTS = SHARED / "data/pretrained/movenet_multipose.safetensors"
REFERENCE = SHARED / "tools/movenet_reference.py"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"MoveNet's weights are not in {WEIGHTS.parent}")
pytestmark = pytest.mark.usefixtures("one_thread")


def convert_weights(folder: Path) -> Path:
    load_script("convert_movenet").convert(WEIGHTS, folder / "movenet.safetensors")
    return folder / "movenet.safetensors"


@needs_weights
def test_the_encoder_equals_the_reference(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("movenet_reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    encoder = MoveNet().eval()
    load_encoder(encoder, convert_weights(tmp_path))
    image = torch.randint(0, 256, (2, 3, 96, 160)).float()
    with torch.inference_mode():
        features, heads = reference.load()(image)
        found = encoder(image / 127.5 - 1)
    for ours, theirs in (
        (found.context_16, features["c4"]),
        (found.context_32, features["c5"]),
        (found.finest, features["p2"]),
        (found.center, heads["center_0"][:, 0]),
        (found.keypoint, heads["kpt_heatmap_0"]),
        (found.regression.flatten(1, 2), heads["kpt_regress_0"]),
        (found.offset.flatten(1, 2), heads["kpt_offset_0"]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@needs_weights
def test_the_person_in_an_image_is_proposed_first(tmp_path: Path) -> None:
    """The skier of shared/cases: keypoints inside the body's box, the nose above the hips, high scores."""
    path = SHARED / "cases/in/skier.jpg"
    if not path.is_file():
        pytest.skip(f"the image {path} is not beside this checkout")
    encoder = MoveNet().eval()
    load_encoder(encoder, convert_weights(tmp_path))
    image = Image.open(path).convert("RGB").resize((320, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        logit, keypoints, score = propose_people(encoder(pixels), 5)
    best = keypoints[0, 0]
    assert logit[0, 0] == logit.max()
    assert score[0, 0].mean() > 0.3
    assert best[0, 1] < best[11:13, 1].min() < best[15:17, 1].min()  # nose, hips, ankles from top to bottom
    assert (best >= 0).all()
    assert (best <= torch.tensor([320, 224])).all()


def test_proposals_are_decoded_as_centers_with_keypoints() -> None:
    """A single peak with a known regression: the keypoint moves to the nearby peak of the heat map, by its offset."""
    outputs = MoveNet().eval()(torch.zeros(1, 3, 64, 96))
    outputs = dataclasses.replace(
        outputs,
        center=torch.full_like(outputs.center, -9.0),
        keypoint=torch.full_like(outputs.keypoint, -9.0),
        regression=torch.zeros_like(outputs.regression),
        offset=torch.zeros_like(outputs.offset),
    )
    outputs.center[0, 8, 10] = 3.0
    outputs.regression[0, 4, :, 8, 10] = torch.tensor([-4.0, 6.0])  # y, x: to cell (4, 16)
    outputs.keypoint[0, 4, 4 - WINDOW + 1, 16 + 1] = 2.0
    outputs.offset[0, 4, :, 4 - WINDOW + 1, 16 + 1] = torch.tensor([0.25, -0.5])
    logit, keypoints, score = propose_people(outputs, 3)
    assert logit[0, 0] == 3.0
    np.testing.assert_allclose(keypoints[0, 0, 4], [4 * 16.5, 4 * (4 - WINDOW + 1.25)])
    np.testing.assert_allclose(score[0, 0, 4], torch.sigmoid(torch.tensor(2.0)))
    np.testing.assert_allclose(keypoints[0, 0, 3], [40, 32])  # no regression, no heat: the center


@torch.inference_mode()
def test_scores_and_positions_are_not_rounded_in_low_precision() -> None:
    encoder = make_movenet_network().set_precision(torch.bfloat16).backbone.pretrained
    assert encoder is not None
    outputs = encoder.movenet(torch.rand(1, 3, 64, 96).bfloat16())
    assert outputs.context_16.dtype == torch.bfloat16
    for values in (outputs.center, outputs.keypoint, outputs.regression, outputs.offset):
        assert not torch.equal(values, values.bfloat16().float())


def test_sampling_is_bilinear_about_the_middles_of_cells() -> None:
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    points = torch.tensor([[[[0.0, 0.0], [3.0, 2.0], [1.5, 1.0]]]])
    np.testing.assert_allclose(sample_at(features, points).flatten(), [0.0, 11.0, 5.5], atol=1e-5)


def test_weights_files_hold_the_whole_network(tmp_path: Path) -> None:
    model = make_movenet_network().eval()
    checkpoint.save_network(model, tmp_path / "tiny.safetensors")
    people = Estimator.load(tmp_path / "tiny.safetensors", device="cpu").step(np.zeros((90, 160, 3), np.uint8))
    assert people.image_size == (90, 160)
    assert NetworkConfig.from_dict(vars(checkpoint.load_network(tmp_path / "tiny.safetensors").config)) == TINY


@pytest.mark.parametrize("size", [(64, 256), (256, 64), (32, 32), (256, 224)])
def test_any_shape_of_input_works(size: tuple[int, int]) -> None:
    model = make_movenet_network().eval()
    with torch.no_grad():
        found = model(torch.zeros(1, 3, *size, dtype=torch.uint8), torch.eye(3)[None], torch.tensor([False]), 5)
    assert found.rotations.isfinite().all()
    assert found.center.isfinite().all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"encoder": "resnet"}, "encoder must be"),
        ({"encoder": 3}, "encoder must be"),
        ({"patch_size": 16}, "patch_size 32"),
        ({"proposed_queries": True}, "proposed_queries"),
        ({"encoder": "vit"}, "local_attention"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        dataclasses.replace(TINY, **change)


def test_the_encoder_is_taken_out_of_a_whole_network(tmp_path: Path) -> None:
    model = make_movenet_network()
    checkpoint.save_network(model, tmp_path / "whole.safetensors")
    encoder = MoveNet()
    load_encoder(encoder, tmp_path / "whole.safetensors")
    assert model.backbone.pretrained is not None
    for name, value in model.backbone.pretrained.movenet.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[name], value)


def test_other_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    for wrong in (path, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match="convert them again") as error:
            load_encoder(MoveNet(), wrong)
        assert "\n" not in str(error.value)
