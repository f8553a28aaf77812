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

"""Fuzz targets for weights: the package's own format, and pickles."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from test.fuzz.mutations import damaged_bytes, damaged_value
from test.fuzz.target import Target


class KeptNetwork:
    """Factory of networks that reuses one for the most frequent configuration.

    The network of that configuration is created once; `checkpoint.load_network` sets all its values each time.
    """

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.network: MultiHMR2 | None = None

    def __call__(self, config: NetworkConfig) -> MultiHMR2:
        if config != self.config:
            return MultiHMR2(config)
        if self.network is None:
            self.network = MultiHMR2(config)
        return self.network


class Checkpoints(Target):
    """Fuzz target for the package's own weights format: damage of the header's JSON values and of the bytes of the
    file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "damaged.safetensors"
        config = NetworkConfig(
            image_size=32, max_grid=2, encoder_width=8, encoder_depth=1, encoder_heads=1, register_tokens=1,
            decoder_width=4, decoder_depth=1, decoder_heads=1, decoder_head_width=4, decoder_mlp_width=4, queries=2,
            head_width=4, shape_outputs=11, track_feature_width=4,
        )  # fmt: skip
        checkpoint.save_network(MultiHMR2(config), self.path)
        self.network = KeptNetwork(config)
        self.seed = self.path.read_bytes()
        self.length = int.from_bytes(self.seed[:8], "little")
        self.header = json.loads(self.seed[8 : 8 + self.length])

    def damaged(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damaged_bytes(rng, self.seed, self.seed, head=rng.choice((None, 16, self.length)))
        header = dict(self.header)
        if rng.random() < 0.6:
            metadata = dict(header["__metadata__"])
            network = json.loads(metadata["network"])
            for _ in range(rng.choice((1, 1, 2, 3))):
                network = damaged_value(rng, network)
            for name in ("encoder_depth", "decoder_depth"):
                if network.get(name) in (127, 128) and rng.random() < 0.9:
                    network[name] = 3  # creating this many layers takes as long as a hundred other inputs
            metadata["network"] = json.dumps(network)
            header["__metadata__"] = metadata
        else:
            header = damaged_value(rng, header)
        content = json.dumps(header).encode()
        return len(content).to_bytes(8, "little") + content + self.seed[8 + self.length :]

    def parse(self, data: bytes) -> None:
        self.path.write_bytes(data)
        with mock.patch.object(checkpoint, "MultiHMR2", self.network):
            checkpoint.load_network(self.path)


class Witness:
    """Object that creates a file if a pickle runs its code."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


class ReleasedCheckpoints(Target):
    """Fuzz target for pickled weights, damaged inside and outside of the zip members. Code in them must never run."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.network = KeptNetwork(NetworkConfig())
        self.witness = folder / "witness"
        self.path = folder / "damaged.pt"
        tensors = {"encoder.backbone.cls_token": torch.zeros(1, 1, 4), "a": torch.ones(3, dtype=torch.float16)}
        contents = [{"model_state_dict": tensors}, {"model_state_dict": tensors, "extra": Witness(str(self.witness))}]
        self.zips: list[bytes] = []
        self.pickles: list[bytes] = []
        for content in contents:
            for is_zip, kept in ((True, self.zips), (False, self.pickles)):
                file = io.BytesIO()
                torch.save(content, file, _use_new_zipfile_serialization=is_zip)
                kept.append(file.getvalue())
        self.pickles += [pickle.dumps(content) for content in contents]
        self.opcodes = [pickle.dumps(Witness(str(self.witness)), protocol) for protocol in range(6)]

    def damaged(self, rng: random.Random) -> bytes:
        foreign = rng.choice(self.opcodes)
        if rng.random() < 0.4:
            return damaged_bytes(rng, rng.choice(self.pickles), foreign)
        if rng.random() < 0.3:
            return damaged_bytes(rng, rng.choice(self.zips), foreign, head=rng.choice((None, 600)))
        again = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(rng.choice(self.zips))) as source, zipfile.ZipFile(again, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name.endswith("data.pkl") or rng.random() < 0.2:
                    content = damaged_bytes(rng, content, foreign)
                if rng.random() < 0.98:
                    target.writestr(name, content)
        return again.getvalue()

    def parse(self, data: bytes) -> None:
        self.path.write_bytes(data)
        try:
            with mock.patch.object(checkpoint, "MultiHMR2", self.network):
                checkpoint.load_network(self.path)
        finally:
            assert not self.witness.exists(), "code of the file has run"
