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

"""Batches: samples drawn from the sources, augmented, and collated for the network.

Step s of rank r draws from its own generator, seeded by (seed, r, s): a resumed run trains on the same batches as an
uninterrupted one, whichever process makes them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import UnreadableImageError
from multihmr2_ros.network.proposals import EncoderFeatures
from multihmr2_ros.training.augmentation import NO_AUGMENTATION, AugmentationConfig, augment, compute_input_sizes
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.samples import PERSON_FIELDS, Sample
from multihmr2_ros.training.targets import Targets
from multihmr2_ros.training.tracking_targets import SAM2_FEATURE_WIDTH, ColorLayout

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 1000  # attempts to draw an image whose file can be read
REFRESH_S = 5.0  # interval at which a growing render cache is listed again


class SampleSource(Protocol):
    """A sequence of samples: a render cache, or a reader of a dataset."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """Return one sample. Raises UnreadableImageError or OSError if its file cannot be read."""
        ...


@dataclass(frozen=True)
class Batch:
    """B images of one size with their ground truth.

    image     (B, 3, H, W) uint8 RGB
    targets   of B images
    k_given   (B,) bool: whether the network gets the intrinsics as an input
    origins   name of each image's render or file, for messages
    features  of the frozen encoder, if computed in advance
    """

    image: Tensor
    targets: Targets
    k_given: Tensor
    origins: tuple[str, ...]
    features: EncoderFeatures | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device. The image stays on its device if there are features."""
        features = self.features
        if features is not None:
            tensors: dict[str, Any] = {
                name: value for name, value in vars(features).items() if isinstance(value, Tensor)
            }
            features = EncoderFeatures(**{name: value.to(device) for name, value in tensors.items()})
        image = self.image if features is not None else self.image.to(device)
        return Batch(image, self.targets.to(device), self.k_given.to(device), self.origins, features)


@dataclass(frozen=True)
class BatchConfig:
    """Settings of batches.

    batch_size           images per step and process
    image_size           px, longest side of the inputs; a smaller size than the network's makes steps faster and people
                         smaller
    patch_size           px, of the network
    aspects              width / height of the inputs; one is drawn for each batch
    aspect_weights       relative probabilities of the aspects
    square_padding       whether crops of these aspects are padded to squares, instead of inputs of these aspects
    k_given              probability that the network gets the intrinsics, if they are known
    track_feature_width  width of the target of tracking features; 0: none
    sam2_features        whether that target is the samples' SAM2 feature, instead of a color layout
    augmentation         of each image
    """

    batch_size: int = 32
    image_size: int = 768
    patch_size: int = 16
    aspects: tuple[float, ...] = (4 / 3, 16 / 9, 1.0, 3 / 4)
    aspect_weights: tuple[float, ...] = (0.5, 0.2, 0.15, 0.15)
    square_padding: bool = False
    k_given: float = 0.5
    track_feature_width: int = 0
    sam2_features: bool = False
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}")
        if len(self.aspects) != len(self.aspect_weights) or not self.aspects or min(self.aspects) <= 0:
            raise UserError(
                f"aspects must be positive and have one weight each, got {self.aspects} and {self.aspect_weights}"
            )
        if min(self.aspect_weights) < 0 or sum(self.aspect_weights) <= 0:
            raise UserError(f"aspect_weights must be 0 or more, and not all 0; got {self.aspect_weights}")
        if not 0 <= self.k_given <= 1:
            raise UserError(f"k_given must be a probability from 0 to 1, got {self.k_given}")
        if self.sam2_features and self.track_feature_width not in (0, SAM2_FEATURE_WIDTH):
            raise UserError(
                f"SAM2's tracking features have {SAM2_FEATURE_WIDTH} numbers, but the network's track_feature_width is "
                f"{self.track_feature_width}; give --network a JSON file with track_feature_width "
                f"{SAM2_FEATURE_WIDTH}, or omit --sam2"
            )


