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

"""Annotations of bodies with known parameters, for the labeling tests."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from multihmr2_ros.body import Body, rotations_from_vectors
from multihmr2_ros.camera import intrinsics_from_fov, project
from multihmr2_ros.labeling.fitting_cost import ANNOTATION_MATRIX
from multihmr2_ros.labeling.landmarks import LANDMARK_COUNT, LANDMARK_OF
from multihmr2_ros.labeling.observations import Observations
from multihmr2_ros.labeling.pose_prior import PosePrior, learn_pose_prior, pose_from_segments
from multihmr2_ros.labeling.posed_keypoints import HingedPose, KeypointModel
from multihmr2_ros.simulation.motion.pose import rotate_about
from multihmr2_ros.simulation.motion.random_poses import pose_from_random_angles, sample_angles

WIDTH, HEIGHT = 480, 360
FOV_RAD = np.radians(55.0)


@functools.cache
def load_full_body() -> Body:
    return Body("full")


@functools.cache
def load_keypoint_model() -> KeypointModel:
    return KeypointModel(load_full_body())


@functools.cache
def make_prior() -> PosePrior:
    return learn_pose_prior(None)


@dataclass(frozen=True)
class Scene:
    """Observations of n people and their true values: joints (n, 17, 3) m from the pelvis in camera axes; pose."""

    people: Observations
    joints: np.ndarray
    pose: HingedPose


def make_scene(n: int, seed: int = 0, noise_px: float = 1.0, landmarks: bool = True) -> Scene:
    """Return people 3 to 6 m away with all orientations, noisy keypoints, and landmarks with BlazePose's errors."""
    generator = np.random.default_rng(seed)
    segments = np.stack([pose_from_random_angles(sample_angles(generator)).orientation for _ in range(n)])
    yaws = generator.uniform(-np.pi, np.pi, n)
    segments = np.stack([rotate_about(2, yaw) @ some for yaw, some in zip(yaws, segments, strict=True)])
    pose, _ = pose_from_segments(segments)
    phenotypes = torch.from_numpy(
        np.stack([generator.uniform(0.2, 0.8, n), generator.uniform(0.65, 0.75, n), generator.normal(0.42, 0.08, n),
                  generator.uniform(0.3, 0.7, n)], axis=1)
    ).float()  # fmt: skip
    joints = load_keypoint_model()(phenotypes, pose).keypoints.numpy().astype(np.float64)
    depth = generator.uniform(3.0, 6.0, n)
    place = np.stack([generator.uniform(-0.2, 0.2, n) * depth, generator.uniform(-0.1, 0.2, n) * depth, depth], axis=1)
    k = intrinsics_from_fov(FOV_RAD, WIDTH, HEIGHT)
    pixels = project(ANNOTATION_MATRIX.numpy() @ joints + place[:, None], k)
    box = np.concatenate([pixels.min(axis=1) - 8, pixels.max(axis=1) + 8], axis=1)
    points = np.full((n, LANDMARK_COUNT, 3), np.nan if not landmarks else 0.0)
    if landmarks:
        for keypoint, landmark in LANDMARK_OF.items():
            points[:, landmark] = 1000 * joints[:, keypoint] + generator.normal(0, 40, (n, 3))
    people = Observations(
        keypoints=(pixels + generator.normal(0, noise_px, pixels.shape)).astype(np.float32),
        weights=np.ones((n, 17), np.float32),
        trusted=np.ones((n, 17), np.bool_),
        box=box.astype(np.float32),
        k=np.tile(k, (n, 1, 1)),
        landmarks=points.astype(np.float32),
        visibility=np.ones((n, LANDMARK_COUNT), np.float32),
    )
    return Scene(people, joints, pose)


def without(people: Observations, keypoints: list[int]) -> Observations:
    """Return the same people without annotations for the given keypoints."""
    weights, trusted, points = people.weights.copy(), people.trusted.copy(), people.keypoints.copy()
    weights[:, keypoints], trusted[:, keypoints], points[:, keypoints] = 0, False, 0
    return dataclasses.replace(people, weights=weights, trusted=trusted, keypoints=points)


def make_coco(people: Observations, **changes: Any) -> dict[str, Any]:
    """Return the content of a COCO file: all people in one image, and a second image without people."""
    annotations = [
        {
            "id": row,
            "image_id": 7,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [*people.box[row, :2].tolist(), *(people.box[row, 2:] - people.box[row, :2]).tolist()],
            "keypoints": np.concatenate(
                [people.keypoints[row], 2.0 * people.trusted[row, :, None]], axis=1
            ).ravel().tolist(),
            "landmarks_3d_mm": people.landmarks[row].ravel().tolist(),
            "landmark_visibility": people.visibility[row].tolist(),
        }
        for row in range(len(people))
    ]  # fmt: skip
    if np.isnan(people.landmarks).any():
        for annotation in annotations:
            del annotation["landmarks_3d_mm"], annotation["landmark_visibility"]
    images = [
        {"id": 7, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]} | changes


def save_coco(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def make_random_pose(n: int, seed: int = 0) -> HingedPose:
    """Return a pose of arbitrary rotations."""
    generator = torch.Generator().manual_seed(seed)

    def turns(*size: int) -> torch.Tensor:
        return rotations_from_vectors(torch.randn(*size, 3, generator=generator))

    bends = 2.0 * torch.rand(2, n, 2, generator=generator)
    return HingedPose(
        turns(n), 0.3 * torch.randn(n, 3, generator=generator), turns(n, 2), turns(n, 2), bends[0], bends[1]
    )
