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

"""From renders to batches: packing, the render cache on disk, rendering into it, and sampling from it."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy
import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.scene import SceneOptions
from multihmr2_ros.training.augmentation import NO_AUGMENTATION, flip
from multihmr2_ros.training.background_rendering import RenderMonitor
from multihmr2_ros.training.data import BatchConfig, Batches, collate, make_held_out_batches, select_readable
from multihmr2_ros.training.render_cache import (
    AFTER_HELD_OUT,
    HELD_OUT_SEED,
    SHARD_IMAGES,
    RenderCache,
    get_training_index,
    get_training_seed,
    is_held_out,
    list_shard_paths,
    parse_first_seed,
    write_shard,
)
from multihmr2_ros.training.render_processes import RenderProcesses
from multihmr2_ros.training.rendering import (
    RenderCacheConfig,
    fill_cache,
    make_scene_renderer,
    open_folder,
)
from multihmr2_ros.training.samples import PERSON_FIELDS, Sample, pack_samples, unpack_sample
from multihmr2_ros.training.targets import Targets
from test.helpers.training_data_sets import make_data_set
from test.helpers.training_samples import make_render_cache, make_sample


def blurred(image: np.ndarray) -> np.ndarray:
    return cv2.blur(image.astype(np.float32), (8, 8))


def small_sample(seed: int) -> Sample:
    return make_sample(seed, 0, (16, 12))


@pytest.mark.parametrize("counts", [[2], [0], [1, 0, 3], []])
def test_what_is_packed_is_unpacked(counts: list[int]) -> None:
    samples = [make_sample(seed, n) for seed, n in enumerate(counts)]
    arrays = pack_samples(samples)
    for index, sample in enumerate(samples):
        again = unpack_sample(arrays, index, sample.origin)
        assert again.origin == sample.origin
        assert again.score_supervised
        np.testing.assert_array_equal(again.k, sample.k)
        assert np.abs(blurred(again.image) - blurred(sample.image)).mean() < 2  # JPEG preserves coarse structures
        for name, (_, kind) in PERSON_FIELDS.items():
            tolerance = 5e-4 if kind is np.float16 else 0
            np.testing.assert_allclose(getattr(again, name), getattr(sample, name), atol=tolerance, err_msg=name)


def test_an_unknown_camera_stays_unknown(tmp_path: Path) -> None:
    sample = dataclasses.replace(make_sample(0, 1), k=None, score_supervised=False)
    write_shard(tmp_path, 0, [make_sample(1, 2), sample])
    again = RenderCache(tmp_path).sample(1)
    assert again.k is None
    assert not again.score_supervised
    assert len(again) == 1


def with_features(sample: Sample, width: int) -> Sample:
    generator = np.random.default_rng(0)
    return dataclasses.replace(sample, track_feature=generator.normal(size=(len(sample), width)).astype(np.float32))


def test_tracking_features_are_kept_where_there_are_some(tmp_path: Path) -> None:
    samples = [with_features(make_sample(seed, n), 16) for seed, n in enumerate([2, 0, 3, 0])]
    write_shard(tmp_path, 0, samples)
    render_cache = RenderCache(tmp_path)
    for index, sample in enumerate(samples):
        again = render_cache.sample(index).track_feature
        assert again.dtype == np.float32
        np.testing.assert_allclose(again, sample.track_feature, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(samples[2].select(np.array([2, 0])).track_feature, samples[2].track_feature[[2, 0]])
    np.testing.assert_array_equal(flip(samples[2]).track_feature, samples[2].track_feature)


def test_shards_without_tracking_features_are_as_they_ever_were(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [make_sample(0, 2), make_sample(1, 0)])
    with safetensors.safe_open(list_shard_paths(tmp_path)[0], framework="numpy") as file:
        names = set(file.keys())
    assert names == {"images", "image_start", "person_start", "k", "score_supervised", *PERSON_FIELDS}
    assert [RenderCache(tmp_path).sample(index).track_feature.shape for index in (0, 1)] == [(2, 0), (0, 0)]


def test_only_people_with_a_stored_feature_have_one_in_a_batch() -> None:
    samples = [with_features(make_sample(0, 2), 16), make_sample(1, 2)]
    samples[0].ignore[1] = True
    targets = collate(samples, [True, True], 16).targets
    assert targets.has_track_feature.tolist() == [[True, False], [False, False]]
    np.testing.assert_array_equal(targets.track_feature[0], samples[0].track_feature)
    assert not targets.track_feature[1].any()
    assert collate(samples, [True, True]).targets.track_feature.shape == (2, 2, 0)


def test_images_without_people_are_read_wherever_they_stand(tmp_path: Path) -> None:
    counts = [0, 2, 0]
    write_shard(tmp_path, 0, [make_sample(seed, n) for seed, n in enumerate(counts)])
    write_shard(tmp_path, SHARD_IMAGES, [make_sample(0, 0)])
    render_cache = RenderCache(tmp_path)
    assert [len(render_cache.sample(index)) for index in range(4)] == [*counts, 0]


def test_the_splits_are_apart_and_in_the_order_of_seeds(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 3, held_out=2)
    write_shard(tmp_path, SHARD_IMAGES, [make_sample(7, 1)])
    render_cache, held_out = RenderCache(tmp_path), RenderCache(tmp_path, held_out=True)
    assert (len(render_cache), len(held_out)) == (4, 2)
    np.testing.assert_allclose(render_cache.sample(3).centre, make_sample(7, 1).centre)
    assert [len(held_out.sample(index)) for index in range(2)] == [2, 2]


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign"])
def test_a_shard_that_is_not_whole_is_passed_over_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    make_render_cache(tmp_path, 2)
    content = list_shard_paths(tmp_path)[0].read_bytes()
    broken = {"torn": content[: len(content) // 2], "empty": b"", "foreign": b"\x00" * 400}[damage]
    (tmp_path / "seeds-0000050.safetensors").write_bytes(broken)
    render_cache = RenderCache(tmp_path)
    render_cache.refresh()
    assert len(render_cache) == 2
    assert [record.message.count("\n") for record in caplog.records] == [0]
    assert "seeds-0000050.safetensors is not a complete shard" in caplog.text


def test_a_pool_sees_what_comes_and_goes(tmp_path: Path) -> None:
    render_cache = RenderCache(tmp_path)
    assert (len(render_cache), render_cache.rendered) == (0, 0)
    first = write_shard(tmp_path, 0, [small_sample(0)] * SHARD_IMAGES)
    write_shard(tmp_path, SHARD_IMAGES, [small_sample(1)] * 3)
    render_cache.refresh()
    assert (len(render_cache), render_cache.rendered) == (53, 53)
    first.unlink()
    with pytest.raises(OSError, match="No such file"):
        render_cache.sample(0)
    render_cache.refresh()
    assert (len(render_cache), render_cache.rendered) == (3, 53)


def settings(folder: Path, **changes: object) -> RenderCacheConfig:
    values: dict[str, object] = {"cache_images": 100, "held_out_images": 60}
    return RenderCacheConfig(folder, SceneOptions(), **(values | changes))  # type: ignore[arg-type]


def test_rendering_fills_the_pool_and_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    seeds: list[int] = []

    def render(seed: int) -> Sample:
        seeds.append(seed)
        return small_sample(seed)

    shards = fill_cache(settings(tmp_path), render, images=120)
    assert list(itertools.islice(shards, 3)) == [50, 10, 50]  # held-out images first
    shards.close()
    calls = len(seeds)
    stopping = fill_cache(settings(tmp_path), render, images=120, stopped=lambda: len(seeds) == calls + 7)
    assert list(stopping) == []
    assert len(RenderCache(tmp_path)) == 50  # the unfinished shard was discarded
    assert list(fill_cache(settings(tmp_path), render, images=120)) == [50, 20]
    assert list(fill_cache(settings(tmp_path), render, images=120)) == []
    assert sorted(set(seeds)) == [*range(120), *range(HELD_OUT_SEED, HELD_OUT_SEED + 60)]


def test_a_cache_that_ends_with_a_short_shard_is_extended(tmp_path: Path) -> None:
    for held_out, images, shards in ((30, 120, [30, 50, 50, 20]), (80, 200, [50, 30, 50, 50]), (70, 180, [])):
        assert list(fill_cache(settings(tmp_path, held_out_images=held_out), small_sample, images=images)) == shards
    assert (len(RenderCache(tmp_path)), len(RenderCache(tmp_path, held_out=True))) == (200, 80)
    list_shard_paths(tmp_path)[-1].write_bytes(b"damaged")
    assert list(fill_cache(settings(tmp_path, held_out_images=0), small_sample, images=200)) == []


def test_endless_rendering_makes_room_and_uses_new_seeds(tmp_path: Path) -> None:
    config = settings(tmp_path, held_out_images=0)
    assert sum(itertools.islice(fill_cache(config, small_sample), 5)) == 250
    assert [path.name for path in list_shard_paths(tmp_path)] == [
        f"seeds-{seed:07d}.safetensors" for seed in (150, 200)
    ] or len(list_shard_paths(tmp_path)) == 3  # the generator is suspended before its last deletion
    next(fill_cache(config, small_sample))
    assert RenderCache(tmp_path).rendered == 300


def test_renderers_share_the_seeds(tmp_path: Path) -> None:
    seeds: list[list[int]] = [[], []]
    for worker in (0, 1):

        def render(seed: int, worker: int = worker) -> Sample:
            seeds[worker].append(seed)
            return small_sample(seed)

        list(fill_cache(settings(tmp_path), render, worker=worker, workers=2, images=200))
    assert not set(seeds[0]) & set(seeds[1])
    assert sorted(seeds[0] + seeds[1]) == [*range(200), *range(HELD_OUT_SEED, HELD_OUT_SEED + 60)]


def test_a_scene_that_fails_is_left_out_and_many_in_a_row_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def some(seed: int) -> Sample:
        if seed % 5 == 0:
            raise ValueError("a degenerate triangle")
        return small_sample(seed)

    assert list(fill_cache(settings(tmp_path, held_out_images=0), some, images=50)) == [40]
    assert "seed 5 could not be rendered (ValueError: a degenerate triangle)" in caplog.text

    def none(seed: int) -> Sample:
        raise ValueError("no renderer")

    with pytest.raises(UserError, match="10 renders in a row failed"):
        list(fill_cache(settings(tmp_path, held_out_images=0), none, images=100))


def test_a_cache_of_other_settings_is_refused(tmp_path: Path) -> None:
    open_folder(settings(tmp_path / "cache"))
    make_render_cache(tmp_path / "cache", 2)
    open_folder(settings(tmp_path / "cache"))
    other = RenderCacheConfig(tmp_path / "cache", SceneOptions(width=640))
    with pytest.raises(UserError, match=r"expected width 320 as in .*, got 640"):
        open_folder(other)
    with pytest.raises(UserError, match="at least 50"):
        settings(tmp_path, cache_images=10)


def test_a_cache_with_sam2s_features_is_another_than_one_without(tmp_path: Path) -> None:
    open_folder(settings(make_render_cache(tmp_path / "old", 2)))
    assert "sam2" not in (tmp_path / "old" / "settings.json").read_text()
    with pytest.raises(UserError, match=r"expected sam2 None as in .*, got sam2-large; .* choose another --cache"):
        open_folder(settings(tmp_path / "old", sam2=Path("sam2-large")))
    open_folder(settings(make_render_cache(tmp_path / "new", 2), sam2=Path("sam2-large")))
    open_folder(settings(tmp_path / "new", sam2=Path("sam2-large")))
    with pytest.raises(UserError, match=r"expected sam2 sam2-large as in .*, got None; .* choose another --cache"):
        open_folder(settings(tmp_path / "new"))


def test_what_a_killed_renderer_left_is_cleared_later(tmp_path: Path) -> None:
    old, new = tmp_path / ".seeds-0000000.safetensors.1.tmp", tmp_path / ".seeds-0000050.safetensors.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    open_folder(settings(tmp_path))
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


def test_training_waits_for_renderers_that_are_behind(tmp_path: Path) -> None:
    class Working:
        running, failed = 1, 0

    write_shard(tmp_path, 0, [small_sample(0)] * SHARD_IMAGES)
    watch = RenderMonitor(RenderCache(tmp_path), Working(), most_views=4.0, share=1.0)  # type: ignore[arg-type]
    assert watch.compute_views(100) == 2.0
    assert not watch.is_behind(200)
    assert watch.is_behind(201)
    assert not dataclasses.replace(watch, most_views=0.0).is_behind(10**6)
    assert not dataclasses.replace(watch, renderers=None).is_behind(10**6)


CONFIG = BatchConfig(batch_size=3, image_size=96, track_feature_width=16)


def test_a_batch_depends_on_seed_rank_and_step_only(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 6)
    one, same = (Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 5)[17] for _ in range(2))
    assert torch.equal(one.image, same.image)
    assert all(torch.equal(getattr(one.targets, f.name), getattr(same.targets, f.name)) for f in fields())
    others = [
        Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 5)[18],
        Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 6)[17],
        Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 5, rank=1)[17],
    ]
    assert all(other.image.shape != one.image.shape or not torch.equal(other.image, one.image) for other in others)


def fields() -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(Targets)


def test_batches_have_every_shape_and_full_targets(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 6)
    batches = [Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 0)[step] for step in range(24)]
    assert {tuple(batch.image.shape[2:]) for batch in batches} == {(80, 96), (64, 96), (96, 96), (96, 80)}
    for batch in batches:
        targets = batch.targets
        assert batch.image.dtype == torch.uint8
        assert len(targets) == len(batch.origins) == 3
        assert not (targets.present & targets.ignore).any()
        assert targets.has_k.all()
        assert targets.has_body[targets.present].all()
        assert torch.isfinite(targets.location).all()
        assert (targets.has_track_feature <= targets.present).all()
        centered = (targets.k[:, 0, 2] / batch.image.shape[3] - 0.5).abs() < 0.02
        centered &= (targets.k[:, 1, 2] / batch.image.shape[2] - 0.5).abs() < 0.02
        assert batch.k_given[~centered].all()  # the network supports centered principal points only
    given = torch.cat([batch.k_given for batch in batches]).float().mean()
    assert 0.4 < given < 0.9


def test_images_are_padded_to_squares_without_changing_their_crops(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 6)
    squares = dataclasses.replace(CONFIG, square_padding=True, augmentation=NO_AUGMENTATION)
    plain = dataclasses.replace(squares, square_padding=False)
    for step in range(8):
        square, own = (Batches([(RenderCache(tmp_path), 1.0)], config, 0)[step] for config in (squares, plain))
        assert square.image.shape[2:] == (96, 96)
        assert square.origins == own.origins
        shift = (torch.tensor([96, 96]) - torch.tensor(own.image.shape[:1:-1])) / 2
        there = own.targets.present & square.targets.present
        moved = square.targets.location[there] - own.targets.location[there]
        torch.testing.assert_close(moved, shift.expand_as(moved), atol=3.0, rtol=0)  # a crop has only about the aspect


def test_sources_are_drawn_by_their_weights(tmp_path: Path) -> None:
    make_render_cache(tmp_path / "a", 4)
    make_render_cache(tmp_path / "b", 4)
    config = BatchConfig(batch_size=4, image_size=96)
    sources = [(RenderCache(tmp_path / "a"), 0.0), (RenderCache(tmp_path / "b"), 2.0)]
    (tmp_path / "a" / "seeds-0000000.safetensors").unlink()  # would be missed if it were sampled
    assert len(Batches(sources, config, 0)[0].origins) == 4
    with pytest.raises(UserError, match="sources need weights"):
        Batches([(sources[0][0], 0.0)], config, 0)


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


@pytest.mark.parametrize("index", [0, 999_999, 1_000_000, 8_999_999, 9_000_000, 10**12])
def test_training_images_have_seeds_that_are_not_held_out(index: int) -> None:
    assert get_training_index(get_training_seed(index)) == index
    assert not is_held_out(get_training_seed(index))


def test_shards_of_many_digits_are_in_order(tmp_path: Path) -> None:
    for seed in (10_000_000, 9_999_950, 0):
        (tmp_path / f"seeds-{seed:07d}.safetensors").touch()
    assert [parse_first_seed(path) for path in list_shard_paths(tmp_path)] == [0, 9_999_950, 10_000_000]


@pytest.mark.parametrize("others", [0, 1])
def test_a_shard_that_cannot_be_opened_any_more_does_not_stop_the_others(
    tmp_path: Path, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The path exists but the file cannot be opened, as after a disk error or a change of permissions."""
    broken = write_shard(tmp_path, 0, [make_sample(0, n=1)])
    for index in range(others):
        write_shard(tmp_path, 50 + 50 * index, [make_sample(1, n=1)])
    drawn = Batches([(RenderCache(tmp_path), 1.0)], BatchConfig(batch_size=8, image_size=96), seed=0)
    broken.unlink()
    broken.symlink_to(tmp_path / "gone")
    if others:
        assert {origin.split("[")[0] for origin in drawn[0].origins} == {"seeds-0000050.safetensors"}
        assert len(caplog.messages) == 1
        return
    with pytest.raises(UserError, match="the render cache is empty"):
        drawn[0]


