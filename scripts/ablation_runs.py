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

"""One run of `ablations.py`: trains one row with one seed, measures it, and writes the figures to a JSON file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ablation_data import TESTS, Plan
from ablation_rows import Row
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path
from multihmr2_ros.hardware import choose_training_threads, read_processor_name
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.network.model import MultiHMR2, Prediction
from multihmr2_ros.training.config import NETWORKS, TrainingConfig
from multihmr2_ros.training.data import Batch, BatchConfig
from multihmr2_ros.training.feature_cache import PREFIX, SUFFIX, CachedBatches, read_batch
from multihmr2_ros.training.initial_network import make_network
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.matching import MatchingConfig
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.state import list_state_paths
from multihmr2_ros.training.stopping import StopRequest, stop_on_signals
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.training.validation import ValidationCounts, compare_batch, match_predictions, predict_batch
from multihmr2_ros.weights import resolve_checkpoint

# The weights of nano's recipe (docs/training.md). Tracking features are not trained.
LOSSES = {"reprojection": 5.0, "keypoint_similarity": 4.0, "angle": 15.0, "field_of_view": 8.0, "track_feature": 0.0}
OPTIMIZATION = OptimizerConfig(learning_rate=1e-3, encoder_factor=0.0, warmup_steps=40, decay_fraction=0.35)
EMA_DECAY = 0.98
CHECKPOINT_STEPS = 50
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 19))
MIB = 1024.0  # KiB


class RowBatches(Dataset[Batch]):
    """Batches of features, with the row's share of given K and its supervision of relative positions."""

    def __init__(self, plan: Plan, row: Row, seed: int) -> None:
        folders = [plan.get_features(kind, row.square_padding) for kind in row.sources]
        self._batches, self._row, self._seed = CachedBatches(folders, seed), row, seed

    def __getitem__(self, step: int) -> Batch:
        batch = self._batches[step]
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + step)
        chosen = torch.rand(len(batch.k_given), generator=generator) < self._row.k_given
        targets = batch.targets
        if self._row.relative_places:
            known = targets.has_relative_place | (targets.has_body & targets.present)
            targets = dataclasses.replace(targets, has_relative_place=known)
        return dataclasses.replace(batch, targets=targets, k_given=targets.has_k & chosen)


