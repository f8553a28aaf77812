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

"""Trains poses from keypoints alone: bodies are posed by motions and projected, without images.

A network whose queries start from keypoints learns within minutes, from millions of (keypoints, body) pairs, a mapping
that takes days to learn from images; image features then resolve the ambiguities of keypoints. Keypoints get the
errors of a keypoint detector: noise, occluded keypoints of low score, left and right exchanged.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.heads import depth_from_nearness
from multihmr2_ros.network.model import MultiHMR2, back_project
from multihmr2_ros.simulation.motion.behavior import sample_behavior
from multihmr2_ros.simulation.motion.phenotypes import estimate_stature, sample_shape
from multihmr2_ros.simulation.motion.retarget import list_motion_files
from multihmr2_ros.simulation.motion.skeleton import compute_bone_rotations
from multihmr2_ros.training.augmentation import list_mirrored_keypoints
from multihmr2_ros.training.body_losses import compute_body_terms
from multihmr2_ros.training.detection_losses import compute_place_terms
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.loss_functions import project
from multihmr2_ros.training.matched_people import MatchedPeople, MatchedTargets, TrueBodies, pose_people

CAMERA_FROM_HEADING = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # x right, y down, z away
ASPECTS = ((4, 3), (4, 3), (16, 9), (1, 1), (3, 4))
VERTICAL_FOV_DEG = (25.0, 100.0)
EXTENT_SHARE = (0.08, 1.6)  # stature in the image, divided by the image's height; log-uniform
FACING_SHARE = 0.4  # of the people, who look towards the camera
MESH_EVERY = 12  # one of this many people has mesh losses
CHUNK = 500  # bodies that are posed at once
DEPTH_M = (0.5, 25.0)
NEAREST_CENTER_M = 0.2  # people whose center is nearer to the camera plane get no position losses
# Probabilities: a keypoint is occluded; all below a line are; left and right are exchanged.
HIDDEN, CUT, SWAPPED = 0.08, 0.3, 0.03
SEED_OF_KEYPOINTS = 17  # separates the random numbers of these batches from those of images


@dataclass(frozen=True)
class LiftingConfig:
    """Settings of steps on keypoints instead of images.

    steps   number of such steps at the beginning
    every   afterwards every n-th step; 0: none
    people  people per step
    poses   number of poses from which they are drawn
    """

    steps: int = 0
    every: int = 0
    people: int = 256
    poses: int = 20_000

    def __post_init__(self) -> None:
        for name, min_value in (("steps", 0), ("every", 0), ("people", 8), ("poses", 1)):
            if getattr(self, name) < min_value:
                raise UserError(f"keypoint {name} must be at least {min_value}, got {getattr(self, name)}")


@dataclass(frozen=True)
class PoseBank:
    """Poses of N bodies, in the heading frame (x front, y left, z up).

    shape      (N, 6)
    rotations  (N, 163, 3, 3) float16, relative to the parent bone, row 0 in the heading frame
    keypoints  (N, 17, 3) m from the pelvis
    center     (N, 3) m from the pelvis: the center vertex
    """

    shape: NDArray[np.float32]
    rotations: NDArray[np.float16]
    keypoints: NDArray[np.float32]
    center: NDArray[np.float32]


def make_pose_bank(body: Body, count: int, motions: Path | None, seed: int) -> PoseBank:
    """Draw `count` bodies and poses from the distribution of the simulation.

    body     the low mesh
    motions  folder of BVH files, or None
    """
    generator = np.random.default_rng(seed)
    files = list_motion_files(motions) if motions else ()
    shape = np.stack([sample_shape(generator) for _ in range(count)])
    rotations = np.empty((count, len(body.bone_labels), 3, 3), np.float16)
    keypoints, center = np.empty((count, 17, 3), np.float32), np.empty((count, 3), np.float32)
    for first in range(0, count, CHUNK):
        rows = slice(first, min(first + CHUNK, count))
        poses = [
            sample_behavior(generator, one, files).clip.pose(float(generator.uniform(0, 2))) for one in shape[rows]
        ]
        with torch.no_grad():
            shapes = torch.from_numpy(shape[rows])
            rest = body.compute_rest_bone_poses(shapes).numpy()
            rotations[rows] = compute_bone_rotations(poses, rest, body.bone_labels, body.bone_parents)
            person = pose_people(body, shapes, torch.from_numpy(rotations[rows].astype(np.float32)))
            keypoints[rows] = regress_low_mesh_keypoints(body, person.vertices).numpy()
            center[rows] = person.center_offset.numpy()
    return PoseBank(shape, rotations, keypoints, center)


@dataclass(frozen=True)
class KeypointBatch:
    """M people, each with a separate camera; camera frame.

    shape      (M, 6)
    rotations  (M, 163, 3, 3) relative to the parent bone, row 0 in the camera frame
    keypoints  (M, 17, 3) m from the pelvis, camera axes
    center     (M, 3) m from the pelvis, camera axes: the center vertex
    k          (M, 3, 3) px
    size       (M, 2) px: width, height of the image
    pelvis     (M, 3) m, camera frame
    seed       of the keypoints' errors
    origins    name of the batch, for messages
    """

    shape: Tensor
    rotations: Tensor
    keypoints: Tensor
    center: Tensor
    k: Tensor
    size: Tensor
    pelvis: Tensor
    seed: int
    origins: tuple[str, ...]

    def to(self, device: torch.device) -> KeypointBatch:
        """Return the batch on another device."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **tensors)