def test_a_shard_with_a_broken_image_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_render_cache(tmp_path, 2)
    broken = write_shard(tmp_path, SHARD_IMAGES, [make_sample(seed, n=1) for seed in range(3)])
    arrays = safetensors.numpy.load_file(broken)
    arrays["images"], arrays["image_start"] = arrays["images"].copy(), arrays["image_start"].copy()
    arrays["images"][: arrays["image_start"][1]] = 0
    arrays["image_start"][2] = arrays["image_start"][1]  # the second image is empty
    safetensors.numpy.save_file(arrays, broken)
    for row in (2, 3):
        with pytest.raises(OSError, match=rf"the image of seeds-0000050\.safetensors\[{row - 2}\] is damaged"):
            RenderCache(tmp_path).sample(row)
    caplog.clear()
    batches = Batches([(RenderCache(tmp_path), 1.0)], BatchConfig(batch_size=8, image_size=96), seed=0)
    for step in range(3):
        batches[step]
    assert {origin.split("[")[0] for origin in batches[3].origins} == {"seeds-0000000.safetensors"}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["seeds-0000000 (copy).safetensors", "seeds-.safetensors", "seeds-²3.safetensors"])
def test_files_of_other_names_are_no_shards(tmp_path: Path, name: str) -> None:
    make_render_cache(tmp_path, 2)
    (tmp_path / name).write_bytes((tmp_path / "seeds-0000000.safetensors").read_bytes())
    assert len(RenderCache(tmp_path)) == 2
    assert len(RenderCache(tmp_path, held_out=True)) == 0


