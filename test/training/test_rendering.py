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

"""Rendering into the render cache: seeds, settings, interruptions, background processes."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.network.config import NANO
from multihmr2_ros.simulation.scene import SceneOptions
from multihmr2_ros.training.background_rendering import RenderMonitor, start_renderers
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.distributed import ProcessGroup
from multihmr2_ros.training.render_cache import (
    AFTER_HELD_OUT,
    HELD_OUT_SEED,
    SHARD_IMAGES,
    RenderCache,
    list_shard_paths,
    parse_first_seed,
    write_shard,
)
from multihmr2_ros.training.render_processes import RenderProcesses
from multihmr2_ros.training.rendering import RenderCacheConfig, fill_cache, make_scene_renderer, open_folder
from multihmr2_ros.training.samples import Sample
from multihmr2_ros.training.session import Session
from test.helpers.training_samples import make_render_cache, make_sample, make_small_sample


def make_settings(folder: Path, **changes: object) -> RenderCacheConfig:
    values: dict[str, object] = {"cache_images": 100, "held_out_images": 60}
    return RenderCacheConfig(folder, SceneOptions(), **(values | changes))  # type: ignore[arg-type]


def test_rendering_fills_the_cache_and_continues_after_an_interruption(tmp_path: Path) -> None:
    seeds: list[int] = []

    def render(seed: int) -> Sample:
        seeds.append(seed)
        return make_small_sample(seed)

    shards = fill_cache(make_settings(tmp_path), render, images=120)
    assert list(itertools.islice(shards, 3)) == [50, 10, 50]  # held-out images first
    shards.close()
    calls = len(seeds)
    stopping = fill_cache(make_settings(tmp_path), render, images=120, stopped=lambda: len(seeds) == calls + 7)
    assert list(stopping) == []
    assert len(RenderCache(tmp_path)) == 50  # the unfinished shard was discarded
    assert list(fill_cache(make_settings(tmp_path), render, images=120)) == [50, 20]
    assert list(fill_cache(make_settings(tmp_path), render, images=120)) == []
    assert sorted(set(seeds)) == [*range(120), *range(HELD_OUT_SEED, HELD_OUT_SEED + 60)]


def test_a_cache_that_ends_with_a_short_shard_is_extended(tmp_path: Path) -> None:
    for held_out, images, shards in ((30, 120, [30, 50, 50, 20]), (80, 200, [50, 30, 50, 50]), (70, 180, [])):
        config = make_settings(tmp_path, held_out_images=held_out)
        assert list(fill_cache(config, make_small_sample, images=images)) == shards
    assert (len(RenderCache(tmp_path)), len(RenderCache(tmp_path, held_out=True))) == (200, 80)
    list_shard_paths(tmp_path)[-1].write_bytes(b"damaged")
    assert list(fill_cache(make_settings(tmp_path, held_out_images=0), make_small_sample, images=200)) == []


def test_endless_rendering_deletes_old_shards_and_uses_new_seeds(tmp_path: Path) -> None:
    config = make_settings(tmp_path, held_out_images=0)
    assert sum(itertools.islice(fill_cache(config, make_small_sample), 5)) == 250
    assert [path.name for path in list_shard_paths(tmp_path)] == [
        f"seeds-{seed:07d}.safetensors" for seed in (150, 200)
    ] or len(list_shard_paths(tmp_path)) == 3  # the generator is suspended before its last deletion
    next(fill_cache(config, make_small_sample))
    assert RenderCache(tmp_path).rendered == 300


def test_renderers_share_the_seeds(tmp_path: Path) -> None:
    seeds: list[list[int]] = [[], []]
    for worker in (0, 1):

        def render(seed: int, worker: int = worker) -> Sample:
            seeds[worker].append(seed)
            return make_small_sample(seed)

        list(fill_cache(make_settings(tmp_path), render, worker=worker, workers=2, images=200))
    assert not set(seeds[0]) & set(seeds[1])
    assert sorted(seeds[0] + seeds[1]) == [*range(200), *range(HELD_OUT_SEED, HELD_OUT_SEED + 60)]


def test_failed_scenes_are_skipped_and_many_in_a_row_are_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def some(seed: int) -> Sample:
        if seed % 5 == 0:
            raise ValueError("a degenerate triangle")
        return make_small_sample(seed)

    assert list(fill_cache(make_settings(tmp_path, held_out_images=0), some, images=50)) == [40]
    assert "seed 5 could not be rendered (ValueError: a degenerate triangle)" in caplog.text

    def none(seed: int) -> Sample:
        raise ValueError("no renderer")

    with pytest.raises(UserError, match="10 renders in a row failed"):
        list(fill_cache(make_settings(tmp_path, held_out_images=0), none, images=100))


def test_a_cache_of_other_settings_is_refused(tmp_path: Path) -> None:
    open_folder(make_settings(tmp_path / "cache"))
    make_render_cache(tmp_path / "cache", 2)
    open_folder(make_settings(tmp_path / "cache"))
    other = RenderCacheConfig(tmp_path / "cache", SceneOptions(width=640))
    with pytest.raises(UserError, match=r"expected width 320 as in .*, got 640"):
        open_folder(other)
    with pytest.raises(UserError, match="at least 50"):
        make_settings(tmp_path, cache_images=10)


@pytest.mark.parametrize("images", [0, 2])
def test_a_new_cache_is_kept_only_with_images(tmp_path: Path, images: int) -> None:
    config = make_settings(tmp_path / "new" / "cache")
    session = Session(tmp_path / "run", NANO, TrainingConfig(), render_cache=config)
    with start_renderers(session, ProcessGroup()):
        assert (config.folder / "settings.json").is_file()
        if images:
            make_render_cache(config.folder, images)
    assert [path.exists() for path in (tmp_path / "new", config.folder / "settings.json")] == [images > 0] * 2


def test_caches_with_and_without_sam2_features_are_not_mixed(tmp_path: Path) -> None:
    open_folder(make_settings(make_render_cache(tmp_path / "old", 2)))
    assert "sam2" not in (tmp_path / "old" / "settings.json").read_text()
    with pytest.raises(UserError, match=r"expected sam2 None as in .*, got sam2-large; .* choose another --cache"):
        open_folder(make_settings(tmp_path / "old", sam2=Path("sam2-large")))
    open_folder(make_settings(make_render_cache(tmp_path / "new", 2), sam2=Path("sam2-large")))
    open_folder(make_settings(tmp_path / "new", sam2=Path("sam2-large")))
    with pytest.raises(UserError, match=r"expected sam2 sam2-large as in .*, got None; .* choose another --cache"):
        open_folder(make_settings(tmp_path / "new"))


def test_temporary_files_of_a_killed_renderer_are_removed_later(tmp_path: Path) -> None:
    old, new = tmp_path / ".seeds-0000000.safetensors.1.tmp", tmp_path / ".seeds-0000050.safetensors.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    open_folder(make_settings(tmp_path))
    assert (old.exists(), new.exists()) == (False, True)


def test_processes_render_real_scenes_in_the_background(tmp_path: Path) -> None:
    scene = SceneOptions(width=64, height=48, people=(1, 2))
    config = RenderCacheConfig(tmp_path, scene, held_out_images=2)
    open_folder(config)
    with RenderProcesses(config, 1, images=3, niceness=0) as renderers:
        deadline = time.monotonic() + 240
        while renderers.running and time.monotonic() < deadline:
            time.sleep(0.2)
        assert renderers.failed == 0
    render_cache = RenderCache(tmp_path)
    assert (len(render_cache), len(RenderCache(tmp_path, held_out=True))) == (3, 2)
    with torch.no_grad():
        again = make_scene_renderer(scene)(1)
    sample = render_cache.sample(1)
    np.testing.assert_array_equal(sample.person_id, again.person_id)  # the seed is the scene
    np.testing.assert_allclose(sample.location, again.location, atol=1e-3)
    assert sample.k is not None


def test_renderers_end_with_the_block(tmp_path: Path) -> None:
    config = RenderCacheConfig(tmp_path, SceneOptions(width=64, height=48))
    open_folder(config)
    with RenderProcesses(config, 1, niceness=0) as renderers:
        [process] = multiprocessing.active_children()
        assert process.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # to the whole job: only the parent handles them
            os.kill(process.pid, number)
        time.sleep(0.2)
        assert renderers.running == 1
    assert renderers.running == 0


def test_training_waits_for_slow_renderers(tmp_path: Path) -> None:
    class Working:
        running, failed = 1, 0

    write_shard(tmp_path, 0, [make_small_sample(0)] * SHARD_IMAGES)
    watch = RenderMonitor(RenderCache(tmp_path), Working(), most_views=4.0, share=1.0)  # type: ignore[arg-type]
    assert watch.compute_views(100) == 2.0
    assert not watch.is_behind(200)
    assert watch.is_behind(201)
    assert not dataclasses.replace(watch, most_views=0.0).is_behind(10**6)
    assert not dataclasses.replace(watch, renderers=None).is_behind(10**6)


def test_rendering_goes_on_beyond_the_held_out_seeds(tmp_path: Path) -> None:
    """Seed 999,950 is followed by 2,000,000, which is displayed, ordered and deleted like any other."""
    write_shard(tmp_path, HELD_OUT_SEED, [make_sample(0, n=1)])
    write_shard(tmp_path, HELD_OUT_SEED - 2 * SHARD_IMAGES, [make_sample(1, n=1)])
    seeds: list[int] = []

    def render(seed: int) -> Sample:
        seeds.append(seed)
        return make_sample(seed % 1000, n=1)

    config = RenderCacheConfig(tmp_path, SceneOptions(), cache_images=100, held_out_images=1)
    for _ in itertools.islice(fill_cache(config, render), 3):
        pass
    first = HELD_OUT_SEED - SHARD_IMAGES
    assert seeds == [*range(first, HELD_OUT_SEED), *range(AFTER_HELD_OUT, AFTER_HELD_OUT + 2 * SHARD_IMAGES)]
    assert [parse_first_seed(path) for path in list_shard_paths(tmp_path, held_out=True)] == [HELD_OUT_SEED]
    render_cache = RenderCache(tmp_path)
    assert render_cache.rendered == HELD_OUT_SEED + 2 * SHARD_IMAGES
    assert render_cache.sample(len(render_cache) - 1).origin.startswith(f"seeds-{AFTER_HELD_OUT + SHARD_IMAGES}")
