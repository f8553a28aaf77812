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

"""Augmentation: after every change of an image, the labels still agree with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.camera import ResizePad, project
from multihmr2_ros.errors import UserError
from multihmr2_ros.training.augmentation import (
    NO_AUGMENTATION,
    AugmentationConfig,
    augment,
    compute_input_sizes,
    crop,
    cut_out,
    flip,
    ignore_unfindable,
    is_centered,
    list_mirrored_bones,
    list_mirrored_keypoints,
    resize_to_input,
)
from multihmr2_ros.training.photometric import PhotometricConfig, distort_colors
from multihmr2_ros.training.samples import Sample
from test.helpers.training_samples import make_sample, project_vertices

SIZE = (192, 144)


def find_all_pixels(sample: Sample) -> np.ndarray:
    """Return the pixels (n, V, 2) px of the people's low meshes."""
    assert sample.k is not None
    people = zip(sample.shape, sample.rotations, sample.centre, strict=True)
    return np.stack([project_vertices(*person, sample.k) for person in people])


def assert_consistent(sample: Sample) -> None:
    """Assert that the location is the projection of the center with the sample's own K."""
    assert sample.k is not None
    np.testing.assert_allclose(sample.location, project(sample.centre.astype(np.float64), sample.k), atol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_truth_projects_onto_the_flipped_image(seed: int) -> None:
    sample = make_sample(seed, 3)
    flipped = flip(sample)
    assert np.array_equal(flipped.image, sample.image[:, ::-1])
    assert_consistent(flipped)
    # The mirrored mesh has other vertex numbers: compare the extent of the silhouettes, and the joints one by one.
    before, after = find_all_pixels(sample), find_all_pixels(flipped)
    width = sample.size[0]
    for mine, theirs in zip(before, after, strict=True):
        mirrored = np.array([width, 0]) + mine * [-1, 1]
        distance = np.linalg.norm(theirs[:, None] - mirrored[None], axis=-1).min(axis=1)
        assert np.median(distance) < 0.2
        np.testing.assert_allclose(theirs.min(axis=0), mirrored.min(axis=0), atol=0.5)
        np.testing.assert_allclose(theirs.max(axis=0), mirrored.max(axis=0), atol=0.5)


def test_flipped_joints_are_the_mirror_image_within_millimeters() -> None:
    sample, body = make_sample(4, 4), Body("low")
    flipped = flip(sample)

    def joints(s: Sample) -> np.ndarray:
        with torch.no_grad():
            posed = body(torch.from_numpy(s.shape), torch.from_numpy(s.rotations))
        return (posed.joints - posed.vertices[:, [body.center_vertex]]).numpy() + s.centre[:, None]

    error = np.linalg.norm(joints(flipped)[:, list_mirrored_bones()] - joints(sample) * [-1, 1, 1], axis=-1)
    posed = [not any(word in label for word in ("tongue", "special", "oris")) for label in body.bone_labels]
    assert error[:, posed].max() < 0.006


def test_flipping_twice_changes_nothing() -> None:
    sample = make_sample(5, 3)
    sample = dataclasses.replace(sample, k=np.array([[200, 1.5, 70], [0, 210, 55], [0, 0, 1.0]]))
    sample.keypoints[:] = np.arange(34).reshape(17, 2)
    sample.keypoint_visible[:, 3] = True
    twice = flip(flip(sample))
    for name, value in vars(sample).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(getattr(twice, name), value, atol=1e-4, err_msg=name)


def test_left_and_right_swap() -> None:
    labels = Body("low").bone_labels
    bones = list_mirrored_bones()
    assert sorted(bones) == list(range(163))
    assert labels[bones[labels.index("wrist.L")]] == "wrist.R"
    assert labels[bones[labels.index("spine03")]] == "spine03"
    assert list_mirrored_keypoints() == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


@pytest.mark.parametrize("box", [(10, 5, 150, 110), (40, 0, 100, 120), (0, 30, 160, 90)])
def test_crop_and_resize_keep_people_in_place(box: tuple[int, int, int, int]) -> None:
    sample = make_sample(6, 3)
    cropped = crop(sample, *box)
    kept = [list(sample.person_id).index(person) for person in cropped.person_id]
    assert cropped.size == (box[2] - box[0], box[3] - box[1])
    np.testing.assert_array_equal(cropped.centre, sample.centre[kept])
    resized = resize_to_input(cropped, ResizePad.fit_inside(*cropped.size, *SIZE))
    assert resized.size == SIZE
    assert_consistent(resized)
    assert (resized.visible_fraction <= sample.visible_fraction[kept] + 1e-6).all()


def test_crops_remove_people_outside_and_ignore_people_almost_outside() -> None:
    sample = make_sample(7, 2, (400, 300))
    sample.box[:] = [[0, 0, 100, 200], [200, 0, 300, 200]]
    sample.location[:] = [[95, 20], [250, 20]]
    assert list(crop(sample, 100, 0, 400, 300).person_id) == [1]
    nearly = ignore_unfindable(crop(sample, 90, 0, 400, 300))
    np.testing.assert_allclose(nearly.visible_fraction, [0.1, 1.0])
    assert list(nearly.ignore) == [True, False]


@pytest.mark.parametrize(
    ("change", "ignored"),
    [
        ({}, False),
        ({"box": [10, 10, 40, 33]}, True),  # 23 px high
        ({"box": [10, 10, 40, 34]}, False),
        ({"visible_fraction": 0.19}, True),
        ({"location": [-40, 20]}, True),  # outside by more than a fifth of the longer side, 160 px
        ({"location": [-20, 20]}, False),
        ({"location": [80, 160]}, True),
    ],
)
def test_people_who_cannot_be_found_are_ignored(change: dict[str, object], ignored: bool) -> None:
    sample = make_sample(8, 1)
    sample.box[:], sample.location[:] = [10, 10, 60, 110], [30, 20]
    for name, value in change.items():
        getattr(sample, name)[0] = value
    assert ignore_unfindable(sample).ignore[0] == ignored


def test_cutout_hides_people() -> None:
    sample = make_sample(9, 1)
    sample.box[:] = [0, 0, 160, 120]
    config = AugmentationConfig(cutout_side=0.5)
    hidden = cut_out(sample, np.random.default_rng(0), config)
    changed = (hidden.image != sample.image).any(axis=-1).mean()
    assert 0 < changed < 0.75
    assert 1 - hidden.visible_fraction[0] == pytest.approx(changed, abs=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_augmented_samples_are_inputs_and_consistent(seed: int) -> None:
    sample = make_sample(seed, 3)
    result, centered = augment(sample, np.random.default_rng(seed), AugmentationConfig(), SIZE, 4 / 3)
    assert result.image.shape == (SIZE[1], SIZE[0], 3)
    assert result.image.dtype == np.uint8
    assert_consistent(result)
    assert centered == is_centered(result)
    again, _ = augment(sample, np.random.default_rng(seed), AugmentationConfig(), SIZE, 4 / 3)
    assert np.array_equal(result.image, again.image)


def test_without_off_center_crops_the_principal_point_stays_in_the_middle() -> None:
    config = AugmentationConfig(off_center=0.0, aspect_jitter=0.0)
    for seed in range(20):
        assert augment(make_sample(0, 1), np.random.default_rng(seed), config, SIZE, 4 / 3)[1]


def test_no_augmentation_is_what_inference_does() -> None:
    from multihmr2_ros.network.inference import Inference, Runtime
    from test.helpers.small_network import small_network

    sample = make_sample(10, 2, (161, 97))
    size = compute_input_sizes(192, 16, [161 / 97])[0]
    result, _ = augment(sample, np.random.default_rng(0), NO_AUGMENTATION, size, None)
    resize = ResizePad.fit(161, 97, 192, 16)
    inference = Inference(small_network(), Body("low"), Runtime("cpu", "fp32"), 5)
    expected = inference.prepare(sample.image, resize)[0].permute(1, 2, 0).numpy()
    assert size == (resize.padded_width, resize.padded_height)
    np.testing.assert_array_equal(result.image, expected)
    np.testing.assert_allclose(result.k, resize.k_to_input(sample.k))


def test_padding_stays_black_under_color_changes() -> None:
    colors = PhotometricConfig(tone=1.0, tone_range=0.9, saturation=1.0, blur=1.0, noise=1.0, jpeg=1.0)
    config = AugmentationConfig(cutout=0.0, aspect_jitter=0.0, photometric=colors)
    sample = dataclasses.replace(make_sample(0, 0), image=np.full((120, 160, 3), 200, np.uint8))
    for seed in range(6):
        image = augment(sample, np.random.default_rng(seed), config, SIZE, 1.0)[0].image
        assert not image[:, [0, 5, -6, -1]].any()  # a square, 144 of 192 px wide
        assert image[:, 90:100].any()


def test_no_color_change_without_probability() -> None:
    image = make_sample(0, 1).image
    assert np.array_equal(distort_colors(image, np.random.default_rng(0), PhotometricConfig.none()), image)


@pytest.mark.parametrize("name", ["tone", "saturation", "blur", "noise", "jpeg"])
def test_each_color_change_changes_and_stays_an_image(name: str) -> None:
    image = make_sample(0, 2).image
    config = dataclasses.replace(PhotometricConfig.none(), **{name: 1.0})
    changed = distort_colors(image, np.random.default_rng(1), config)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, image)
    assert np.abs(changed.astype(float) - image).mean() < 60


@pytest.mark.parametrize(
    "values",
    [
        {"flip": 1.5},
        {"least_zoom": 0.0},
        {"least_zoom": 1.1},
        {"aspect_jitter": 1.0},
        {"cutout": -0.1},
        {"cutout_patches": 0},
    ],
)
def test_wrong_configurations_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"augmentation: {next(iter(values))}"):
        AugmentationConfig(**values)  # type: ignore[arg-type]
