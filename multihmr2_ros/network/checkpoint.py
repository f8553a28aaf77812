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

"""Reads and writes weights files: the released layout and our own safetensors format.

Our files contain the network's configuration in their header.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.released_weights import convert_released, read_released

logger = logging.getLogger(__name__)

FORMAT = "multihmr2_ros"
FORMAT_VERSION = "1"


def load_network(path: Path) -> MultiHMR2:
    """Load the network of a weights file, in float32 on the CPU, ready for inference.

    A `.safetensors` file must be in our format, with its configuration; any other file must have the released layout
    (ViT-L, 768 px). Raises UserError if the file is missing or damaged, has another architecture, or contains code.
    """
    return make_network(*_read(path, allow_pickle=False), path)


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
    save_network(make_network(*_read(source, allow_pickle=allow_pickle), source), target)


def make_network(config: NetworkConfig, state: dict[str, Tensor], path: Path) -> MultiHMR2:
    """Return a network with the weights of a state dict, ready for inference.

    path  the file of the weights, for messages

    Raises UserError if tensors are missing, have other shapes, or are not finite.
    """
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
        return NetworkConfig(), convert_released(read_released(path, allow_pickle=allow_pickle))
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
