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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import AREA_OF_BOX, Body
from multihmr2_ros.camera import project
from multihmr2_ros.metrics.bodies import point_error, procrustes_error
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.keypoints import ImageKeypoints, object_keypoint_similarity
from multihmr2_ros.metrics.matching import assign
from multihmr2_ros.metrics.placement import depth_order, field_of_view_error, relative_error
from multihmr2_ros.network.keypoint_fitting import KeypointFitter
from multihmr2_ros.network.model import MultiHMR2, Prediction, place_bodies
from multihmr2_ros.training.data import Batch
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.targets import Targets

SCORE_THRESHOLD = 0.4
MAX_HIT_DISTANCE = 0.5  # of the larger side of the person's visible box


@dataclass(frozen=True)
class ValidationCounts:
    """Counts of people, errors of matched people and errors of images, summed over batches.

    joint_errors_mm, aligned_joint_errors_mm  MPJPE and PA-MPJPE of each match
    distance_errors                           |z − z*| / z* of each match
    depth_relations                           whether the depth order is right, of each pair of matches of an image
    keypoint_similarities                     OKS of each match with annotated keypoints
    fov_errors_deg                            of each image
    """

    counts: DetectionCounts = field(default_factory=DetectionCounts)
    joint_errors_mm: tuple[float, ...] = ()
    aligned_joint_errors_mm: tuple[float, ...] = ()
    distance_errors: tuple[float, ...] = ()
    depth_relations: tuple[float, ...] = ()
    keypoint_similarities: tuple[float, ...] = ()
    fov_errors_deg: tuple[float, ...] = ()

    def __add__(self, other: ValidationCounts) -> ValidationCounts:
        return ValidationCounts(
            *(own + others for own, others in zip(_list_values(self), _list_values(other), strict=True))
        )

    def compute_metrics(self) -> dict[str, float]:
        """Return the metrics by name; NaN without data.

        recall, precision, mpjpe_mm (mean over matches, pelvises aligned), pa_mpjpe_mm (mean), distance_error (median of
        |z − z*| / z*), depth_relations (share of correct ones, PCDR@0.2 m of the centers), oks (mean over matches with
        annotated keypoints), fov_error_deg (mean, horizontal).
        """
        return {
            "recall": self.counts.recall,
            "precision": self.counts.precision,
            "mpjpe_mm": _compute_mean(self.joint_errors_mm),
            "pa_mpjpe_mm": _compute_mean(self.aligned_joint_errors_mm),
            "distance_error": float(np.median(self.distance_errors)) if self.distance_errors else math.nan,
            "depth_relations": _compute_mean(self.depth_relations),
            "oks": _compute_mean(self.keypoint_similarities),
            "fov_error_deg": _compute_mean(self.fov_errors_deg),
        }


def _list_values(counts: ValidationCounts) -> tuple[Any, ...]:
    return tuple(vars(counts).values())


def _compute_mean(values: tuple[float, ...]) -> float:
    return float(np.mean(values)) if values else math.nan


@torch.inference_mode()
def validate(
    network: MultiHMR2, body: Body, batches: Sequence[Batch], device: torch.device, threshold: float = SCORE_THRESHOLD
) -> dict[str, float]:
    """Measure a network in evaluation mode on whole batches; see `ValidationCounts.compute_metrics`."""
    tally, fitter = ValidationCounts(), KeypointFitter(body).to(device)
    for batch in batches:
        moved = batch.to(device)
        prediction = fitter(predict_batch(network, moved))
        tally = tally + compare_batch(prediction, moved.targets, body, batch.image.shape[-1], threshold)
    return tally.compute_metrics()


def predict_batch(network: MultiHMR2, batch: Batch) -> Prediction:
    """Return the network's own prediction for a batch, from its features if it has them; at least 20 people."""
    slots = batch.targets.present.shape[1]
    prediction: Prediction = network(
        batch.image, batch.targets.k, batch.k_given, max(20, slots), features=batch.features
    )
    return prediction


