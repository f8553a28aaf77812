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

"""Rendering while a session trains: starts the renderers, waits for the first images, and paces training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.training.cache_settings import remove_unused_folder
from multihmr2_ros.training.data import REFRESH_S
from multihmr2_ros.training.distributed import ProcessGroup
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.render_processes import RenderProcesses
from multihmr2_ros.training.rendering import RenderCacheConfig, open_folder
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.session_batches import describe_empty_cache
from multihmr2_ros.training.stopping import StopRequest, is_any_stopped

logger = logging.getLogger(__name__)


@contextmanager
def start_renderers(session: Session, processes: ProcessGroup) -> Iterator[RenderProcesses | None]:
    """Start this machine's background renderers, in its first process; they end with the block."""
    if session.render_cache is None:
        yield None
        return
    with remove_unused_folder(session.render_cache.folder):
        if processes.is_first:
            open_folder(session.render_cache)
        processes.wait()
        if session.render_workers and processes.local_rank == 0:
            with RenderProcesses(session.render_cache, session.render_workers) as renderers:
                yield renderers
        else:
            yield None


def wait_for_cache(
    session: Session,
    config: RenderCacheConfig,
    renderers: RenderProcesses | None,
    processes: ProcessGroup,
    device: torch.device,
    stop: StopRequest,
) -> RenderCache:
    """Return the render cache when it contains enough images to start, or at a stop. Waits while renderers are running.

    All processes run this loop together. Raises UserError if the cache is empty and no renderer is running.
    """
    wanted = max(1, min(session.training.start_images, config.cache_images))
    cache = RenderCache(config.folder)
    with make_progress_bar(name="first images", unit="image", total=wanted, disable=len(cache) >= wanted) as bar:
        while processes.reduce_any(len(cache) < wanted, device) and not is_any_stopped(stop, processes, device):
            has_ended = not session.render_workers or (renderers is not None and not renderers.running)
            if not processes.reduce_any(has_ended, device):
                time.sleep(1.0)
            elif processes.reduce_any(not len(cache), device):
                raise describe_empty_cache(config.folder)
            else:
                logger.warning("training begins with only %d images in the render cache", len(cache))
                break
            cache.refresh()
            bar.update(min(len(cache), wanted) - bar.n)
    return cache


@dataclass
class RenderMonitor:
    """Compares the numbers of used and rendered images, and logs failed renderers."""

    cache: RenderCache
    renderers: RenderProcesses | None
    most_views: float
    share: float
    _refreshed_s: float = 0.0
    _failed: int = 0

    def compute_views(self, images: int) -> float:
        """Return the mean number of uses of each render, after `images` drawn images."""
        if time.monotonic() - self._refreshed_s > REFRESH_S:
            self.cache.refresh()
            self._refreshed_s = time.monotonic()
            failed = 0 if self.renderers is None else self.renderers.failed
            if failed > self._failed:
                logger.warning("%d renderers have failed; training continues with the existing images", failed)
                self._failed = failed
        return self.share * images / max(self.cache.rendered, 1)

    def is_behind(self, images: int) -> bool:
        """Return whether training should wait for the renderers."""
        if not self.most_views or self.renderers is None or not self.renderers.running:
            return False
        return self.compute_views(images) > self.most_views
