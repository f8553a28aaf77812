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

"""The rows of the ablation table: which option each training run changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RENDERS, FITTED, PLACED, KEYPOINTS = "renders", "fitted", "placed", "keypoints"
RELATIVE = {"relative_depth": 0.25, "relative_metric": 0.25, "relative_stature": 0.25}
NO_RELATIVE = dict.fromkeys(RELATIVE, 0.0)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    name             on the command line and in file names
    text             in the table
    network          name of a network of `multihmr2 train`
    matching         cost of matching queries to people
    sources          kinds of training images, in equal parts (see `ablation_data.py`)
    square_padding   whether training images are padded to squares
    both_paddings    whether it is also tested with the other padding than in training
    k_given          share of images with known K, in training
    relative_places  whether fitted bodies supervise relative positions although no depth map placed them
    losses           changed weights of loss terms
    """

    name: str
    text: str
    network: str = "nano"
    matching: str = "location"
    sources: tuple[str, ...] = (RENDERS, FITTED)
    square_padding: bool = False
    both_paddings: bool = False
    k_given: float = 0.5
    relative_places: bool = False
    losses: Mapping[str, float] = field(default_factory=dict)


ROWS = (
    Row(
        "base", "**base**: DETR, matching by 2D location, S+R, aspect ratios, K given for half of the images",
        both_paddings=True,
    ),
    Row("renders", "S: renders only", sources=(RENDERS,)),
    Row("keypoints", "S+R+2D: and images with 2D keypoints only", sources=(RENDERS, FITTED, KEYPOINTS)),
    Row("multi-hmr", "Multi-HMR, without camera embedding", network="multi-hmr"),
    Row("multi-hmr-camera", "Multi-HMR, with camera embedding", network="multi-hmr-camera"),
    Row("match-3d", "matching by 3D location", matching="location_3d"),
    Row("match-joints", "matching by 3D joints", matching="joints"),
    Row("no-relative", "no relative losses", losses=NO_RELATIVE),
    Row("relative", "relative depth, distance and stature", losses=RELATIVE),
    Row(
        "relative-fitted", "the same, also on fitted bodies without joint placement",
        losses=RELATIVE, relative_places=True,
    ),
    Row(
        "relative-placed", "the same, on fitted bodies with joint placement by depth maps",
        losses=RELATIVE, sources=(RENDERS, PLACED),
    ),
    Row("k-given", "K always given", k_given=1.0),
    Row("k-predicted", "K never given", k_given=0.0),
    Row("square", "images padded to squares", square_padding=True, both_paddings=True),
)  # fmt: skip
