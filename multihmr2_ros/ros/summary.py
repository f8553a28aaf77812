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

"""People in a few words, for `ros2 topic echo`. Needs no ROS."""

from __future__ import annotations

import numpy as np

from multihmr2_ros.people import TrackState

from .target_frame import PlacedPeople

NOBODY = "nobody"


def summary(placed: PlacedPeople, fixed_frame: str = "") -> str:
    """A line for each person, in descending score, after one that counts them; NOBODY where there is none.

    fixed_frame: the name of the fixed frame, where velocities may be in it.
    """
    people, frame = placed.people, placed.header.frame_id
    if not len(people):
        return NOBODY
    over = fixed_frame if people.velocity_frame == "fixed" and fixed_frame else frame
    away_m = np.linalg.norm(people.pelvis - placed.camera[:3, 3], axis=1)
    speed_m_s = np.linalg.norm(people.velocity, axis=1)
    lines = [f"{len(people)} {'person' if len(people) == 1 else 'people'} in {frame}, velocities in {over}"]
    for row, track_id in enumerate(people.track_id.tolist()):
        x, y, z = people.pelvis[row].tolist()
        words = [
            f"{away_m[row]:.1f} m from the camera, at ({x:.2f}, {y:.2f}, {z:.2f}) m",
            f"{speed_m_s[row]:.1f} m/s" if np.isfinite(speed_m_s[row]) else "speed unknown",
            f"{people.stature[row]:.2f} m tall",
            f"score {people.score[row]:.2f}",
        ]
        if people.track_state[row] == TrackState.TENTATIVE:
            words.append("tentative")
        name = f"#{track_id}" if track_id >= 0 else "untracked"
        lines.append(f"{name}: {', '.join(words)}")
    return "\n".join(lines)
