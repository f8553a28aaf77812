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

"""A run from its options to its end: the cache and its renderers, the data, the network, signals and time limit."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import keep_freed_memory, training_threads
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.network.initialization import initialise
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.movenet import load_encoder
from multihmr2_ros.training.augmentation import input_sizes
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import REFRESH_S, Batch, Batches, SampleSource, held_out_batches, readable
from multihmr2_ros.training.distributed import Processes, own_device, processes
from multihmr2_ros.training.feature_cache import CachedBatches, missing_batches, write_batch
from multihmr2_ros.training.lifting import KeypointBatches, LiftingConfig, WithKeypoints, make_bank
from multihmr2_ros.training.pool import Pool, make_folder
from multihmr2_ros.training.records import CURVES_FILE, LOG_FILE
from multihmr2_ros.training.rendering import PoolConfig, Renderers, fill, open_folder, scene_renderer
from multihmr2_ros.training.state import WEIGHTS_FILE, state_paths
from multihmr2_ros.training.trainer import Hooks, Trainer

logger = logging.getLogger(__name__)

MEAN_POSE_IMAGES = 300


@dataclass(frozen=True)
class Session:
    """What one call of `multihmr2 train` does.

    out                the run's folder
    network            sizes of a network that starts from random weights
    training           everything else about the run
    pool               renders to train on
    render_workers     processes that go on rendering meanwhile
    datasets           readers of real data
    render_share       the part of the images that are renders where there are both
    start_from         the weights file that the network starts from, instead of random weights
    encoder_weights    of the pretrained encoder; in place of its own where there is start_from
    features           folders of batches that the frozen encoder has seen, to train on instead of images
    lifting            how poses are learned from keypoints alone, beside images
    consistency_with   the weights file of a model that the consistency losses hold on to
    resume             go on in `out`
    """

    out: Path
    network: NetworkConfig
    training: TrainingConfig
    pool: PoolConfig | None = None
    render_workers: int = 0
    datasets: tuple[SampleSource, ...] = ()
    render_share: float = 0.5
    start_from: Path | None = None
    encoder_weights: Path | None = None
    features: tuple[Path, ...] = ()
    lifting: LiftingConfig | None = None
    consistency_with: Path | None = None
    resume: bool = False
    device: str = "auto"
    time_limit_s: float | None = None


@dataclass
class StopRequest:
    """Whether and why the run should end after the current step."""

    reason: str = ""
    deadline: float | None = None

    def __call__(self) -> bool:
        if not self.reason and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = "the time limit is reached"
        return bool(self.reason)


def train(session: Session) -> str:
    """Train, or go on training; returns one line that says how it ended. Raises UserError for what cannot be done."""
    stop = StopRequest(deadline=None if session.time_limit_s is None else time.monotonic() + session.time_limit_s)
    make_folder(session.out)
    _refuse_existing(session)
    if session.pool is None and not session.datasets and not session.features:
        raise UserError("there is nothing to train on; give --cache for renders, or a dataset")
    device = own_device(torch.device(Runtime(session.device).resolve().device), os.environ)
    with processes(device) as others, _signals(stop), _renderers(session, others) as renderers:
        torch.set_num_threads(
            session.training.threads or training_threads(session.training.loader_workers, session.render_workers)
        )
        keep_freed_memory()

        def is_stopped() -> bool:
            if others.any(stop(), device) and not stop.reason:
                stop.reason = "another process was stopped"
            return bool(stop.reason)

        def anywhere(flag: bool) -> bool:
            return others.any(flag, device)

        pool = None
        if session.pool is not None and not session.features:
            pool = _ready_pool(session, session.pool, renderers, is_stopped, anywhere)
        trainer = _trainer(session, device, others)
        if is_stopped():
            return f"stopped before the first step: {stop.reason}"
        batches: Dataset[Batch]
        if session.features:
            batches = CachedBatches(session.features, session.training.seed, others.rank)
        else:
            batches = Batches(_sources(session, pool), session.training.batch, session.training.seed, others.rank)
        if session.lifting is not None:
            batches = with_keypoints(batches, session)
        done = trainer.run(batches, _hooks(session, pool, renderers, stop))
        where = f"step {trainer.progress.step} of {session.training.steps}, weights in {session.out}"
        reason = stop.reason or "another process was stopped"
        return f"done: {where}" if done else f"stopped, because {reason}: {where}; go on with --resume"


def with_keypoints(batches: Dataset[Batch], session: Session) -> Dataset[Any]:
    """The batches, with those of keypoints alone in between."""
    config = session.lifting
    assert config is not None
    if session.network.encoder != "movenet":
        raise UserError("poses are learned from keypoints only where the queries start from them: --network nano")
    motions = None if session.pool is None else session.pool.scene.motions
    bank = make_bank(Body("low"), config.poses, motions, session.training.seed)
    keypoints = KeypointBatches(bank, session.network.image_size, config.people, session.training.seed)
    return WithKeypoints(batches, keypoints, config.steps, config.every)


def features_only(session: Session, count: int) -> str:
    """Write `count` batches with the encoder's features into the first folder; returns one line that says how it ended.

    The batches are those that a run with the session's options would train on."""
    folder = session.features[0]
    make_folder(folder)
    pool = None if session.pool is None else Pool(session.pool.folder)
    torch.set_num_threads(session.training.threads or training_threads(loader_workers=0, render_workers=0))
    keep_freed_memory()
    network = make_network(session).eval()
    batches = Batches(_sources(session, pool), session.training.batch, session.training.seed)
    stop = StopRequest()
    missing = missing_batches(folder, count)
    with _signals(stop), tqdm(missing, unit="batch", dynamic_ncols=True) as bar:
        for number in bar:
            if stop():
                return f"stopped, because {stop.reason}: {len(missing_batches(folder, count))} batches are missing"
            write_batch(folder, number, batches[number], network)
    return f"done: {folder} holds {count} batches of {session.training.batch.batch_size} images"


