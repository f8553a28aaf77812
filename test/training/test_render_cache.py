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

"""The render cache on disk: packed samples, shards, seeds, splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy

from multihmr2_ros.training.augmentation import flip
from multihmr2_ros.training.render_cache import (
    SHARD_IMAGES,
    RenderCache,
    get_training_index,
    get_training_seed,
    is_held_out,
    list_shard_paths,
    parse_first_seed,
    write_shard,
)
from multihmr2_ros.training.samples import PERSON_FIELDS, pack_samples, unpack_sample
from test.helpers.training_samples import add_track_features, make_render_cache, make_sample, make_small_sample


def blur(image: np.ndarray) -> np.ndarray:
    return cv2.blur(image.astype(np.float32), (8, 8))


@pytest.mark.parametrize("counts", [[2], [0], [1, 0, 3], []])
def test_packed_samples_are_unpacked_unchanged(counts: list[int]) -> None:
    samples = [make_sample(seed, n) for seed, n in enumerate(counts)]
    arrays = pack_samples(samples)
    for index, sample in enumerate(samples):
        again = unpack_sample(arrays, index, sample.origin)
        assert again.origin == sample.origin
        assert again.score_supervised
        np.testing.assert_array_equal(again.k, sample.k)
        assert np.abs(blur(again.image) - blur(sample.image)).mean() < 2  # JPEG preserves coarse structures
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


def test_stored_tracking_features_are_read(tmp_path: Path) -> None:
    samples = [add_track_features(make_sample(seed, n), 16) for seed, n in enumerate([2, 0, 3, 0])]
    write_shard(tmp_path, 0, samples)
    render_cache = RenderCache(tmp_path)
    for index, sample in enumerate(samples):
        again = render_cache.sample(index).track_feature
        assert again.dtype == np.float32
        np.testing.assert_allclose(again, sample.track_feature, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(samples[2].select(np.array([2, 0])).track_feature, samples[2].track_feature[[2, 0]])
    np.testing.assert_array_equal(flip(samples[2]).track_feature, samples[2].track_feature)


def test_shards_without_tracking_features_have_no_array_for_them(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [make_sample(0, 2), make_sample(1, 0)])
    with safetensors.safe_open(list_shard_paths(tmp_path)[0], framework="numpy") as file:
        names = set(file.keys())
    assert names == {"images", "image_start", "person_start", "k", "score_supervised", *PERSON_FIELDS}
    assert [RenderCache(tmp_path).sample(index).track_feature.shape for index in (0, 1)] == [(2, 0), (0, 0)]


def test_images_without_people_are_read_at_any_position(tmp_path: Path) -> None:
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
def test_incomplete_shards_are_skipped_and_reported_in_one_line(
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


def test_a_render_cache_follows_added_and_removed_shards(tmp_path: Path) -> None:
    render_cache = RenderCache(tmp_path)
    assert (len(render_cache), render_cache.rendered) == (0, 0)
    first = write_shard(tmp_path, 0, [make_small_sample(0)] * SHARD_IMAGES)
    write_shard(tmp_path, SHARD_IMAGES, [make_small_sample(1)] * 3)
    render_cache.refresh()
    assert (len(render_cache), render_cache.rendered) == (53, 53)
    first.unlink()
    with pytest.raises(OSError, match="No such file"):
        render_cache.sample(0)
    render_cache.refresh()
    assert (len(render_cache), render_cache.rendered) == (3, 53)


@pytest.mark.parametrize("index", [0, 999_999, 1_000_000, 8_999_999, 9_000_000, 10**12])
def test_training_images_have_seeds_that_are_not_held_out(index: int) -> None:
    assert get_training_index(get_training_seed(index)) == index
    assert not is_held_out(get_training_seed(index))


def test_shards_of_many_digits_are_in_order(tmp_path: Path) -> None:
    for seed in (10_000_000, 9_999_950, 0):
        (tmp_path / f"seeds-{seed:07d}.safetensors").touch()
    assert [parse_first_seed(path) for path in list_shard_paths(tmp_path)] == [0, 9_999_950, 10_000_000]


@pytest.mark.parametrize("name", ["seeds-0000000 (copy).safetensors", "seeds-.safetensors", "seeds-²3.safetensors"])
def test_files_with_other_names_are_not_shards(tmp_path: Path, name: str) -> None:
    make_render_cache(tmp_path, 2)
    (tmp_path / name).write_bytes((tmp_path / "seeds-0000000.safetensors").read_bytes())
    assert len(RenderCache(tmp_path)) == 2
    assert len(RenderCache(tmp_path, held_out=True)) == 0
