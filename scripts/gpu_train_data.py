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

"""Packed training data of `scripts/gpu_train.py`: written on the machine with the data, unpacked on the GPU machine."""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import lzma
import multiprocessing
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path
from multihmr2_ros.media.images import UnreadableImageError, read_image
from multihmr2_ros.simulation.motion.retarget import list_motion_files
from multihmr2_ros.training.lifting import PoseBank, make_pose_bank
from multihmr2_ros.training.readers import PseudoTruthReader
from multihmr2_ros.training.readers.common import compute_hash_share
from multihmr2_ros.training.render_cache import list_shard_paths

PART_BYTES = 34_000_000
PACK_FILE = "pack.sha256"  # in each part and in the unpacked data: hash of the pack's real images, bodies and poses
IMAGE_QUALITY, RENDER_QUALITY, BACKGROUND_PX = 72, 75, 448
ROTATION_STEP_RAD = 1e-4
BANK_POSES = 24_000


def run_in_processes(work: Callable[..., None], calls: Sequence[tuple[Any, ...]], processes: int | None = None) -> None:
    """Call work(*arguments) for each of the calls in several processes; None: one per core.

    The processes end by themselves: the pool's SIGTERM can wait forever for one that inherited a handler of it.
    """
    with multiprocessing.Pool(processes) as workers:
        workers.starmap(work, calls, chunksize=1)
        workers.close()
        workers.join()


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