def _refuse_existing(session: Session) -> None:
    """Raises UserError where the run would replace an earlier one's files, or weights that it does not own."""
    if session.resume:
        return
    if state_paths(session.out):
        raise UserError(f"{session.out} already holds a run; add --resume to go on with it, or choose another --out")
    for name in (WEIGHTS_FILE, LOG_FILE, CURVES_FILE):
        if (session.out / name).exists():
            raise UserError(f"{session.out / name} exists already, and this run would replace it; choose another --out")


def render_only(config: PoolConfig, images: int, workers: int) -> str:
    """Fill the cache until it holds `images` training images; returns one line that says how it ended."""
    open_folder(config)
    stop = StopRequest()
    wanted = images + config.held_out_images

    def present() -> int:
        return len(Pool(config.folder)) + len(Pool(config.folder, held_out=True))

    with _signals(stop), tqdm(total=wanted, initial=present(), unit="image", dynamic_ncols=True) as bar:
        if workers <= 1:
            with torch.no_grad():
                for count in fill(config, scene_renderer(config.scene, config.sam2), images=images, stopped=stop):
                    bar.update(count)
        else:
            with Renderers(config, workers, images=images, niceness=0) as renderers:
                while renderers.running and not stop():
                    time.sleep(0.5)
                    bar.update(present() - bar.n)
                if renderers.failed:
                    raise UserError(f"{renderers.failed} of {workers} renderers failed; their messages are above")
    held = f"{config.folder} holds {len(Pool(config.folder))} training images"
    return f"stopped, because {stop.reason}: {held}" if stop() else f"done: {held}"


@contextmanager
def _renderers(session: Session, others: Processes) -> Iterator[Renderers | None]:
    """The background renderers of this machine, which its first process starts."""
    if session.pool is None:
        yield None
        return
    if others.is_first:
        open_folder(session.pool)
    others.wait()
    if session.render_workers and others.local_rank == 0:
        with Renderers(session.pool, session.render_workers) as renderers:
            yield renderers
    else:
        yield None


def _ready_pool(
    session: Session,
    config: PoolConfig,
    renderers: Renderers | None,
    is_stopped: Callable[[], bool],
    anywhere: Callable[[bool], bool],
) -> Pool:
    """The pool as soon as it holds enough images to begin with. Waits as long as something is rendering.

    anywhere(flag): whether the flag is set in any process; all go through this loop together.
    """
    wanted = max(1, min(session.training.start_images, config.cache_images))
    pool = Pool(config.folder)
    with tqdm(total=wanted, desc="first images", unit="image", disable=len(pool) >= wanted) as bar:
        while anywhere(len(pool) < wanted) and not is_stopped():
            has_ended = not session.render_workers or (renderers is not None and not renderers.running)
            if not anywhere(has_ended):
                time.sleep(1.0)
            elif anywhere(not len(pool)):
                raise UserError(
                    f"{config.folder} holds no images and nothing renders any; add --render-workers, or fill it with "
                    "--render-only first"
                )
            else:
                logger.warning("training begins with only %d images in the cache", len(pool))
                break
            pool.refresh()
            bar.update(min(len(pool), wanted) - bar.n)
    return pool


