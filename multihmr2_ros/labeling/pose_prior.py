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

"""A prior of poses: a mixture of Gaussians over the limbs' rotations, learned from recorded motions.

The features of a pose do not depend on the root's rotation. For chest, upper arms and thighs: the two columns of their
rotation relative to the parent segment that point along the segment and along its hinge; for elbows and knees: the
angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import rotations_from_vectors
from multihmr2_ros.errors import UserError
from multihmr2_ros.labeling.posed_keypoints import HingedPose
from multihmr2_ros.simulation.motion.clips import MIRRORED_SEGMENTS, MIRRORED_SIGNS
from multihmr2_ros.simulation.motion.pose import SEGMENTS
from multihmr2_ros.simulation.motion.random_poses import pose_from_random_angles, sample_angles
from multihmr2_ros.simulation.motion.retarget import list_motion_files, load_motion

COMPONENTS = 24
EM_ROUNDS = 25
MIN_SIGMA = 0.1  # about rad: recordings and rigs differ by this amount
MIN_STEP = 0.05  # rms difference of features: nearer poses of a clip count as one
MIN_POSES = 200
RANDOM_POSES = 1000
MAX_POSES = 12_000
MAX_BEND_RAD = 2.7

# The prior's weight of each posture, independent of its frequency in the recordings: these show motion, so straight
# legs are rare in them, but people in images mostly stand or walk.
POSTURES = {"straight": 0.25, "stand": 0.3, "sit": 0.2, "crouch": 0.15, "lie": 0.1}
STRAIGHT_RAD = 0.35


def compute_pose_features(pose: HingedPose) -> Tensor:
    """Return features (n, 34) of poses."""
    chest = rotations_from_vectors(pose.chest)
    balls = torch.cat([chest[:, None], pose.upper_arms, pose.thighs], dim=1)[..., 1:]
    return torch.cat([balls.flatten(1), pose.elbows, pose.knees], dim=1)


def pose_from_segments(orientation: NDArray[np.floating]) -> tuple[HingedPose, NDArray[np.float64]]:
    """Convert segment orientations (n, 10, 3, 3) to poses with hinges.

    Also returns the largest angle (n,) rad by which forearms and shins deviate from the hinged pose.
    """
    segments = {name: orientation[:, index].astype(np.float64) for index, name in enumerate(SEGMENTS)}
    pelvis, chest = segments["pelvis"], segments["chest"]
    balls: dict[str, list[NDArray[np.float64]]] = {"upper_arm": [], "thigh": []}
    bends: dict[str, list[NDArray[np.float64]]] = {"forearm": [], "shin": []}
    off = np.zeros(len(orientation))
    for side in ("left", "right"):
        for carrier, upper, lower, sign in ((chest, "upper_arm", "forearm", -1.0), (pelvis, "thigh", "shin", 1.0)):
            top, bottom = segments[f"{side}_{upper}"], segments[f"{side}_{lower}"]
            balls[upper].append(carrier.swapaxes(1, 2) @ top)
            direction = np.einsum("nji,nj->ni", top, -bottom[:, :, 2])
            bends[lower].append(np.arctan2(-sign * direction[:, 0], -direction[:, 2]))
            off = np.maximum(off, np.abs(np.arcsin(np.clip(direction[:, 1], -1, 1))))
    pose = HingedPose(
        torch.from_numpy(pelvis).float(),
        vectors_from_rotations(torch.from_numpy(pelvis.swapaxes(1, 2) @ chest)).float(),
        torch.from_numpy(np.stack(balls["upper_arm"], axis=1)).float(),
        torch.from_numpy(np.stack(balls["thigh"], axis=1)).float(),
        torch.from_numpy(np.stack(bends["forearm"], axis=1)).float(),
        torch.from_numpy(np.stack(bends["shin"], axis=1)).float(),
    )
    return pose, off


def vectors_from_rotations(matrices: Tensor) -> Tensor:
    """Return rotation vectors (n, 3) of rotations (n, 3, 3)."""
    from scipy.spatial.transform import Rotation

    return torch.from_numpy(Rotation.from_matrix(matrices.numpy()).as_rotvec())


@dataclass(frozen=True)
class PosePrior:
    """A mixture of K Gaussians.

    log_shares  (K,)
    means       (K, 34)
    whitening   (K, 34, 34): maps the difference of features and mean to a unit Gaussian
    starts      K typical poses, from which a fit starts
    """

    log_shares: Tensor
    means: Tensor
    whitening: Tensor
    starts: HingedPose

    def compute_cost(self, pose: HingedPose) -> Tensor:
        """Return the negative log-density (n,) in nats, relative to the most likely component's mean."""
        away = compute_pose_features(pose)[:, None] - self.means
        white = torch.einsum("kij,nkj->nki", self.whitening, away)
        volume = self.whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        level = self.log_shares + volume
        return level.max() - torch.logsumexp(level - 0.5 * white.square().sum(-1), dim=1)


