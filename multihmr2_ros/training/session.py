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

"""Runs one call of `multihmr2 train`: render cache and renderers, data, network, signals and time limit."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import choose_training_threads, keep_freed_memory
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.movenet import load_encoder
from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.training.augmentation import compute_input_sizes
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import REFRESH_S, Batch, Batches, SampleSource, make_held_out_batches, select_readable
from multihmr2_ros.training.distributed import ProcessGroup, choose_device, connect_processes
from multihmr2_ros.training.feature_cache import (
    CachedBatches,
    check_encoder,
    check_reference_encoder,
    check_track_features,
    list_missing_batches,
    open_feature_folder,
    write_batch,
)
from multihmr2_ros.training.lifting import KeypointBatches, LiftingConfig, MixedBatches, make_pose_bank
from multihmr2_ros.training.render_cache import RenderCache, make_folder
from multihmr2_ros.training.rendering import (
    RenderCacheConfig,
    RenderProcesses,
    fill_cache,
    make_scene_renderer,
    open_folder,
)
from multihmr2_ros.training.state import WEIGHTS_FILE, list_state_paths
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.training.training_log import CURVES_FILE, LOG_FILE

logger = logging.getLogger(__name__)

MEAN_POSE_IMAGES = 300


@dataclass(frozen=True)
class Session:
    """The options of one call of `multihmr2 train`.

    out                folder of the run
    network            sizes of a network that starts from random weights
    training           settings of the run
    render_cache       the render cache to train on
    render_workers     background processes that render during training
    datasets           readers of real data
    render_share       fraction of renders among the images, if there are datasets
    start_from         weights file that the network starts from, instead of random weights
    encoder_weights    weights file of the pretrained encoder; replaces that of start_from
    features           folders of batches with features of the frozen encoder, to train on instead of images
    lifting            settings of steps on keypoints alone
    consistency_with   weights file of the reference model of the consistency losses
    resume             continue the run in `out`
    device             a PyTorch device, or auto
    time_limit_s       save and end after this time; None: no limit
    """

    out: Path
    network: NetworkConfig
    training: TrainingConfig
    render_cache: RenderCacheConfig | None = None
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
    """A request to end the run after the current step, with its reason; also made when the deadline has passed."""

    reason: str = ""
    deadline: float | None = None

    def __call__(self) -> bool:
        if not self.reason and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = "the time limit was reached"
        return bool(self.reason)


def train(session: Session) -> str:
    """Train or resume. Returns one line on the end of the run. Raises UserError for options that cannot be used."""
    stop = StopRequest(deadline=None if session.time_limit_s is None else time.monotonic() + session.time_limit_s)
    make_folder(session.out)
    _refuse_existing(session)
    if not session.features:
        _require_images(session)
    device = choose_device(torch.device(Runtime(session.device).resolve().device), os.environ)
    with (
        connect_processes(device) as processes,
        stop_on_signals(stop),
        _start_renderers(session, processes) as renderers,
    ):
        torch.set_num_threads(
            session.training.threads or choose_training_threads(session.training.loader_workers, session.render_workers)
        )
        keep_freed_memory()

        def is_stopped() -> bool:
            if processes.reduce_any(stop(), device) and not stop.reason:
                stop.reason = "another process was stopped"
            return bool(stop.reason)

        def reduce_any(flag: bool) -> bool:
            return processes.reduce_any(flag, device)

        cache = None
        if session.render_cache is not None and not session.features:
            cache = _wait_for_cache(session, session.render_cache, renderers, is_stopped, reduce_any)
        trainer = _make_trainer(session, device, processes)
        if is_stopped():
            return f"stopped before the first step: {stop.reason}"
        batches = _open_batches(session, cache, trainer.network, processes.rank)
        done = trainer.run(batches, _make_hooks(session, cache, renderers, stop))
        where = f"step {trainer.progress.step} of {session.training.steps}, weights in {session.out}"
        reason = stop.reason or "another process was stopped"
        return f"done: {where}" if done else f"stopped because {reason}: {where}; continue with --resume"


def _open_batches(session: Session, cache: RenderCache | None, network: MultiHMR2, rank: int) -> Dataset[Batch]:
    """Return the batches of one rank: features or images, mixed with steps on keypoints alone.

    Raises UserError for features that do not fit the network.
    """
    seed = session.training.seed
    batches: Dataset[Batch]
    if session.features:
        check_encoder(session.features, network)
        if session.training.losses.track_feature and not network.config.body_colors:
            check_track_features(session.features, network.config.track_feature_width)
        batches = CachedBatches(session.features, seed, rank)
    else:
        batches = Batches(_open_sources(session, cache), session.training.batch, seed, rank)
    return batches if session.lifting is None else mix_keypoint_batches(batches, session, rank)


def mix_keypoint_batches(batches: Dataset[Batch], session: Session, rank: int = 0) -> Dataset[Any]:
    """Add the steps on keypoints alone to the batches. Raises UserError for networks without a pretrained encoder."""
    config = session.lifting
    assert config is not None
    if session.network.encoder != "movenet" or session.network.is_multi_hmr:
        raise UserError(
            "--keypoint-steps and --keypoint-every need a network whose queries start from keypoints: --network nano"
        )
    motions = None if session.render_cache is None else session.render_cache.scene.motions
    bank = make_pose_bank(Body("low"), config.poses, motions, session.training.seed)
    keypoints = KeypointBatches(bank, session.network.image_size, config.people, session.training.seed, rank)
    return MixedBatches(batches, keypoints, config.steps, config.every)


def write_features(session: Session, count: int) -> str:
    """Write `count` batches with the encoder's features to the first folder. Returns one line on the result.

    A run with the session's options would train on the same batches. The encoder runs on the CPU, whatever the
    session's device is. Raises UserError if the folder contains batches of other options.
    """
    _require_images(session)
    folder = session.features[0]
    cache = None if session.render_cache is None else RenderCache(session.render_cache.folder)
    torch.set_num_threads(session.training.threads or choose_training_threads(loader_workers=0, render_workers=0))
    keep_freed_memory()
    network = make_network(session).eval()
    sources = _open_sources(session, cache)
    batches = Batches(sources, session.training.batch, session.training.seed)
    open_feature_folder(folder, network, _describe_batches(session.training, sources))
    stop = StopRequest()
    missing = list_missing_batches(folder, count)
    with stop_on_signals(stop), make_progress_bar(missing, name="features", unit="batch") as bar:
        for number in bar:
            if stop():
                return f"stopped because {stop.reason}: {len(list_missing_batches(folder, count))} batches are missing"
            write_batch(folder, number, batches[number], network)
    return f"done: {folder} contains {count} batches of {session.training.batch.batch_size} images"


def _require_images(session: Session) -> None:
    if session.render_cache is None and not session.datasets:
        raise UserError("expected training images, got none; give --cache for rendered images, or a dataset")


def _describe_batches(training: TrainingConfig, sources: Sequence[tuple[SampleSource, float]]) -> dict[str, Any]:
    """Return what determines batches, by name."""
    values = dataclasses.asdict(training.batch)
    augmentation = {f"augmentation.{name}": value for name, value in values.pop("augmentation").items()}
    described = [
        f"render cache {source.folder.name}" if isinstance(source, RenderCache) else f"dataset of {len(source)} images"
        for source, _ in sources
    ]
    weights = [round(weight, 6) for _, weight in sources]
    return {"seed": training.seed, "sources": described, "source_weights": weights, **values, **augmentation}


def _refuse_existing(session: Session) -> None:
    """Raise UserError if the run would replace files of an earlier run, or other weights."""
    if session.resume:
        return
    if list_state_paths(session.out):
        raise UserError(f"{session.out} already contains a run; add --resume to continue it, or choose another --out")
    for name in (WEIGHTS_FILE, LOG_FILE, CURVES_FILE):
        if (session.out / name).exists():
            raise UserError(f"{session.out / name} already exists; choose another --out")


def fill_render_cache(config: RenderCacheConfig, images: int, workers: int) -> str:
    """Fill the render cache until it holds `images` training images. Returns one line on the result."""
    open_folder(config)
    stop = StopRequest()
    wanted = images + config.held_out_images

    def count_images() -> int:
        return len(RenderCache(config.folder)) + len(RenderCache(config.folder, held_out=True))

    with (
        stop_on_signals(stop),
        make_progress_bar(name="rendering", unit="image", total=wanted, initial=count_images()) as bar,
    ):
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
    return f"stopped because {stop.reason}: {held}" if stop() else f"done: {held}"


@contextmanager
def _start_renderers(session: Session, processes: ProcessGroup) -> Iterator[RenderProcesses | None]:
    """Start this machine's background renderers, in its first process; they end with the block."""
    if session.render_cache is None:
        yield None
        return
    if processes.is_first:
        open_folder(session.render_cache)
    processes.wait()
    if session.render_workers and processes.local_rank == 0:
        with RenderProcesses(session.render_cache, session.render_workers) as renderers:
            yield renderers
    else:
        yield None