def _sources(session: Session, pool: Pool | None) -> list[tuple[SampleSource, float]]:
    """The renders and the datasets with their weights: datasets share theirs by their sizes."""
    real = sum(len(dataset) for dataset in session.datasets)
    share = session.render_share if session.datasets else 1.0
    sources: list[tuple[SampleSource, float]] = []
    if pool is not None:
        sources.append((pool, share))
    left = 1.0 - share if pool is not None else 1.0
    return sources + [(dataset, left * len(dataset) / max(real, 1)) for dataset in session.datasets]


def _trainer(session: Session, device: torch.device, others: Processes) -> Trainer:
    config = session.training
    network = make_network(session)
    reference = None if session.consistency_with is None else checkpoint.load(session.consistency_with)
    held_out = []
    if session.pool is not None and others.is_first:
        scene, batch = session.pool.scene, config.batch
        size = input_sizes(network.config.image_size, batch.patch_size, [scene.width / scene.height])[0]
        pool = Pool(session.pool.folder, held_out=True)
        held_out = held_out_batches(pool, session.pool.held_out_images, batch, input_size=size)
        if not held_out:
            logger.warning("no held-out images are in %s: there is no validation", session.pool.folder)
    trainer = Trainer(
        network,
        Body("low"),
        config,
        session.out,
        device,
        held_out=held_out,
        reference=reference,
        processes=others,
    )
    if session.resume:
        trainer.resume()
        logger.info("resumed at step %d", trainer.progress.step)
    return trainer


def make_network(session: Session) -> MultiHMR2:
    """The weights file's network, or one of random weights that begins with the renders' mean pose."""
    if session.start_from is not None:
        network = checkpoint.load(session.start_from)
    else:
        torch.manual_seed(session.training.seed)
        mean = None if session.pool is None else mean_rotations(session.pool.folder)
        network = initialise(MultiHMR2(session.network), mean)
    pretrained = network.backbone.pretrained
    if pretrained is not None and session.encoder_weights is not None:
        load_encoder(pretrained.movenet, session.encoder_weights)
    elif pretrained is not None and session.start_from is None:
        raise UserError("the network's encoder starts with pretrained weights; name their file: --encoder-weights")
    return network


def mean_rotations(folder: Path) -> Tensor | None:
    """(163, 3, 3) mean over people of a pool's first images, of the rotation matrices; None without people."""
    pool = Pool(folder)
    rotations = [sample.rotations for sample in readable(pool, range(min(len(pool), MEAN_POSE_IMAGES)))]
    total = sum(len(rows) for rows in rotations)
    return torch.from_numpy(np.concatenate(rotations).mean(axis=0)) if total else None


def _hooks(session: Session, pool: Pool | None, renderers: Renderers | None, stop: StopRequest) -> Hooks:
    if pool is None:
        return Hooks(stop=stop)
    watch = _RenderWatch(pool, renderers, session.training.most_views, _share_of_renders(session))
    return Hooks(stop=stop, hold=watch.behind, views=watch.views)


def _share_of_renders(session: Session) -> float:
    return session.render_share if session.datasets else 1.0


@dataclass
class _RenderWatch:
    """Compares what is shown with what was rendered, and says when a renderer has died."""

    pool: Pool
    renderers: Renderers | None
    most_views: float
    share: float
    _seen: float = 0.0
    _failed: int = field(default=0)

    def views(self, images: int) -> float:
        """How often each render has been shown on average when `images` have been drawn."""
        if time.monotonic() - self._seen > REFRESH_S:
            self.pool.refresh()
            self._seen = time.monotonic()
            failed = 0 if self.renderers is None else self.renderers.failed
            if failed > self._failed:
                logger.warning("%d renderers have failed; training goes on with the images that are there", failed)
                self._failed = failed
        return self.share * images / max(self.pool.rendered, 1)

    def behind(self, images: int) -> bool:
        """Whether training should wait for the renderers."""
        if not self.most_views or self.renderers is None or not self.renderers.running:
            return False
        return self.views(images) > self.most_views


@contextmanager
def _signals(stop: StopRequest) -> Iterator[None]:
    """Turns the first SIGINT or SIGTERM into a stop request; a second SIGINT interrupts at once."""

    def request(number: int, frame: FrameType | None) -> None:
        if stop.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.reason = f"{signal.Signals(number).name} came"

    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
    before: list[Callable[[int, FrameType | None], object] | int | None] = [
        signal.signal(number, request) for number in numbers
    ]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
