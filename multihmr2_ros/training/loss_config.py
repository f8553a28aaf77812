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

"""Weights of the training losses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from multihmr2_ros.errors import UserError
from multihmr2_ros.training.matching import MatchingConfig


@dataclass(frozen=True)
class LossConfig:
    """The weight of every term; a term of weight 0 is not computed. With the defaults, for small networks trained from
    scratch, the gradients of the terms in the encoder have norms of the same order.

    Detection, of all queries or patches:

    score               focal cross-entropy of queries (plain cross-entropy, as in the paper, if focal_score is false)
    heatmap             focal loss of patches, for networks that propose queries; binary cross-entropy for Multi-HMR
    keypoint_map        focal loss of patches for each keypoint, for networks with keypoint maps
    encoder_keypoint    errors of the keypoints from which a pretrained encoder proposes people

    Camera, and positions of matched people:

    location            L1, divided by the image's longer side
    nearness            L1 of log(f / z): the same for all cameras
    depth               L1 of z, m
    relative_depth      L1 of the difference of log z between people of one image
    relative_metric     L1 of log distances between people of one image; minus the mean error of the image's pairs if
                        only relative positions are known
    relative_stature    L1 of the difference of log stature between people of one image
    field_of_view       squared error of the horizontal field of view, rad; times three if it is too wide

    Bodies of matched people:

    root                L1 of the root's rotation matrix
    pose                L1 of the other posed bones' rotation matrices
    root_columns, pose_columns   squared error of the two predicted columns of a rotation, before orthonormalization.
                        Without them, columns of small networks grow (to a length of 8) until Gram-Schmidt passes no
                        gradient, and the network cannot express uncertainty between front and back
    shape               L1 of the phenotypes
    vertices, joints    L1 from the pelvis, m (low mesh)
    reprojection        L1 of projected joints or keypoints, divided by the image's longer side
    keypoint_similarity 1 − COCO's object keypoint similarity of annotated keypoints, with twice its sigmas
    angle               angle between joints and their true rays, divided by the diagonal field of view
    track_feature       L1
    consistency_pose, consistency_joints   squared error of rotation matrices, and squared distance of joints from the
                        pelvis, m², to a frozen model's predictions (stage b)

    Factors of several terms:

    auxiliary           of the detection terms of all decoder layers except the last
    surplus             of location, root, pose and shape of further queries near a person (one-to-many supervision), up
                        to surplus_queries per person; their scores are not supervised
    """

    score: float = 2.0
    heatmap: float = 2.0
    keypoint_map: float = 2.0
    encoder_keypoint: float = 0.0
    location: float = 6.0
    nearness: float = 1.5
    depth: float = 0.0
    relative_depth: float = 0.25
    relative_metric: float = 0.0
    relative_stature: float = 0.0
    field_of_view: float = 2.0
    root: float = 0.0
    pose: float = 10.0
    root_columns: float = 3.0
    pose_columns: float = 120.0
    shape: float = 10.0
    vertices: float = 4.0
    joints: float = 12.0
    reprojection: float = 1.0
    keypoint_similarity: float = 0.0
    angle: float = 10.0
    track_feature: float = 1.0
    consistency_pose: float = 0.0
    consistency_joints: float = 0.0
    auxiliary: float = 1.0
    surplus: float = 1.0
    surplus_queries: int = 4
    focal_score: bool = True
    matching: MatchingConfig = field(default_factory=MatchingConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type == "float" and not 0 <= value < math.inf:
                raise UserError(f"loss weight {item.name} must be a number of at least 0, got {value}")
        if self.surplus_queries < 1:
            raise UserError(
                f"surplus_queries must be at least 1, got {self.surplus_queries}; --loss surplus=0 disables them"
            )

    @property
    def active(self) -> set[str]:
        """Names of the terms with a weight, and of the other settings that are not 0."""
        return {item.name for item in dataclasses.fields(self) if getattr(self, item.name)}