def damage(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("kind", ["truncated", "missing"])
@pytest.mark.parametrize("data_set", ["coco", "bedlam", "pseudo", "empty"])
def test_an_image_that_cannot_be_read_is_left_out_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data_set: str, kind: str
) -> None:
    def draw() -> set[str]:
        batches = Batches([(reader, 1.0)], BatchConfig(batch_size=8, image_size=96), seed=0)
        return {origin for step in range(4) for origin in batches[step].origins}

    names = [f"{number}.jpg" for number in range(5)]
    reader = make_data_set(tmp_path, data_set, names)
    assert draw() == set(names)
    damage(tmp_path / names[0], kind)
    if data_set != "empty":  # whose images are listed when it is opened
        reader = make_data_set(tmp_path, data_set, names, write=False)
    assert draw() == set(names[1:])
    assert len(caplog.messages) == 1
    assert "0.jpg" in caplog.text
    assert len(list(select_readable(reader, range(len(names))))) == 4
    for name in names[1:]:
        damage(tmp_path / name, kind)
    with pytest.raises(UserError, match=r"1000 images in a row could not be read .*\.jpg"):
        draw()
    assert len(caplog.messages) == 1


def test_vanishing_images_are_one_line(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 4)
    batches = Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 0)
    (tmp_path / "seeds-0000000.safetensors").unlink()
    with pytest.raises(UserError, match="the render cache is empty"):
        batches[0]


