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

"""Geometric augmentation of a sample and its annotations: mirror, crop, cutout; and resizing to the network's input.

Every random draw takes an explicit generator. Colors and noise, which leave annotations unchanged, are in
`photometric.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from multihmr2_ros.body import COCO_KEYPOINTS
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.errors import UserError
from multihmr2_ros.training.photometric import PhotometricConfig, distort_colors
from multihmr2_ros.training.samples import Sample

MIRROR = np.diag([-1.0, 1.0, 1.0])
# Smaller or more occluded people in the network's input are neither positive nor negative.
MIN_BOX_HEIGHT_PX = 24.0
MIN_VISIBLE_FRACTION = 0.2
# Maximum distance of a body's center outside the input that the network can predict, divided by its longer side.
MARGIN = 0.2


@dataclass(frozen=True)
class AugmentationConfig:
    """Settings of augmentation; a probability of 0 disables a part.

    flip            probability of mirroring
    least_zoom      minimum side of the crop, divided by that of the largest crop with its aspect
    off_center      probability of a crop that is not centered on the principal point; the network then always gets K,
                    because it predicts centered cameras only
    aspect_jitter   relative change of the crop's aspect, padded with black
    cutout          probability of cutout rectangles
    cutout_patches  maximum number of rectangles
    cutout_side     maximum side of a rectangle, divided by the image's side
    photometric     changes of color and sharpness
    """

    flip: float = 0.5
    least_zoom: float = 0.6
    off_center: float = 0.3
    aspect_jitter: float = 0.1
    cutout: float = 0.2
    cutout_patches: int = 3
    cutout_side: float = 0.25
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)

    def __post_init__(self) -> None:
        for name in ("flip", "off_center", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation: {name} must be a probability from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.least_zoom <= 1:
            raise UserError(f"augmentation: least_zoom must be above 0 and at most 1, got {self.least_zoom}")
        if self.cutout_patches < 1:
            raise UserError(
                f"augmentation: cutout_patches must be at least 1, got {self.cutout_patches}; cutout=0 disables it"
            )
        for name in ("aspect_jitter", "cutout_side"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"augmentation: {name} must be from 0 to below 1, got {getattr(self, name)}")


NO_AUGMENTATION = AugmentationConfig(
    flip=0.0, least_zoom=1.0, off_center=0.0, aspect_jitter=0.0, cutout=0.0, photometric=PhotometricConfig.none()
)


def augment(
    sample: Sample,
    generator: np.random.Generator,
    config: AugmentationConfig,
    input_size: tuple[int, int],
    aspect: float | None,
) -> tuple[Sample, bool]:
    """Augment the sample and resize it to the network's input of input_size (width, height) px.

    aspect: width / height of the crop; None: the whole image. Also returns whether the principal point is (nearly) in
    the middle; only then can the camera be predicted.
    """
    if generator.random() < config.flip:
        sample = flip(sample)
    if aspect is not None:
        sample = crop(sample, *draw_crop(sample, generator, config, aspect))
    resize = ResizePad.fit_inside(*sample.size, *input_size)
    sample = resize_to_input(sample, resize)
    sample = _distort_content_colors(sample, resize, generator, config.photometric)
    if generator.random() < config.cutout:
        sample = cut_out(sample, generator, config)
    return ignore_unfindable(sample), is_centered(sample)


def _distort_content_colors(
    sample: Sample, resize: ResizePad, generator: np.random.Generator, config: PhotometricConfig
) -> Sample:
    """Change the colors of the image but not of its padding, which is also black at inference."""
    content = _find_content(resize)
    image = sample.image.copy()
    image[content] = distort_colors(np.ascontiguousarray(image[content]), generator, config)
    return dataclasses.replace(sample, image=image)


def _find_content(resize: ResizePad) -> tuple[slice, slice]:
    """Return the rows and columns of the padded input that contain the image."""
    return (
        slice(resize.pad_top, resize.pad_top + resize.resized_height),
        slice(resize.pad_left, resize.pad_left + resize.resized_width),
    )


def flip(sample: Sample) -> Sample:
    """Mirror the sample: the image, the camera, positions, and left and right of the bodies."""
    width = sample.size[0]
    k = sample.k
    if k is not None:
        k = np.array([[k[0, 0], -k[0, 1], width - k[0, 2]], k[1], k[2]])
    bones, keypoints = list_mirrored_bones(), list_mirrored_keypoints()
    rotations = np.empty_like(sample.rotations)
    rotations[:, bones] = MIRROR @ sample.rotations @ MIRROR
    return dataclasses.replace(
        sample,
        image=sample.image[:, ::-1],
        k=k,
        location=_mirror_points(sample.location, width),
        centre=sample.centre * np.array([-1, 1, 1], np.float32),
        rotations=rotations,
        keypoints=_mirror_points(sample.keypoints, width)[:, keypoints],
        keypoint_visible=sample.keypoint_visible[:, keypoints],
        box=np.stack([width - sample.box[:, 2], sample.box[:, 1], width - sample.box[:, 0], sample.box[:, 3]], axis=1),
    )


@functools.cache
def list_mirrored_bones() -> NDArray[np.int64]:
    """Return (163,): the index of each bone's counterpart on the other side; its own for bones of the middle line.

    The rest frames of a left and a right bone are mirror images of each other along their own x axis, so that a bone's
    mirrored rotation is diag(-1, 1, 1) R diag(-1, 1, 1) for every shape.
    """
    from multihmr2_ros.body import Body

    labels = Body("low").bone_labels
    return np.array([labels.index(_mirror_label(label, ".L", ".R")) for label in labels])


def list_mirrored_keypoints() -> list[int]:
    """Return the index of the counterpart on the other side, for each of COCO's 17 keypoints."""
    swap = {"left": "right", "right": "left"}
    sides = [name.split("_") for name in COCO_KEYPOINTS]
    return [COCO_KEYPOINTS.index("_".join([swap.get(words[0], words[0]), *words[1:]])) for words in sides]


