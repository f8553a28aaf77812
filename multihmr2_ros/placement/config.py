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

"""Every number of the placement, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from multihmr2_ros.errors import UserError


@dataclass(frozen=True)
class PlacementConfig:
    """How far the network, a depth camera and a ground plane are trusted. All sigmas are standard deviations.

    Those of the network are of logarithms, so 0.1 is about 10 %. With ground truth they are measured as the covariance
    of the errors of log depth and log stature: shared_sigma² is what the two have in common, and own_* is the rest. The
    defaults, 13 % of the depth and 11 % of the stature, stand between the two simulated networks of the tests.

    shared_sigma           error of a body predicted too large and, by the same factor, too far: the picture cannot tell
    own_depth_sigma        error of the depth that the body's size does not share
    own_stature_sigma      error of the stature that the depth does not share
    lateral_sigma_ratio    error of the pelvis across its ray, as a fraction of the distance: nothing corrects it
    surface_sigma_m        of one point of the predicted surface: pose, clothes
    common_surface_sigma_m of the whole visible surface against the pelvis: what averaging points does not remove
    camera_sigma_per_m     depth noise of the camera is this times the squared depth: structured light and stereo
    inlier_share           expected share of a person's pixels that show the person, not something before or behind
    outlier_range_m        over which the depth of such other things is spread
    least_inlier_share     of the visible surface that must fit the depth image, else the image does not count
    independent_points     most points that count as independent observations: neighbours err together
    map_sigma              of one point of a relative depth map, as a share of its depth
    map_bend_sigma         of log depth: by what a relative map is off at a whole person, beyond its scale and shift
    map_person_share       expected share of people where a relative map that is right elsewhere is right
    map_share              expected share of images whose relative map shows the people at all
    ground_sigma_m         of the lowest point's height above the ground: pose, soles, unevenness
    standing_share         expected share of people who touch the ground where they seem to
    """

    shared_sigma: float = 0.10
    own_depth_sigma: float = 0.08
    own_stature_sigma: float = 0.04
    lateral_sigma_ratio: float = 0.0072
    surface_sigma_m: float = 0.04
    common_surface_sigma_m: float = 0.03
    camera_sigma_per_m: float = 0.0015
    inlier_share: float = 0.6
    outlier_range_m: float = 6.0
    least_inlier_share: float = 0.2
    independent_points: int = 25
    map_sigma: float = 0.05
    map_bend_sigma: float = 0.04
    map_person_share: float = 0.9
    map_share: float = 0.95
    ground_sigma_m: float = 0.05
    standing_share: float = 0.8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            share = field.name.endswith("_share")
            if not (math.isfinite(value) and value > 0 and (not share or value < 1)):
                wanted = "a share between 0 and 1" if share else "a finite number above 0"
                raise UserError(f"PlacementConfig.{field.name}: expected {wanted}, got {value!r}")
