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

"""Random poses within the limits of the joints, with the limbs outside the body.

A pose is a vector of 22 angles in rad: Trunk, left Arm, right Arm, left Leg, right Leg. Here the hips' flexion counts
from the vertical, so that legs stay under a trunk that leans.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.simulation.motion.pose import SIDES, Arm, Leg, Pose, Trunk, pose_from_angles

# Minimum and maximum angle of every field, rad; anatomical ranges of motion without rarely used extremes.
TRUNK_LIMITS = ((-0.3, 0.3), (-0.25, 1.0), (-0.3, 0.3), (-0.6, 0.6), (-0.2, 0.5), (-0.3, 0.3))
ARM_LIMITS = ((-0.7, 2.9), (0.05, 1.7), (-1.3, 1.2), (0.0, 2.4))
LEG_LIMITS = ((-0.4, 2.0), (-0.1, 0.8), (-0.3, 0.7), (0.0, 2.2))
LIMITS = np.array(TRUNK_LIMITS + 2 * ARM_LIMITS + 2 * LEG_LIMITS)
EASE = np.array([0.0] * 6 + [0.0, 0.16, 0.3, 0.3] * 2 + [0.0, 0.03, 0.1, 0.05] * 2)  # standing at ease
MAX_FLEXION = 2.2  # of a hip, the lean of the trunk included
TRIES = 60

# A body of leg length 1 for the test of self-contact: lengths from hip to hip and so on, and radii.
TRUNK_LENGTH, SHOULDER_HEIGHT, HALF_SHOULDERS, HALF_HIPS = 0.55, 0.54, 0.21, 0.12
UPPER_ARM, FOREARM, HAND, THIGH, SHIN = 0.33, 0.29, 0.18, 0.5, 0.5
TRUNK_RADIUS, HEAD_HEIGHT, HEAD_RADIUS, LIMB_RADIUS = 0.2, 0.78, 0.18, 0.1


def sample_angles(generator: np.random.Generator) -> NDArray[np.float64]:
    """Sample angles (22,): from near standing to the limits of the joints."""
    spread = np.repeat(generator.uniform(0.15, 1.0, 5) * [0.7, 1.0, 1.0, 1.0, 1.0], (6, 4, 4, 4, 4))
    if generator.random() < 0.5:
        spread[14:] *= 0.25  # legs near standing
    for _ in range(TRIES):
        angles = EASE + spread * (generator.uniform(LIMITS[:, 0], LIMITS[:, 1]) - EASE)
        if not is_self_touching(pose_from_random_angles(angles)):
            return angles
    return EASE


def pose_from_random_angles(angles: NDArray[np.float64]) -> Pose:
    """Return the pose with angles (22,)."""
    parts = np.split(angles, (6, 10, 14, 18))
    trunk, arms, legs = Trunk(*parts[0]), [Arm(*part) for part in parts[1:3]], [Leg(*part) for part in parts[3:]]
    upright = [leg._replace(flexion=min(leg.flexion + trunk.pitch, MAX_FLEXION)) for leg in legs]
    return pose_from_angles(trunk, arms, upright)


def is_self_touching(pose: Pose) -> bool:
    """Return whether an arm intersects trunk, head, thigh or the other arm, or a leg the other leg."""
    pelvis, chest = pose["pelvis"], pose["chest"]
    neck, head = pelvis[:, 2] * 0.5 * TRUNK_LENGTH + chest[:, 2] * 0.5 * TRUNK_LENGTH, chest[:, 2] * HEAD_HEIGHT
    arms, legs = [], []
    for side, sign in SIDES.items():
        shoulder = neck + chest[:, 1] * sign * HALF_SHOULDERS
        elbow = shoulder - pose[f"{side}_upper_arm"][:, 2] * UPPER_ARM
        forearm = -pose[f"{side}_forearm"][:, 2]
        lengths = (0.0, 0.5 * FOREARM, FOREARM, FOREARM + HAND)
        arms.append([elbow + forearm * length for length in lengths])
        hip = pelvis[:, 1] * sign * HALF_HIPS
        knee = hip - pose[f"{side}_thigh"][:, 2] * THIGH
        shin = -pose[f"{side}_shin"][:, 2] * SHIN
        legs.append([hip, knee, knee + 0.5 * shin, knee + shin, knee + shin + pose[f"{side}_shin"][:, 0] * 0.2])
    for arm in arms:
        for point in arm[1:]:
            if (
                _compute_distance(point, pelvis[:, 2] * -0.1, neck) < TRUNK_RADIUS
                or np.linalg.norm(point - head) < HEAD_RADIUS
            ):
                return True
            if any(_compute_distance(point, leg[0], leg[1]) < LIMB_RADIUS for leg in legs):
                return True
            if any(np.linalg.norm(point - other) < LIMB_RADIUS for other in (arms[0] if arm is arms[1] else arms[1])):
                return True
    crossed = (_compute_distance(point, legs[1][one], legs[1][one + 1]) for point in legs[0][1:] for one in (0, 1, 2))
    trunk = (_compute_distance(leg[2], neck * 0.3, neck) for leg in legs)
    return min(crossed) < LIMB_RADIUS * 1.3 or min(trunk) < TRUNK_RADIUS


def _compute_distance(point: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """Return the distance from a point to the segment between two others."""
    along = end - start
    share = np.clip((point - start) @ along / (along @ along), 0.0, 1.0)
    return float(np.linalg.norm(point - start - share * along))
