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

"""Postures of recorded motions, so that rare ones can be sampled as often as common ones.

Recordings mostly show people who stand or walk: of about 700 everyday clips, 3 % of the frames lie, 7 % sit or crouch,
1 % bend down.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.motion.pose import SEGMENTS
from multihmr2_ros.simulation.motion.retarget import Motion

Posture = Literal["stand", "reach", "bend", "low", "lie"]
POSTURES: tuple[Posture, ...] = get_args(Posture)

# Cosines of a segment's tilt from where it is in neutral standing.
LYING_TRUNK, BENT_TRUNK, BENT_THIGHS, RAISED_ARM = 0.5, 0.75, 0.6, -0.2


@functools.lru_cache(maxsize=1024)
def classify_postures(motion: Motion) -> NDArray[np.int64]:
    """(F,) index into POSTURES of each frame: "lie" (or crawl), "low" (sit, crouch, kneel), "bend", "reach" (an arm
    above the shoulder), else "stand"."""
    upright = motion.orientation[..., 2, 2]
    pelvis, chest = upright[:, SEGMENTS.index("pelvis")], upright[:, SEGMENTS.index("chest")]
    thighs = 0.5 * (upright[:, SEGMENTS.index("left_thigh")] + upright[:, SEGMENTS.index("right_thigh")])
    left_arm, right_arm = (upright[:, SEGMENTS.index(f"{side}_upper_arm")] for side in ("left", "right"))
    return np.select(
        [
            (chest < LYING_TRUNK) & (pelvis < LYING_TRUNK),
            thighs < BENT_THIGHS,
            chest < BENT_TRUNK,
            np.minimum(left_arm, right_arm) < RAISED_ARM,
        ],
        [POSTURES.index(name) for name in ("lie", "low", "bend", "reach")],
        POSTURES.index("stand"),
    )