def _wait_for_cache(
    session: Session,
    config: RenderCacheConfig,
    renderers: RenderProcesses | None,
    is_stopped: Callable[[], bool],
    reduce_any: Callable[[bool], bool],
) -> RenderCache:
    """Return the render cache when it contains enough images to start. Waits while renderers are running.

    reduce_any(flag): returns whether the flag is set in any process; all processes run this loop together. Raises
    UserError if the cache is empty and no renderer is running.
    """
    wanted = max(1, min(session.training.start_images, config.cache_images))
    cache = RenderCache(config.folder)
    with make_progress_bar(name="first images", unit="image", total=wanted, disable=len(cache) >= wanted) as bar:
        while reduce_any(len(cache) < wanted) and not is_stopped():
            has_ended = not session.render_workers or (renderers is not None and not renderers.running)
            if not reduce_any(has_ended):
                time.sleep(1.0)
            elif reduce_any(not len(cache)):
                raise UserError(
                    f"the render cache {config.folder} is empty and no process renders; add --render-workers, or fill "
                    "it with --render-only first"
                )
            else:
                logger.warning("training begins with only %d images in the render cache", len(cache))
                break
            cache.refresh()
            bar.update(min(len(cache), wanted) - bar.n)
    return cache


def _open_sources(session: Session, cache: RenderCache | None) -> list[tuple[SampleSource, float]]:
    """Return the sources with their weights. The datasets' weights are proportional to their sizes."""
    real = sum(len(dataset) for dataset in session.datasets)
    share = session.render_share if session.datasets else 1.0
    sources: list[tuple[SampleSource, float]] = []
    if cache is not None:
        sources.append((cache, share))
    left = 1.0 - share if cache is not None else 1.0
    return sources + [(dataset, left * len(dataset) / max(real, 1)) for dataset in session.datasets]