def test_held_out_batches_are_whole_images_in_order(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 1, held_out=5)
    batches = make_held_out_batches(RenderCache(tmp_path, held_out=True), 4, CONFIG, input_size=(96, 80))
    assert [len(batch.origins) for batch in batches] == [3, 1]
    assert batches[0].k_given.all()
    np.testing.assert_allclose(batches[1].targets.centre[0, 0], make_sample(1003, 2).centre[0], rtol=1e-6)


def test_nobody_and_everybody_ignored_collate() -> None:
    nobody, ignored = make_sample(0, 0), make_sample(1, 2)
    ignored.ignore[:] = True
    targets = collate([nobody, ignored], [True, False]).targets
    assert not targets.present.any()
    assert targets.ignore.tolist() == [[False, False], [True, True]]
    assert not targets.box[0].any()
    np.testing.assert_allclose(targets.box[1], ignored.box)
    moved = targets.to("cpu")
    assert torch.equal(moved.rotations, targets.rotations)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 0},
        {"aspects": (1.0,)},
        {"aspect_weights": (0.0, 0.0, 0.0, 0.0)},
        {"k_given": 2.0},
        {"track_feature_width": 256, "sam2_features": True},
    ],
)
def test_wrong_batches_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        BatchConfig(**values, augmentation=NO_AUGMENTATION)  # type: ignore[arg-type]
