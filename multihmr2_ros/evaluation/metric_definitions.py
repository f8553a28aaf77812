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

"""The metrics of evaluation: keys, units, and definitions for the report page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A row of every table.

    key               its name in results.json
    recalled          whether recall is shown beside the metric; such a metric covers found people only
    higher_is_better  unless there is a target
    target            the best value, in the metric's unit; None: the higher or lower, the better
    """

    key: str
    unit: str
    counted: str
    recalled: bool = False
    higher_is_better: bool = False
    target: float | None = None

    @property
    def scale(self) -> float:
        """Factor from the values of FrameScore to the unit."""
        return 100.0 if self.unit == "%" else 1.0

    def is_better(self, value: float, other: float) -> bool:
        """Return whether a value is better than another one."""
        if self.target is not None:
            return abs(value - self.target) < abs(other - self.target)
        return (value > other) == self.higher_is_better


MM, SPEED, RATIO = "mm", "m/s", "1"
# Errors that need true velocities or stated covariances. Results of earlier versions do not contain them.
MOTION_ERRORS = (
    Metric("velocity error", SPEED, "people", recalled=True),
    Metric("velocity NEES", RATIO, "people", recalled=True, target=1.0),
    Metric("velocity coverage", "%", "people", recalled=True, target=95.0),
    Metric("pelvis NEES", RATIO, "people", recalled=True, target=1.0),
    Metric("pelvis coverage", "%", "people", recalled=True, target=95.0),
)
ERRORS = (
    Metric("PVE", MM, "people", recalled=True),
    Metric("MPJPE", MM, "people", recalled=True),
    Metric("PA-MPJPE", MM, "people", recalled=True),
    Metric("Abs-PVE", MM, "people", recalled=True),
    Metric("TA-PVE", MM, "people", recalled=True),
    Metric("Pair-PA-MPJPE", MM, "pairs", recalled=True),
    Metric("MRPE", MM, "people", recalled=True),
    Metric("MRPE x", MM, "people", recalled=True),
    Metric("MRPE y", MM, "people", recalled=True),
    Metric("MRPE z", MM, "people", recalled=True),
    Metric("distance error", "%", "people", recalled=True),
    Metric("PCDR@0.2m", "%", "pairs", recalled=True, higher_is_better=True),
    Metric("PCDR children", "%", "pairs", recalled=True, higher_is_better=True),
    Metric("ordinal pairs", "%", "pairs", recalled=True, higher_is_better=True),
    Metric("FOV error", "deg", "frames"),
    *MOTION_ERRORS,
)
QUANTILES = tuple(Metric(f"velocity error p{percent}", SPEED, "people", recalled=True) for percent in (50, 95))
SCORES = (
    Metric("recall", "%", "people", higher_is_better=True),
    Metric("precision", "%", "detections", higher_is_better=True),
    Metric("F1", "%", "people", higher_is_better=True),
)
NORMALIZED = (Metric("N-MPJPE", MM, "people"), Metric("N-MRPE", MM, "people"))
IDENTITY = (
    Metric("IDF1", "%", "boxes", higher_is_better=True),
    Metric("MOTA", "%", "boxes", higher_is_better=True),
    Metric("HOTA", "%", "boxes", higher_is_better=True),
    Metric("id switches", "", "boxes"),
)
METRICS = (*SCORES, *ERRORS, *QUANTILES, *NORMALIZED, *IDENTITY)

# Descriptions for the report page, by Metric.key.
DEFINITIONS = {
    "recall": "Fraction of the true people that are detected. People below the minimum height in the image or the "
    "minimum visible fraction are ignored (see the configuration).",
    "precision": "Fraction of the detections that match a true person.",
    "F1": "TP / (TP + (FP + FN) / 2): recall and precision in one number.",
    "PVE": "Mean distance between predicted and true vertices after alignment of the pelvises: pose and shape, without "
    "position.",
    "MPJPE": "Mean distance between predicted and true joints (bone heads) after alignment of the pelvises: pose, "
    "without position.",
    "PA-MPJPE": "MPJPE after the best similarity transform (rotation, translation, scale) of each person: pose only.",
    "Abs-PVE": "Mean distance between predicted and true vertices in the camera frame, without alignment: pose, shape "
    "and position.",
    "TA-PVE": "Mean distance between predicted and true vertices after one common translation of all people of a "
    "frame: pose, shape and relative positions.",
    "Pair-PA-MPJPE": "Mean joint distance after one common similarity transform of two people close to each other.",
    "MRPE": "Mean distance between the predicted and the true pelvis in the camera frame.",
    "MRPE x": "Mean absolute pelvis error along x of the camera's optical frame (right).",
    "MRPE y": "Mean absolute pelvis error along y of the camera's optical frame (down).",
    "MRPE z": "Mean absolute pelvis error along z of the camera's optical frame (depth), usually the largest of the "
    "three.",
    "distance error": "Mean absolute error of the distance between pelvis and camera, relative to the true distance.",
    "PCDR@0.2m": "Fraction of all pairs of people of a frame with correct depth order; depths that differ by less than "
    "0.2 m count as equal.",
    "PCDR children": "PCDR@0.2m over the pairs with at least one child.",
    "ordinal pairs": "Fraction of the pairs at different depths with correct depth order.",
    "N-MPJPE": "MPJPE divided by F1, so that missing difficult people does not improve it.",
    "N-MRPE": "MRPE divided by F1, so that missing difficult people does not improve it.",
    "velocity error": "Mean norm of the velocity error; over the ground if prediction and ground truth are in the "
    "fixed frame, otherwise relative to the camera.",
    "velocity error p50": "Median norm of the velocity error.",
    "velocity error p95": "95th percentile of the norm of the velocity error.",
    "velocity NEES": "Mean normalized error squared of the velocity: error' * inverse(covariance) * error / 3. It is 1 "
    "if the stated covariances are correct, above 1 if they are too small.",
    "velocity coverage": "Fraction of the velocity errors inside the 95 % confidence ellipsoid.",
    "pelvis NEES": "Mean normalized error squared of the pelvis position; 1 if the stated covariances are correct.",
    "pelvis coverage": "Fraction of the pelvis position errors inside the 95 % confidence ellipsoid.",
    "FOV error": "Mean absolute error of the predicted vertical field of view, also if other intrinsics are used for "
    "the positions.",
    "IDF1": "Fraction of bounding boxes with the correct identity, for the best one-to-one assignment of tracks to "
    "people.",
    "MOTA": "1 - (misses + false positives + id switches) / true bounding boxes; it can be negative.",
    "HOTA": "Geometric mean of detection and association accuracy, averaged over IoU thresholds from 0.05 to 0.95.",
    "id switches": "Number of changes of a person's track id.",
}
