"""Tracking targets: the colour layout tells people apart, SAM2's memory has the layout that the paper says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.training.tracking_targets import SAM2_FEATURE_WIDTH, ColourLayout, Sam2Memory

PEOPLE = 12


def clothes(person: int) -> NDArray[np.float64]:
    """(4, 3) colours from head to feet: hair, top, trousers, shoes; skin is everybody's."""
    return np.random.default_rng(1000 + person).uniform(0.05, 0.9, (4, 3))


def scene(person: int, frame: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
    """A person of another size, place, light and background in every frame: image, box (1, 4), mask (1, H, W)."""
    generator = np.random.default_rng((person, frame))
    image = generator.uniform(0.2, 0.8, (6, 8, 3)).repeat(40, 0).repeat(40, 1)
    height, mask = int(generator.integers(60, 200)), np.zeros((1, 240, 320), bool)
    width, top, left = height // 3, int(generator.integers(0, 240 - height)), int(generator.integers(0, 250))
    edges = top + (height * np.array([0, 0.15, 0.55, 0.92, 1])).astype(int)
    sway = int(generator.integers(-2, 3))
    for colour, upper, lower in zip(clothes(person), edges[:-1], edges[1:], strict=True):
        image[upper:lower, left + 4 + sway : left + width - 4 + sway] = colour
        mask[0, upper:lower, left + 4 + sway : left + width - 4 + sway] = True
    light = generator.uniform(0.6, 1.2)
    noisy = 255 * image * light + generator.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), np.array([[left, top, left + width, top + height]], float), mask


@pytest.mark.parametrize("with_mask", [True, False])
def test_people_are_told_apart_over_time(with_mask: bool) -> None:
    """The nearest other picture, in L1, is nearly always one of the same person."""
    describe = ColourLayout(256)
    rows = []
    for person in range(PEOPLE):
        for frame in range(4):
            image, box, mask = scene(person, frame)
            feature, known = describe(image, box, mask if with_mask else None)
            assert known.all()
            rows.append(feature[0])
    features, identity = np.array(rows), np.arange(PEOPLE).repeat(4)
    distance = np.abs(features[:, None] - features).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (identity[distance.argmin(axis=1)] == identity).mean() > 0.9
    assert abs(features.mean()) < 0.2
    assert 0.5 < features.std() < 1.5


def test_what_cannot_be_seen_has_no_feature() -> None:
    image, box, mask = scene(0, 0)
    boxes = np.concatenate([box, [[300, 10, 302, 200], [400, 10, 500, 90], [50, 50, 40, 40]]])
    feature, known = ColourLayout(32)(image, boxes)
    assert known.tolist() == [True, False, False, False]
    assert not feature[1:].any()
    _, known = ColourLayout(32)(image, box, np.zeros_like(mask))
    assert known.tolist() == [False]
    feature, known = ColourLayout(32)(image, np.zeros((0, 4)))
    assert feature.shape == (0, 32)
    assert known.shape == (0,)


def test_a_width_gives_the_same_numbers_on_every_machine() -> None:
    image, box, _ = scene(3, 1)
    first, second = ColourLayout(64)(image, box)[0], ColourLayout(64)(image, box)[0]
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    black, _ = ColourLayout(64)(np.zeros_like(image), box)
    assert np.isfinite(black).all()


def test_sam2_must_be_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="no SAM2 model"):
        Sam2Memory(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        Sam2Memory(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Sam2Memory:
    """SAM2's architecture with a small encoder and random weights."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    vision = transformers.Sam2VisionConfig(
        backbone_config=transformers.Sam2HieraDetConfig(
            hidden_size=16,
            num_attention_heads=1,
            blocks_per_stage=[1, 1, 1, 1],
            embed_dim_per_stage=[16, 32, 64, 128],
            num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[8, 4, 14, 7],
            global_attention_blocks=[],
        ),
        backbone_channel_list=[128, 64, 32, 16],
    )
    folder = tmp_path_factory.mktemp("sam2")
    transformers.Sam2VideoModel(transformers.Sam2VideoConfig(vision_config=vision)).save_pretrained(folder)
    return Sam2Memory(folder)


def test_sam2_describes_each_mask(sam2: Sam2Memory) -> None:
    image, box, mask = scene(0, 0)
    other = np.zeros_like(mask)
    other[0, 100:200, 200:260] = True
    masks = np.concatenate([mask, other, np.zeros_like(mask)])
    feature, known = sam2(image, np.repeat(box, 3, axis=0), masks)
    assert feature.shape == (3, SAM2_FEATURE_WIDTH)
    assert known.tolist() == [True, True, False]
    assert np.isfinite(feature).all()
    assert np.abs(feature[0] - feature[1]).max() > 0
    alone, _ = sam2(image, box, mask)
    np.testing.assert_allclose(alone[0], feature[0], atol=1e-4)
    with pytest.raises(UserError, match="mask"):
        sam2(image, box)
