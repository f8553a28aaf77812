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

"""The package's encoder against the independent DINOv3 of `transformers`; names are mapped in this file."""

from __future__ import annotations

import re

import pytest
import torch

from multihmr2_ros.network.backbone import Backbone, make_rotary_table, rotate_tokens
from multihmr2_ros.network.config import NetworkConfig

CONFIG = NetworkConfig(
    image_size=256, max_grid=16, encoder_width=96, encoder_depth=3, encoder_heads=4, register_tokens=4
)

OURS_FROM_PEER = (
    (r"embeddings\.cls_token", "class_token"),
    (r"embeddings\.register_tokens", "register_tokens"),
    (r"embeddings\.patch_embeddings\.", "patch_embedding."),
    (r"(?:model\.)?layers?\.(\d+)\.norm(\d)\.", r"blocks.\1.norm_\2."),
    (r"(?:model\.)?layers?\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.scale_\2"),
    (r"(?:model\.)?layers?\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attention.project."),
    (r"(?:model\.)?layers?\.(\d+)\.mlp\.up_proj\.", r"blocks.\1.mlp.0."),
    (r"(?:model\.)?layers?\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.2."),
)


@pytest.fixture(scope="module")
def peer() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            hidden_size=CONFIG.encoder_width,
            intermediate_size=CONFIG.encoder_mlp_ratio * CONFIG.encoder_width,
            num_hidden_layers=CONFIG.encoder_depth,
            num_attention_heads=CONFIG.encoder_heads,
            num_register_tokens=CONFIG.register_tokens,
            patch_size=CONFIG.patch_size,
            image_size=CONFIG.image_size,
            query_bias=True,
            key_bias=False,
            value_bias=True,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    return model.eval()


def make_our_backbone(peer: torch.nn.Module) -> Backbone:
    """Return the package's encoder with the peer's weights; q, k, v become one matrix, the missing key bias zeros."""
    state: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in peer.state_dict().items():
        split = re.fullmatch(r"(?:model\.)?layers?\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)", name)
        if split:
            parts.setdefault(f"blocks.{split[1]}.attention.qkv.{split[3]}", {})[split[2]] = value
            continue
        for pattern, ours in OURS_FROM_PEER:
            name = re.sub(f"^{pattern}", ours, name)
        state[name] = value
    for name, part in parts.items():
        zeros = torch.zeros_like(part["q"])
        state[name] = torch.cat([part["q"], part.get("k", zeros), part["v"]])
    backbone = Backbone(CONFIG)
    known = backbone.state_dict()
    backbone.load_state_dict({name: value for name, value in state.items() if name in known})
    return backbone.eval()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (160, 256), (256, 112), (16, 256), (16, 16)])
def test_parity_with_transformers(peer: torch.nn.Module, height: int, width: int) -> None:
    image = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        class_token, patches, _ = make_our_backbone(peer)(image)
        expected = peer(image).last_hidden_state
    torch.testing.assert_close(class_token, expected[:, 0], rtol=1e-4, atol=1e-4)
    first = 1 + CONFIG.register_tokens
    torch.testing.assert_close(patches.flatten(1, 2), expected[:, first:], rtol=1e-4, atol=1e-4)


def test_first_tokens_and_a_single_patch_are_not_rotated() -> None:
    cosine, signed_sine = make_rotary_table(1, 1, 5, 64, torch.device("cpu"), torch.float32)
    assert torch.equal(cosine, torch.ones(6, 64))
    assert torch.equal(signed_sine, torch.zeros(6, 64))


def test_rotation_equals_a_complex_product() -> None:
    table = make_rotary_table(2, 3, 5, 64, torch.device("cpu"), torch.float32)
    features = torch.randn(2, 4, 11, 64)
    turn = torch.complex(table[0][:, 32:], table[1][:, 32:])
    expected = torch.complex(features[..., :32], features[..., 32:]) * turn
    torch.testing.assert_close(rotate_tokens(features, table), torch.cat([expected.real, expected.imag], dim=-1))
    assert torch.equal(rotate_tokens(features, table)[:, :, :5], features[:, :, :5])
