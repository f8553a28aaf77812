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

"""Posed bodies, and recordings made of joint angles, for the tests of simulated motion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.pose import Pose
from multihmr2_ros.simulation.motion.skeleton import compute_bone_rotations

# A standing person in T-pose, y up, facing z; the left shoulder turns about z.
RIG = """HIERARCHY
ROOT Hips {{ OFFSET 0 0 0 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
 JOINT LeftUpLeg {{ OFFSET 10 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT LeftLeg {{ OFFSET 0 -45 0 CHANNELS 3 Zrotation Xrotation Yrotation
   JOINT LeftFoot {{ OFFSET 0 -45 0 CHANNELS 0 End Site {{ OFFSET 0 -5 15 }} }} }} }}
 JOINT RightUpLeg {{ OFFSET -10 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT RightLeg {{ OFFSET 0 -45 0 CHANNELS 3 Zrotation Xrotation Yrotation
   JOINT RightFoot {{ OFFSET 0 -45 0 CHANNELS 0 End Site {{ OFFSET 0 -5 15 }} }} }} }}
 JOINT LeftArm {{ OFFSET 18 50 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT LeftForeArm {{ OFFSET 30 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
   End Site {{ OFFSET 25 0 0 }} }} }}
 JOINT RightArm {{ OFFSET -18 50 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT RightForeArm {{ OFFSET -30 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
   End Site {{ OFFSET -25 0 0 }} }} }}
}}
MOTION
Frames: {frames}
Frame Time: 0.05
{values}
"""
JOINTS = ["hips", "left_hip", "left_knee", "right_hip", "right_knee"]
JOINTS += ["left_shoulder", "left_elbow", "right_shoulder", "right_elbow"]


def make_rig(*frames: Mapping[str, tuple[float, float, float]]) -> str:
    """Return the BVH text of frames: each joint → angles about z, x, y in degrees; position → x, y, z."""
    rows = []
    for frame in frames:
        groups = [frame.get("position", (0.0, 95.0, 0.0))] + [frame.get(name, (0.0,) * 3) for name in JOINTS]
        rows.append(" ".join(str(value) for group in groups for value in group))
    return RIG.format(frames=len(frames), values="\n".join(rows))


def make_posed(body: Body, pose: Pose, age: float = 2 / 3) -> dict[str, np.ndarray]:
    """Return bone → its head (3,) of a posed body, in the heading frame (x front, y left, z up)."""
    shape = torch.full((1, 6), 0.5)
    shape[0, 1] = age
    with torch.no_grad():
        rest = body.compute_rest_bone_poses(shape).numpy()
        rotations = compute_bone_rotations([pose], rest, body.bone_labels, body.bone_parents)
        joints = body(shape, torch.from_numpy(rotations.astype(np.float32))).joints[0].numpy()
    return dict(zip(body.bone_labels, joints, strict=True))


def compute_direction(joints: dict[str, np.ndarray], start: str, end: str) -> np.ndarray:
    along = joints[end] - joints[start]
    return along / np.linalg.norm(along)
