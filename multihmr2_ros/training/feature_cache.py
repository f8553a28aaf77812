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

"""The feature cache: batches on disk, with precomputed features of the frozen encoder and their targets.

While the pretrained encoder is frozen, its features of an augmented image do not change. Computed once and stored in
eight bits, they allow training the decoder and the heads on several times as many people per hour.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Dataset

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path, remove_abandoned_temporaries
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.proposals import EncoderFeatures
from multihmr2_ros.training.cache_settings import SETTINGS_FILE, compare_settings, read_settings, write_settings
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.render_cache import make_folder
from multihmr2_ros.training.targets import Targets

logger = logging.getLogger(__name__)

PREFIX, SUFFIX = "batch-", ".safetensors"
QUANTIZED = {"context_16": 1, "context_32": 1, "pooled": 1, "sampled": 3}  # → the axis of its channels
MAX_STEPS_INT8 = 127.0
FEATURES = tuple(field.name for field in dataclasses.fields(EncoderFeatures) if field.name != "outputs")


def open_feature_folder(folder: Path, network: MultiHMR2, settings: dict[str, Any]) -> None:
    """Make a folder of batches and save their settings; raise UserError if its batches have others.

    settings  what determines the batches beside the network's encoder: values of JSON by name
    """
    make_folder(folder)
    remove_abandoned_temporaries(folder, PREFIX)
    own = {"encoder": hash_encoder(network), **settings}
    if _list_batches(folder):
        existing = read_settings(folder, "--features")
        if existing is None:
            logger.warning("%s has no %s: its batches may have other settings", folder, SETTINGS_FILE)
            return
        _compare_encoders(folder, existing, own["encoder"])
        compare_settings(folder, own, existing, "--features")
    write_settings(folder, own)


def check_encoder(folders: Sequence[Path], network: MultiHMR2) -> None:
    """Raise UserError if the batches of a folder are features of another encoder than the network's."""
    encoder = hash_encoder(network)
    for folder in folders:
        existing = read_settings(folder, "--features")
        if existing is not None:
            _compare_encoders(folder, existing, encoder)
        elif _list_batches(folder):
            logger.warning("%s has no %s: its features may be of another encoder", folder, SETTINGS_FILE)


def check_reference_encoder(reference: MultiHMR2, network: MultiHMR2) -> None:
    """Raise UserError unless the reference model can use the features of the network's encoder."""
    if reference.backbone.pretrained is None or hash_encoder(reference) != hash_encoder(network):
        raise UserError(
            "expected a model with the encoder of --features for --consistency-with, got one with another encoder; "
            "give a model trained with --encoder-rate 0 from the same encoder, or train on images instead of --features"
        )


def check_track_features(folders: Sequence[Path], width: int) -> None:
    """Log a warning if batches have no targets for a network that learns tracking features of this width.

    Raises UserError for targets of another width.
    """
    found = {folder: _read_track_feature_width(paths[0]) for folder in folders if (paths := _list_batches(folder))}
    for folder, other in found.items():
        if other not in (None, 0, width):
            raise UserError(
                f"expected tracking features of width {width} in {folder}, got {other}; write the features with the "
                "same --network"
            )
    without = [str(folder) for folder, other in found.items() if other == 0]
    if without:
        logger.warning(
            "tracking features are not trained on %s, which has no targets for them; write the features with the same "
            "--network",
            ", ".join(without),
        )


def hash_encoder(network: MultiHMR2) -> str:
    """Return the SHA-256 of the pretrained encoder's tensors."""
    assert network.backbone.pretrained is not None
    digest = hashlib.sha256()
    for name, value in sorted(network.backbone.pretrained.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _compare_encoders(folder: Path, existing: dict[str, Any], encoder: str) -> None:
    if existing.get("encoder") != encoder:
        raise UserError(
            f"expected the encoder whose features are in {folder}, got another one; give the --encoder-weights or "
            "--from that the features were written with, or choose another --features"
        )


def _read_track_feature_width(path: Path) -> int | None:
    """Return the width of a batch's tracking features; None if the file cannot be read, which is reported later."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return int(file.get_slice("targets.track_feature").get_shape()[-1])
    except (OSError, safetensors.SafetensorError):
        return None


def _list_batches(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


@torch.inference_mode()
def write_batch(folder: Path, number: int, batch: Batch, network: MultiHMR2) -> Path:
    """Write batch `number` with the encoder's features of its images, atomically."""
    features = network.extract_features(batch.image)
    tensors = {"k_given": batch.k_given, "size": torch.tensor(batch.image.shape[-2:])}
    for name in FEATURES:
        value = getattr(features, name)
        if name in QUANTIZED:
            tensors[name], tensors[f"{name}.scale"] = quantize(value, QUANTIZED[name])
        else:
            tensors[name] = value.half() if name != "keypoints" else value
    for field in dataclasses.fields(Targets):
        value = getattr(batch.targets, field.name)
        compact = field.name in ("rotations", "track_feature", "shape")
        tensors[f"targets.{field.name}"] = value.half() if compact else value
    path = folder / f"{PREFIX}{number:07d}{SUFFIX}"
    with atomic_safetensors_path(path) as temporary:
        safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    return path


def read_batch(path: Path) -> Batch:
    """Read a batch written by `write_batch`. Its image has the right shape and is black."""
    tensors = safetensors.torch.load_file(path)
    values: dict[str, Any] = {}
    for name in FEATURES:
        value = tensors[name]
        if name in QUANTIZED:
            value = dequantize(value, tensors[f"{name}.scale"], QUANTIZED[name])
        values[name] = value.float()
    targets = {}
    for field in dataclasses.fields(Targets):
        value = tensors[f"targets.{field.name}"]
        targets[field.name] = value.float() if value.dtype == torch.float16 else value
    count, (height, width) = len(tensors["k_given"]), tensors["size"].tolist()
    image = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 3, height, width)
    origins = tuple(f"{path.name}[{row}]" for row in range(count))
    return Batch(image, Targets(**targets), tensors["k_given"], origins, EncoderFeatures(**values))


def quantize(value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Quantize to int8, with one scale per channel along an axis. Returns the values and scales (channels,)."""
    others = [other for other in range(value.ndim) if other != axis]
    scale = value.abs().amax(others).clamp(min=1e-8) / MAX_STEPS_INT8
    return (value / _reshape_along(scale, axis, value.ndim)).round().to(torch.int8), scale


def dequantize(steps: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Invert `quantize`; the error is at most half a step."""
    return steps * _reshape_along(scale, axis, steps.ndim)


def _reshape_along(scale: Tensor, axis: int, dimensions: int) -> Tensor:
    return scale.view([-1 if index == axis else 1 for index in range(dimensions)])


class CachedBatches(Dataset[Batch]):
    """The batches in the files of some folders, by step; each epoch has a new random order."""

    def __init__(self, folders: Sequence[Path], seed: int, rank: int = 0) -> None:
        self.paths = []
        for folder in folders:
            paths = _list_batches(folder)
            if not paths:
                raise UserError(
                    f"expected batches with features in {folder}, found none; write them with --features-only"
                )
            self.paths += paths
        self.seed, self.rank = seed, rank

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self.paths))
        order = np.random.default_rng([self.seed, self.rank, epoch]).permutation(len(self.paths))
        path = self.paths[order[place]]
        try:
            return read_batch(path)
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise UserError(f"cannot read {path} ({error}); remove it") from None


def list_missing_batches(folder: Path, count: int) -> list[int]:
    """Return the numbers below `count` of batches that are not in the folder."""
    return [number for number in range(count) if not (folder / f"{PREFIX}{number:07d}{SUFFIX}").exists()]
