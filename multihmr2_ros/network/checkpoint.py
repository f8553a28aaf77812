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

"""Reads and writes weights files: the released layout (a pickled dict) and our own safetensors format.

Our files contain the network's configuration in their header. One table maps the released parameter names to ours.
Pickles are read with `weights_only=True`, so that code in a file is not executed.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2

logger = logging.getLogger(__name__)

FORMAT = "multihmr2_ros"
FORMAT_VERSION = "1"
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


def load_network(path: Path) -> MultiHMR2:
    """Load the network of a weights file, in float32 on the CPU, ready for inference.

    A `.safetensors` file must be in our format, with its configuration; any other file must have the released layout
    (ViT-L, 768 px). Raises UserError if the file is missing or damaged, has another architecture, or contains code.
    """
    return _make_network(*_read(path, allow_pickle=False), path)


def save_network(
    network: MultiHMR2, path: Path, *, metadata: dict[str, str] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a network in our format with its configuration. The file is written completely or not at all.

    metadata  more entries for the header
    dtype     of matrices and convolutions; float16 halves the file. Vectors and scalars keep their type. `load_network`
              converts back to float32

    Raises UserError if the folder is not writable, or if weights are not finite in dtype.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": json.dumps(vars(network.config), sort_keys=True),
        **(metadata or {}),
    }
    tensors, storages = {}, set()
    for name, value in network.state_dict().items():
        value = value.detach().to("cpu", dtype if value.ndim > 1 else value.dtype).contiguous()
        storage = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if storage in storages else value  # safetensors refuses shared memory
        storages.add(storage)
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"cannot write {path}: {_format_list(broken)} would not be finite as {dtype}; "
            "save as float32, or use an earlier checkpoint"
        )
    with atomic_safetensors_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=header)


def convert_weights(source: Path, target: Path, *, allow_pickle: bool = False) -> None:
    """Convert a weights file to safetensors. allow_pickle: code in a pickled source may run, at the user's risk."""
    if target.suffix != ".safetensors":
        raise UserError(f"expected a target that ends in .safetensors, got {target.name}; rename it")
    save_network(_make_network(*_read(source, allow_pickle=allow_pickle), source), target)


def _make_network(config: NetworkConfig, state: dict[str, Tensor], path: Path) -> MultiHMR2:
    with torch.device("meta"):  # draws no random weights; constants set their own device
        network = MultiHMR2(config)
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = [
        f"{word}: {_format_list(names)}" for word, names in (("missing", missing), ("misshapen", misshapen)) if names
    ]
    if problems:
        raise UserError(
            f"{path} does not fit Multi-HMR 2 ({'; '.join(problems)}); pass a file in the released layout or one that "
            "multihmr2 wrote"
        )
    unknown = set(state) - set(expected)
    if unknown:
        logger.warning("%s: ignored %d tensors with unknown names", path.name, len(unknown))
    weights = {name: state[name].to(value.dtype) for name, value in expected.items()}
    # A sum needs one pass over the memory and no copy, and is finite only if all values are.
    broken = [name for name, value in weights.items() if not (value.sum().isfinite() or value.isfinite().all())]
    if broken:
        raise UserError(f"{path} has values that are not finite in {_format_list(broken)}; use an earlier checkpoint")
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _format_list(names: list[str], max_count: int = 3) -> str:
    rest = f" and {len(names) - max_count} more" if len(names) > max_count else ""
    return ", ".join(names[:max_count]) + rest


def _read(path: Path, *, allow_pickle: bool) -> tuple[NetworkConfig, dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist: check the path, or see `multihmr2 weights list`")
    try:
        _check_kind(path)
        if path.suffix == ".safetensors":
            return _read_ours(path)
        return NetworkConfig(), _from_released(_read_released(path, allow_pickle=allow_pickle))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the file and its permissions") from None


def _check_kind(path: Path) -> None:
    """Raise UserError if the content clearly does not match the file's extension.

    Examples: a Git LFS pointer, a web page, an empty or a renamed file. --accept-risk does not help with these.
    """
    with path.open("rb") as file:
        head = file.read(512)
    is_safetensors = len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    is_pytorch = head.startswith((b"PK", b"\x80"))
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights; get them with `git lfs pull`")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<error")):
        raise UserError(f"{path} is a web page, not weights; download the file itself, or see `multihmr2 weights list`")
    if not head:
        raise UserError(f"{path} is empty; copy it again, or see `multihmr2 weights list`")
    wants_safetensors = path.suffix == ".safetensors"
    if is_safetensors and not wants_safetensors:
        raise UserError(f"{path} is a safetensors file; rename it to {path.with_suffix('.safetensors').name}")
    if is_pytorch and not is_safetensors and wants_safetensors:
        raise UserError(f"{path} is a PyTorch file, not safetensors; rename it to {path.with_suffix('.pt').name}")
    if not is_pytorch and not wants_safetensors:
        raise UserError(
            f"{path} is not a PyTorch file (it starts with {head[:16]!r}); pass a .pt file in the released layout, or "
            "a .safetensors file that multihmr2 wrote"
        )


def read_config(path: Path) -> NetworkConfig:
    """Return the configuration of the network of a weights file that `load_network` accepts, without its weights."""
    if path.suffix != ".safetensors":
        return NetworkConfig()
    with safetensors.safe_open(path, framework="pt") as file:
        return _parse_config(path, file.metadata() or {})


def _read_ours(path: Path) -> tuple[NetworkConfig, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({' '.join(str(error).split())!s:.200}); copy it again"
        ) from None
    return _parse_config(path, header), state


def _parse_config(path: Path, header: dict[str, str]) -> NetworkConfig:
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} was not written by multihmr2 (expected format {FORMAT} {FORMAT_VERSION}, got "
            f"{header.get('format')!r:.40} {header.get('format_version')!r:.40}); write one with `multihmr2 weights "
            "convert`"
        )
    try:
        config = json.loads(header["network"])
    except (KeyError, ValueError, RecursionError):  # from JSON, also for numbers with too many digits
        config = None
    if not isinstance(config, dict):
        raise UserError(
            f"{path} has no readable network configuration; write it again with `multihmr2 weights convert`"
        )
    return NetworkConfig.from_dict(config)


def _read_released(path: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
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


def _from_released(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors, drop constants, and apply the mask of each qkv bias, which sets the key part to zero."""
    state = {}
    if all(name.startswith(PARALLEL_PREFIX) for name in released):
        released = {name.removeprefix(PARALLEL_PREFIX): value for name, value in released.items()}
    for name, value in released.items():
        if RELEASED_CONSTANTS.match(name):
            continue
        if name.endswith(".attn.qkv.bias"):
            value = value * _complete_qkv_bias_mask(value, released.get(f"{name}_mask"))
        state[_translate_name(name)] = value
    return state


def _translate_name(released: str) -> str:
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
