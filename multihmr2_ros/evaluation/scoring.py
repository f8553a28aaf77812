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

"""Scoring of one frame: matches predicted and true people, decides which of them are scored, and computes every
error."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.metrics import bodies, placement, uncertainty
from multihmr2_ros.metrics.boxes import points_to_boxes
from multihmr2_ros.metrics.identity import FrameBoxes
from multihmr2_ros.metrics.matching import MIN_IOU, Method, match_people
from multihmr2_ros.metrics.placement import DistanceErrors, distance_errors
from multihmr2_ros.metrics.velocity import velocity_error
from multihmr2_ros.people import PHENOTYPE_LABELS, IntrinsicsSource, People, PlacementCue

Floats = NDArray[np.float64]
AGE_COLUMN, ADULT_AGE = PHENOTYPE_LABELS.index("age"), 0.5  # people with a higher age phenotype are not children

UNKNOWN_CUE = -1  # of recorded people


@dataclass(frozen=True)
class ScoringConfig:
    """Settings of the scoring and of the matching.

    min_height_px    true people with a lower box are ignored: they are no misses, their matches no false positives
    min_visible      the same for true people with a smaller visible fraction, if that is known
    matching         see metrics.matching
    min_iou          see metrics.matching
    pair_distance_m  Pair-PA-MPJPE is over pairs whose true pelvises are nearer than this; inf: all pairs
    identities       whether identities are scored; they are not if all predictions are untracked
    """

    min_height_px: float = 48.0
    min_visible: float = 0.5
    matching: Method = "hungarian"
    min_iou: float = MIN_IOU
    pair_distance_m: float = 1.0
    identities: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.min_height_px < np.inf and 0 <= self.min_visible <= 1):
            raise UserError(
                "expected a minimum height of at least 0 px and a minimum visible fraction from 0 to 1, got "
                f"{self.min_height_px} px and {self.min_visible}"
            )


@dataclass(frozen=True)
class FrameScore:
    """The score of one frame with n predicted and t true people.

    pairs            (m, 2) predicted row, true row, of the matches that are scored
    evaluated        (t,) whether a true person is scored
    ignored          (n,) whether a prediction is not scored
    errors           by key of `metric_definitions.ERRORS`, in mm, shares, degrees, m/s: (m,) for errors of people,
                     other lengths for errors of pairs or frames
    mahalanobis2     (m, 2) squared Mahalanobis distances of pelvis and velocity, NaN if unknown
    cues             (m,) a PlacementCue of each match, or UNKNOWN_CUE
    distances        errors of the matches' distances from the camera
    predicted_boxes  of the predictions that are scored, with identities
    true_boxes       of the true people that are scored, with identities
    """

    pairs: NDArray[np.int64]
    evaluated: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    errors: dict[str, Floats] = field(default_factory=dict)
    mahalanobis2: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    cues: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    distances: DistanceErrors = field(default_factory=lambda: DistanceErrors(*np.zeros((4, 0))))
    predicted_boxes: FrameBoxes = field(default_factory=lambda: FrameBoxes(np.zeros(0, np.int64), np.zeros((0, 4))))
    true_boxes: FrameBoxes = field(default_factory=lambda: FrameBoxes(np.zeros(0, np.int64), np.zeros((0, 4))))

    @property
    def false_positives(self) -> NDArray[np.int64]:
        counted = ~self.ignored
        counted[self.pairs[:, 0]] = False
        return np.flatnonzero(counted)

    @property
    def misses(self) -> NDArray[np.int64]:
        missed = self.evaluated.copy()
        missed[self.pairs[:, 1]] = False
        return np.flatnonzero(missed)


def score_frame(
    people: People,
    truth: People,
    config: ScoringConfig,
    given_fov: float = np.nan,
    *,
    is_recorded: bool = False,
) -> FrameScore:
    """Score one frame.

    people       the predictions
    truth        the true people
    config       settings of the scoring
    given_fov    vertical, rad, of the camera's calibration, for truth without one
    is_recorded  whether the predictions were recorded, so that their placement cues are unknown

    Raises UserError if the truth has no joints, or other joints than the predictions.
    """
    _check_joints(people, truth)
    points, true_points = project_joints(people), project_joints(truth)
    true_box = compute_body_boxes(truth, true_points)
    evaluated = (true_box[:, 3] - true_box[:, 1] >= config.min_height_px) & ~(truth.score < config.min_visible)
    pairs = match_people(points, true_points, min_iou=config.min_iou, method=config.matching)
    is_counted = evaluated[pairs[:, 1]]
    is_ignored = np.zeros(len(people), bool)
    is_ignored[pairs[~is_counted, 0]] = True
    pairs = pairs[is_counted]
    predicted, true = people.select(pairs[:, 0]), truth.select(pairs[:, 1])
    motion_errors, mahalanobis2 = _compute_motion_errors(predicted, true)
    return FrameScore(
        pairs=pairs,
        evaluated=evaluated,
        ignored=is_ignored,
        errors=_compute_errors(predicted, true, config)
        | compute_camera_errors(people, truth, given_fov)
        | motion_errors,
        mahalanobis2=mahalanobis2,
        cues=np.full(len(predicted), UNKNOWN_CUE if is_recorded else PlacementCue.PRIOR)
        if predicted.placement_cue is None
        else predicted.placement_cue,
        distances=distance_errors(
            predicted.pelvis, true.pelvis, predicted.distance_sigma_m, predicted.predicted_distance_m
        ),
        **_make_identity_boxes(people, truth, ~is_ignored, evaluated),
    )


def _check_joints(people: People, truth: People) -> None:
    count, true_count = people.joints.shape[1], truth.joints.shape[1]
    if len(truth) and (not true_count or (len(people) and count != true_count)):
        predicted = f" and {count}" if len(people) else ""
        raise UserError(
            f"the ground truth must have as many joints as the predictions, got {true_count}{predicted}; write all "
            "bones of Anny's rig, in its order, to HumanArray.joints"
        )


def project_joints(people: People) -> Floats:
    """Project the joints by the pinhole camera that placed the people; (n, J, 2) px.

    Without joints or intrinsics, returns joints_2d, which may contain lens distortion.
    """
    if people.joints.shape[1] and people.k[0, 0] > 0:
        return np.asarray(project(people.joints.astype(np.float64), people.k), np.float64)
    return people.joints_2d.astype(np.float64)


def compute_body_boxes(people: People, points: Floats) -> Floats:
    """Return the boxes (n, 4) px around the projected meshes, or without meshes around the joints (n, J, 2) px."""
    if people.vertices.shape[1] and people.k[0, 0] > 0:
        points = np.asarray(project(people.surface.astype(np.float64), people.k), np.float64)
    return points_to_boxes(points)


def _compute_errors(predicted: People, true: People, config: ScoringConfig) -> dict[str, Floats]:
    """Compute the errors of matched people by key; NaN only if the input is NaN."""
    errors: dict[str, Floats] = {}
    pelvis, true_pelvis = predicted.pelvis.astype(np.float64), true.pelvis.astype(np.float64)
    axes = placement.root_position_error_per_axis(pelvis, true_pelvis)
    errors["MRPE"] = placement.root_position_error(pelvis, true_pelvis)
    errors |= {f"MRPE {axis}": axes[:, column] for column, axis in enumerate("xyz")}
    errors["distance error"] = placement.relative_distance_error(pelvis, true_pelvis)
    errors |= _compute_order_errors(pelvis, true_pelvis, true.running_shape[:, AGE_COLUMN])
    if predicted.joints.shape[1] and len(predicted):
        errors["MPJPE"] = bodies.centered_point_error(predicted.joints, true.joints, pelvis, true_pelvis)
        errors["PA-MPJPE"] = bodies.procrustes_error(predicted.joints, true.joints)
        near = _find_near_pairs(true_pelvis, config.pair_distance_m)
        errors["Pair-PA-MPJPE"] = bodies.pair_procrustes_error(predicted.joints, true.joints, near)
    if predicted.vertices.shape[1] and predicted.vertices.shape == true.vertices.shape and len(predicted):
        errors["PVE"] = bodies.centered_point_error(predicted.vertices, true.vertices, pelvis, true_pelvis)
        errors["Abs-PVE"] = bodies.point_error(predicted.vertices, true.vertices)
        errors["TA-PVE"] = bodies.translation_aligned_error(predicted.vertices, true.vertices)
    return errors


def _compute_motion_errors(predicted: People, true: People) -> tuple[dict[str, Floats], Floats]:
    """Compute MOTION_ERRORS of matched people by key, and squared Mahalanobis distances (m, 2) of pelvis and velocity.

    NaN if unknown. A velocity over the ground is not compared with a velocity relative to the camera.
    """
    velocity = (
        predicted.velocity
        if predicted.velocity_frame == true.velocity_frame
        else np.full_like(predicted.velocity, np.nan)
    )
    squared = {
        "pelvis": uncertainty.squared_mahalanobis(predicted.pelvis, true.pelvis, predicted.pelvis_covariance),
        "velocity": uncertainty.squared_mahalanobis(velocity, true.velocity, predicted.velocity_covariance),
    }
    errors = {"velocity error": velocity_error(velocity, true.velocity)}
    for name, values in squared.items():
        errors[f"{name} NEES"] = uncertainty.normalized_error_squared(values)
        errors[f"{name} coverage"] = uncertainty.is_inside_ellipsoid(values)
    return errors, np.stack([squared["pelvis"], squared["velocity"]], axis=1)


def _compute_order_errors(pelvis: Floats, true_pelvis: Floats, age: NDArray[np.floating]) -> dict[str, Floats]:
    """Compute depth order errors of all pairs of people, from pelvises (n, 3) m and true age phenotypes (n,).

    Ordinal pairs are pairs whose true depths differ by the tolerance or more.
    """
    right = placement.depth_order(pelvis, true_pelvis).astype(np.float64)
    ordinal = placement.ordinal_order(pelvis[:, 2], true_pelvis[:, 2]).astype(np.float64)
    first, second = np.triu_indices(len(true_pelvis), k=1)
    difference = np.abs(true_pelvis[first, 2] - true_pelvis[second, 2])
    known = np.isfinite(difference)
    right[~known] = np.nan
    apart = known & (difference >= placement.ORDER_TOLERANCE_M)
    return {
        "PCDR@0.2m": right,
        "PCDR children": right[placement.select_pairs_with(age < ADULT_AGE)],
        "ordinal pairs": ordinal[apart],
    }


def _find_near_pairs(pelvis: Floats, distance_m: float) -> NDArray[np.int64]:
    """Return the rows (q, 2) of pelvises (n, 3) that are nearer to each other than distance_m."""
    first, second = np.triu_indices(len(pelvis), k=1)
    near = np.linalg.norm(pelvis[first] - pelvis[second], axis=1) < distance_m
    return np.stack([first[near], second[near]], axis=1)


def get_predicted_fov(people: People) -> float:
    """Return the predicted vertical field of view (rad): from the network, or of recorded people from k if k was
    predicted. NaN if unknown."""
    if np.isfinite(people.predicted_vertical_fov):
        return people.predicted_vertical_fov
    return people.vertical_fov if people.intrinsics_source is IntrinsicsSource.PREDICTED else np.nan


def get_true_fov(truth: People | None, given_fov: float) -> float:
    """Return the vertical field of view (rad) of the truth, else of the calibration; NaN if neither has it."""
    known = truth is not None and truth.intrinsics_source is not IntrinsicsSource.PREDICTED
    return truth.vertical_fov if truth is not None and known and np.isfinite(truth.vertical_fov) else given_fov


def compute_camera_errors(people: People, truth: People | None, given_fov: float) -> dict[str, Floats]:
    """Compute the error of the vertical field of view, degrees; NaN if unknown."""
    error = placement.field_of_view_error(
        np.array([get_predicted_fov(people)]), np.array([get_true_fov(truth, given_fov)])
    )
    return {"FOV error": error}


def _make_identity_boxes(
    people: People, truth: People, counted: NDArray[np.bool_], evaluated: NDArray[np.bool_]
) -> dict[str, Any]:
    """Make boxes around the vertices if both have vertices, else around the joints: boxes of meshes are larger."""
    if not (people.vertices.shape[1] and truth.vertices.shape[1]) and len(people) and len(truth):
        people, truth = _remove_mesh(people), _remove_mesh(truth)
    return {
        "predicted_boxes": _make_frame_boxes(people.select(counted)),
        "true_boxes": _make_frame_boxes(truth.select(evaluated)),
    }


def _make_frame_boxes(people: People) -> FrameBoxes:
    """Make boxes with identities. People without an identity, or with a repeated one, get a negative one for this
    frame."""
    identity = people.track_id.astype(np.int64)
    _, index, count = np.unique(identity, return_inverse=True, return_counts=True)
    is_unnamed = (identity < 0) | (count[index] > 1)
    identity[is_unnamed] = -1 - np.arange(int(is_unnamed.sum()))
    return FrameBoxes(identity, compute_body_boxes(people, project_joints(people)))


def _remove_mesh(people: People) -> People:
    return dataclasses.replace(people, vertices=people.vertices[:, :0])
