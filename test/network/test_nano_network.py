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

"""The small architecture: convolutional stem, proposed queries, initial weights, half-precision files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.backbone import ConvNorm
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.decoder import compute_relative_positions
from multihmr2_ros.network.initialization import PRIOR_DEPTH_M, initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from test.helpers.nano_network import TINY, make_nano_network, make_random_targets

SIZE = (192, 256)
NEW = (
    "stem_",
    "encoder",
    "proposed_queries",
    "local_attention",
    "keypoint_maps",
    "architecture",
    "camera_embedding",
)  # not stored in the first weights files
EYE, NOT_GIVEN = torch.eye(3)[None], torch.tensor([False])


def make_image(images: int = 1, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8)


def test_the_released_layout_has_no_stem_and_no_heatmap() -> None:
    with torch.device("meta"):
        names = MultiHMR2(NetworkConfig()).state_dict().keys()
    assert not any("stem" in name or "heatmap" in name or "stages" in name for name in names)


def test_shapes_and_training_outputs_agree_with_inference() -> None:
    network = make_nano_network().eval()
    image, k = make_image(2), torch.eye(3).expand(2, 3, 3)
    with torch.no_grad():
        prediction = network(image, k, torch.zeros(2, dtype=torch.bool), 5)
        outputs = network.predict_for_training(image, k, torch.zeros(2, dtype=torch.bool))
    assert prediction.rotations.shape == (2, 5, 163, 3, 3)
    assert prediction.track_feature.shape == (2, 5, 16)
    assert outputs.heatmap is not None
    assert outputs.heatmap.shape == (2, 12, 16)
    assert [layer.location.shape for layer in outputs.layers] == [(2, 10, 2)] * 2
    torch.testing.assert_close(torch.sigmoid(outputs.layers[-1].score_logit), prediction.query_score)
    torch.testing.assert_close(outputs.layers[-1].location, prediction.query_location)
    torch.testing.assert_close(outputs.k, prediction.k)
    torch.testing.assert_close(outputs.k[:, :1, 0] / outputs.layers[-1].log_nearness.exp(), prediction.query_depth)


def test_given_intrinsics_are_used() -> None:
    network = make_nano_network().eval()
    k = torch.tensor([[300.0, 0, 120], [0, 310, 90], [0, 0, 1]]).expand(2, 3, 3)
    outputs = network.predict_for_training(make_image(2), k, torch.tensor([True, False]))
    assert torch.equal(outputs.k[0], k[0])
    focal = 128 / math.tan(float(outputs.horizontal_fov[1].detach()) / 2)
    assert float(outputs.k[1, 0, 0]) == pytest.approx(focal, rel=1e-5)


def test_the_best_patches_propose() -> None:
    """Anchors are the centers of the patches with the highest heatmap values, in descending order."""
    decoder = make_nano_network().eval().decoder
    patches = torch.randn(2, 5, 7, TINY.encoder_width)
    decoded = decoder(patches)
    assert decoded.heatmap is not None
    assert decoded.reference_point is not None
    for image in range(2):
        order = np.argsort(-decoded.heatmap[image].detach().numpy().ravel())[: TINY.queries]
        rows, columns = np.unravel_index(order, (5, 7))
        expected = 16 * (np.stack([columns, rows], axis=1) + 0.5)
        np.testing.assert_array_equal(decoded.reference_point[image], expected)


def test_heads_sample_at_the_location_of_the_query() -> None:
    """Compared with explicit attention: logits q·k / √d − ½ |Δ / s − o|², Δ in patches from the query's anchor."""
    decoder = make_nano_network().eval().decoder
    layer, heads = decoder.layers[0], TINY.decoder_heads
    torch.nn.init.normal_(layer.neighbourhood.weight, std=0.1)
    queries, context = torch.randn(1, 3, TINY.decoder_width), torch.randn(1, 20, TINY.decoder_width)
    anchor = torch.tensor([[[8.0, 8.0], [40.0, 24.0], [72.0, 56.0]]])
    found = layer(queries, context, compute_relative_positions(anchor / TINY.patch_size, 4, 5))

    query, key, value = layer.self_qkv(layer.self_norm(queries)).chunk(3, dim=-1)
    after = queries + layer.self_out(layer.attend(query, key, value))
    normed = layer.cross_norm(after)
    query = layer.cross_q(normed)[0].unflatten(-1, (heads, -1))
    key, value = (half[0].unflatten(-1, (heads, -1)) for half in layer.cross_kv(context).chunk(2, dim=-1))
    chosen = layer.neighbourhood(normed)[0].unflatten(-1, (heads, 3))
    mixed = torch.zeros_like(query)
    for row, (x, y) in enumerate([(0, 0), (2, 1), (4, 3)]):  # the anchors' patches
        for head in range(heads):
            log_reach, *offset = chosen[row, head].tolist()
            place = torch.tensor([[column - x, line - y] for line in range(4) for column in range(5)])
            far = ((place / math.exp(log_reach) - torch.tensor(offset)) ** 2).sum(-1)
            logits = key[:, head] @ query[row, head] / math.sqrt(TINY.decoder_head_width) - 0.5 * far
            mixed[row, head] = logits.softmax(0) @ value[:, head]
    expected = after + layer.cross_out(mixed.flatten(1))[None]
    expected = expected + layer.mlp(layer.mlp_norm(expected))
    torch.testing.assert_close(found, expected)


