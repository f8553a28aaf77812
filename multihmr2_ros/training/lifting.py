"""Poses learned from keypoints alone: bodies are posed by motions and projected, without any image.

A network whose queries start from keypoints learns in minutes, from millions of (keypoints, body) pairs, what images
would take days to teach it; image features then refine what keypoints leave open. Keypoints get the errors that a
keypoint detector makes: noise, hidden ones of low score, sides taken for each other.
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
from torch import Tensor
from torch.utils.data import Dataset

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.heads import depth_from_nearness
from multihmr2_ros.network.model import MultiHMR2, back_project
from multihmr2_ros.simulation.behaviour import sample_behaviour
from multihmr2_ros.simulation.population import sample_shape, stature_of
from multihmr2_ros.simulation.pose import about
from multihmr2_ros.simulation.retarget import motion_files
from multihmr2_ros.simulation.skeleton import bone_rotations
from multihmr2_ros.training.augmentation import mirrored_keypoints
from multihmr2_ros.training.body_losses import Matched, Person, TruePeople, body_terms, pose, project
from multihmr2_ros.training.keypoints import coco_keypoints
from multihmr2_ros.training.losses import LossConfig, place_terms

CAMERA_FROM_HEADING = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # x right, y down, z away
ASPECTS = ((4, 3), (4, 3), (16, 9), (1, 1), (3, 4))
VERTICAL_FOV_DEG = (25.0, 100.0)
EXTENT_SHARE = (0.08, 1.6)  # stature over the image's height
FACING_SHARE = 0.4
MESH_EVERY = 4
HIDDEN, CUT, SWAPPED = 0.08, 0.3, 0.03


@dataclass(frozen=True)
class LiftingConfig:
    """The first `steps` steps, and then every `every`-th (0: none), see `people` people's keypoints instead of images,
    in one of `poses` poses each."""

    steps: int = 0
    every: int = 0
    people: int = 256
    poses: int = 20_000

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("every", 0), ("people", 8), ("poses", 1)):
            if getattr(self, name) < least:
                raise UserError(f"keypoint {name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class PoseBank:
    """Poses of N bodies: shape (N, 6) and rotations (N, 163, 3, 3) float16, row 0 in the heading frame (x front, y
    left, z up)."""

    shape: NDArray[np.float32]
    rotations: NDArray[np.float16]


def make_bank(body: Body, count: int, motions: Path | None, seed: int) -> PoseBank:
    """Poses as the simulation gives them to its people."""
    generator = np.random.default_rng(seed)
    files = motion_files(motions) if motions else ()
    shape = np.stack([sample_shape(generator) for _ in range(count)])
    rotations = np.empty((count, len(body.bone_labels), 3, 3), np.float16)
    for first in range(0, count, 500):
        rows = slice(first, min(first + 500, count))
        poses = [
            sample_behaviour(generator, one, files).clip.pose(float(generator.uniform(0, 2))) for one in shape[rows]
        ]
        with torch.no_grad():
            rest = body.rest_bone_poses(torch.from_numpy(shape[rows])).numpy()
        rotations[rows] = bone_rotations(poses, rest, body.bone_labels, body.bone_parents)
    return PoseBank(shape, rotations)


@dataclass(frozen=True)
class KeypointBatch:
    """M people before cameras of their own, each alone in an image.

    shape (M, 6), rotations (M, 163, 3, 3), row 0 in the camera frame; k (M, 3, 3) px; size (M, 2) width and height px;
    middle (M, 2) px, where the pelvis is seen, and depth (M,) m, its distance along z; seed: of the keypoints' errors.
    """

    shape: Tensor
    rotations: Tensor
    k: Tensor
    size: Tensor
    middle: Tensor
    depth: Tensor
    seed: int
    origins: tuple[str, ...]

    def to(self, device: torch.device) -> KeypointBatch:
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **tensors)


class KeypointBatches(Dataset[KeypointBatch]):
    """Batch number `step`, drawn with a generator of its own."""

    def __init__(self, bank: PoseBank, image_size: int, people: int, seed: int) -> None:
        self.bank, self.image_size, self.people, self.seed = bank, image_size, people, seed

    def __getitem__(self, step: int) -> KeypointBatch:
        generator = np.random.default_rng([self.seed, 17, step])
        rows = generator.integers(len(self.bank.shape), size=self.people)
        rotations = self.bank.rotations[rows].astype(np.float32)
        k, size, middle = np.zeros((self.people, 3, 3)), np.zeros((self.people, 2)), np.zeros((self.people, 2))
        depth = np.zeros(self.people)
        for row, index in enumerate(rows):
            width, height = ASPECTS[generator.integers(len(ASPECTS))]
            size[row] = self.image_size * np.array([width, height]) / max(width, height)
            focal = 0.5 * size[row, 1] / math.tan(0.5 * math.radians(generator.uniform(*VERTICAL_FOV_DEG)))
            k[row] = [[focal, 0, size[row, 0] / 2], [0, focal, size[row, 1] / 2], [0, 0, 1]]
            share = math.exp(generator.uniform(*np.log(EXTENT_SHARE)))
            depth[row] = np.clip(focal * stature_of(self.bank.shape[index]) / (share * size[row, 1]), 0.5, 25.0)
            middle[row] = size[row] * generator.uniform([0.0, 0.15], [1.0, 1.0 + max(0.0, 0.6 * share - 0.3)])
            rotations[row, 0] = self._turn(generator, middle[row], k[row]) @ rotations[row, 0]
        values = {"rotations": rotations, "k": k, "size": size, "middle": middle, "depth": depth}
        tensors = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in values.items()}
        return KeypointBatch(
            shape=torch.from_numpy(self.bank.shape[rows]),
            **tensors,
            seed=int(generator.integers(2**31)),
            origins=(f"keypoints {step}",),
        )

    def _turn(
        self, generator: np.random.Generator, middle: NDArray[np.float64], k: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(3, 3) from the heading frame to that of a camera which looks up or down and is nearly level."""
        yaw = generator.uniform(-math.pi, math.pi)
        if generator.random() < FACING_SHARE:
            yaw = math.pi - math.atan((middle[0] - k[0, 2]) / k[0, 0]) + generator.normal(0.0, 0.5)
        pitch = float(np.clip(generator.normal(0.08, 0.22), -0.6, 1.0))
        level = CAMERA_FROM_HEADING @ about(1, -pitch) @ about(2, yaw)
        return np.asarray(about(2, generator.normal(0.0, 0.04)) @ level)


