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

"""Conversion of recorded HumanArrays to People."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.humans import people_from_human_array
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.people import People
from multihmr2_ros.ros.conversions import human_array_to_ros
from test.helpers.people_factory import make_people

HEADER = HeaderContent(12, 250_000_000, "camera")
CARRIED = (
    "score", "track_id", "track_state", "track_age_s", "running_shape", "rotations", "joints", "joints_2d", "pelvis",
    "pelvis_covariance", "velocity", "velocity_covariance", "vertices", "stature", "k", "vertical_fov",
    "intrinsics_source", "velocity_frame", "image_size",
)  # fmt: skip


def from_rclpy(people: People) -> Any:
    return human_array_to_ros(people_to_content(people, HEADER, Timing(), with_vertices=True))


def from_a_bag(people: People) -> Any:
    from rclpy.serialization import serialize_message

    return make_typestore().deserialize_cdr(serialize_message(from_rclpy(people)), "multihmr2_ros/msg/HumanArray")


@pytest.mark.parametrize("message_of", [from_rclpy, from_a_bag])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_message_contents_survive_a_round_trip(message_of: Any, count: int) -> None:
    people = make_people(count, vertices=np.random.default_rng(0).normal(size=(count, 7, 3)), stamp=12.25)
    if count:
        people.track_id[0] = -1
    again = people_from_human_array(message_of(people), people.image_size)
    for name in CARRIED:
        before, after = getattr(people, name), getattr(again, name)
        if isinstance(before, np.ndarray) and count:
            assert (after.shape, after.dtype) == (before.shape, before.dtype), name
            np.testing.assert_allclose(after, before, atol=1e-6, err_msg=name)
        elif not isinstance(before, np.ndarray):
            assert after == before, name
    assert again.stamp == 12.25
    assert len(again) == count
    assert again.select(np.zeros(count, np.bool_)).vertices.shape[0] == 0
