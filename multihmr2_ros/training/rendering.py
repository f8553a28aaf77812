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

"""Renders the images of the render cache, in this process or in background processes during training."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import remove_abandoned_temporaries
from multihmr2_ros.simulation.scene import SceneOptions
from multihmr2_ros.training.cache_settings import compare_settings, read_settings, write_settings
from multihmr2_ros.training.render_cache import (
    AFTER_HELD_OUT,
    HELD_OUT_SEED,
    PREFIX,
    SHARD_IMAGES,
    SUFFIX,
    count_images,
    get_training_index,
    get_training_seed,
    list_shard_paths,
    make_folder,
    parse_first_seed,
    write_shard,
)
from multihmr2_ros.training.samples import Sample, sample_from_labels

logger = logging.getLogger(__name__)

MAX_FAILURES = 10  # consecutive failures before a renderer ends

RenderSeed = Callable[[int], Sample]


@dataclass(frozen=True)
class RenderCacheConfig:
    """Folder of a render cache, the scenes rendered into it, and the number of training images kept.

    The oldest images are removed first. sam2: a folder with SAM2's video model, whose memory of each person is stored
    with the images; None: not stored.
    """

    folder: Path
    scene: SceneOptions
    cache_images: int = 50_000
    held_out_images: int = 200
    sam2: Path | None = None

    def __post_init__(self) -> None:
        max_held_out = AFTER_HELD_OUT - HELD_OUT_SEED
        if self.cache_images < SHARD_IMAGES or not 0 <= self.held_out_images <= max_held_out:
            raise UserError(
                f"the cache must keep at least {SHARD_IMAGES} images and 0 to {max_held_out} held-out images, got "
                f"{self.cache_images} and {self.held_out_images}"
            )


def open_folder(config: RenderCacheConfig) -> None:
    """Make the cache's folder and save its settings; raise UserError if it contains images of other settings."""
    make_folder(config.folder)
    settings = dataclasses.asdict(config.scene)
    if config.sam2 is not None:
        settings["sam2"] = str(config.sam2)
    has_renders = any(config.folder.glob(f"{PREFIX}*{SUFFIX}"))
    if has_renders and (existing := read_settings(config.folder, "--cache")) is not None:
        compare_settings(config.folder, settings, existing, "--cache")
    write_settings(config.folder, settings)
    remove_abandoned_temporaries(config.folder, PREFIX)


def make_scene_renderer(options: SceneOptions, sam2: Path | None = None) -> RenderSeed:
    """Return a function from seed to sample, which samples a scene, poses its people, renders and labels it.

    Loads the body once. sam2: as in RenderCacheConfig; the model runs on the renderer's device, the CPU.
    """
    from multihmr2_ros.body import Body
    from multihmr2_ros.simulation.labels import make_labels
    from multihmr2_ros.simulation.rendering.renderer import Renderer
    from multihmr2_ros.simulation.scene import sample_scene
    from multihmr2_ros.simulation.scene.posing import pose_scene
    from multihmr2_ros.training.tracking_targets import Sam2Memory

    body = Body("full")
    renderer = Renderer(body)
    memory = None if sam2 is None else Sam2Memory(sam2, renderer.device)

    def render(seed: int) -> Sample:
        generator = np.random.default_rng(seed)
        scene = sample_scene(generator, options)
        posed = pose_scene(scene, 0.0, body)
        rendered = renderer.render(scene, posed, generator)
        truth = make_labels(scene, posed, rendered)
        sample = sample_from_labels(rendered.image, truth, f"seed {seed}")
        if memory is None:
            return sample
        rows = np.flatnonzero(truth.visible_pixels)  # of the people in the sample
        feature, _ = memory(rendered.image, rendered.instances == rows[:, None, None])
        return dataclasses.replace(sample, track_feature=feature)

    return render


def fill_cache(
    config: RenderCacheConfig,
    render: RenderSeed,
    *,
    worker: int = 0,
    workers: int = 1,
    images: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Add shards to the cache, held-out ones first; yield the number of images of each finished shard.

    Worker w of n renders every n-th shard. images: number of training images to reach; None: no end, and new images
    replace the oldest. stopped() is called before every image; if true, an unfinished shard is discarded.
    """
    for seed, size in _list_wanted(config, worker, workers, images):
        samples = list(_render_samples(render, seed, size, stopped))
        if stopped():
            return
        write_shard(config.folder, seed, samples)
        yield len(samples)
        if images is None:
            _remove_oldest(config)


def _list_wanted(config: RenderCacheConfig, worker: int, workers: int, images: int | None) -> Iterator[tuple[int, int]]:
    """Yield (first seed, size) of this worker's shards."""
    held_out = _list_present(config.folder, held_out=True)
    for first in range(0, config.held_out_images, SHARD_IMAGES):
        seed = HELD_OUT_SEED + first
        size = min(SHARD_IMAGES, config.held_out_images - first)
        if first // SHARD_IMAGES % workers == worker and held_out.get(seed, 0) < size:
            yield seed, size
    present = _list_present(config.folder)
    first_new = max(map(get_training_index, present), default=-SHARD_IMAGES) + SHARD_IMAGES
    endless = itertools.count(first_new, SHARD_IMAGES)
    for index in endless if images is None else range(0, images, SHARD_IMAGES):
        seed = get_training_seed(index)
        size = SHARD_IMAGES if images is None else min(SHARD_IMAGES, images - index)
        if index // SHARD_IMAGES % workers == worker and present.get(seed, 0) < size:
            yield seed, size


def _list_present(folder: Path, *, held_out: bool = False) -> dict[int, int]:
    """Return first seed → number of images of the shards of one split.

    Only the last shard is opened: an earlier call for fewer images ended there. Scenes that cannot be rendered are
    missing in other shards, too, but would fail again.
    """
    paths = list_shard_paths(folder, held_out=held_out)
    present = {parse_first_seed(path): SHARD_IMAGES for path in paths}
    with suppress(OSError, SafetensorError):  # a damaged shard is kept, as in the render cache
        present |= {parse_first_seed(path): count_images(path) for path in paths[-1:]}
    return present


def _render_samples(render: RenderSeed, seed: int, size: int, stopped: Callable[[], bool]) -> Iterator[Sample]:
    """Yield the samples of consecutive seeds, without failed ones; UserError after too many consecutive failures."""
    failures = 0
    for number in range(seed, seed + size):
        if stopped():
            return
        try:
            yield render(number)
            failures = 0
        except UserError:
            raise
        except Exception as error:  # one failing scene must not end a long rendering
            failures += 1
            logger.warning("seed %d could not be rendered (%s: %s)", number, type(error).__name__, error)
            if failures == MAX_FAILURES:
                raise UserError(f"{failures} renders in a row failed, the last with {type(error).__name__}") from error


def _remove_oldest(config: RenderCacheConfig) -> None:
    shards = list_shard_paths(config.folder)
    for path in shards[: max(0, len(shards) - config.cache_images // SHARD_IMAGES)]:
        with suppress(FileNotFoundError):  # another renderer has already removed it
            path.unlink()