def test_heads_sample_near_and_far_at_initialization() -> None:
    layer = initialize(MultiHMR2(TINY)).decoder.layers[0]
    queries, places = (
        torch.randn(1, 2, TINY.decoder_width),
        torch.tensor([0.0, 3.0]).view(1, 1, 2, 1).expand(1, 2, 2, 2),
    )
    bias = layer.compute_spatial_prior(queries, places)
    torch.testing.assert_close(bias[..., 0], torch.zeros_like(bias[..., 0]), msg="best at the query's own place")
    drop = bias[0, :, 0, 1]
    assert float(drop[0].detach()) == pytest.approx(-9.0, rel=1e-5), "three patches right and down, a reach of one"
    assert (drop.diff() > 0).all()
    assert float(drop[-1].detach()) == pytest.approx(-9 / 16**2, rel=1e-5)


def test_fewer_patches_than_queries() -> None:
    network = make_nano_network().eval()
    prediction = network(make_image(size=(48, 48)), EYE, NOT_GIVEN, 20)
    assert prediction.query_score.shape == (1, 9)
    assert prediction.score.shape == (1, 9)
    assert len({tuple(place) for place in prediction.query_location[0].tolist()}) == 9


def test_locations_start_at_the_anchor_and_stay_within_the_margin() -> None:
    """Offsets of any sign and size: never outside a margin of a fifth, and near every corner of it."""
    heads = make_nano_network().detection
    anchor = torch.tensor([[8.0, 8.0], [248.0, 184.0], [120.0, 100.0]])
    torch.testing.assert_close(heads.offset_from_reference(torch.zeros(3, 2), anchor), anchor, atol=1e-3, rtol=0)
    margin = 0.2 * TINY.image_size
    for sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        far = heads.offset_from_reference(1e3 * torch.tensor(sign).expand(3, 2), anchor)
        corner = torch.where(torch.tensor(sign) > 0, TINY.image_size + margin, -margin)
        torch.testing.assert_close(far, corner.expand(3, 2), atol=0.1, rtol=0)
    offset = torch.zeros(3, 2, requires_grad=True)
    heads.offset_from_reference(offset, anchor).sum().backward()
    assert offset.grad is not None
    assert float(offset.grad[2, 0]) == pytest.approx(TINY.patch_size, rel=0.05), "one patch a unit in the middle"


