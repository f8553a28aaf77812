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

"""Train nano for a few minutes on a GPU machine without network: pack the data on one machine, train on another.

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
import hashlib
import io
import itertools
import lzma
import multiprocessing
import os
import shutil
import sys
import tarfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import nn
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path
from multihmr2_ros.media.images import UnreadableImageError, read_image
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NANO
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.simulation.motion.retarget import list_motion_files
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import BatchConfig, Batches, SampleSource
from multihmr2_ros.training.lifting import KeypointBatches, MixedBatches, PoseBank, make_pose_bank
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.readers import EmptyImageReader, PseudoTruthReader
from multihmr2_ros.training.readers.common import compute_hash_share
from multihmr2_ros.training.render_cache import RenderCache, list_shard_paths
from multihmr2_ros.training.samples import Sample
from multihmr2_ros.training.state import WEIGHTS_FILE
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.weights import resolve_checkpoint

PART_BYTES = 34_000_000
PACK_FILE = "pack.sha256"  # in each part and in the unpacked data: hash of the pack's real images, bodies and poses
IMAGE_QUALITY, RENDER_QUALITY, BACKGROUND_PX = 72, 75, 448
ROTATION_STEP_RAD = 1e-4
BANK_POSES = 24_000
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


def run_in_processes(work: Callable[..., None], calls: Sequence[tuple[Any, ...]], processes: int | None = None) -> None:
    """Call work(*arguments) for each of the calls in several processes; None: one per core.

    The processes end by themselves: the pool's SIGTERM can wait forever for one that inherited a handler of it.
    """
    with multiprocessing.Pool(processes) as workers:
        workers.starmap(work, calls, chunksize=1)
        workers.close()
        workers.join()


# --- on the machine with the data


def pack(args: argparse.Namespace) -> None:
    """Pack real images, renders and poses into folders for transfer. Raises UserError for folders of equal name."""
    kinds = ["people", *(f"empty-{folder.name}" for folder in args.empty_images)]
    if len(set(kinds)) < len(kinds):
        raise UserError("expected --empty-images folders of different names, got two of one name; rename one of them")
    args.packed.mkdir(parents=True, exist_ok=True)
    files = args.packed / "files"
    files.mkdir(exist_ok=True)
    for path in files.glob("*.tar"):
        if path.stem.rpartition("-")[0] not in kinds:  # of folders that were given before
            path.unlink()
    images, bodies = (Path(path) for path in args.pseudo_truth)
    shutil.copy(bodies, files / "bodies.npz")
    _pack_bank(files / "bank.xz", args.motions)
    reader = PseudoTruthReader(images, bodies)
    names = [name for name in map(reader.get_name, range(len(reader))) if compute_hash_share(name) >= args.hold_out]
    pack_images(files, "people", [(name, images / name) for name in names], None, reader.labeled_sizes)
    for folder in args.empty_images:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")]
        pack_images(files, f"empty-{folder.name}", [(path.name, path) for path in paths], BACKGROUND_PX, {})
    shards = {files / f"{path.stem}.xz": path for path in list_shard_paths(args.cache)}
    for old in set(files.glob("seeds-*")) - shards.keys():  # of a cache that was given before
        old.unlink()
    run_in_processes(pack_shard, [(path, target) for target, path in shards.items()], args.processes)
    distribute(files, args.packed)


def _pack_bank(target: Path, motions: Path | None) -> None:
    """Write the poses, unless the file has those of the same motions, which bank.txt beside the folder lists."""
    paths = list_motion_files(motions) if motions else []
    listed = os.fsencode("".join(f"{path.absolute()} {path.stat().st_size}\n" for path in paths))
    packed = target.parent.parent / "bank.txt"
    if target.exists() and packed.exists() and packed.read_bytes() == listed:
        return
    packed.unlink(missing_ok=True)
    _write(target, _bank_arrays(make_pose_bank(Body("low"), BANK_POSES, motions, seed=7)))
    packed.write_bytes(listed)


def pack_images(
    files: Path, name: str, sources: list[tuple[str, Path]], longest_px: int | None,
    labeled_sizes: dict[str, tuple[int, int]],
) -> None:  # fmt: skip
    """Write archives NAME-0000.tar, … of about 4 MB; images are recompressed and keep their names.

    NAME.txt beside the folder lists the packed files, and is written last: archives of other files, or of an
    interrupted call, are written again.
    """
    packed, sizes = files.parent / f"{name}.txt", [labeled_sizes.get(member) for member, _ in sources]
    lines = (f"{path.absolute()}{size or ''}\n" for (_, path), size in zip(sources, sizes, strict=True))
    listed = os.fsencode("".join(lines))
    if packed.exists() and packed.read_bytes() == listed:
        return
    packed.unlink(missing_ok=True)
    for old in files.glob(f"{name}-*.tar"):
        if old.stem.rpartition("-")[0] == name:
            old.unlink()
    content: list[tuple[str, bytes]] = []
    number, size = 0, 0
    for (member, path), labeled_size in zip(sources, sizes, strict=True):
        try:
            image = np.ascontiguousarray(read_image(path, labeled_size)[:, :, ::-1])
        except UnreadableImageError as error:
            print(f"{error}; the image is skipped", flush=True)
            continue
        scale = 1.0 if longest_px is None else min(1.0, longest_px / max(image.shape[:2]))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        content.append((member, cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, IMAGE_QUALITY])[1].tobytes()))
        size += len(content[-1][1])
        if size > 4_000_000:
            write_tar(files / f"{name}-{number:04d}.tar", content)
            content, number, size = [], number + 1, 0
    write_tar(files / f"{name}-{number:04d}.tar", content)
    packed.write_bytes(listed)


def write_tar(path: Path, content: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def pack_shard(source: Path, target: Path) -> None:
    """Pack a shard of renders, unless the target has its time of modification."""
    modified = source.stat().st_mtime_ns
    if target.exists() and target.stat().st_mtime_ns == modified:
        return
    arrays = safetensors.numpy.load_file(source)
    starts = arrays["image_start"]
    encoded = []
    for first, last in itertools.pairwise(starts):
        image = cv2.imdecode(arrays["images"][first:last], cv2.IMREAD_COLOR)
        encoded.append(cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, RENDER_QUALITY])[1].reshape(-1))
    arrays["images"] = np.concatenate(encoded)
    arrays["image_start"] = np.concatenate([[0], np.cumsum([len(data) for data in encoded])]).astype(np.int64)
    arrays["rotvec"] = _to_vectors(arrays.pop("rotations"))
    _write(target, arrays)
    os.utime(target, ns=(modified, modified))


def _bank_arrays(bank: PoseBank) -> dict[str, NDArray[Any]]:
    return {
        "shape": bank.shape, "rotvec": _to_vectors(bank.rotations), "keypoints": bank.keypoints.astype(np.float16),
        "center": bank.center.astype(np.float16),
    }  # fmt: skip


def _to_vectors(rotations: NDArray[Any]) -> NDArray[np.int16]:
    """Convert matrices (N, 163, 3, 3) to rotation vectors (N, 163, 3) in units of ROTATION_STEP_RAD."""
    if not len(rotations):
        return np.zeros((0, *rotations.shape[1:3]), np.int16)
    vectors = Rotation.from_matrix(rotations.astype(np.float32).reshape(-1, 3, 3)).as_rotvec()
    return np.round(vectors / ROTATION_STEP_RAD).astype(np.int16).reshape(rotations.shape[:3])


def _to_matrices(steps: NDArray[np.int16]) -> NDArray[np.float16]:
    if not len(steps):
        return np.zeros((*steps.shape, 3), np.float16)
    matrices = Rotation.from_rotvec(ROTATION_STEP_RAD * steps.reshape(-1, 3).astype(np.float64)).as_matrix()
    return matrices.astype(np.float16).reshape(*steps.shape, 3)


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    raw = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(lzma.compress(raw, preset=4))
    temporary.rename(path)


def distribute(files: Path, packed: Path) -> None:
    """Link the files into part0, part1, …: real images and poses first, then renders. Each part has the hash of the
    former, so that renders can be added to a pack."""
    for old in packed.glob("part*"):
        shutil.rmtree(old)
    renders = sorted(files.glob("seeds-*"))
    others = sorted(set(files.iterdir()) - set(renders))
    paths, digest = [*others, *renders], hashlib.sha256()
    for path in others:
        digest.update(path.name.encode() + path.read_bytes())
    number, size = 0, 0
    for path in paths:
        if size + path.stat().st_size > PART_BYTES:
            number, size = number + 1, 0
        part = packed / f"part{number}"
        part.mkdir(exist_ok=True)
        os.link(path, part / path.name)
        (part / PACK_FILE).write_text(digest.hexdigest())
        size += path.stat().st_size
    print(f"{number + 1} parts, {sum(path.stat().st_size for path in paths) / 1e6:.0f} MB")


# --- on the GPU machine


def unpack(folders: list[Path], data: Path) -> None:
    """Unpack the folders: images, renders (`data`/cache) and poses.

    Raises UserError if the parts, or earlier ones in `data`, are of different packs.
    """
    try:
        packs = {(folder / PACK_FILE).read_text() for folder in folders}
    except FileNotFoundError as error:
        raise UserError(f"expected a part of a pack with {error.filename}, found none; pack again") from None
    if data.is_dir() and any(data.iterdir()):
        packs.add((data / PACK_FILE).read_text() if (data / PACK_FILE).is_file() else "unknown")
    if len(packs) > 1:
        raise UserError(
            f"expected parts of one pack in {data}, got files of {len(packs)}; choose another --data or remove it"
        )
    data.mkdir(parents=True, exist_ok=True)
    if not (data / PACK_FILE).exists():
        (data / PACK_FILE).write_text(*packs)
    for name in ("cache", "people"):
        (data / name).mkdir(parents=True, exist_ok=True)
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.name != PACK_FILE]
    run_in_processes(_unpack_file, [(path, data) for path in paths])


def _unpack_file(path: Path, data: Path) -> None:
    if path.suffix == ".tar":
        name = path.stem.rsplit("-", 1)[0]
        with tarfile.open(path) as archive:
            archive.extractall(data / name, filter="data")
    elif path.name.startswith("seeds-"):
        arrays = safetensors.numpy.load(lzma.decompress(path.read_bytes()))
        arrays["rotations"] = _to_matrices(arrays.pop("rotvec"))
        with atomic_safetensors_path(data / "cache" / f"{path.stem}.safetensors") as target:
            safetensors.numpy.save_file(arrays, target)
    else:
        shutil.copy(path, data / path.name)


def read_bank(path: Path) -> PoseBank:
    arrays = safetensors.numpy.load(lzma.decompress(path.read_bytes()))
    return PoseBank(
        arrays["shape"], _to_matrices(arrays["rotvec"]), arrays["keypoints"].astype(np.float32),
        arrays["center"].astype(np.float32),
    )  # fmt: skip


class OnDisk:
    """The samples of a reader whose images exist in a folder."""

    def __init__(self, source: PseudoTruthReader, folder: Path) -> None:
        self.source = source
        self.rows = [row for row in range(len(source)) if (folder / source.get_name(row)).exists()]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> Sample:
        return self.source.sample(self.rows[index])


class Mixed(Dataset[Any]):
    """Batches of several datasets in turn."""

    def __init__(self, *datasets: Dataset[Any]) -> None:
        self.datasets = datasets

    def __getitem__(self, step: int) -> Any:
        return self.datasets[step % len(self.datasets)][step]


def batches(data: Path, bank: PoseBank, args: argparse.Namespace, seed: int, keypoint_steps: int) -> Dataset[Any]:
    people = OnDisk(PseudoTruthReader(data / "people", data / "bodies.npz"), data / "people")
    empty = [EmptyImageReader(folder) for folder in sorted(data.glob("empty-*"))]
    cache = RenderCache(data / "cache")
    real = len(people) + sum(map(len, empty))
    sources: list[tuple[SampleSource, float]] = [(people, (1 - args.render_share) * len(people) / real)]
    sources += [(reader, (1 - args.render_share) * len(reader) / real) for reader in empty]
    sources += [(cache, args.render_share)] if len(cache) else []
    sizes = [Batches(sources, BatchConfig(args.batch_size, size, NANO.patch_size), seed) for size in (384, 384, 320)]
    poses = KeypointBatches(bank, NANO.image_size, args.keypoint_people, seed)
    print(f"{len(people)} images of people, {sum(map(len, empty))} without, {len(cache)} renders", flush=True)
    return MixedBatches(Mixed(*sizes), poses, keypoint_steps, args.keypoint_every)


def start_network(weights: Path) -> MultiHMR2:
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
    network = start_network(args.weights or resolve_checkpoint("nano"))
    body, device = Body("low"), torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    first = (1 - args.together) * (args.seconds - (time.monotonic() - begin))
    for name, encoder, share, keypoint_steps in (
        ("frozen", 0.0, None, args.keypoint_steps),
        ("together", 1.0, 1.0, 0),
    ):
        left = args.seconds - (time.monotonic() - begin)
        seconds = left if share else first
        if seconds > 10:
            network = run_phase(args.out / name, network, body, device, args, bank, encoder, seconds, keypoint_steps)
    print(f"done after {time.monotonic() - begin:.0f} s", flush=True)


def run_phase(
    out: Path, network: MultiHMR2, body: Body, device: torch.device, args: argparse.Namespace, bank: PoseBank,
    encoder: float, seconds: float, keypoint_steps: int,
) -> MultiHMR2:  # fmt: skip
    """Train for some seconds, with the number of steps adjusted to the pace. Returns the averaged network."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    optimisation = OptimizerConfig(
        args.learning_rate * (0.6 if encoder else 1.0), encoder, warmup_steps=60, decay_fraction=0.6 if encoder else 0.3
    )
    losses = LossConfig(**LOSSES, keypoint_map=0.0, encoder_keypoint=2.0 if encoder else 0.0)
    config = TrainingConfig(
        UNKNOWN_STEPS, 0.998, args.precision, args.seed + bool(encoder), loader_workers=args.workers, log_steps=20,
        validate_steps=10**9, checkpoint_steps=10**9, optimisation=optimisation, losses=losses,
        batch=BatchConfig(args.batch_size),
    )  # fmt: skip
    trainer = Trainer(network, body, config, out, device)
    dataset = batches(args.data, bank, args, config.seed, keypoint_steps)
    timer = StepTimer(trainer, seconds - (time.monotonic() - begin))
    trainer.run(dataset, Hooks(stop=timer), show_progress=False)
    checkpoint.save_network(
        trainer.ema.network, out / WEIGHTS_FILE, dtype=torch.float16
    )  # float16, half the size of the trainer's file
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