class WithKeypoints(Dataset[Any]):
    """Batches of keypoints for the first `steps` steps, and then in every `every`-th (0: never); images otherwise."""

    def __init__(self, images: Dataset[Any], keypoints: KeypointBatches, steps: int, every: int) -> None:
        self.images, self.keypoints, self.steps, self.every = images, keypoints, steps, every

    def __getitem__(self, step: int) -> Any:
        if step < self.steps or (self.every and step % self.every == 0):
            return self.keypoints[step]
        return self.images[step]


def lifting_losses(network: MultiHMR2, batch: KeypointBatch, body: Body, config: LossConfig) -> dict[str, Tensor]:
    """Weighted terms of the bodies that the network reads off the keypoints alone."""
    assert network.proposals is not None
    people, person = _matched(batch, body)
    keypoints, score = detected_keypoints(batch, people.keypoints, network.config.image_size)
    logit = torch.zeros_like(batch.depth)[:, None]
    content = network.proposals.embed_people(keypoints[:, None], score[:, None], logit, None)[:, 0]
    _, location, log_nearness = network.detection(content, keypoints[:, 0])
    depth = depth_from_nearness(log_nearness, batch.k[:, 0, 0])
    centre = back_project(location[:, None], depth[:, None], batch.k)[:, 0]
    people = dataclasses.replace(people, queries=content, location=location, log_nearness=log_nearness, centre=centre)
    weights = {item.name for item in dataclasses.fields(config) if getattr(config, item.name)} - {"track_feature"}
    terms = place_terms(people, config)
    # Meshes cost most of the time: a part of the people has to do for their terms.
    posed = len(batch.shape) // MESH_EVERY
    with_mesh, without = _rows(people, slice(0, posed)), _rows(people, slice(posed, None))
    rows = slice(0, posed)
    true = TruePeople(
        torch.arange(posed, device=batch.shape.device),
        Person(person.vertices[rows], person.joints[rows], person.centre_offset[rows]),
        people.true_centre[rows] - person.centre_offset[rows],
    )
    terms |= body_terms(network, with_mesh, true, body, weights)
    for name, value in body_terms(network, without, None, body, weights).items():
        terms[name] = (terms[name] + (MESH_EVERY - 1) * value) / MESH_EVERY
    return {name: getattr(config, name) * value for name, value in terms.items()}


