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

"""Renders into the render cache with several processes, beside training or before it (`train --render-only`)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.training.cache_settings import remove_unused_folder
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.rendering import RenderCacheConfig, fill_cache, make_scene_renderer, open_folder
from multihmr2_ros.training.stopping import Outcome, StopRequest, stop_on_signals

logger = logging.getLogger(__name__)


def fill_render_cache(config: RenderCacheConfig, images: int, workers: int) -> Outcome:
    """Fill the render cache until it holds `images` training images. Without any, a new folder is removed again."""
    stop = StopRequest()
    wanted = images + config.held_out_images

    def count_images() -> int:
        return len(RenderCache(config.folder)) + len(RenderCache(config.folder, held_out=True))

    with (
        remove_unused_folder(config.folder),
        stop_on_signals(stop),
        make_progress_bar(name="rendering", unit="image", total=wanted, initial=count_images()) as bar,
    ):
        open_folder(config)
        if workers <= 1:
            with torch.no_grad():
                for _ in fill_cache(
                    config, make_scene_renderer(config.scene, config.sam2), images=images, stopped=stop
                ):
                    bar.update(count_images() - bar.n)
        else:
            with RenderProcesses(config, workers, images=images, niceness=0) as renderers:
                while renderers.running and not stop():
                    time.sleep(0.5)
                    bar.update(count_images() - bar.n)
                if renderers.failed:
                    raise UserError(f"{renderers.failed} of {workers} renderers failed; their messages are above")
    held = f"{config.folder} contains {len(RenderCache(config.folder))} training images"
    if stop() and len(RenderCache(config.folder)) < images:
        return Outcome(f"stopped because {stop.reason}: {held}", stop.exit_status)
    return Outcome(f"done: {held}")


class RenderProcesses:
    """Processes that fill the cache until the block ends; they also end when this process dies."""

    def __init__(
        self, config: RenderCacheConfig, workers: int, *, images: int | None = None, niceness: int = 10
    ) -> None:
        context = multiprocessing.get_context("spawn")
        with _block_signals():  # the first event starts a process that removes leftover semaphores
            self._stop = context.Event()
        self._processes = [
            context.Process(
                target=_run_worker, args=(config, worker, workers, images, niceness, self._stop), daemon=True
            )
            for worker in range(workers)
        ]

    def __enter__(self) -> RenderProcesses:
        with _block_signals():
            for process in self._processes:
                process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()

    @property
    def running(self) -> int:
        """Number of processes that are still running."""
        return sum(process.is_alive() for process in self._processes)

    @property
    def failed(self) -> int:
        """Number of processes that ended with an error, which they logged."""
        return sum(process.exitcode not in (None, 0) for process in self._processes)


@contextmanager
def _block_signals() -> Iterator[None]:
    """Block SIGINT, SIGTERM and SIGHUP in the block, and always in the processes that are started in it.

    A terminal or a scheduler sends them to all processes of a job, but only this one handles them, after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(
    config: RenderCacheConfig, worker: int, workers: int, images: int | None, niceness: int, stop: Any
) -> None:
    """Run a renderer process: one thread, low priority."""
    logging.basicConfig(format=f"renderer {worker}: %(message)s", level=logging.INFO)
    torch.set_num_threads(1)
    os.nice(niceness)
    parent = os.getppid()
    try:
        with torch.no_grad():
            shards = fill_cache(
                config,
                make_scene_renderer(config.scene, config.sam2),
                worker=worker,
                workers=workers,
                images=images,
                stopped=lambda: stop.is_set() or os.getppid() != parent,
            )
            for _ in shards:
                pass
    except UserError as error:
        logger.error("%s", error)
        raise SystemExit(2) from None
