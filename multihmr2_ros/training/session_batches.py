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

"""The batches of a session: images of the render cache and of datasets, stored features, and keypoints alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.data import Batch, Batches, SampleSource
from multihmr2_ros.training.feature_cache import CachedBatches, check_encoder, check_track_features
from multihmr2_ros.training.lifting import KeypointBatches, MixedBatches, make_pose_bank
from multihmr2_ros.training.render_cache import RenderCache, list_shard_paths
from multihmr2_ros.training.session import Session


def require_images(session: Session) -> None:
    """Raise UserError for neither a render cache nor a dataset, and for an empty render cache without a renderer."""
    cache = session.render_cache
    if cache is None and not session.datasets:
        raise UserError("expected training images, got none; give --cache for rendered images, or a dataset")
    if cache is not None and not session.render_workers and not list_shard_paths(cache.folder):
        raise describe_empty_cache(cache.folder)


def describe_empty_cache(folder: Path) -> UserError:
    """Return the error for a render cache without images that no process fills."""
    return UserError(
        f"the render cache {folder} is empty and no process renders; fill it with --render-only first, or train with "
        "--render-workers"
    )


def open_batches(session: Session, cache: RenderCache | None, network: MultiHMR2, rank: int) -> Dataset[Batch]:
    """Return the batches of one rank: features or images, mixed with steps on keypoints alone.

    Raises UserError for features that do not fit the network.
    """
    seed = session.training.seed
    batches: Dataset[Batch]
    if session.features:
        check_encoder(session.features, network)
        if session.training.losses.track_feature and not network.config.body_colors:
            check_track_features(session.features, network.config.track_feature_width)
        batches = CachedBatches(session.features, seed, rank)
    else:
        batches = Batches(open_sources(session, cache), session.training.batch, seed, rank)
    return batches if session.lifting is None else mix_keypoint_batches(batches, session, rank)


def mix_keypoint_batches(batches: Dataset[Batch], session: Session, rank: int = 0) -> Dataset[Any]:
    """Add the steps on keypoints alone to the batches. Raises UserError for networks without a pretrained encoder."""
    config = session.lifting
    assert config is not None
    if session.network.encoder != "movenet" or session.network.is_multi_hmr:
        raise UserError(
            "--keypoint-steps and --keypoint-every need a network whose queries start from keypoints: --network nano"
        )
    motions = None if session.render_cache is None else session.render_cache.scene.motions
    bank = make_pose_bank(Body("low"), config.poses, motions, session.training.seed)
    keypoints = KeypointBatches(bank, session.network.image_size, config.people, session.training.seed, rank)
    return MixedBatches(batches, keypoints, config.steps, config.every)


def open_sources(session: Session, cache: RenderCache | None) -> list[tuple[SampleSource, float]]:
    """Return the sources with their weights. The datasets' weights are proportional to their sizes."""
    real = sum(len(dataset) for dataset in session.datasets)
    share = compute_render_share(session)
    sources: list[tuple[SampleSource, float]] = []
    if cache is not None:
        sources.append((cache, share))
    left = 1.0 - share if cache is not None else 1.0
    return sources + [(dataset, left * len(dataset) / max(real, 1)) for dataset in session.datasets]


def compute_render_share(session: Session) -> float:
    """Return the fraction of renders among the images, if the session has a render cache."""
    return session.render_share if session.datasets else 1.0