def _rows(people: Matched, rows: slice) -> Matched:
    """Some of the people."""
    tensors: dict[str, Any] = {name: value[rows] for name, value in vars(people).items() if isinstance(value, Tensor)}
    return dataclasses.replace(people, **tensors)


@torch.no_grad()
def _matched(batch: KeypointBatch, body: Body) -> tuple[Matched, Person]:
    """The truth of the batch, about the camera and about the pelvis; what is predicted is not filled in yet."""
    count = len(batch.shape)
    person = pose(body, batch.shape, batch.rotations)
    pelvis = back_project(batch.middle[:, None], batch.depth[:, None], batch.k)[:, 0]
    vertices = person.vertices + pelvis[:, None]
    center = vertices[:, body.centre_vertex]
    flag = torch.ones(count, dtype=torch.bool, device=batch.shape.device)
    keypoints, _ = project(coco_keypoints(body, vertices), batch.k[:, None])
    location, _ = project(center[:, None], batch.k[:, None])
    empty = batch.shape.new_zeros(count, 0)
    rows = torch.arange(count, device=batch.shape.device)
    size = int(batch.size.max())
    # A person whose nose is behind the camera, or nearly, cannot be described by pixels.
    usable = center[:, 2] > 0.2
    matched = Matched(
        image=rows, slot=torch.zeros_like(rows), queries=empty, location=empty, log_nearness=empty, k=batch.k,
        centre=empty, image_size=(size, size), true_location=location[:, 0], true_centre=center,
        true_shape=batch.shape, true_rotations=batch.rotations, true_k=batch.k, true_feature=empty, box=empty,
        keypoints=keypoints, keypoint_visible=torch.zeros_like(keypoints[..., 0], dtype=torch.bool),
        has_place=usable, has_body=flag, has_k=flag, has_feature=~flag,
    )  # fmt: skip
    return matched, person


@torch.no_grad()
def detected_keypoints(batch: KeypointBatch, keypoints: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    """Keypoints (M, 17, 2) px and scores (M, 17) as a detector would give them."""
    generator = torch.Generator().manual_seed(batch.seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(keypoints)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(keypoints)

    count = len(keypoints)
    extent = (keypoints.amax(1) - keypoints.amin(1)).amax(-1).clamp(min=8.0)[:, None]
    outside = ((keypoints < 0) | (keypoints > batch.size[:, None])).any(-1)
    # Furniture in front: everything below a line, in about a third of the people.
    line = keypoints[..., 1].amin(1) + (0.3 + 0.7 * uniform(count)) * extent[:, 0]
    cut = (uniform(count)[:, None] < CUT) & (keypoints[..., 1] > line[:, None])
    hidden = outside | cut | (uniform(count, 17) < HIDDEN)
    score = torch.where(hidden, 0.02 + 0.2 * uniform(count, 17), 0.25 + 0.65 * uniform(count, 17))
    spread = extent * torch.where(hidden, 0.09, 0.012 + 0.035 * (0.9 - score).clamp(min=0.0))
    spread = spread + 0.008 * image_size * (0.3 + 0.7 * (1 - score))
    noisy = keypoints + spread[..., None] * normal(count, 17, 2)
    mirrored = mirrored_keypoints()
    swapped = (uniform(count) < SWAPPED)[:, None]
    noisy = torch.where(swapped[..., None], noisy[:, mirrored], noisy)
    score = torch.where(swapped, score[:, mirrored], score)
    margin = 0.05 * image_size
    return torch.maximum(torch.minimum(noisy, batch.size[:, None] + margin), noisy.new_tensor(-margin)), score
