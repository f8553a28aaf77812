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

"""Simple figures on held-out images while training runs; the full evaluation is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.network.keypoint_fitting import fit_to_keypoints
from multihmr2_ros.network.model import MultiHMR2, Prediction, place_bodies
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.targets import Targets

SCORE_THRESHOLD = 0.4
FARTHEST_HIT = 0.5  # of the larger side of the person's visible box


@dataclass(frozen=True)
class Tally:
    """Sums over images, to be added up: people to be found, hits, false alarms, and of hits and images the errors."""

    people: int = 0
    hits: int = 0
    false_alarms: int = 0
    joint_errors_m: tuple[float, ...] = ()
    distance_errors: tuple[float, ...] = ()
    fov_errors_rad: tuple[float, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.people + other.people,
            self.hits + other.hits,
            self.false_alarms + other.false_alarms,
            self.joint_errors_m + other.joint_errors_m,
            self.distance_errors + other.distance_errors,
            self.fov_errors_rad + other.fov_errors_rad,
        )

    def figures(self) -> dict[str, float]:
        """recall, precision, mpjpe_mm (pelvis-centred, mean over hits), distance_error (median of |z − z*| / z*),
        fov_error_deg (mean, horizontal); NaN where there was nothing to measure."""
        return {
            "recall": self.hits / self.people if self.people else math.nan,
            "precision": self.hits / (self.hits + self.false_alarms) if self.hits + self.false_alarms else math.nan,
            "mpjpe_mm": 1000 * float(np.mean(self.joint_errors_m)) if self.joint_errors_m else math.nan,
            "distance_error": float(np.median(self.distance_errors)) if self.distance_errors else math.nan,
            "fov_error_deg": math.degrees(float(np.mean(self.fov_errors_rad))) if self.fov_errors_rad else math.nan,
        }


@torch.inference_mode()
def validate(
    network: MultiHMR2, body: Body, batches: Sequence[Batch], device: torch.device, threshold: float = SCORE_THRESHOLD
) -> dict[str, float]:
    """The figures of a network in evaluation mode on whole batches."""
    tally = Tally()
    for batch in batches:
        moved = batch.to(device)
        slots = moved.targets.present.shape[1]
        prediction = network(moved.image, moved.targets.k, moved.k_given, max(20, slots))
        prediction = fit_to_keypoints(body, prediction)
        tally = tally + compare(prediction, moved.targets, body, batch.image.shape[-1], threshold)
    return tally.figures()


def compare(prediction: Prediction, targets: Targets, body: Body, width: int, threshold: float) -> Tally:
    """The tally of one batch of images `width` px wide. Only people above the threshold are posed."""
    location = project_points(prediction.centre, prediction.k)
    true_joints = _joints(body, targets.shape, targets.rotations, targets.present & targets.has_body)
    tally = Tally()
    rows, columns = [], []
    for image in range(len(targets)):
        found = (prediction.score[image] > threshold).nonzero().flatten().cpu().numpy()
        wanted = targets.present[image].nonzero().flatten().cpu().numpy()
        pairs = match_places(
            location[image].cpu().numpy()[found],
            targets.location[image].cpu().numpy()[wanted],
            targets.box[image].cpu().numpy()[wanted],
        )
        matched = {int(row) for row, _ in pairs}
        spare = [row for index, row in enumerate(found) if index not in matched]
        false = [row for row in spare if not _excused(location[image, row], targets, image)]
        tally = tally + Tally(len(wanted), len(pairs), len(false))
        rows += [(image, int(found[row])) for row, _ in pairs]
        columns += [(image, int(wanted[column])) for _, column in pairs]
    tally = tally + _hit_errors(prediction, targets, body, true_joints, rows, columns)
    known = targets.has_k
    true_fov = 2 * torch.atan(0.5 * width / targets.k[known, 0, 0])
    errors = (prediction.horizontal_fov[known] - true_fov).abs()
    return tally + Tally(fov_errors_rad=tuple(errors.tolist()))


def match_places(
    found: NDArray[np.floating], wanted: NDArray[np.floating], box: NDArray[np.floating]
) -> list[tuple[int, int]]:
    """(row of found, row of wanted) pairs of places (n, 2) and (m, 2) px: the assignment with the least distances, each
    at most half the larger side of the wanted one's box (m, 4)."""
    distance = np.linalg.norm(found[:, None] - wanted[None], axis=-1)
    reach = FARTHEST_HIT * np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    cost = np.where(distance <= reach, distance / np.maximum(reach, 1e-6), 1e3)
    rows, columns = linear_sum_assignment(cost)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if cost[r, c] <= 1]


def project_points(points: Tensor, k: Tensor) -> Tensor:
    """(B, M, 3) m → (B, M, 2) px with k (B, 3, 3); depth at least 1 cm."""
    homogeneous = points @ k.transpose(1, 2)
    return homogeneous[..., :2] / homogeneous[..., 2:].clamp(min=0.01)


def _excused(location: Tensor, targets: Targets, image: int) -> bool:
    """Whether a find may be someone whom nobody need find."""
    if not targets.score_supervised[image]:
        return True
    box = targets.box[image][targets.ignore[image]]
    inside = (location >= box[:, :2]).all(-1) & (location <= box[:, 2:]).all(-1)
    return bool(inside.any())


def _joints(body: Body, shape: Tensor, rotations: Tensor, rows: Tensor) -> Tensor:
    """(B, P, 163, 3) m about the pelvis, of the bodies that rows (B, P) names; NaN for the others."""
    joints = torch.full((*rows.shape, rotations.shape[2], 3), math.nan, device=rotations.device)
    if rows.any():
        posed = body(shape[rows], rotations[rows]).joints
        joints[rows] = posed - posed[:, :1]
    return joints


def _hit_errors(
    prediction: Prediction,
    targets: Targets,
    body: Body,
    true_joints: Tensor,
    found: list[tuple[int, int]],
    wanted: list[tuple[int, int]],
) -> Tally:
    """Errors of joints and distances of the hits: pairs of (image, row)."""
    if not found:
        return Tally()
    device = true_joints.device
    image, row = torch.tensor(found, device=device).T
    _, slot = torch.tensor(wanted, device=device).T
    hit = Prediction(
        **{
            name: value if name in ("horizontal_fov", "k") else value[image, row][None]
            for name, value in vars(prediction).items()
            if not name.startswith("query") and value is not None
        },
        query_score=prediction.query_score,
        query_location=prediction.query_location,
        query_depth=prediction.query_depth,
    )
    joints = place_bodies(body, hit).joints[0]
    error = (joints - joints[:, :1] - true_joints[image, slot]).norm(dim=-1).mean(-1)
    depth, true_depth = prediction.centre[image, row, 2], targets.centre[image, slot, 2]
    distance = ((depth - true_depth).abs() / true_depth.clamp(min=0.01))[targets.has_place[image, slot]]
    return Tally(joint_errors_m=tuple(error[error.isfinite()].tolist()), distance_errors=tuple(distance.tolist()))