def draw_crop(
    sample: Sample, generator: np.random.Generator, config: AugmentationConfig, aspect: float
) -> tuple[int, int, int, int]:
    """Draw a rectangle x0 y0 x1 y1 in whole px inside the image, with about the given aspect (width / height)."""
    width, height = sample.size
    center = np.array([width, height]) / 2 if sample.k is None else sample.k[:2, 2]
    aspect *= 1 + config.aspect_jitter * generator.uniform(-1, 1)
    zoom = generator.uniform(config.least_zoom, 1.0)
    off_center = generator.random() < config.off_center
    places = generator.random(2)
    room = np.array([width, height], float)
    if not off_center:  # the largest rectangle about the center
        room = 2 * np.minimum(center, room - center).clip(min=0.2 * room)
    side = zoom * np.minimum(room, [room[1] * aspect, room[0] / aspect])
    side = np.minimum(np.maximum(np.round(side), 2), [width, height])
    first = np.round(places * ([width, height] - side) if off_center else center - side / 2)
    first = np.clip(first, 0, [width, height] - side)
    x0, y0, x1, y1 = (int(value) for value in (*first, *(first + side)))
    return x0, y0, x1, y1


def crop(sample: Sample, x0: int, y0: int, x1: int, y1: int) -> Sample:
    """Crop the sample to a rectangle in px. Positions in the camera's frame stay; K's principal point moves.

    A person's visible fraction is reduced with the area of the visible box, which is an approximation. People outside
    the rectangle are left out.
    """
    offset = np.array([x0, y0], np.float32)
    k = sample.k
    if k is not None:
        k = k.copy()
        k[:2, 2] -= offset
    box = np.clip(sample.box, np.array([x0, y0, x0, y0], np.float32), np.array([x1, y1, x1, y1], np.float32))
    remaining = _compute_area(box) / np.maximum(_compute_area(sample.box), 1e-6)
    cropped = dataclasses.replace(
        sample,
        image=sample.image[y0:y1, x0:x1],
        k=k,
        location=sample.location - offset,
        keypoints=sample.keypoints - offset,
        box=box - np.tile(offset, 2),
        visible_fraction=(sample.visible_fraction * remaining).astype(np.float32),
    )
    return cropped.select(remaining > 0)


