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

"""Pelvis positions over time: on the ground, without the jolts of placing each frame on it separately.

A body's lowest vertex jumps from heel to toe, from foot to foot and from hip to elbow, mainly because ankles and toes
are never posed. Placing it on the ground at each time separately shakes the whole body: a runner's pelvis by 2.5 m/s.
So a scene's heights are computed over its whole time at once and smoothed; soles may sink or float by some centimeters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from multihmr2_ros.body import Body
from multihmr2_ros.simulation.motion.skeleton import compute_bone_rotations
from multihmr2_ros.simulation.scene.scene import Person, Scene

RATE_HZ = 30.0
# Standard deviation of the Gaussian in time: a footfall's jolt lasts some hundredths of a second, half a bounce of
# running 0.17 s.
SMOOTHING_S = 0.07
MARGIN_S = 0.3  # before the first image and after the last, for the smoothing and for velocities
VELOCITY_STEP_S = 0.05
BATCH = 64


@dataclass(frozen=True, eq=False)
class PelvisTrajectory:
    """Positions and velocities of the pelvises of a scene's n people at any time."""

    people: tuple[Person, ...]
    curve: CubicSpline | None

    def compute_heights(self, time_s: float) -> NDArray[np.float64]:
        """Return heights (n,) in m above the ground."""
        return np.zeros(0) if self.curve is None else np.asarray(self.curve(time_s))

    def compute_positions(self, time_s: float) -> NDArray[np.float64]:
        """Return positions (n, 3) in m, world."""
        over_ground = np.array([person.path.compute_position(time_s) for person in self.people]).reshape(-1, 2)
        return np.column_stack([over_ground, self.compute_heights(time_s)])

    def compute_velocity(self, time_s: float) -> NDArray[np.float64]:
        """Return velocities (n, 3) in m/s, world: central differences of the smooth positions over 0.1 s."""
        before = self.compute_positions(time_s - VELOCITY_STEP_S)
        after = self.compute_positions(time_s + VELOCITY_STEP_S)
        return (after - before) / (2.0 * VELOCITY_STEP_S)


def compute_pelvis_trajectory(scene: Scene, body: Body) -> PelvisTrajectory:
    """Compute the pelvis trajectories of all people. body: low resolution suffices (soles within 7 mm)."""
    if not scene.people:
        return PelvisTrajectory((), None)
    count = 1 + int(np.ceil((scene.duration_s + 2.0 * MARGIN_S) * RATE_HZ))
    times = -MARGIN_S + np.arange(count) / RATE_HZ
    heights = np.stack([compute_ground_heights(person, times, body) for person in scene.people], axis=1)
    smooth = gaussian_filter1d(heights, SMOOTHING_S * RATE_HZ, axis=0, mode="nearest")
    return PelvisTrajectory(scene.people, CubicSpline(times, smooth))


@torch.no_grad()
def compute_ground_heights(person: Person, times: NDArray[np.float64], body: Body) -> NDArray[np.float64]:
    """Compute pelvis heights (t,) in m; at each time separately, the lowest vertex is at the clip clearance."""
    shape = torch.from_numpy(np.asarray(person.shape, np.float32))[None].to(body.identity.device)
    rest = body.compute_rest_bone_poses(shape).cpu().numpy()
    found = []
    for some in np.split(times, range(BATCH, len(times), BATCH)):
        poses = [person.clip.pose(time) for time in some]
        resting = np.broadcast_to(rest, (len(some), *rest.shape[1:]))
        turns = compute_bone_rotations(poses, resting, body.bone_labels, body.bone_parents).astype(np.float32)
        posed = body(shape.expand(len(some), -1), torch.from_numpy(turns).to(shape.device))
        lowest = posed.vertices[:, body.surface_vertices, 2].amin(dim=1)
        above = (posed.joints[:, 0, 2] - lowest).cpu().numpy().astype(np.float64)
        found.append(above + [pose.clearance_m for pose in poses])
    return np.concatenate(found)
