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

"""Writes batches with features of the frozen encoder, on which later sessions train (`train --features-only`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from multihmr2_ros.hardware import choose_training_threads, keep_freed_memory
from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.training.cache_settings import remove_unused_folder
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import Batches, SampleSource
from multihmr2_ros.training.feature_cache import list_missing_batches, open_feature_folder, write_batch
from multihmr2_ros.training.initial_network import make_network
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.session_batches import open_sources, require_images
from multihmr2_ros.training.stopping import Outcome, StopRequest, stop_on_signals


def write_features(session: Session, count: int) -> Outcome:
    """Write `count` batches with the encoder's features to the first folder.

    A run with the session's options would train on the same batches. The encoder runs on the CPU, whatever the
    session's device is. Raises UserError if the folder contains batches of other options.
    """
    require_images(session)
    folder = session.features[0]
    cache = None if session.render_cache is None else RenderCache(session.render_cache.folder)
    torch.set_num_threads(session.training.threads or choose_training_threads(loader_workers=0, render_workers=0))
    keep_freed_memory()
    network = make_network(session).eval()
    sources = open_sources(session, cache)
    batches = Batches(sources, session.training.batch, session.training.seed)
    stop = StopRequest()
    with remove_unused_folder(folder), stop_on_signals(stop):
        open_feature_folder(folder, network, _describe_batches(session.training, sources))
        missing = list_missing_batches(folder, count)
        with make_progress_bar(missing, name="features", unit="batch") as bar:
            for number in bar:
                if stop():
                    left = len(list_missing_batches(folder, count))
                    return Outcome(f"stopped because {stop.reason}: {left} batches are missing", stop.exit_status)
                write_batch(folder, number, batches[number], network)
    return Outcome(f"done: {folder} contains {count} batches of {session.training.batch.batch_size} images")


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
