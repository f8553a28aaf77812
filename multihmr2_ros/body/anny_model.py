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

"""Loads Anny, the body model, and builds its cache at the first use; starts Warp, which the renderer needs, too.

Anny is pinned to 0.6.2 (Apache-2.0) and used without changes of its files. Some of its functions are replaced while it
is imported or builds its cache, because they are slow; the results are the same.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import gzip
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from multihmr2_ros import caches
from multihmr2_ros.errors import UserError

logger = logging.getLogger(__name__)

Mesh = Literal["full", "low"]
ANNY_LOCK = threading.Lock()  # Anny is imported, and its cache is built, by one thread at a time
TOPOLOGY = {"full": "default", "low": "notoes_collapse5pc"}


def load_anny(mesh: Mesh) -> Any:
    """Return Anny's module with a mesh, float32 on the CPU. Raises UserError if its cache cannot be used.

    It is a copy, because `Module.to(device)` replaces the buffers. Until then, all copies share them.
    """
    model = _load_cached_anny(mesh)
    return copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})


def _load_cached_anny(mesh: Mesh) -> Any:
    with ANNY_LOCK:
        return _load_anny_once(mesh)


@functools.cache
def _load_anny_once(mesh: Mesh) -> Any:
    anny = import_anny()
    if not caches.is_body_cached(caches.find_body_cache()):
        logger.info("building the body model cache, only once (less than a minute)")
    try:
        model = _build_anny(anny, mesh)
    except OSError as error:
        raise UserError(
            f"the body model cache in {caches.find_body_cache()} cannot be used ({error.strerror or error}); set "
            "ANNY_CACHE_DIR to a writable folder with 1 GB of free space"
        ) from error
    return model.to(torch.float32).eval()


def import_anny() -> Any:
    """Import Anny and set its cache folder (`caches.find_body_cache`). The import needs a home folder."""
    with caches.ensure_home(), _postpone_compiler():
        import anny
        import anny.paths
    logging.getLogger("anny").setLevel(logging.WARNING)  # Anny prints the files that it opens
    anny.paths.set_anny_cache_path(caches.find_body_cache())
    return anny


@contextlib.contextmanager
def _postpone_compiler() -> Iterator[None]:
    """Import RoMa, which Anny needs, in the block without PyTorch's compiler, which takes as long as PyTorch itself.

    RoMa excludes two functions from compilation with `torch._dynamo.disable`. Here, it does so when they are called.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return

    def disable(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: torch._dynamo.disable(function)(*arguments)

    torch._dynamo = SimpleNamespace(disable=disable)  # type: ignore[assignment]
    try:
        yield
    finally:
        del torch._dynamo  # PyTorch imports it when it is used


def _build_anny(anny: Any, mesh: Mesh) -> Any:
    with warnings.catch_warnings():
        # Anny marks this factory deprecated; only it keeps the rig that the released weights were trained with.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Local changes are all zero in this project: leaving them out changes no vertex and saves three quarters of
        # the memory. Dense blend skinning is one matrix product, without a second runtime on the GPU's stream.
        with _prepare_build():
            return anny.create_fullbody_model(
                topology=TOPOLOGY[mesh],
                local_changes=False,
                pose_parameterization="root_relative",
                remove_unattached_vertices=False,
                all_phenotypes=False,
                skinning_method="lbs",
            )


def _prepare_build() -> AbstractContextManager[None]:
    """In the returned context, Anny uses `start_warp` and `read_blend_shape` if it builds its cache."""
    from anny import models

    build = models.build_model_data

    def build_faster(**options: Any) -> Any:
        from anny.models import full_model

        start_warp()
        with _replace(full_model, "load_blend_shape", read_blend_shape):
            return build(**options)

    return _replace(models, "build_model_data", build_faster)


@contextlib.contextmanager
def _replace(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def read_blend_shape(path: str, vertices_count: int, world_transformation: Any, dtype: torch.dtype) -> Tensor:
    """Read a blend shape (V, 3) m from a file with lines "vertex x y z".

    Does the same as Anny's `load_blend_shape`, which takes minutes for all files, because it sets a tensor per line.
    """
    with gzip.open(path, "rt") as file:
        rows = np.fromstring(file.read(), sep=" ").reshape(-1, 4)
    offsets = np.zeros((vertices_count, 3))
    offsets[rows[:, 0].astype(int)] = rows[:, 1:]
    transformed: Tensor = world_transformation.apply(torch.from_numpy(offsets).to(dtype))
    return transformed


def start_warp() -> None:
    """Set Warp's kernel cache (`caches.find_kernel_cache`) and log level. Does nothing if Warp is not installed.

    Warp prints the hardware that is missing. From here on, only its errors are printed.

    Without a CUDA driver, Warp prints an error to the process's standard error at its start, whatever its settings are.
    It is therefore started here, with standard error redirected. With a driver, it starts when it is used.
    """
    try:
        import warp
    except ModuleNotFoundError:  # only the renderer needs it
        return

    warp.config.kernel_cache_dir = str(caches.find_kernel_cache())
    if hasattr(warp.config, "log_level"):
        warp.config.log_level = warp.LOG_ERROR
    else:  # older releases
        warp.config.quiet = True  # type: ignore[attr-defined]
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with _suppress_standard_error():
            warp.init()


@contextlib.contextmanager
def _suppress_standard_error() -> Iterator[None]:
    """Redirect standard error to the null device in the block, also for native code."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed, as in some daemons
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