class Batches(Dataset[Batch]):
    """The batches of one rank, by step, for a DataLoader with batch_size=None."""

    def __init__(
        self, sources: Sequence[tuple[SampleSource, float]], config: BatchConfig, seed: int, rank: int = 0
    ) -> None:
        """Set the sources (source, weight); a source is drawn with a probability proportional to its weight."""
        self.sources = [source for source, _ in sources]
        weights = np.array([weight for _, weight in sources], float)
        if not len(weights) or weights.min() < 0 or weights.sum() <= 0:
            raise UserError(f"sources need weights of 0 or more, not all 0; got {weights.tolist()}")
        self.weights = weights / weights.sum()
        self.config = config
        self.seed, self.rank = seed, rank
        padded = (1.0,) * len(config.aspects) if config.square_padding else config.aspects
        self.sizes = compute_input_sizes(config.image_size, config.patch_size, padded)
        colors = config.track_feature_width and not config.sam2_features
        self._describe = ColorLayout(config.track_feature_width) if colors else None
        self._refreshed = time.monotonic()
        self._reported: set[str] = set()

    def __getitem__(self, step: int) -> Batch:
        generator = np.random.default_rng([self.seed, self.rank, step])
        self._refresh()
        weights = np.array(self.config.aspect_weights)
        shape = generator.choice(len(self.sizes), p=weights / weights.sum())
        size, aspect = self.sizes[shape], self.config.aspects[shape]
        samples, k_given = [], []
        for _ in range(self.config.batch_size):
            sample, centered = augment(self._draw(generator), generator, self.config.augmentation, size, aspect)
            samples.append(sample)
            is_given = generator.random() < self.config.k_given
            k_given.append(sample.k is not None and (is_given or not centered))
        batch = collate(samples, k_given, self.config.track_feature_width)
        if self._describe is not None:
            for row, sample in enumerate(samples):
                feature, known = self._describe(sample.image, sample.box)
                batch.targets.track_feature[row, : len(sample)] = torch.from_numpy(feature)
                batch.targets.has_track_feature[row, : len(sample)] = torch.from_numpy(known & ~sample.ignore)
        return batch

    def _draw(self, generator: np.random.Generator) -> Sample:
        source = self.sources[generator.choice(len(self.sources), p=self.weights)]
        unreadable: list[str] = []
        for attempt in itertools.count(1):
            if not len(source):
                break
            try:
                sample = source.sample(int(generator.integers(len(source))))
                self._report(unreadable)
                return sample
            # An image of a data set is missing or damaged; a shard was just removed by a renderer, or cannot be read.
            except (UnreadableImageError, OSError) as error:
                if isinstance(error, UnreadableImageError):
                    unreadable.append(str(error))
                if attempt == MAX_ATTEMPTS:
                    reason = " ".join(str(error).split())
                    raise UserError(
                        f"{attempt} images in a row could not be read ({reason:.200}); check the folder and its disk"
                    ) from error
                self._refresh(now=True)
        raise UserError("the render cache is empty; do not clear its folder during training")

    def _report(self, unreadable: list[str]) -> None:
        """Log each image that cannot be read, once in this process. The render cache logs its own shards."""
        for message in dict.fromkeys(unreadable):
            if message not in self._reported:
                logger.warning("%s; the image is skipped", message)
                self._reported.add(message)

    def _refresh(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._refreshed > REFRESH_S:
            for source in self.sources:
                if isinstance(source, RenderCache):
                    source.refresh()
            self._refreshed = time.monotonic()


def select_readable(source: SampleSource, rows: Iterable[int]) -> Iterator[Sample]:
    """Yield the samples of the rows that have readable files."""
    for row in rows:
        with contextlib.suppress(UnreadableImageError, OSError):
            yield source.sample(row)


def make_held_out_batches(
    source: SampleSource, count: int, config: BatchConfig, *, input_size: tuple[int, int]
) -> list[Batch]:
    """Return the first `count` samples of a source in batches, without augmentation; input_size (width, height) px."""
    generator = np.random.default_rng(0)  # required, but has no effect without augmentation
    batches = []
    for first in range(0, min(count, len(source)), config.batch_size):
        rows = range(first, min(first + config.batch_size, count, len(source)))
        samples = [
            augment(sample, generator, NO_AUGMENTATION, input_size, None)[0] for sample in select_readable(source, rows)
        ]
        if samples:
            batches.append(collate(samples, [sample.k is not None for sample in samples]))
    return batches


def collate(samples: Sequence[Sample], k_given: Sequence[bool], track_feature_width: int = 0) -> Batch:
    """Return a batch of samples whose images have the same size.

    k_given              for each sample: whether the network gets the intrinsics
    track_feature_width  samples with a tracking feature of this width keep it as a target
    """
    slots = max(1, max(len(sample) for sample in samples))
    targets = Targets.empty(len(samples), slots, track_feature_width)
    for row, sample in enumerate(samples):
        n = len(sample)
        for name in PERSON_FIELDS.keys() & vars(targets).keys():
            getattr(targets, name)[row, :n] = torch.from_numpy(np.ascontiguousarray(getattr(sample, name)))
        targets.keypoints[row, :n][~targets.keypoint_visible[row, :n]] = 0  # datasets may have NaN there
        targets.present[row, :n] = torch.from_numpy(~sample.ignore)
        if track_feature_width and sample.track_feature.shape[1] == track_feature_width:
            targets.track_feature[row, :n] = torch.from_numpy(sample.track_feature)
            targets.has_track_feature[row, :n] = torch.from_numpy(~sample.ignore)
        targets.score_supervised[row] = sample.score_supervised
        if sample.k is not None:
            targets.k[row] = torch.from_numpy(sample.k)
            targets.has_k[row] = True
    images = np.stack([sample.image for sample in samples])
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        targets,
        torch.tensor(list(k_given)),
        tuple(sample.origin for sample in samples),
    )
