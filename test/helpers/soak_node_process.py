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

"""Node process with people who come and go: `python -m test.helpers.soak_node_process [--ros-args …]`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from multihmr2_ros.camera import project
from multihmr2_ros.frame import Frame
from multihmr2_ros.people import People
from multihmr2_ros.ros.node import main
from multihmr2_ros.ros.standing_people import StandInEstimator
from multihmr2_ros.tracking import Detections, Tracker

MAX_PEOPLE = 6
FEATURES = 256
COMES, GOES, OVERLOOKED = 0.04, 0.01, 0.05  # per image: an arrival, each departure, each miss


class PassersBy(StandInEstimator):
    """Estimator with bodies of the real low mesh and the real tracker. Each new person has a distinct feature and stays
    about 3 s."""

    def __init__(self) -> None:
        super().__init__("low", MAX_PEOPLE)
        self.tracker = Tracker()
        self._rng = np.random.default_rng(0)
        self._looks: dict[int, Any] = {}  # features of the people present, by occupied place

    def step(self, frame: Frame, /) -> People:
        rng = self._rng
        self._looks = {place: look for place, look in self._looks.items() if rng.random() > GOES}
        free = [place for place in range(MAX_PEOPLE) if place not in self._looks]
        if free and rng.random() < COMES:
            self._looks[int(rng.choice(free))] = rng.normal(size=FEATURES)
        seen = [place for place in sorted(self._looks) if rng.random() > OVERLOOKED]
        people = super().step(frame).select(np.array(seen, np.int64))
        return self._tracked(people, np.array([self._looks[place] for place in seen]).reshape(-1, FEATURES))

    def reset(self) -> None:
        self.tracker.reset()

    def _tracked(self, people: People, feature: Any) -> People:
        pelvis = people.pelvis.astype(np.float64)
        location = np.hstack([project(pelvis, people.k) / people.image_size[1], np.log(1 / pelvis[:, 2:])])
        found = Detections(
            feature, location, people.rotations[:, 0], pelvis, people.shape, people.score, stature=people.stature
        )
        tracked = self.tracker.update(found, people.stamp)
        return dataclasses.replace(
            people,
            track_id=tracked.track_id,
            track_state=tracked.state,
            track_age_s=tracked.age_s,
            velocity=tracked.velocity,
            velocity_covariance=tracked.velocity_covariance,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv, lambda _: PassersBy()))
