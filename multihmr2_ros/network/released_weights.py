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

"""Reads the released layout of weights (a pickled dict), and renames its parameters to ours.

Pickles are read with `weights_only=True`, so that code in a file is not executed.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multihmr2_ros.errors import UserError

PARALLEL_PREFIX = "module."  # added to every name by DataParallel and DistributedDataParallel

# Pattern at the beginning of the released name → our name, applied in order.
RELEASED_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"encoder\.mlp_fov_unique\.", "camera.field_of_view."),
        (r"encoder\.backbone\.cls_token$", "backbone.class_token"),
        (r"encoder\.backbone\.storage_tokens$", "backbone.register_tokens"),
        (r"encoder\.backbone\.patch_embed\.proj\.", "backbone.patch_embedding."),
        (r"encoder\.backbone\.norm\.", "backbone.norm."),
        (r"encoder\.backbone\.blocks\.(\d+)\.norm([12])\.", r"backbone.blocks.\1.norm_\2."),
        (r"encoder\.backbone\.blocks\.(\d+)\.ls([12])\.gamma$", r"backbone.blocks.\1.scale_\2"),
        (r"encoder\.backbone\.blocks\.(\d+)\.attn\.qkv\.", r"backbone.blocks.\1.attention.qkv."),
        (r"encoder\.backbone\.blocks\.(\d+)\.attn\.proj\.", r"backbone.blocks.\1.attention.project."),
        (r"encoder\.backbone\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.blocks.\1.mlp.0."),
        (r"encoder\.backbone\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.blocks.\1.mlp.2."),
        (r"full_body_decoder\.dec_to_token\.", "decoder.to_context."),
        (r"full_body_decoder\.queries\.weight$", "decoder.queries"),
        (r"full_body_decoder\.decoder\.transformer\.layers\.", "decoder.layers."),
        (r"decoder\.layers\.(\d+)\.0\.norm\.", r"decoder.layers.\1.self_norm."),
        (r"decoder\.layers\.(\d+)\.0\.fn\.to_qkv\.", r"decoder.layers.\1.self_qkv."),
        (r"decoder\.layers\.(\d+)\.0\.fn\.to_out\.0\.", r"decoder.layers.\1.self_out."),
        (r"decoder\.layers\.(\d+)\.1\.norm\.", r"decoder.layers.\1.cross_norm."),
        (r"decoder\.layers\.(\d+)\.1\.fn\.to_q\.", r"decoder.layers.\1.cross_q."),
        (r"decoder\.layers\.(\d+)\.1\.fn\.to_kv\.", r"decoder.layers.\1.cross_kv."),
        (r"decoder\.layers\.(\d+)\.1\.fn\.to_out\.0\.", r"decoder.layers.\1.cross_out."),
        (r"decoder\.layers\.(\d+)\.2\.norm\.", r"decoder.layers.\1.mlp_norm."),
        (r"decoder\.layers\.(\d+)\.2\.fn\.net\.0\.", r"decoder.layers.\1.mlp.0."),
        (r"decoder\.layers\.(\d+)\.2\.fn\.net\.3\.", r"decoder.layers.\1.mlp.2."),
        (r"full_body_decoder\.mlp_conf\.", "detection.score."),
        (r"full_body_decoder\.mlp_loc\.", "detection.location."),
        (r"full_body_decoder\.mlp_dist\.", "detection.nearness."),
        (r"full_body_decoder\.mlp_shape\.", "person.shape."),
        (r"full_body_decoder\.mlp_pose\.", "person.pose."),
        (r"full_body_decoder\.trackfeat_regressor\.trackfeat_model\.", "person.track_feature."),
    )
)

# Entries of the released layout that our network computes itself or does not use in inference.
RELEASED_CONSTANTS = re.compile(
    r"encoder\.fov_max$|encoder\.backbone\.(mask_token|rope_embed\.periods)$|.*\.attn\.qkv\.bias_mask$"
    r"|full_body_decoder\.(eye|dec_pos_emb|init_body_pose)$"
    r"|full_body_decoder\.(lowres_)?body_model\.anchors\."
)


def read_released(path: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Return the tensors of a file in the released layout, under its own names.

    allow_pickle  code in the file may run, at the user's risk

    Raises UserError if the file is damaged, contains code, or has another layout; OSError if it cannot be read.
    """
    damaged = f"{path} is not a complete PyTorch file; copy or download it again"
    try:
        # Memory mapping avoids a copy of 1.6 GB; only the zip format supports it.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # old pickle protocols, which the user cannot change
            content: Any = torch.load(path, map_location="cpu", mmap=mapped, weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise UserError(
                f"{path} contains objects that are not weights and could execute code; it was not loaded. If you trust "
                f"its source, run `multihmr2 weights convert {path} {path.with_suffix('.safetensors')} --accept-risk`"
            ) from None
        raise UserError(damaged) from None
    except OSError:
        raise
    except Exception:  # for damaged bytes the unpickler raises many types: struct.error, TypeError …
        raise UserError(damaged) from None
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value) for name, value in state.items()
    ):
        raise UserError(
            f"{path} is not in the released layout: expected a dict whose model_state_dict maps names to dense tensors "
            f"of real numbers, got {type(content).__name__}; pass multihmr2.pt or a file that multihmr2 wrote"
        )
    return state


def _is_plain(value: Tensor) -> bool:
    """Return whether a tensor is dense, real, and has its values in memory."""
    unusual = value.is_quantized or value.is_nested or value.is_meta or value.is_complex()
    return value.layout == torch.strided and not unusual


def convert_released(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names, without constants, with the key part of each qkv bias set to zero."""
    state = {}
    if all(name.startswith(PARALLEL_PREFIX) for name in released):
        released = {name.removeprefix(PARALLEL_PREFIX): value for name, value in released.items()}
    for name, value in released.items():
        if RELEASED_CONSTANTS.match(name):
            continue
        if name.endswith(".attn.qkv.bias"):
            value = value * _complete_qkv_bias_mask(value, released.get(f"{name}_mask"))
        state[translate_name(name)] = value
    return state


def translate_name(released: str) -> str:
    """Return our name of a parameter of the released layout."""
    for pattern, name in RELEASED_NAMES:
        released = pattern.sub(name, released, count=1) if pattern.match(released) else released
    return released


def _complete_qkv_bias_mask(bias: Tensor, mask: Tensor | None) -> Tensor:
    """Return the file's mask of the qkv bias; missing or NaN values become 1 for q and v, and 0 for k."""
    default = torch.ones_like(bias)
    if bias.ndim == 1:  # the shape is checked later
        third = len(bias) // 3
        default[third : 2 * third] = 0
    if mask is None or mask.shape != bias.shape:
        return default
    return torch.where(mask.isnan(), default, mask.to(bias.dtype))
