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

"""Batches of training samples: sampling, padding, targets, and images that cannot be read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.training.augmentation import NO_AUGMENTATION
from multihmr2_ros.training.data import BatchConfig, Batches, collate, make_held_out_batches, select_readable
from multihmr2_ros.training.render_cache import SHARD_IMAGES, RenderCache, write_shard
from multihmr2_ros.training.targets import Targets
from test.helpers.training_data_sets import make_data_set
from test.helpers.training_samples import add_track_features, make_render_cache, make_sample

CONFIG = BatchConfig(batch_size=3, image_size=96, track_feature_width=16)


def test_only_people_with_a_stored_feature_have_one_in_a_batch() -> None:
    samples = [add_track_features(make_sample(0, 2), 16), make_sample(1, 2)]
    samples[0].ignore[1] = True
    targets = collate(samples, [True, True], 16).targets
    assert targets.has_track_feature.tolist() == [[True, False], [False, False]]
    np.testing.assert_array_equal(targets.track_feature[0], samples[0].track_feature)
    assert not targets.track_feature[1].any()
    assert collate(samples, [True, True]).targets.track_feature.shape == (2, 2, 0)


def test_a_batch_depends_on_seed_rank_and_step_only(tmp_path: Path) -> None:
    make_render_cache(tmp_path, 6)
    one, same = (Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 5)[17] for _ in range(2))
    assert torch.equal(one.image, same.image)
    assert all(
        torch.equal(getattr(one.targets, f.name), getattr(same.targets, f.name)) for f in dataclasses.fields(Targets)
    )
    others = [
        Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 5)[18],
        Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 6)[17],
        Batches([(RenderCache(tmp_path), 1.0)], CONFIG, 5, rank=1)[17],
    ]
    assert all(other.image.shape != one.image.shape or not torch.equal(other.image, one.image) for other in others)


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


@pytest.mark.parametrize("others", [0, 1])
def test_a_shard_that_can_no_longer_be_opened_is_skipped(
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


def damage(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("kind", ["truncated", "missing"])
@pytest.mark.parametrize("data_set", ["coco", "bedlam", "pseudo", "empty"])
def test_unreadable_images_are_skipped_and_reported_in_one_line(
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


def test_removed_images_are_reported_in_one_line(tmp_path: Path) -> None:
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


def test_images_without_people_and_with_ignored_people_are_collated() -> None:
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
