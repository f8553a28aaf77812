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

r"""Train nano for a few minutes on a GPU machine without network: pack the data on one machine, train on another.

    python scripts/gpu_train.py pack PACKED --cache DIR --pseudo-truth IMAGES bodies.npz --empty-images FOLDER \
        --motions FOLDER --hold-out 0.1
    python scripts/gpu_train.py train PACKED/part0 PACKED/part1 --seconds 400 --out RUN
    python scripts/gpu_train.py unpack PACKED/part2

PACKED contains folders part0, part1, … of at most 34 MB each: images as WebP, rotations as rotation vectors, poses for
the steps on keypoints. The first parts contain the real images. Renders may be packed and unpacked while the training
runs. All parts in one --data folder must have the same real images: those of another pack could be held-out images.
Training starts from the bundled weights (or --weights), first with a frozen encoder (OUT/frozen), then with the whole
network (OUT/together). The number of steps is adjusted so that the learning rate reaches zero when the time is over.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from gpu_train_data import pack, read_bank, unpack
from torch import nn
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NANO
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import BatchConfig, Batches, SampleSource
from multihmr2_ros.training.lifting import KeypointBatches, MixedBatches, PoseBank
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.readers import EmptyImageReader, PseudoTruthReader
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.samples import Sample
from multihmr2_ros.training.state import WEIGHTS_FILE
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.weights import resolve_checkpoint

RECENT_STEPS = 100
UNKNOWN_STEPS = 10**6  # until `StepTimer` has measured some
LOSSES = {
    "root_columns": 6.0,
    "reprojection": 5.0,
    "keypoint_similarity": 4.0,
    "angle": 15.0,
    "field_of_view": 8.0,
    "heatmap": 0.0,
}


class AvailableSamples:
    """Samples of a reader whose images exist in a folder."""

    def __init__(self, source: PseudoTruthReader, folder: Path) -> None:
        self.source = source
        self.rows = [row for row in range(len(source)) if (folder / source.get_name(row)).exists()]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> Sample:
        return self.source.sample(self.rows[index])


class AlternatingBatches(Dataset[Any]):
    """Batches of several datasets in turn."""

    def __init__(self, *datasets: Dataset[Any]) -> None:
        self.datasets = datasets

    def __getitem__(self, step: int) -> Any:
        return self.datasets[step % len(self.datasets)][step]


def make_batches(data: Path, bank: PoseBank, args: argparse.Namespace, seed: int, keypoint_steps: int) -> Dataset[Any]:
    people = AvailableSamples(PseudoTruthReader(data / "people", data / "bodies.npz"), data / "people")
    empty = [EmptyImageReader(folder) for folder in sorted(data.glob("empty-*"))]
    cache = RenderCache(data / "cache")
    real = len(people) + sum(map(len, empty))
    sources: list[tuple[SampleSource, float]] = [(people, (1 - args.render_share) * len(people) / real)]
    sources += [(reader, (1 - args.render_share) * len(reader) / real) for reader in empty]
    sources += [(cache, args.render_share)] if len(cache) else []
    sizes = [Batches(sources, BatchConfig(args.batch_size, size, NANO.patch_size), seed) for size in (384, 384, 320)]
    poses = KeypointBatches(bank, NANO.image_size, args.keypoint_people, seed)
    print(f"{len(people)} images of people, {sum(map(len, empty))} without, {len(cache)} renders", flush=True)
    return MixedBatches(AlternatingBatches(*sizes), poses, keypoint_steps, args.keypoint_every)


def make_network(weights: Path) -> MultiHMR2:
    """Return nano's network with the weights of a file; parts missing in the file are initialized as the identity."""
    torch.manual_seed(0)
    network = initialize(MultiHMR2(NANO))
    missing, unexpected = network.load_state_dict(checkpoint.load_network(weights).state_dict(), strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith(("proposals.refine", "decoder.layers.2")) for name in missing), missing
    return network


def train(args: argparse.Namespace) -> None:
    begin = time.monotonic()
    data = args.data
    unpack(args.packed, data)
    bank = read_bank(data / "bank.xz")
    print(f"unpacked after {time.monotonic() - begin:.0f} s", flush=True)
    network = make_network(args.weights or resolve_checkpoint("nano"))
    body, device = Body("low"), torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    unpacked_s = time.monotonic() - begin
    frozen_end_s = unpacked_s + (1 - args.together) * (args.seconds - unpacked_s)
    for name, encoder_factor, keypoint_steps, end_s in (
        ("frozen", 0.0, args.keypoint_steps, frozen_end_s),
        ("together", 1.0, 0, args.seconds),
    ):
        seconds = end_s - (time.monotonic() - begin)
        if seconds > 10:
            network = run_phase(
                args.out / name, network, body, device, args, bank, encoder_factor, seconds, keypoint_steps
            )
    print(f"done after {time.monotonic() - begin:.0f} s", flush=True)


