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

"""Samples for the training tests: Anny bodies in front of a camera, drawn as colored blobs without simulation."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.camera import project
from multihmr2_ros.training.render_cache import write_shard
from multihmr2_ros.training.samples import Sample, make_blank_people


@functools.cache
def body() -> Body:
    return Body("low")


def make_random_rotations(generator: np.random.Generator, n: int, spread_rad: float = 0.3) -> np.ndarray:
    """Return rotations (n, 163, 3, 3): small rotations of every bone, upright roots that roughly face the camera."""
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_rotvec(generator.normal(0, spread_rad, (n * 163, 3))).as_matrix().reshape(n, 163, 3, 3)
    turns[:, 0] = Rotation.from_euler("x", -90, degrees=True).as_matrix() @ turns[:, 0]
    return turns


def make_sample(seed: int = 0, n: int = 2, size: tuple[int, int] = (160, 120), *, spread_rad: float = 0.3) -> Sample:
    """Return n people 2.5 to 5 m away in an image of size (width, height) px, with all labels."""
    generator = np.random.default_rng(seed)
    width, height = size
    k = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1.0]])
    image = generator.integers(0, 60, (height, width, 3)).astype(np.uint8)
    arrays = make_blank_people(n)
    arrays["shape"] = generator.uniform(0.2, 0.9, (n, 6)).astype(np.float16).astype(np.float32)
    rotations = make_random_rotations(generator, n, spread_rad)
    arrays["rotations"] = rotations.astype(np.float16).astype(np.float32)
    arrays["centre"] = np.stack(
        [generator.uniform(-0.8, 0.8, n), generator.uniform(-0.8, -0.2, n), generator.uniform(2.5, 5, n)], axis=1
    ).astype(np.float32)
    arrays["location"] = project(arrays["centre"].astype(np.float64), k).astype(np.float32)
    for row in np.argsort(-arrays["centre"][:, 2]):
        pixels = project_vertices(arrays["shape"][row], arrays["rotations"][row], arrays["centre"][row], k)
        box = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
        arrays["box"][row] = np.clip(box, 0, [width, height, width, height])
        hull = cv2.convexHull(pixels.astype(np.int32))
        cv2.fillConvexPoly(image, hull, [int(value) for value in generator.integers(90, 256, 3)])
    arrays["has_place"][:] = True
    arrays["has_relative_place"][:] = True
    arrays["has_body"][:] = True
    arrays["visible_fraction"][:] = 1.0
    return Sample(image, k, True, f"seed {seed}", **arrays)


def make_small_sample(seed: int) -> Sample:
    """Return an image of 16 x 12 px without people."""
    return make_sample(seed, 0, (16, 12))


def add_track_features(sample: Sample, width: int) -> Sample:
    """Return the sample with random features (people, width) for tracking."""
    generator = np.random.default_rng(0)
    return dataclasses.replace(sample, track_feature=generator.normal(size=(len(sample), width)).astype(np.float32))


def project_vertices(shape: np.ndarray, rotations: np.ndarray, center: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the pixels (V, 2) px of one person's low mesh."""
    with torch.no_grad():
        posed = body()(torch.from_numpy(shape[None]), torch.from_numpy(rotations[None]))
    vertices = posed.vertices[0].numpy() + (center - posed.vertices[0, body().center_vertex].numpy())
    return project(vertices.astype(np.float64), k)


def make_render_cache(folder: Path, images: int = 6, *, held_out: int = 0, people: int = 2) -> Path:
    """Write a folder with shards of such samples."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder, 0, [make_sample(seed, seed % (people + 1)) for seed in range(images)])
    if held_out:
        write_shard(folder, 1_000_000, [make_sample(1000 + seed, people) for seed in range(held_out)])
    return folder