def _make_trainer(session: Session, device: torch.device, processes: ProcessGroup) -> Trainer:
    config = session.training
    network = make_network(session)
    reference = None if session.consistency_with is None else checkpoint.load_network(session.consistency_with)
    held_out = []
    if session.render_cache is not None and processes.is_first:
        scene, batch = session.render_cache.scene, config.batch
        size = compute_input_sizes(network.config.image_size, batch.patch_size, [scene.width / scene.height])[0]
        cache = RenderCache(session.render_cache.folder, held_out=True)
        held_out = make_held_out_batches(cache, session.render_cache.held_out_images, batch, input_size=size)
        if not held_out:
            logger.warning("%s has no held-out images; validation is skipped", session.render_cache.folder)
    trainer = Trainer(
        network,
        Body("low"),
        config,
        session.out,
        device,
        held_out=held_out,
        reference=reference,
        processes=processes,
    )
    if session.resume:
        trainer.resume()
        logger.info("resumed at step %d", trainer.progress.step)
    if session.features and reference is not None:
        check_reference_encoder(reference, trainer.network)
    return trainer


def make_network(session: Session) -> MultiHMR2:
    """Return the network of the weights file, or one with random weights that starts at the renders' mean pose."""
    if session.start_from is not None:
        network = checkpoint.load_network(session.start_from)
    else:
        torch.manual_seed(session.training.seed)
        mean = None if session.render_cache is None else compute_mean_rotations(session.render_cache.folder)
        network = initialize(MultiHMR2(session.network), mean)
    pretrained = network.backbone.pretrained
    if pretrained is not None and session.encoder_weights is not None:
        load_encoder(pretrained.movenet, session.encoder_weights)
    elif pretrained is not None and session.start_from is None:
        raise UserError("the network's encoder needs pretrained weights; give their file with --encoder-weights")
    return network


def compute_mean_rotations(folder: Path) -> Tensor | None:
    """Return (163, 3, 3): the mean rotation matrices of the people in a cache's first images; None without people."""
    cache = RenderCache(folder)
    rotations = [sample.rotations for sample in select_readable(cache, range(min(len(cache), MEAN_POSE_IMAGES)))]
    total = sum(len(rows) for rows in rotations)
    return torch.from_numpy(np.concatenate(rotations).mean(axis=0)) if total else None


def _make_hooks(
    session: Session, cache: RenderCache | None, renderers: RenderProcesses | None, stop: StopRequest
) -> Hooks:
    if cache is None:
        return Hooks(stop=stop)
    monitor = _RenderMonitor(cache, renderers, session.training.most_views, _compute_render_share(session))
    return Hooks(stop=stop, should_wait=monitor.is_behind, compute_views=monitor.compute_views)


def _compute_render_share(session: Session) -> float:
    return session.render_share if session.datasets else 1.0


@dataclass
class _RenderMonitor:
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


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a stop request; a second SIGINT interrupts at once.

    An ignored SIGHUP (nohup) stays ignored.
    """

    def request(number: int, frame: FrameType | None) -> None:
        if stop.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.reason = f"{signal.Signals(number).name} was received"

    numbers: list[signal.Signals] = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # a closed terminal
    before: list[Callable[[int, FrameType | None], object] | int | None] = [
        signal.signal(number, request) for number in numbers
    ]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