class KeypointBatches(Dataset[KeypointBatch]):
    """Batches of keypoints of one rank, by step; each is drawn from its own generator."""

    def __init__(self, bank: PoseBank, image_size: int, people: int, seed: int, rank: int = 0) -> None:
        self.bank, self.image_size, self.people = bank, image_size, people
        self.seed, self.rank = seed, rank
        self.stature = np.array([estimate_stature(shape) for shape in bank.shape])

    def __getitem__(self, step: int) -> KeypointBatch:
        generator = np.random.default_rng([self.seed, SEED_OF_KEYPOINTS, step, self.rank])
        n, rows = self.people, generator.integers(len(self.bank.shape), size=self.people)
        aspect = np.array(ASPECTS)[generator.integers(len(ASPECTS), size=n)]
        size = self.image_size * aspect / aspect.max(axis=1, keepdims=True)
        focal = 0.5 * size[:, 1] / np.tan(0.5 * np.radians(generator.uniform(*VERTICAL_FOV_DEG, n)))
        min_share, max_share = EXTENT_SHARE
        share = min_share * (max_share / min_share) ** generator.random(n)
        depth = np.clip(focal * self.stature[rows] / (share * size[:, 1]), *DEPTH_M)
        lowest = 1.0 + np.maximum(0.0, 0.6 * share - 0.3)  # the pelvis of a near person is often below the image
        middle = size * np.stack([generator.uniform(0.0, 1.0, n), generator.uniform(0.15, lowest)], axis=1)
        ray = (middle - size / 2) / focal[:, None]
        camera_from_heading = _sample_camera_from_heading(generator, ray[:, 0])
        k = np.zeros((n, 3, 3))
        k[:, 0, 0] = k[:, 1, 1] = focal
        k[:, :2, 2], k[:, 2, 2] = size / 2, 1.0
        rotations = self.bank.rotations[rows].astype(np.float32)
        rotations[:, 0] = camera_from_heading @ rotations[:, 0]
        values = {
            "rotations": rotations,
            "keypoints": self.bank.keypoints[rows] @ camera_from_heading.transpose(0, 2, 1),
            "center": (camera_from_heading @ self.bank.center[rows][..., None])[..., 0],
            "k": k,
            "size": size,
            "pelvis": depth[:, None] * np.concatenate([ray, np.ones((n, 1))], axis=1),
        }
        tensors = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in values.items()}
        return KeypointBatch(
            shape=torch.from_numpy(self.bank.shape[rows]),
            **tensors,
            seed=int(generator.integers(2**31)),
            origins=(f"keypoints {step}",),
        )


