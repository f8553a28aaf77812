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

"""Settings of the placement."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from multihmr2_ros.errors import UserError


@dataclass(frozen=True)
class PlacementConfig:
    """Errors of the network, the depth image and the ground plane. All sigmas are standard deviations.

    The sigmas of the network are those of logarithms, so 0.1 is about 10 %. Measure them against ground truth as the
    covariance of the errors of log depth and log stature: shared_sigma² is the common part, own_*² are the remainders.
    The defaults, 13 % of the depth and 11 % of the stature, lie between the two simulated networks of the tests.

    shared_sigma            error common to log depth and log stature: a body predicted too large and, by the same
                            factor, too far looks the same in the image
    own_depth_sigma         error of the log depth that is independent of the stature
    own_stature_sigma       error of the log stature that is independent of the depth
    lateral_sigma_ratio     error of the pelvis across its viewing ray, as a fraction of the distance; never corrected
    surface_sigma_m         error of one point of the predicted surface, from pose and clothes
    common_surface_sigma_m  error that all points of the visible surface share, relative to the pelvis; averaging points
                            does not reduce it
    camera_sigma_per_m      depth noise of the camera divided by the squared depth (structured light and stereo)
    inlier_share            expected fraction of a person's pixels that show the person, not an occluder or background
    outlier_range_m         range over which the depth of occluders and background is spread
    least_inlier_share      minimum fraction of the surface, where no other person hides it, that fits the depth image
    independent_points      maximum number of points that count as independent: errors of neighboring points correlate
    map_sigma               error of one point of a relative depth map, as a fraction of its depth
    map_bend_sigma          error of the log depth of a relative map at a whole person, beyond its scale and shift
    map_person_share        expected fraction of people with correct depth in a relative map that is otherwise correct
    map_share               expected fraction of images with a relative map that shows the people
    ground_sigma_m          error of the lowest point's height above the ground, from pose, soles and unevenness
    standing_share          expected fraction of people with ground contact at their lowest point
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
    least_inlier_share: float = 0.1
    independent_points: int = 25
    map_sigma: float = 0.05
    map_bend_sigma: float = 0.04
    map_person_share: float = 0.8
    map_share: float = 0.95
    ground_sigma_m: float = 0.05
    standing_share: float = 0.8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            share = field.name.endswith("_share")
            if not (math.isfinite(value) and value > 0 and (not share or value < 1)):
                wanted = "a fraction between 0 and 1" if share else "a finite number above 0"
                raise UserError(f"PlacementConfig.{field.name}: expected {wanted}, got {value!r}")