def resize_to_input(sample: Sample, resize: ResizePad) -> Sample:
    """Resize the sample and pad it with black, with the same arithmetic as inference."""
    pixels = torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1)[None]
    size = (resize.resized_height, resize.resized_width)
    if pixels.shape[-2:] != size:
        pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    image = np.zeros((resize.padded_height, resize.padded_width, 3), np.uint8)
    image[_find_content(resize)] = pixels[0].permute(1, 2, 0).numpy()
    return dataclasses.replace(
        sample,
        image=image,
        k=None if sample.k is None else resize.k_to_input(sample.k),
        location=resize.points_to_input(sample.location),
        keypoints=resize.points_to_input(sample.keypoints),
        box=resize.points_to_input(sample.box.reshape(-1, 2, 2)).reshape(-1, 4),
    )


def cut_out(sample: Sample, generator: np.random.Generator, config: AugmentationConfig) -> Sample:
    """Cover parts of the image with single-color rectangles; visible fractions are reduced by the covered box area."""
    image, visible = sample.image.copy(), sample.visible_fraction.copy()
    width, height = sample.size
    for _ in range(int(generator.integers(1, config.cutout_patches + 1))):
        side = generator.uniform(0.05, 1.0, 2) * config.cutout_side * [width, height]
        x0, y0 = (generator.random(2) * ([width, height] - side)).astype(int)
        x1, y1 = (np.array([x0, y0]) + side).astype(int)
        image[y0:y1, x0:x1] = generator.integers(0, 256, 3)
        hidden = np.clip(sample.box, np.array([x0, y0, x0, y0], np.float32), np.array([x1, y1, x1, y1], np.float32))
        visible *= 1 - _compute_area(hidden) / np.maximum(_compute_area(sample.box), 1e-6)
    return dataclasses.replace(sample, image=image, visible_fraction=visible.astype(np.float32))


def ignore_unfindable(sample: Sample) -> Sample:
    """Ignore people who are too small or too occluded in the network's input, or whose center is far outside it.

    Ignored people are neither positive nor negative.
    """
    height = sample.box[:, 3] - sample.box[:, 1]
    findable = (height >= MIN_BOX_HEIGHT_PX) & (sample.visible_fraction >= MIN_VISIBLE_FRACTION)
    margin = MARGIN * max(sample.size)
    findable &= ((sample.location > -margin) & (sample.location < np.array(sample.size) + margin)).all(axis=1)
    return dataclasses.replace(sample, ignore=sample.ignore | ~findable)


def is_centered(sample: Sample) -> bool:
    """Return whether the principal point is within 2 % of the image's sides from its middle."""
    size = np.array(sample.size)
    return sample.k is None or bool((np.abs(sample.k[:2, 2] / size - 0.5) < 0.02).all())


def compute_input_sizes(image_size: int, patch: int, aspects: Sequence[float]) -> list[tuple[int, int]]:
    """Return (width, height) px of the network's inputs for images of the given aspects (width / height)."""
    resizes = [ResizePad.fit(round(10_000 * aspect), 10_000, image_size, patch) for aspect in aspects]
    return [(resize.padded_width, resize.padded_height) for resize in resizes]


def _mirror_points(points: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return points * np.array([-1, 1], np.float32) + np.array([width, 0], np.float32)


def _compute_area(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the area (n,) px² of boxes (n, 4); 0 for inverted ones."""
    return np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), axis=1)


def _mirror_label(label: str, left: str, right: str) -> str:
    if label.endswith(left):
        return label.removesuffix(left) + right
    return label.removesuffix(right) + left if label.endswith(right) else label