def _sample_camera_from_heading(generator: np.random.Generator, ray_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw rotations (n, 3, 3) from the heading frame of people at x / z = ray_x (n,) to the camera frame.

    The camera is nearly level and pitched a little; many people face it.
    """
    n = len(ray_x)
    yaw = generator.uniform(-math.pi, math.pi, n)
    facing = math.pi - np.arctan(ray_x) + generator.normal(0.0, 0.5, n)
    yaw = np.where(generator.random(n) < FACING_SHARE, facing, yaw)
    pitch = np.clip(generator.normal(0.08, 0.22, n), -0.6, 1.0)
    roll = generator.normal(0.0, 0.04, n)
    camera_roll = Rotation.from_euler("z", roll[:, None]) * Rotation.from_matrix(CAMERA_FROM_HEADING)
    return np.asarray(
        (camera_roll * Rotation.from_euler("y", -pitch[:, None]) * Rotation.from_euler("z", yaw[:, None])).as_matrix()
    )


class MixedBatches(Dataset[Any]):
    """Batches of keypoints in the first `steps` steps and then in every `every`-th step (0: never), else of images."""

    def __init__(self, images: Dataset[Any], keypoints: KeypointBatches, steps: int, every: int) -> None:
        self.images, self.keypoints, self.steps, self.every = images, keypoints, steps, every

    def __getitem__(self, step: int) -> Any:
        if step < self.steps or (self.every and step % self.every == 0):
            return self.keypoints[step]
        return self.images[step]


def compute_lifting_losses(
    network: MultiHMR2, batch: KeypointBatch, body: Body, config: LossConfig
) -> dict[str, Tensor]:
    """Return the weighted terms of the bodies that the network predicts from keypoints alone."""
    assert network.proposals is not None
    people = _make_matched_people(batch)
    keypoints, score = simulate_detected_keypoints(batch, people.targets.keypoints, network.config.image_size)
    logit = torch.zeros_like(score[:, :1])
    content = network.proposals.embed_people(keypoints[:, None], score[:, None], logit, None)[:, 0]
    _, location, log_nearness = network.detection(content, keypoints[:, 0])
    depth = depth_from_nearness(log_nearness, batch.k[:, 0, 0])
    center = back_project(location[:, None], depth[:, None], batch.k)[:, 0]
    people = dataclasses.replace(people, queries=content, location=location, log_nearness=log_nearness, center=center)
    weights = config.active - {"track_feature"}
    # The projection of a center near the camera plane or behind it is no place in the image.
    terms = compute_place_terms(people.select(people.targets.has_place), config)
    # Meshes take most of the time: their terms are computed for a part of the people.
    posed = max(1, len(batch.shape) // MESH_EVERY)
    with_mesh, without = people.select(slice(0, posed)), people.select(slice(posed, None))
    with torch.no_grad():
        true_bodies = pose_people(body, with_mesh.targets.shape, with_mesh.targets.rotations)
    true = TrueBodies(torch.arange(posed, device=batch.shape.device), true_bodies, batch.pelvis[:posed])
    terms |= compute_body_terms(network, with_mesh, true, body, weights)
    for name, value in compute_body_terms(network, without, None, body, weights).items():
        terms[name] = (terms[name] + (MESH_EVERY - 1) * value) / MESH_EVERY
    return {name: getattr(config, name) * value for name, value in terms.items()}


@torch.no_grad()
def _make_matched_people(batch: KeypointBatch) -> MatchedPeople:
    """Return the true values of the batch; predicted fields are empty."""
    center = batch.pelvis + batch.center
    flag = torch.ones(len(center), dtype=torch.bool, device=center.device)
    keypoints, ahead = project(batch.keypoints + batch.pelvis[:, None], batch.k[:, None])
    location, _ = project(center[:, None], batch.k[:, None])
    empty = batch.shape.new_zeros(len(center), 0)
    rows = torch.arange(len(center), device=center.device)
    size = int(batch.size.max())
    box = torch.cat([keypoints.amin(1), keypoints.amax(1)], dim=-1)
    is_ahead = center[:, 2] > NEAREST_CENTER_M
    targets = MatchedTargets(
        location=location[:, 0], center=center, shape=batch.shape, rotations=batch.rotations, k=batch.k,
        track_feature=empty, box=box, keypoints=keypoints, keypoint_visible=ahead, has_place=is_ahead,
        has_relative_place=is_ahead, has_body=flag, has_k=flag, has_track_feature=~flag,
    )  # fmt: skip
    return MatchedPeople(
        image=rows, slot=torch.zeros_like(rows), queries=empty, location=empty, log_nearness=empty, k=batch.k,
        center=empty, image_size=(size, size), targets=targets,
    )  # fmt: skip


@torch.no_grad()
def simulate_detected_keypoints(batch: KeypointBatch, keypoints: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    """Return keypoints (M, 17, 2) px with a detector's errors, and their scores (M, 17); keypoints: true, px."""
    generator = torch.Generator().manual_seed(batch.seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(keypoints)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(keypoints)

    count = len(keypoints)
    extent = (keypoints.amax(1) - keypoints.amin(1)).amax(-1).clamp(min=8.0)[:, None]
    outside = ((keypoints < 0) | (keypoints > batch.size[:, None])).any(-1)
    # Occlusion by furniture: all keypoints below a line, for about a third of the people.
    line = keypoints[..., 1].amin(1) + (0.3 + 0.7 * uniform(count)) * extent[:, 0]
    cut = (uniform(count)[:, None] < CUT) & (keypoints[..., 1] > line[:, None])
    hidden = outside | cut | (uniform(count, 17) < HIDDEN)
    score = torch.where(hidden, 0.02 + 0.2 * uniform(count, 17), 0.25 + 0.65 * uniform(count, 17))
    spread = extent * torch.where(hidden, 0.09, 0.012 + 0.035 * (0.9 - score).clamp(min=0.0))
    spread = spread + 0.008 * image_size * (0.3 + 0.7 * (1 - score))
    noisy = keypoints + spread[..., None] * normal(count, 17, 2)
    mirrored = list_mirrored_keypoints()
    swapped = (uniform(count) < SWAPPED)[:, None]
    noisy = torch.where(swapped[..., None], noisy[:, mirrored], noisy)
    score = torch.where(swapped, score[:, mirrored], score)
    margin = 0.05 * image_size
    return torch.maximum(torch.minimum(noisy, batch.size[:, None] + margin), noisy.new_tensor(-margin)), score
