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

"""Runs the training of one session: render cache and renderers, batches, network, signals and time limit."""

from __future__ import annotations

import logging
import os

import torch

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import choose_training_threads, keep_freed_memory
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.training.augmentation import compute_input_sizes
from multihmr2_ros.training.background_rendering import RenderMonitor, start_renderers, wait_for_cache
from multihmr2_ros.training.cache_settings import remove_unused_folder
from multihmr2_ros.training.data import Batch, make_held_out_batches
from multihmr2_ros.training.distributed import ProcessGroup, choose_device, connect_processes
from multihmr2_ros.training.feature_cache import check_reference_encoder
from multihmr2_ros.training.initial_network import make_network
from multihmr2_ros.training.render_cache import RenderCache, make_folder
from multihmr2_ros.training.render_processes import RenderProcesses
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.session_batches import compute_render_share, open_batches, require_images
from multihmr2_ros.training.state import WEIGHTS_FILE, describe_missing_state, list_state_paths
from multihmr2_ros.training.stopping import Outcome, StopRequest, is_any_stopped, stop_on_signals
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.training.training_log import CURVES_FILE, LOG_FILE

logger = logging.getLogger(__name__)


def train(session: Session) -> Outcome:
    """Train or resume. Raises UserError for options that cannot be used.

    A run that a signal or the time limit ends after its first step is a success, because its state is saved.
    """
    stop = StopRequest.from_time_limit(session.time_limit_s)
    _check_run_folder(session)
    with remove_unused_folder(session.out):
        make_folder(session.out)
        if not session.features:
            require_images(session)
        device = choose_device(torch.device(Runtime(session.device).resolve().device), os.environ)
        with (
            connect_processes(device) as processes,
            stop_on_signals(stop),
            start_renderers(session, processes) as renderers,
        ):
            return _train_in_process(session, device, processes, renderers, stop)


def _train_in_process(
    session: Session,
    device: torch.device,
    processes: ProcessGroup,
    renderers: RenderProcesses | None,
    stop: StopRequest,
) -> Outcome:
    """Run this process's part of the training."""
    loaders, threads = session.training.loader_workers, session.training.threads
    torch.set_num_threads(threads or choose_training_threads(loaders, session.render_workers))
    keep_freed_memory()
    cache = None
    if session.render_cache is not None and not session.features:
        cache = wait_for_cache(session, session.render_cache, renderers, processes, device, stop)
    if is_any_stopped(stop, processes, device):
        return _end_before_first_step(session, stop)
    trainer = _make_trainer(session, device, processes)
    batches = open_batches(session, cache, trainer.network, processes.rank)
    is_done = trainer.run(batches, _make_hooks(session, cache, renderers, stop))
    where = f"step {trainer.progress.step} of {session.training.steps}, weights in {session.out}"
    reason = stop.reason or "another process was stopped"
    return Outcome(f"done: {where}" if is_done else f"stopped because {reason}: {where}; continue with --resume")


def _end_before_first_step(session: Session, stop: StopRequest) -> Outcome:
    """Return the outcome of a run without a step. Raises UserError if the time limit ended a run without a state."""
    if session.resume:  # the state is unchanged
        return Outcome(f"stopped before the next step: {stop.reason}; continue with --resume")
    if stop.signal_number is None and stop.deadline is not None:
        raise UserError(f"{stop.reason} before the first step, nothing is saved; give a longer --time-limit")
    return Outcome(f"stopped before the first step: {stop.reason}", stop.exit_status)


def _check_run_folder(session: Session) -> None:
    """Raise UserError if there is no run to resume, or if a new run would replace files."""
    if session.resume:
        if not list_state_paths(session.out):
            raise describe_missing_state(session.out)
        return
    if list_state_paths(session.out):
        raise UserError(f"{session.out} already contains a run; add --resume to continue it, or choose another --out")
    for name in (WEIGHTS_FILE, LOG_FILE, CURVES_FILE):
        if (session.out / name).exists():
            raise UserError(f"{session.out / name} already exists; choose another --out")


def _make_trainer(session: Session, device: torch.device, processes: ProcessGroup) -> Trainer:
    """Return the trainer, at the start of the run or at its saved state."""
    network = make_network(session)
    reference = None if session.consistency_with is None else checkpoint.load_network(session.consistency_with)
    trainer = Trainer(
        network,
        Body("low"),
        session.training,
        session.out,
        device,
        held_out=_read_held_out_renders(session, network.config.image_size) if processes.is_first else (),
        reference=reference,
        processes=processes,
        data=session.data,
    )
    if session.resume:
        trainer.resume()
        logger.info("resumed at step %d", trainer.progress.step)
    if session.features and reference is not None:
        check_reference_encoder(reference, trainer.network)
    return trainer


def _read_held_out_renders(session: Session, image_size: int) -> list[Batch]:
    """Return the batches for validation; image_size: px, the longest side of the network's inputs."""
    if session.render_cache is None:
        return []
    scene, batch = session.render_cache.scene, session.training.batch
    size = compute_input_sizes(image_size, batch.patch_size, [scene.width / scene.height])[0]
    cache = RenderCache(session.render_cache.folder, held_out=True)
    held_out = make_held_out_batches(cache, session.render_cache.held_out_images, batch, input_size=size)
    if not held_out:
        logger.warning("%s has no held-out images; validation is skipped", session.render_cache.folder)
    return held_out


def _make_hooks(
    session: Session, cache: RenderCache | None, renderers: RenderProcesses | None, stop: StopRequest
) -> Hooks:
    if cache is None:
        return Hooks(stop=stop)
    monitor = RenderMonitor(cache, renderers, session.training.most_views, compute_render_share(session))
    return Hooks(stop=stop, should_wait=monitor.is_behind, compute_views=monitor.compute_views)