def compare_batch(
    prediction: Prediction, targets: Targets, body: Body, width: int, threshold: float
) -> ValidationCounts:
    """Compare one batch of images `width` px wide with its ground truth. Only people above the threshold are posed."""
    true_joints = _pose_joints(body, targets.shape, targets.rotations, targets.present & targets.has_body)
    counts, matches = match_predictions(prediction, targets, threshold)
    tally = ValidationCounts(counts)
    for image, rows, columns in matches:
        tally = tally + _compare_depths(prediction, targets, image, rows, columns)
    found = [(image, row) for image, rows, _ in matches for row in rows]
    wanted = [(image, column) for image, _, columns in matches for column in columns]
    tally = tally + _match_errors(prediction, targets, body, true_joints, found, wanted)
    known = targets.has_k
    true_fov = 2 * torch.atan(0.5 * width / targets.k[known, 0, 0])
    errors = field_of_view_error(_to_array(prediction.horizontal_fov[known]), _to_array(true_fov))
    return tally + ValidationCounts(fov_errors_deg=tuple(errors.tolist()))


def match_predictions(
    prediction: Prediction, targets: Targets, threshold: float
) -> tuple[DetectionCounts, list[tuple[int, list[int], list[int]]]]:
    """Return the counts of a batch, and for each image (image, rows of the prediction, slots of the targets)."""
    location = project_to_image(prediction.center, prediction.k)
    counts, matches = DetectionCounts(), []
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
        counts += DetectionCounts(len(pairs), len(false), len(wanted) - len(pairs))
        matches.append((image, [int(found[row]) for row, _ in pairs], [int(wanted[column]) for _, column in pairs]))
    return counts, matches


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


def project_to_image(points: Tensor, k: Tensor) -> NDArray[np.float64]:
    """Return px (B, M, 2) of points (B, M, 3) m with k (B, 3, 3); NaN behind the camera."""
    return np.stack([project(each, own_k) for each, own_k in zip(_to_array(points), _to_array(k), strict=True)])


def _to_array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double().numpy(), np.float64)


def _is_ignored(location: NDArray[np.float64], targets: Targets, image: int) -> bool:
    """Return whether an unmatched detection at a location (2,) px is not counted as an error."""
    if not targets.score_supervised[image]:
        return True
    box = _to_array(targets.box[image][targets.ignore[image]])
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
    bodies = place_bodies(body, hit)
    joints, true = bodies.joints[0], _to_array(true_joints[image, slot])
    known = np.isfinite(true).all(axis=(1, 2))
    joints_known = _to_array(joints - joints[:, :1])[known]
    has_place = targets.has_place[image, slot]
    depth, true_depth = prediction.center[image, row, 2][has_place], targets.centre[image, slot, 2][has_place]
    distance = relative_error(_to_array(depth), _to_array(true_depth.clamp(min=0.01)))
    return ValidationCounts(
        joint_errors_mm=tuple(point_error(joints_known, true[known]).tolist()),
        aligned_joint_errors_mm=tuple(procrustes_error(joints_known, true[known]).tolist()),
        distance_errors=tuple(distance.tolist()),
        keypoint_similarities=_compute_similarities(
            body, bodies.vertices[0], prediction.k[image], targets, image, slot
        ),
    )


def _compare_depths(
    prediction: Prediction, targets: Targets, image: int, rows: list[int], columns: list[int]
) -> ValidationCounts:
    """Return the depth relations of one image's matches, rows of the prediction and slots of the targets."""
    known = targets.has_place[image, columns].cpu().numpy()
    found, true = (
        _to_array(centers[image])[ids][known] for centers, ids in ((prediction.center, rows), (targets.centre, columns))
    )
    return ValidationCounts(depth_relations=tuple(depth_order(found, true).astype(float).tolist()))


def _compute_similarities(
    body: Body, vertices: Tensor, k: Tensor, targets: Targets, image: Tensor, slot: Tensor
) -> tuple[float, ...]:
    """Return the OKS of posed bodies, vertices (n, V, 3) m seen with k (n, 3, 3), whose keypoints are annotated."""
    known = targets.keypoint_visible[image, slot].any(-1)
    if not known.any():
        return ()
    image, slot = image[known], slot[known]
    pixels = project_to_image(regress_low_mesh_keypoints(body, vertices[known]), k[known])
    seen = np.where(np.isnan(pixels), np.inf, pixels)
    visible = targets.keypoint_visible[image, slot]
    true = _to_array(torch.cat([targets.keypoints[image, slot], visible[..., None]], dim=-1))
    box = _to_array(targets.box[image, slot])
    area = AREA_OF_BOX * (box[:, 2:] - box[:, :2]).prod(axis=1)
    people = ImageKeypoints(seen, np.zeros(len(box)), true, area, box, np.zeros(len(box), bool))
    return tuple(np.diagonal(object_keypoint_similarity(people)).tolist())
