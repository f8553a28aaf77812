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

"""Refines the positions of people with a depth image, the ground plane and a prior of human stature."""

from multihmr2_ros.depth import MapKind, RelativeDepthMap, check_depth, depth_to_meters
from multihmr2_ros.frame import GroundPlane

from .config import PlacementConfig
from .likelihoods import stature_prior
from .placement import Placement, place_people
from .surface import BodySurface

__all__ = [
    "BodySurface",
    "GroundPlane",
    "MapKind",
    "Placement",
    "PlacementConfig",
    "RelativeDepthMap",
    "check_depth",
    "depth_to_meters",
    "place_people",
    "stature_prior",
]