class StepMeter:
    """Measures the CPU seconds of each step, and the memory that training adds to the process."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop, self.seconds = stop, [time.process_time()]
        _reset_peak_memory()
        self._before_mib = _read_status_mib("VmRSS")

    def __call__(self) -> bool:
        self.seconds.append(time.process_time())
        return self._stop()

    def compute_metrics(self) -> dict[str, float]:
        """Return the median CPU seconds of a step, without the first, and the peak of the added memory, MiB."""
        steps = [late - early for early, late in zip(self.seconds[1:], self.seconds[2:], strict=False)]
        memory = _read_status_mib("VmHWM") - self._before_mib
        return {"cpu_s_per_step": statistics.median(steps) if steps else float("nan"), "memory_mib": memory}


def _reset_peak_memory() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak (VmHWM) becomes the current size


def _read_status_mib(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / MIB for line in lines if line.startswith(f"{name}:")), float("nan"))


def run_row(plan: Plan, row: Row, seed: int, result: Path) -> None:
    """Run one row in this process, which exits with status 2 after an error and 1 if it was stopped."""
    stop = StopRequest()
    with stop_on_signals(stop):
        try:
            figures = train_and_measure(plan, row, seed, stop)
        except UserError as error:
            print(f"ablations: {row.name}: {error}", file=sys.stderr)
            sys.exit(2)
    if figures is None:
        sys.exit(1)
    result.parent.mkdir(exist_ok=True)
    with atomic_path(result) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def train_and_measure(plan: Plan, row: Row, seed: int, stop: StopRequest) -> dict[str, Any] | None:
    """Train or resume, then measure. Returns the content of the JSON file; None if stopped."""
    torch.set_num_threads(choose_training_threads(loader_workers=0, render_workers=0))
    body, folder = Body("low"), plan.out / "runs" / f"{row.name}-{seed}"
    trainer = make_trainer(plan, row, seed, body, folder)
    if list_state_paths(folder):
        trainer.resume()
    meter = StepMeter(stop)
    if trainer.progress.step < plan.steps:
        trainer.run(RowBatches(plan, row, seed), Hooks(stop=meter), show_progress=False)
    if trainer.progress.step < plan.steps:
        return None
    training = meter.compute_metrics() | {"seconds": trainer.progress.seconds}
    network: Any = trainer.ema.network
    begin_s = time.monotonic()
    tests = measure(plan, network.eval(), body, row)
    seconds = trainer.progress.seconds + time.monotonic() - begin_s
    return {
        "row": row.name, "seed": seed, "steps": plan.steps, "views": plan.steps * plan.batch_size,
        "machine": read_processor_name(), "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d"),
        "seconds": seconds, "training": training, **tests,
    }  # fmt: skip


def make_trainer(plan: Plan, row: Row, seed: int, body: Body, folder: Path) -> Trainer:
    """Return the trainer of a row: nano's pretrained encoder, frozen, and other weights from the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    losses = LossConfig(**{**LOSSES, **row.losses}, matching=MatchingConfig(row.matching))  # type: ignore[arg-type]
    config = TrainingConfig(
        plan.steps, EMA_DECAY, "fp32", seed, log_steps=10, validate_steps=plan.steps,
        checkpoint_steps=CHECKPOINT_STEPS, loader_workers=0, batch=BatchConfig(plan.batch_size, plan.image_size),
        optimisation=OPTIMIZATION, losses=losses,
    )  # fmt: skip
    session = Session(folder, NETWORKS[row.network], config, encoder_weights=resolve_checkpoint("nano"))
    return Trainer(make_network(session), body, config, folder, torch.device("cpu"))


@torch.inference_mode()
def measure(plan: Plan, network: MultiHMR2, body: Body, row: Row) -> dict[str, Any]:
    """Return the threshold of the highest F1 on the test renders, and the figures of each test at this threshold.

    Tests: renders and real images, with K as given by the images, with K predicted, and with the other padding.
    """
    renders = _read_test(plan, "renders", row.square_padding)
    hidden = [dataclasses.replace(batch, k_given=torch.zeros_like(batch.k_given)) for batch in renders]
    tests = {"renders": renders, "renders, K predicted": hidden, "real": _read_test(plan, "real", row.square_padding)}
    if row.both_paddings:
        tests |= {f"{kind}, other padding": _read_test(plan, kind, not row.square_padding) for kind in TESTS}
    pairs = {name: [(predict_batch(network, batch), batch) for batch in batches] for name, batches in tests.items()}
    threshold = max(THRESHOLDS, key=lambda value: _count_people(pairs["renders"], value).f1)
    figures = {name: _compare(values, body, threshold) for name, values in pairs.items()}
    return {"threshold": threshold, "figures": figures}


def _read_test(plan: Plan, kind: str, square: bool) -> list[Batch]:
    return [read_batch(path) for path in sorted(plan.get_test(kind, square).glob(f"{PREFIX}*{SUFFIX}"))]


def _compare(pairs: Sequence[tuple[Prediction, Batch]], body: Body, threshold: float) -> dict[str, float | None]:
    """Return the figures of a test by name; None instead of NaN, which JSON lacks."""
    counts = (
        compare_batch(prediction, batch.targets, body, batch.image.shape[-1], threshold) for prediction, batch in pairs
    )
    figures = sum(counts, ValidationCounts()).compute_metrics()
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _count_people(pairs: Sequence[tuple[Prediction, Batch]], threshold: float) -> DetectionCounts:
    counts = (match_predictions(prediction, batch.targets, threshold)[0] for prediction, batch in pairs)
    return sum(counts, DetectionCounts())
