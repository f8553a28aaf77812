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

"""Packs Anny and its cache on one machine and unpacks them on another machine that has only PyTorch.

Anny's cache contains float64, but a `Body` is float32. The large arrays are therefore packed as float32, and unpacking
gives the same `Body`, bit for bit. `pack` checks this with a Python that does not find the installed packages and their
metadata, as on the other machine.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

ROOT = Path(__file__).resolve().parents[1]
MIN_LARGE_BYTES = 1 << 20
PACKAGES = {"anny": ("data/keypoints",), "roma": ()}  # pure Python packages → their data folders that are read
ABSENT = ("anny", "roma", "warp")  # missing on the other machine: prefixes of the names of modules and metadata
CACHED = "build_compact_model_data_*.safetensors"  # the files that `Body` reads, of both meshes


def pack(folder: Path) -> None:
    """Fill the folder, and print its size at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in PACKAGES.items():
        copy_package(name, folder / "python" / name, data)
    source = _cached_files()
    for file in source:
        target = folder / "anny" / file.parent.name / f"{file.name}.xz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_compressed(file))
    _check_bodies(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB; its bodies are bit-identical to this machine's")


def unpack(folder: Path, cache: Path) -> None:
    """Write Anny's cache (the folder for ANNY_CACHE_DIR) from a packed folder."""
    for file in sorted(folder.glob("anny/*/*.xz")):
        target = cache / file.parent.name / file.stem
        target.parent.mkdir(parents=True, exist_ok=True)
        _decompress(file.read_bytes(), target)


def bare_python(links: Path) -> tuple[list[str], str]:
    """Return the command of a Python without the packages of ABSENT, and the last entry of its PYTHONPATH.

    links: folder that is filled with links to all other packages.
    """
    links.mkdir(parents=True, exist_ok=True)
    for folder in (Path(name) for name in sys.path if name.endswith("-packages")):
        for found in folder.iterdir() if folder.is_dir() else ():
            link = links / found.name
            if not found.name.startswith(ABSENT) and not link.exists():
                link.symlink_to(found)
    return [sys.executable, "-S"], str(links)  # -S: site-packages are not searched


def _cached_files() -> list[Path]:
    from multihmr2_ros.body import Body
    from multihmr2_ros.caches import find_body_cache

    for mesh in ("low", "full"):
        Body(mesh)  # builds the cache if necessary
    return sorted(find_body_cache().glob(f"*/{CACHED}"))


def copy_package(name: str, target: Path, data: tuple[str, ...]) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "data", "examples"))
    for part in data:
        shutil.copytree(source / part, target / part)
    installed = importlib.metadata.distribution(name)  # Anny reads its own version
    metadata = target.parent / f"{name}-{installed.version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(installed.read_text("METADATA") or "", encoding="utf-8")


def _compressed(file: Path) -> bytes:
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    large = [n for n, a in arrays.items() if a.dtype == np.float64 and a.nbytes >= MIN_LARGE_BYTES]
    for name in large:
        arrays[name] = arrays[name].astype(np.float32)
    content = safetensors.numpy.save(arrays, metadata=metadata | {"packed": ",".join(large)})
    planes = np.frombuffer(content + bytes(-len(content) % 4), np.uint8).reshape(-1, 4).T
    return lzma.compress(planes.tobytes(), preset=1)  # grouping bytes of equal significance halves the size


def _decompress(packed: bytes, target: Path) -> None:
    planes = np.frombuffer(lzma.decompress(packed), np.uint8).reshape(4, -1)
    target.write_bytes(planes.T.tobytes())
    with safetensors.safe_open(target, framework="numpy") as opened:
        metadata = opened.metadata()
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    for name in filter(None, metadata.pop("packed").split(",")):
        arrays[name] = arrays[name].astype(np.float64)
    safetensors.numpy.save_file(arrays, target, metadata=metadata)


def _check_bodies(folder: Path) -> None:
    """Compare bodies of the unpacked folder, created in a process without the cache, with this machine's bodies."""
    digests = []
    with tempfile.TemporaryDirectory() as work:
        unpack(folder, Path(work) / "anny")
        bare, others = bare_python(Path(work) / "packages")
        packed = {"ANNY_CACHE_DIR": f"{work}/anny", "PYTHONPATH": f"{ROOT}:{(folder / 'python').resolve()}:{others}"}
        for python, changes in (([sys.executable], {}), (bare, packed)):
            command = [*python, str(Path(__file__).resolve())]
            done = subprocess.run(command, env=os.environ | changes, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(f"the body model failed with {' '.join(python)}; see the error above")
            digests.append(done.stdout)
    if digests[0] != digests[1]:
        raise SystemExit("expected the same bodies from the packed folder as on this machine, got others")


def _print_digests() -> None:
    """Print one line per mesh: a digest of all tensors of its body."""
    import hashlib

    from multihmr2_ros.body import Body

    for mesh in ("low", "full"):
        digest = hashlib.sha256()
        for name, value in sorted(Body(mesh).named_buffers()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        print(mesh, digest.hexdigest())


if __name__ == "__main__":
    _print_digests()