def learn_pose_prior(motions: Path | None) -> PosePrior:
    """Learn the prior from the BVH files of a folder, or, without one, from random poses within the joints' limits.

    Raises UserError if the folder has too few different poses.
    """
    generator = np.random.default_rng(0)
    orientation = _read_recorded_poses(motions) if motions is not None else _sample_random_poses(generator)
    mirrored = orientation[:, MIRRORED_SEGMENTS] * MIRRORED_SIGNS
    orientation = np.concatenate([orientation, mirrored])
    pose, off = pose_from_segments(orientation)
    sound = torch.from_numpy(off < 0.5)
    sound &= ((pose.elbows > -0.3) & (pose.knees > -0.3)).all(dim=1)
    orientation = orientation[sound.numpy()]
    pose = HingedPose(*(part[sound] for part in pose))
    pose = pose._replace(elbows=pose.elbows.clamp(0.0, MAX_BEND_RAD), knees=pose.knees.clamp(0.0, MAX_BEND_RAD))
    features = compute_pose_features(pose).double().numpy()
    if len(features) < MIN_POSES:
        raise UserError(
            f"expected at least {MIN_POSES // 2} different poses in {motions}, got {len(features) // 2}; give a folder "
            "with more BVH files, or omit --motions"
        )
    weights = _compute_posture_weights(orientation, pose.knees.numpy())
    drawn = generator.choice(len(features), min(MAX_POSES, 2 * len(features)), p=weights)
    features = features[drawn]
    components = min(COMPONENTS, len(features) // 50)
    shares, means, covariances, nearest = _fit_mixture(features, components, generator)
    nearest = drawn[nearest]
    whitening = np.linalg.inv(np.linalg.cholesky(covariances))
    return PosePrior(
        torch.from_numpy(np.log(shares)).float(),
        torch.from_numpy(means).float(),
        torch.from_numpy(whitening).float(),
        HingedPose(*(part[torch.from_numpy(nearest)] for part in pose)),
    )


def _read_recorded_poses(folder: Path) -> NDArray[np.float32]:
    """Return orientations (n, 10, 3, 3) of the distinct poses of all files."""
    if not folder.is_dir():
        raise UserError(f"expected a folder of motions, got {folder}; check the path")
    clips = [_select_distinct(load_motion(path).orientation) for path in list_motion_files(folder)]
    return np.concatenate(clips)


def _select_distinct(orientation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Select the frames of a clip that differ from the previously selected one."""
    features = compute_pose_features(pose_from_segments(orientation)[0]).numpy()
    kept = [0]
    for index in range(1, len(features)):
        if np.sqrt(np.mean((features[index] - features[kept[-1]]) ** 2)) > MIN_STEP:
            kept.append(index)
    return orientation[kept]


def _sample_random_poses(generator: np.random.Generator) -> NDArray[np.float32]:
    return np.stack(
        [pose_from_random_angles(sample_angles(generator)).orientation for _ in range(RANDOM_POSES)]
    ).astype(np.float32)


def _compute_posture_weights(orientation: NDArray[np.floating], knees: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return weights (n,) that sum to 1 and give each posture that occurs its prior weight; knees (n, 2) rad."""
    up = orientation[:, 0, 2, 2]
    thighs = orientation[:, [SEGMENTS.index("left_thigh"), SEGMENTS.index("right_thigh")], 2, 2]
    shins = orientation[:, [SEGMENTS.index("left_shin"), SEGMENTS.index("right_shin")], 2, 2]
    lie = up < 0.4
    sit = ~lie & (thighs < 0.5).all(axis=1) & (shins.max(axis=1) > 0.4)
    crouch = ~lie & ~sit & ((up < 0.85) | (thighs < 0.75).any(axis=1) | (shins < 0.3).any(axis=1))
    stand = ~lie & ~sit & ~crouch
    straight = stand & (thighs > 0.9).all(axis=1) & (knees < STRAIGHT_RAD).all(axis=1)
    weights = np.zeros(len(orientation))
    for mask, share in zip((straight, stand & ~straight, sit, crouch, lie), POSTURES.values(), strict=True):
        weights[mask] = share / max(int(mask.sum()), 100)
    return weights / weights.sum()


def _fit_mixture(
    x: NDArray[np.float64], components: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Fit a mixture to x (n, D) by EM.

    Returns shares (K,), means (K, D), covariances (K, D, D) and the rows of x nearest to the means (K,).
    """
    size = x.shape[1]
    means = x[_sample_spread_rows(x, components, generator)]
    shares = np.full(components, 1.0 / components)
    covariances = np.broadcast_to(np.eye(size) * x.var(axis=0).mean(), (components, size, size)).copy()
    floor = MIN_SIGMA**2 * np.eye(size)
    for _ in range(EM_ROUNDS):
        levels = np.stack(
            [
                math.log(share) + _compute_log_gaussian(x, mean, covariance)
                for share, mean, covariance in zip(shares, means, covariances, strict=True)
            ],
            axis=1,
        )
        levels -= levels.max(axis=1, keepdims=True)
        parts = np.exp(levels)
        parts /= parts.sum(axis=1, keepdims=True) * len(x)
        shares = parts.sum(axis=0) + 1e-6
        means = parts.T @ x / shares[:, None]
        for index in range(components):
            away = x - means[index]
            covariances[index] = (parts[:, index, None] * away).T @ away / shares[index] + floor
        shares /= shares.sum()
    nearest = np.array([int(((x - mean) ** 2).sum(axis=1).argmin()) for mean in means])
    return shares, means, covariances, nearest


def _sample_spread_rows(x: NDArray[np.float64], count: int, generator: np.random.Generator) -> Sequence[int]:
    """Sample rows far from each other, as k-means++ does."""
    rows = [int(generator.integers(len(x)))]
    distance = np.full(len(x), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, ((x - x[rows[-1]]) ** 2).sum(axis=1))
        rows.append(int(generator.choice(len(x), p=distance / distance.sum())))
    return rows


def _compute_log_gaussian(
    x: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return log-densities (n,) without the constant term."""
    from scipy.linalg import solve_triangular

    lower = np.linalg.cholesky(covariance)
    white = solve_triangular(lower, (x - mean).T, lower=True)
    return np.asarray(-0.5 * (white**2).sum(axis=0) - np.log(np.diag(lower)).sum())
