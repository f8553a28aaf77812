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

"""The node requests vertices, which a GPU must copy to the host, only if an output needs them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import HumanArray
from visualization_msgs.msg import MarkerArray

from test.helpers.ros_wire import EVERYTHING, Wire


def test_vertices_are_requested_for_outputs_that_need_them(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans", EVERYTHING)
    here.exchange(humans)
    assert not here.estimator.config.vertices
    here.set(publish_vertices=True)
    here.exchange(humans)
    assert here.estimator.config.vertices
    here.set(publish_vertices=False)
    here.exchange(humans)
    assert not here.estimator.config.vertices
    here.listen(MarkerArray, "/perception_node/markers", EVERYTHING)
    here.send_until(lambda: here.estimator.config.vertices)
