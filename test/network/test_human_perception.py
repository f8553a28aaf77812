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

"""Multi-HMR: patches as detections, blocks, camera embedding, weights files, and the estimator."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import MULTI_HMR_CAMERA
from multihmr2_ros.network.heads import rotations_from_6d
from multihmr2_ros.network.human_perception import (
    CAMERA_FEATURES,
    FOURIER_BANDS,
    HumanPerceptionHead,
    embed_rays,
    suppress_neighbors,
)
from multihmr2_ros.network.initialization import PRIOR_DEPTH_M, initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.people import BONE_COUNT
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.patches import assign_patches
from test.helpers.nano_network import TINY_MULTI_HMR as TINY
from test.helpers.nano_network import make_multi_hmr, make_random_targets

SIZE = (192, 256)
EYE, NOT_GIVEN = torch.eye(3)[None], torch.tensor([False])

pytestmark = pytest.mark.usefixtures("one_thread")


def draw_image(images: int = 1, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8)


def test_shapes_and_training_outputs_agree_with_inference() -> None:
    network = make_multi_hmr().eval()
    image, k, given = draw_image(2), EYE.expand(2, 3, 3), NOT_GIVEN.expand(2)
    with torch.no_grad():
        prediction = network(image, k, given, 5)
        outputs = network.predict_for_training(image, k, given)
    assert prediction.query_score.shape == (2, 10)
    assert prediction.rotations.shape == (2, 5, BONE_COUNT, 3, 3)
    assert prediction.track_feature.shape == (2, 5, 16)
    assert prediction.keypoints is None
    assert outputs.heatmap is not None
    assert outputs.heatmap.shape == (2, 12, 16)
    [layer] = outputs.layers
    torch.testing.assert_close(torch.sigmoid(layer.score_logit), prediction.query_score)
    torch.testing.assert_close(layer.location, prediction.query_location)
    torch.testing.assert_close(outputs.k[:, :1, 0] / layer.log_nearness.exp(), prediction.query_depth)


def test_nano_s_encoder_is_the_trunk() -> None:
    with torch.device("meta"):
        network = MultiHMR2(MULTI_HMR_CAMERA)
    names = network.state_dict().keys()
    assert any(name.startswith("backbone.pretrained.movenet.") for name in names)
    assert not any(name.startswith("proposals.") for name in names)
    assert len(network.decoder.layers) == 2


def test_only_local_maxima_keep_their_score() -> None:
    heatmap = torch.full((1, 4, 5), -4.0)
    heatmap[0, 1, 1], heatmap[0, 2, 2], heatmap[0, 0, 4] = 3.0, 2.0, 1.0
    kept = torch.sigmoid(suppress_neighbors(heatmap))[0] > 0.4
    assert kept.nonzero().tolist() == [[0, 4], [1, 1]]
    assert suppress_neighbors(heatmap)[0, 1, 1] == 3.0


def test_each_patch_detects_one_person_at_most() -> None:
    """All detections are in different patches, and those with a score are no neighbors."""
    network = make_multi_hmr().eval()
    detector = network.patch_detector
    assert detector is not None
    detections = detector(3 * torch.randn(2, 12, 16, TINY.encoder_width))
    for image in range(2):
        cells = [divmod(patch, 16) for patch in detections.patch[image].tolist()]
        assert len(set(cells)) == TINY.queries
        scored = [cell for cell, logit in zip(cells, detections.score[image].tolist(), strict=True) if logit > -15]
        assert len(scored) > 1
        apart = [max(abs(a - c), abs(b - d)) for a, b in scored for c, d in scored if (a, b) != (c, d)]
        assert min(apart) > 1
    middle = 16 * (torch.tensor([[patch % 16, patch // 16] for patch in detections.patch[0].tolist()]) + 0.5)
    torch.testing.assert_close(detections.location[0], middle, atol=1.0, rtol=0, msg="offsets are small at first")


def test_true_patches_are_decoded_whatever_their_score() -> None:
    network = make_multi_hmr().eval()
    true = torch.zeros(1, 12, 16, dtype=torch.bool)
    true[0, 3, 4] = true[0, 3, 5] = True  # neighbors, of which suppression would drop one
    outputs = network.predict_for_training(draw_image(), EYE, NOT_GIVEN, None, true)
    assert outputs.patch is not None
    assert sorted(outputs.patch[0, :2].tolist()) == [3 * 16 + 4, 3 * 16 + 5]
    assert outputs.patch.shape == (1, TINY.queries)


def test_other_patches_do_not_change_people() -> None:
    """A detected person comes out the same beside 1 and beside 9 queries that are not people."""
    network, true = make_multi_hmr().eval(), torch.zeros(1, 12, 16, dtype=torch.bool)
    true[0, 5, 6] = true[0, 2, 12] = True
    image, found = draw_image(), []
    assert network.patch_detector is not None
    for queries in (3, 10):
        network.patch_detector.queries = queries
        network.patch_detector.score[2].bias.data.fill_(-12.0)
        outputs = network.predict_for_training(image, EYE, NOT_GIVEN, None, true)
        found.append({int(p): q for p, q in zip(outputs.patch[0, :2], outputs.queries[0, :2], strict=True)})
    for patch, queries in found[0].items():
        torch.testing.assert_close(queries, found[1][patch], atol=1e-3, rtol=1e-3)


def test_people_attend_to_each_other() -> None:
    """Cross-attention comes first, then self-attention: another person changes the query after a block."""
    head = make_multi_hmr().decoder
    assert isinstance(head, HumanPerceptionHead)
    block, queries = head.layers[0], torch.randn(1, 2, TINY.decoder_width)
    context, no_bias = torch.randn(1, 20, TINY.decoder_width), torch.zeros(1, 1, 1, 2)
    after = block(queries, context, no_bias, None)
    expected = block.attend_to_context(queries, context, None)
    expected = block.attend_to_queries(expected, torch.float32, no_bias)
    torch.testing.assert_close(after, expected + block.mlp(block.mlp_norm(expected)))
    other = torch.cat([queries[:, :1], torch.randn(1, 1, TINY.decoder_width)], dim=1)
    assert not torch.allclose(block(other, context, no_bias, None)[0, 0], after[0, 0])
    alone = torch.tensor([0.0, -30.0])[None, None, None]
    torch.testing.assert_close(block(other, context, alone, None)[0, 0], block(queries, context, alone, None)[0, 0])


def test_rays_are_encoded_by_their_directions() -> None:
    k = torch.tensor([[[200.0, 3.0, 120.0], [0.0, 210.0, 90.0], [0.0, 0.0, 1.0]]])
    features = embed_rays(k, 12, 16, 16)
    assert features.shape == (1, 12, 16, CAMERA_FEATURES)
    row, column = 7, 3
    ray = torch.linalg.inv(k[0]) @ torch.tensor([16 * (column + 0.5), 16 * (row + 0.5), 1.0])
    found = features[0, row, column]
    torch.testing.assert_close(found[:2], ray[:2])
    sine = found[2 : 2 + 2 * FOURIER_BANDS].view(2, FOURIER_BANDS)
    torch.testing.assert_close(sine[:, 1], torch.sin(2 * math.pi * ray[:2]), atol=1e-5, rtol=1e-5)
    cosine = found[2 + 2 * FOURIER_BANDS :].view(2, FOURIER_BANDS)
    torch.testing.assert_close(cosine[:, 0], torch.cos(math.pi * ray[:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("embedding", [True, False])
def test_a_given_camera_changes_queries_only_with_the_embedding(embedding: bool) -> None:
    network = make_multi_hmr(camera_embedding=embedding).eval()
    image, k = draw_image(), torch.tensor([[[200.0, 0, 128], [0, 200, 96], [0, 0, 1]]])
    wide = k * torch.tensor([[0.5], [0.5], [1.0]])
    found = [network.predict_for_training(image, camera, torch.tensor([True])) for camera in (k, wide)]
    assert torch.equal(found[0].queries, found[1].queries) != embedding
    assert torch.equal(found[0].layers[0].score_logit, found[1].layers[0].score_logit)


def test_initial_weights_start_from_plausible_people() -> None:
    mean = rotations_from_6d(torch.randn(BONE_COUNT, 3, 2))
    network = initialize(make_multi_hmr(), mean).eval()
    k = torch.tensor([[166.3, 0, 128], [0, 166.3, 96], [0, 0, 1]])[None]  # 60° vertically
    with torch.no_grad():
        prediction = network(draw_image(), k, torch.tensor([True]), 10)
    assert float(prediction.query_score.max()) < 0.05
    np.testing.assert_allclose(prediction.query_depth, PRIOR_DEPTH_M, rtol=0.15)
    torch.testing.assert_close(prediction.rotations[0, 0], mean, atol=0.05, rtol=0)
    assert isinstance(network.decoder, HumanPerceptionHead)
    torch.testing.assert_close(network.decoder.mean_body[6:].view(BONE_COUNT, 3, 2), mean[..., :2])


def test_gradients_reach_every_parameter() -> None:
    network, body = make_multi_hmr(camera_embedding=True).train(), Body("low")
    targets = make_random_targets(2, 3, SIZE)
    targets.present[1] = False
    true = assign_patches(targets, SIZE, TINY.patch_size).is_center
    outputs = network.predict_for_training(draw_image(2), targets.k, torch.tensor([True, False]), None, true)
    terms = compute_losses(network, outputs, targets, body, LossConfig(depth=1.0))
    assert {"heatmap", "location", "nearness", "shape", "pose", "vertices", "joints", "reprojection"} <= terms.keys()
    assert "score" not in terms
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_weights_files_and_the_estimator(tmp_path: Path) -> None:
    """The configuration comes back from the file, and the estimator finds the people above the threshold."""
    network = initialize(make_multi_hmr(camera_embedding=True), rotations_from_6d(torch.randn(BONE_COUNT, 3, 2))).eval()
    assert network.patch_detector is not None
    network.patch_detector.score[2].bias.data.fill_(2.0)
    checkpoint.save_network(network, tmp_path / "a.safetensors")
    loaded = checkpoint.load_network(tmp_path / "a.safetensors")
    assert loaded.config == network.config
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert "decoder.mean_body" in state
    config = EstimatorConfig(nms_distance_m=0.0, max_people=4, mesh="low")
    estimator = Estimator.load(tmp_path / "a.safetensors", device="cpu", config=config)
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    people = estimator.step(image)
    assert people.vertices.shape[0] == len(people.score) > 0
    assert np.isfinite(people.vertices).all()
    with torch.no_grad():
        network.patch_detector.score[2].bias.fill_(-9.0)
    assert len(Estimator(network, config).step(image).score) == 0


def test_reduced_precision_changes_little() -> None:
    network, image = make_multi_hmr(camera_embedding=True).eval(), draw_image()
    with torch.no_grad():
        exact = network.predict_for_training(image, EYE, NOT_GIVEN)
        reduced = network.set_precision(torch.bfloat16).predict_for_training(image, EYE, NOT_GIVEN)
    assert network.decoder.to_query.weight.dtype == torch.bfloat16
    assert reduced.queries.dtype == torch.float32
    torch.testing.assert_close(reduced.heatmap, exact.heatmap, atol=0.02, rtol=0)
    shared = set(exact.patch[0].tolist()) & set(reduced.patch[0].tolist())
    assert shared


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"architecture": "multi-hmr-3"}, "architecture must be multi-hmr-2 or multi-hmr"),
        ({"proposed_queries": True}, "no proposed_queries"),
        ({"architecture": "multi-hmr-2", "camera_embedding": True, "local_attention": False}, "camera_embedding needs"),
        ({"camera_embedding": 1}, "camera_embedding must be true or false"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        dataclasses.replace(TINY, **change)