def run_phase(
    out: Path, network: MultiHMR2, body: Body, device: torch.device, args: argparse.Namespace, bank: PoseBank,
    encoder_factor: float, seconds: float, keypoint_steps: int,
) -> MultiHMR2:  # fmt: skip
    """Train for some seconds, with the number of steps adjusted to the pace. Returns the averaged network."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    optimisation = OptimizerConfig(
        args.learning_rate * (0.6 if encoder_factor else 1.0),
        encoder_factor,
        warmup_steps=60,
        decay_fraction=0.6 if encoder_factor else 0.3,
    )
    losses = LossConfig(**LOSSES, keypoint_map=0.0, encoder_keypoint=2.0 if encoder_factor else 0.0)
    config = TrainingConfig(
        UNKNOWN_STEPS, 0.998, args.precision, args.seed + bool(encoder_factor), loader_workers=args.workers,
        log_steps=20, validate_steps=10**9, checkpoint_steps=10**9, optimisation=optimisation, losses=losses,
        batch=BatchConfig(args.batch_size),
    )  # fmt: skip
    trainer = Trainer(network, body, config, out, device)
    dataset = make_batches(args.data, bank, args, config.seed, keypoint_steps)
    timer = StepTimer(trainer, seconds - (time.monotonic() - begin))
    trainer.run(dataset, Hooks(stop=timer), show_progress=False)
    checkpoint.save_network(trainer.ema.network, out / WEIGHTS_FILE, dtype=torch.float16)
    print(f"{out.name}: {trainer.progress.step} steps, {time.monotonic() - begin:.0f} s", flush=True)
    result: nn.Module = trainer.ema.network
    assert isinstance(result, MultiHMR2)
    return result.train()


class StepTimer:
    """Adjusts the run's number of steps to the pace of the last steps. Returns True when the time is over."""

    def __init__(self, trainer: Trainer, seconds: float) -> None:
        self.trainer, self.end = trainer, time.monotonic() + seconds
        self.marks: deque[float] = deque(maxlen=RECENT_STEPS)

    def __call__(self) -> bool:
        now, step = time.monotonic(), self.trainer.progress.step
        self.marks.append(now)
        if len(self.marks) == RECENT_STEPS and step % RECENT_STEPS == 0:
            pace = (now - self.marks[0]) / (RECENT_STEPS - 1)
            steps = max(step + 1, step + int((self.end - now) / pace))
            self.trainer.config = dataclasses.replace(self.trainer.config, steps=steps)
            print(f"step {step} of {steps}, {pace:.3f} s a step", flush=True)
        return now > self.end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packer = commands.add_parser("pack")
    packer.set_defaults(run=pack)
    packer.add_argument("packed", type=Path)
    packer.add_argument("--cache", type=Path, required=True)
    packer.add_argument("--pseudo-truth", nargs=2, required=True)
    packer.add_argument("--empty-images", type=Path, action="append", default=[])
    packer.add_argument("--motions", type=Path)
    packer.add_argument("--hold-out", type=float, default=0.1)
    packer.add_argument("--processes", type=int, default=1)
    unpacker = commands.add_parser("unpack")
    unpacker.set_defaults(run=lambda args: unpack(args.packed, args.data))
    unpacker.add_argument("packed", type=Path, nargs="+")
    trainer = commands.add_parser("train")
    trainer.set_defaults(run=train)
    trainer.add_argument("packed", type=Path, nargs="+")
    trainer.add_argument("--out", type=Path, required=True)
    for command in (unpacker, trainer):
        command.add_argument("--data", type=Path, default=Path("/tmp/nano-data"))
    trainer.add_argument("--weights", type=Path)
    trainer.add_argument("--device", default="cuda")
    trainer.add_argument("--seconds", type=float, default=400)
    trainer.add_argument("--together", type=float, default=0.5)
    trainer.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    trainer.add_argument("--batch-size", type=int, default=256)
    trainer.add_argument("--keypoint-people", type=int, default=2048)
    trainer.add_argument("--keypoint-steps", type=int, default=150)
    trainer.add_argument("--keypoint-every", type=int, default=6)
    trainer.add_argument("--learning-rate", type=float, default=1e-3)
    trainer.add_argument("--render-share", type=float, default=0.6)
    trainer.add_argument("--workers", type=int, default=14)
    trainer.add_argument("--seed", type=int, default=100)
    args = parser.parse_args()
    try:
        args.run(args)
    except UserError as error:
        print(f"gpu_train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