def test_the_folded_normalization_is_the_normalization() -> None:
    torch.manual_seed(3)
    layer = ConvNorm(4, 6, stride=2)
    torch.nn.init.normal_(layer.norm.weight)
    torch.nn.init.normal_(layer.norm.bias)
    for _ in range(5):
        layer(3 * torch.randn(8, 4, 10, 12) + 1)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.eval()
    features = 3 * torch.randn(2, 4, 10, 12) + 1
    expected = torch.relu(layer.norm(layer.conv(features)))
    torch.testing.assert_close(layer(features), expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_training_moves_the_statistics_and_inference_does_not() -> None:
    network = make_nano_network()
    norm = network.backbone.patch_embedding.stages[0].norm
    start = norm.running_mean.clone()
    network.eval()(make_image(), EYE, NOT_GIVEN, 3)
    assert torch.equal(norm.running_mean, start)
    network.train().predict_for_training(make_image(2), EYE.expand(2, 3, 3), NOT_GIVEN.expand(2))
    assert not torch.equal(norm.running_mean, start)


def test_initial_weights_start_from_plausible_people() -> None:
    network = make_nano_network().eval()
    with torch.no_grad():
        k = torch.tensor([[[166.3, 0, 128], [0, 166.3, 96], [0, 0, 1]]])  # 60° vertically
        prediction = network(make_image(), k, torch.tensor([True]), 10)
        decoded = network.decoder(network.encode(make_image()).patches)
    assert decoded.reference_point is not None
    torch.testing.assert_close(
        network.detection(decoded.queries, decoded.reference_point)[1], decoded.reference_point, atol=1e-2, rtol=0
    )
    assert float(prediction.query_score.max()) < 0.05
    np.testing.assert_allclose(prediction.query_depth, PRIOR_DEPTH_M, rtol=0.15)
    vertical_fov = 2 * math.atan(0.75 * math.tan(float(prediction.horizontal_fov[0]) / 2))
    assert math.degrees(vertical_fov) == pytest.approx(60, abs=3)
    # Upright in the camera frame: the body's axis to the head, −z of the root, points up, which is −y.
    up = prediction.rotations[0, :, 0] @ torch.tensor([0.0, 0, -1])
    assert float(up[:, 1].max()) < -0.98


def test_a_mean_pose_can_be_the_start() -> None:
    from multihmr2_ros.network.heads import rotations_from_6d

    mean = rotations_from_6d(torch.randn(163, 3, 2))
    network = initialize(MultiHMR2(TINY), mean)
    _, rotations = network.person(torch.zeros(1, TINY.decoder_width))
    torch.testing.assert_close(rotations[0], mean, atol=0.05, rtol=0)


def test_gradients_reach_every_parameter() -> None:
    """All terms together, with one image without people: gradients are finite and none is missing."""
    network, body = make_nano_network().train(), Body("low")
    targets = make_random_targets(2, 3, SIZE)
    targets.present[1] = False
    outputs = network.predict_for_training(make_image(2), targets.k, torch.tensor([True, False]))
    sum(compute_losses(network, outputs, targets, body, LossConfig(depth=1.0)).values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_few_steps_on_two_images_reduce_every_loss() -> None:
    network, body = make_nano_network().train(), Body("low")
    torch.manual_seed(1)
    targets, image = make_random_targets(2, 2, SIZE), make_image(2)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=60)
    history = []
    for _ in range(60):
        outputs = network.predict_for_training(image, targets.k, torch.tensor([True, False]))
        terms = compute_losses(network, outputs, targets, body, LossConfig())
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        falling.step()
        history.append({name: float(value) for name, value in terms.items()})
    first, last = history[0], history[-1]
    for name in (
        "score",
        "heatmap",
        "location",
        "nearness",
        "field_of_view",
        "track_feature",
        "joints",
        "reprojection",
    ):
        assert last[name] < 0.8 * first[name], name
    assert sum(last.values()) < 0.4 * sum(first.values())


def test_half_precision_files_and_the_estimator(tmp_path: Path) -> None:
    network = make_nano_network()
    network.predict_for_training(
        make_image(2), EYE.expand(2, 3, 3), NOT_GIVEN.expand(2)
    )  # statistics that are not 0 and 1
    network.eval()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    checkpoint.save_network(network, whole)
    checkpoint.save_network(network, half, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = checkpoint.load_network(half)
    assert loaded.config == TINY
    for name, value in loaded.state_dict().items():
        assert value.dtype == network.state_dict()[name].dtype, name
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3, atol=1e-4)
    people = Estimator.load(half, device="cpu").step(np.zeros((90, 160, 3), np.uint8))
    assert people.image_size == (90, 160)
    with torch.no_grad():
        image = make_image()
        torch.testing.assert_close(
            checkpoint.load_network(whole)(image, EYE, NOT_GIVEN, 3).query_location,
            network(image, EYE, NOT_GIVEN, 3).query_location,
        )


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    network = make_nano_network()
    with torch.no_grad():
        network.detection.score[0].weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"detection\.score"):
        checkpoint.save_network(network, tmp_path / "a.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_configurations_survive_json_and_old_files_stay_readable() -> None:
    assert NetworkConfig.from_dict(json.loads(json.dumps(vars(TINY)))) == TINY
    old = {name: value for name, value in vars(NetworkConfig()).items() if not name.startswith(NEW)}
    assert NetworkConfig.from_dict(old) == NetworkConfig()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stem_widths": (8, 8, 8)}, "stem_depths"),
        ({"stem_widths": (8, 8, 8), "stem_depths": (0, 0, 0)}, "patch_size"),
        ({"stem_widths": (8, 8, 8, 0)}, "stem_widths"),
        ({"stem_depths": (0, 0, 0, 0.5)}, "stem_depths"),
        ({"stem_widths": 8}, "stem_widths"),
        ({"proposed_queries": 1}, "proposed_queries"),
        ({"proposed_queries": False, "local_attention": True}, "local_attention needs proposed_queries"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        dataclasses.replace(TINY, **change)


def test_reduced_precision_changes_little() -> None:
    network = make_nano_network().eval()
    image = make_image()
    with torch.no_grad():
        exact = network.predict_for_training(image, EYE, NOT_GIVEN)
        reduced = network.set_precision(torch.bfloat16).predict_for_training(image, EYE, NOT_GIVEN)
    assert network.precision == torch.bfloat16
    torch.testing.assert_close(reduced.horizontal_fov, exact.horizontal_fov, atol=0.05, rtol=0)
    assert reduced.layers[-1].location.isfinite().all()
