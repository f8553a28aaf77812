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

"""A few metrics on held-out images during training; `multihmr2 evaluate` computes all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.camera import project
from multihmr2_ros.metrics.bodies import point_error
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.matching import assign
from multihmr2_ros.metrics.placement import field_of_view_error, relative_error
from multihmr2_ros.network.keypoint_fitting import fit_to_keypoints
from multihmr2_ros.network.model import MultiHMR2, Prediction, place_bodies
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.targets import Targets

SCORE_THRESHOLD = 0.4
MAX_HIT_DISTANCE = 0.5  # of the larger side of the person's visible box


@dataclass(frozen=True)
class ValidationCounts:
    """Counts of people, errors of matched people and errors of images, summed over batches.

    joint_errors_mm: MPJPE of each match. distance_errors: |z − z*| / z* of each. fov_errors_deg: of each image.
    """

    counts: DetectionCounts = field(default_factory=DetectionCounts)
    joint_errors_mm: tuple[float, ...] = ()
    distance_errors: tuple[float, ...] = ()
    fov_errors_deg: tuple[float, ...] = ()

    def __add__(self, other: ValidationCounts) -> ValidationCounts:
        return ValidationCounts(
            self.counts + other.counts,
            self.joint_errors_mm + other.joint_errors_mm,
            self.distance_errors + other.distance_errors,
            self.fov_errors_deg + other.fov_errors_deg,
        )

    def compute_figures(self) -> dict[str, float]:
        """Return the metrics by name; NaN without data.

        recall, precision, mpjpe_mm (mean over matches, pelvises aligned), distance_error (median of |z − z*| / z*),
        fov_error_deg (mean, horizontal).
        """
        return {
            "recall": self.counts.recall,
            "precision": self.counts.precision,
            "mpjpe_mm": float(np.mean(self.joint_errors_mm)) if self.joint_errors_mm else math.nan,
            "distance_error": float(np.median(self.distance_errors)) if self.distance_errors else math.nan,
            "fov_error_deg": float(np.mean(self.fov_errors_deg)) if self.fov_errors_deg else math.nan,
        }


@torch.inference_mode()
def validate(
    network: MultiHMR2, body: Body, batches: Sequence[Batch], device: torch.device, threshold: float = SCORE_THRESHOLD
) -> dict[str, float]:
    """Measure a network in evaluation mode on whole batches; see `ValidationCounts.compute_figures`."""
    tally = ValidationCounts()
    for batch in batches:
        moved = batch.to(device)
        slots = moved.targets.present.shape[1]
        prediction = network(moved.image, moved.targets.k, moved.k_given, max(20, slots))
        prediction = fit_to_keypoints(body, prediction)
        tally = tally + compare_batch(prediction, moved.targets, body, batch.image.shape[-1], threshold)
    return tally.compute_figures()


def compare_batch(
    prediction: Prediction, targets: Targets, body: Body, width: int, threshold: float
) -> ValidationCounts:
    """Compare one batch of images `width` px wide with its ground truth. Only people above the threshold are posed."""
    location = image_locations(prediction.centre, prediction.k)
    true_joints = _pose_joints(body, targets.shape, targets.rotations, targets.present & targets.has_body)
    tally = ValidationCounts()
    rows, columns = [], []
    for image in range(len(targets)):
        found = (prediction.score[image] > threshold).nonzero().flatten().cpu().numpy()
        wanted = targets.present[image].nonzero().flatten().cpu().numpy()
        pairs = match_places(
            location[image][found],
            targets.location[image].cpu().numpy()[wanted],
            targets.box[image].cpu().numpy()[wanted],
        )
        matched = {row for row, _ in pairs}
        spare = [row for index, row in enumerate(found) if index not in matched]
        false = [row for row in spare if not _is_ignored(location[image][row], targets, image)]
        tally = tally + ValidationCounts(DetectionCounts(len(pairs), len(false), len(wanted) - len(pairs)))
        rows += [(image, int(found[row])) for row, _ in pairs]
        columns += [(image, int(wanted[column])) for _, column in pairs]
    tally = tally + _match_errors(prediction, targets, body, true_joints, rows, columns)
    known = targets.has_k
    true_fov = 2 * torch.atan(0.5 * width / targets.k[known, 0, 0])
    errors = field_of_view_error(_array(prediction.horizontal_fov[known]), _array(true_fov))
    return tally + ValidationCounts(fov_errors_deg=tuple(errors.tolist()))


def match_places(
    found: NDArray[np.floating], wanted: NDArray[np.floating], box: NDArray[np.floating]
) -> list[tuple[int, int]]:
    """Return (row of found, row of wanted) pairs of locations (n, 2) and (m, 2) px.

    As many pairs as possible, with the smallest distances; each at most half the larger side of the wanted person's box
    (m, 4) apart.
    """
    distance = np.linalg.norm(found[:, None] - wanted[None], axis=-1)
    limit = MAX_HIT_DISTANCE * np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    pairs = assign(distance / np.maximum(limit, 1e-6), distance <= limit)
    return [(row, column) for row, column in pairs.tolist()]


def image_locations(points: Tensor, k: Tensor) -> NDArray[np.float64]:
    """Return px (B, M, 2) of points (B, M, 3) m with k (B, 3, 3); NaN behind the camera."""
    return np.stack([project(each, own_k) for each, own_k in zip(_array(points), _array(k), strict=True)])


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double().numpy(), np.float64)


def _is_ignored(location: NDArray[np.float64], targets: Targets, image: int) -> bool:
    """Return whether an unmatched detection at a location (2,) px is not counted as an error."""
    if not targets.score_supervised[image]:
        return True
    box = _array(targets.box[image][targets.ignore[image]])
    inside = (location >= box[:, :2]).all(-1) & (location <= box[:, 2:]).all(-1)
    return bool(inside.any())


def _pose_joints(body: Body, shape: Tensor, rotations: Tensor, rows: Tensor) -> Tensor:
    """Return joints (B, P, 163, 3) m from the pelvis, of the bodies selected by rows (B, P); NaN for the others."""
    joints = torch.full((*rows.shape, rotations.shape[2], 3), math.nan, device=rotations.device)
    if rows.any():
        posed = body(shape[rows], rotations[rows]).joints
        joints[rows] = posed - posed[:, :1]
    return joints


def _match_errors(
    prediction: Prediction,
    targets: Targets,
    body: Body,
    true_joints: Tensor,
    found: list[tuple[int, int]],
    wanted: list[tuple[int, int]],
) -> ValidationCounts:
    """Return the errors of joints and distances of matches: found and wanted are (image, row) of each."""
    if not found:
        return ValidationCounts()
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
    error = point_error(_array(joints - joints[:, :1]), _array(true_joints[image, slot]))
    has_place = targets.has_place[image, slot]
    depth, true_depth = prediction.centre[image, row, 2][has_place], targets.centre[image, slot, 2][has_place]
    distance = relative_error(_array(depth), _array(true_depth.clamp(min=0.01)))
    return ValidationCounts(
        joint_errors_mm=tuple(error[np.isfinite(error)].tolist()), distance_errors=tuple(distance.tolist())
    )
