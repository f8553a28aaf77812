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

"""The training loop: batch → loss → optimizer step → moving average, with logs, validation and checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.distributed import ProcessGroup
from multihmr2_ros.training.loading import load_batches
from multihmr2_ros.training.objective import TrainingObjective, resolve_precision
from multihmr2_ros.training.optimizer import (
    Ema,
    compute_rate_factor,
    freeze_encoder,
    limit_gradients,
    make_optimizer,
    set_rate,
)
from multihmr2_ros.training.state import TrainingProgress, load_state, save_state
from multihmr2_ros.training.training_log import TrainingLog
from multihmr2_ros.training.validation import validate

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20  # steps in a row without a finite gradient


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop.

    stop()                 returns whether to end after this step
    should_wait(images)    returns whether to wait for the renderers before the next step, after `images` images
    compute_views(images)  returns the mean number of times that each render was used; None without renders
    """

    stop: Callable[[], bool] = lambda: False
    should_wait: Callable[[int], bool] = lambda images: False
    compute_views: Callable[[int], float] | None = None


class Trainer:
    """Trainer of a network; writes checkpoints and logs to a folder."""

    def __init__(
        self,
        network: MultiHMR2,
        body: Body,
        config: TrainingConfig,
        folder: Path,
        device: torch.device,
        *,
        held_out: Sequence[Batch] = (),
        reference: MultiHMR2 | None = None,
        processes: ProcessGroup | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Prepare the run.

        body       the low mesh
        held_out   batches for validation
        reference  the frozen network of the consistency losses
        processes  of a distributed run
        data       as `Session.data`
        """
        self.config, self.folder, self.device = config, folder, device
        self.data = data or {}
        self.processes = processes or ProcessGroup()
        self.network = network.to(device).train().requires_grad_(True)
        freeze_encoder(self.network, config.optimisation)
        self.body = body.to(device)
        self.held_out = held_out
        self.ema = Ema(self.network, config.ema_decay)
        self.optimizer = make_optimizer(self.network, config.optimisation)
        self.progress = TrainingProgress()
        self.log = TrainingLog(folder) if self.processes.is_first else None
        if reference is not None:
            reference = reference.to(device).eval().requires_grad_(False)
        objective = TrainingObjective(
            self.network, self.body, config.losses, resolve_precision(config, device), reference
        )
        self._objective: nn.Module = objective
        if self.processes.count > 1:
            # Which heads are used depends on the annotations of the batch.
            self._objective = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
        self._skipped = 0

    def resume(self) -> None:
        """Continue from the folder's newest state. Raises UserError if it does not fit the network or the settings."""
        self.progress = load_state(
            self.folder, self.network, self.ema, self.optimizer, self.config, self.data, self.device
        )

    def run(self, batches: Dataset[Batch], hooks: Hooks | None = None, *, show_progress: bool = True) -> bool:
        """Train for the configured number of steps, or until hooks.stop(). Returns whether all steps are done."""
        hooks = hooks or Hooks()
        bar = make_progress_bar(
            name="training",
            unit="step",
            total=self.config.steps,
            initial=self.progress.step,
            disable=not (show_progress and self.processes.is_first),
        )
        meter = _Meter()
        with bar:
            for batch in load_batches(
                batches, range(self.progress.step, self.config.steps), self.config.loader_workers
            ):
                self._wait_for_renderers(hooks, meter)
                terms, gradient_norm = self.step(batch)
                meter.add(terms, gradient_norm, len(batch.origins) * self.processes.count)
                self._advance(batch, meter, bar)
                stopping = self.processes.reduce_any(hooks.stop(), self.device)
                self._log_validate_and_save(meter, hooks, bar, stopping)
                if stopping:
                    break
        self.save()
        return self.progress.step >= self.config.steps

    def step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """Train one step on one batch. Returns the loss terms, and the norm of the gradient before clipping.

        Raises UserError with the terms and the batch's origins if the loss is not finite. If the gradient is not
        finite, the step is skipped and logged.
        """
        set_rate(self.optimizer, compute_rate_factor(self.progress.step, self.config.steps, self.config.optimisation))
        batch = batch.to(self.device)
        terms = self._objective(batch)
        total = torch.stack(list(terms.values())).sum()
        values = dict(zip([*terms, "loss"], torch.stack([*terms.values(), total]).tolist(), strict=True))
        self._refuse_broken_loss(values, batch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = limit_gradients(self.network, self.config.optimisation)
        self._update(norm, batch)
        return values, norm

    def save(self) -> None:
        """Write the run's state and the averaged weights."""
        if self.processes.is_first:
            save_state(self.folder, self.network, self.ema, self.optimizer, self.progress, self.config, self.data)
        self.processes.wait()

    def _refuse_broken_loss(self, values: dict[str, float], batch: Batch) -> None:
        """Raise UserError if the loss is not finite in any process; values: the terms and the loss, of this process."""
        is_broken = not math.isfinite(values["loss"])
        # All processes must end, or the others would wait forever.
        if self.processes.reduce_any(is_broken, self.device):
            if not is_broken:
                raise UserError(
                    f"the loss is not finite at step {self.progress.step} in another process; see its message"
                )
            listed = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            raise UserError(
                f"the loss is not finite at step {self.progress.step} ({listed}; images: {', '.join(batch.origins)}); "
                "resume with a lower --learning-rate"
            )

    def _update(self, gradient_norm: float, batch: Batch) -> None:
        """Update the weights and their average, unless the gradient is not finite."""
        if math.isfinite(gradient_norm):
            self.optimizer.step()
            self.ema.update(self.network)
            self._skipped = 0
            return
        self._skipped += 1
        logger.warning(
            "step %d is skipped because its gradient is not finite (images: %s)",
            self.progress.step,
            ", ".join(batch.origins),
        )
        if self._skipped == MAX_SKIPPED:
            raise UserError(f"{MAX_SKIPPED} steps in a row had no finite gradient; resume with a lower --learning-rate")

    def _wait_for_renderers(self, hooks: Hooks, meter: _Meter) -> None:
        """Wait while the renderers are behind. Other processes wait in the step itself."""
        while hooks.should_wait(self.progress.images) and not hooks.stop():
            time.sleep(0.5)
            meter.waited_s += 0.5

    def _advance(self, batch: Batch, meter: _Meter, bar: Any) -> None:
        """Count the finished step."""
        self.progress.step += 1
        self.progress.images += len(batch.origins) * self.processes.count
        self.progress.seconds += meter.end_lap()
        bar.update()

    def _log_validate_and_save(self, meter: _Meter, hooks: Hooks, bar: Any, stopping: bool) -> None:
        """Log, validate, draw and save, each at its interval; log and draw also at the end or a stop."""
        step, config = self.progress.step, self.config
        is_last = stopping or step == config.steps
        if self.log is not None:  # in the first process
            if step % config.log_steps == 0 or is_last:
                self._log_metrics(self.log, meter, hooks, bar)
            if self.held_out and (step % config.validate_steps == 0 or step == config.steps):
                self.log.add(step, "validation", validate(self.ema.network, self.body, self.held_out, self.device))
            if step % config.validate_steps == 0 or is_last:
                self.log.draw()
        if step % config.checkpoint_steps == 0 and not is_last:
            self.save()
        meter.restart()

    def _log_metrics(self, log: TrainingLog, meter: _Meter, hooks: Hooks, bar: Any) -> None:
        """Log the means since the last line, and show the loss beside the progress bar."""
        metrics = meter.pop_metrics()
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]  # of the first group, not the encoder
        if hooks.compute_views is not None:
            metrics["views"] = hooks.compute_views(self.progress.images)
        metrics |= {"images": float(self.progress.images), "seconds": self.progress.seconds}
        log.add(self.progress.step, "train", metrics)
        bar.set_postfix(loss=f"{metrics['loss']:.3f}", images_per_s=f"{metrics['images_per_s']:.1f}")


class _Meter:
    """Accumulates means since the last report."""

    def __init__(self) -> None:
        self._clock = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._images, self._seconds, self.waited_s = 0, 0.0, 0.0

    def add(self, terms: dict[str, float], gradient_norm: float, images: int) -> None:
        for name, value in (terms | {"gradient_norm": gradient_norm}).items():
            self._sums[name] += value
            self._counts[name] += 1
        self._images += images

    def end_lap(self) -> float:
        """Return the seconds since the last lap, and count them as training."""
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        self._seconds += seconds
        return seconds

    def restart(self) -> None:
        """Start the next lap now: the time since the last one was not training."""
        self._clock = time.monotonic()

    def pop_metrics(self) -> dict[str, float]:
        """Return means of the terms, images/s, and the fraction of time spent waiting for renderers; then reset."""
        metrics = {name: value / self._counts[name] for name, value in self._sums.items()}
        seconds = max(self._seconds, 1e-9)
        metrics |= {"images_per_s": self._images / seconds, "held": self.waited_s / seconds}
        self._reset()
        return metrics
