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

"""Parameters that change while the node runs, and refused values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import BodyModel, HumanArray
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import MarkerArray

from multihmr2_ros.ros.parameters import DEFAULTS, RULES
from multihmr2_ros.ros.restarts import load_estimator
from test.helpers.ros_wire import LATCHED, Wire, calibration, image_message
from test.helpers.stand_in_estimator import MESHES


def refusal(here: Wire, name: str, value: Any) -> str:
    """Return the reason given by the parameter service, or "" if the change is accepted."""
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = here.call(SetParameters, "/perception_node/set_parameters", request).results
    assert result.successful == (result.reason == "")
    return result.reason


def test_changes_take_effect_with_the_next_image(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, models = here.listen(HumanArray, "/humans"), here.listen(BodyModel, "/perception_node/body_model", LATCHED)
    markers = here.listen(MarkerArray, "/perception_node/markers")
    here.estimator.people = {
        "n": 3,
        "pelvis": np.array([[-1.0, 0, 4], [0, 0, 4], [1, 0, 4]]),
        "track_id": np.arange(3),
        "score": np.array([0.9, 0.7, 0.5], np.float32),
    }

    def seen() -> list[int]:
        return [human.track_id for human in here.exchange(humans).humans]

    assert seen() == [0, 1, 2]
    assert refusal(here, "score_threshold", 0.6) == ""
    assert seen() == [0, 1]
    assert refusal(here, "max_people", 1) == ""
    assert seen() == [0]
    assert refusal(here, "max_people", 20) == ""
    assert refusal(here, "score_threshold", 0.3) == ""
    assert seen() == [0, 1, 2]
    assert refusal(here, "nms_distance_m", 1.5) == ""
    assert len(humans[-1].humans[0].vertices) == 0
    assert refusal(here, "publish_vertices", True) == ""
    for mesh in ("low", "full", "low"):
        assert refusal(here, "mesh", mesh) == ""
        vertices, faces = MESHES[mesh]
        seen()
        assert [len(human.vertices) for human in humans[-1].humans] == [vertices.size] * 3
        here.until(lambda: models and len(models[-1].faces) == faces.size)  # noqa: B023
        here.until(lambda: markers[-1].markers and markers[-1].markers[0].header == humans[-1].header)
        meshes = [marker for marker in markers[-1].markers if marker.ns == "mesh"]
        assert [len(marker.points) for marker in meshes] == [faces.size] * 3
    assert here.estimator.config.nms_distance_m == 1.5


def test_the_real_estimator_changes_between_two_images(wire: Callable[..., Wire], small_checkpoint: Path) -> None:
    here = wire(autostart=False, checkpoint=str(small_checkpoint), device="cpu", max_people=6, nms_distance_m=0.0)
    here.node._make_estimator = load_estimator
    here.node.trigger_configure()
    here.node.trigger_activate()
    humans, models = here.listen(HumanArray, "/humans"), here.listen(BodyModel, "/perception_node/body_model", LATCHED)

    def ids() -> set[int]:
        return {human.track_id for human in here.exchange(humans).humans}

    assert refusal(here, "score_threshold", 0.0) == ""
    six = ids()
    assert len(six) == 6
    assert refusal(here, "max_people", 3) == ""
    assert refusal(here, "mesh", "full") == ""
    assert refusal(here, "publish_vertices", True) == ""
    three = ids()
    assert len(three) == 3
    assert three < six, "tracks live on"
    assert [len(human.vertices) for human in humans[-1].humans] == [3 * 19158] * 3
    here.until(lambda: models and len(models[-1].faces) == 3 * 27420)
    assert refusal(here, "max_people", 200) == ""
    assert len(ids()) == 12, "as many as the network has queries"


REFUSED = [
    ("score_threshold", 1.5, "out of range Min: 0.0, Max: 1.0"),
    ("score_threshold", -0.1, "out of range Min: 0.0, Max: 1.0"),
    ("score_threshold", float("nan"), "score_threshold"),
    ("nms_distance_m", -1.0, "out of range"),
    ("nms_distance_m", float("inf"), "out of range"),
    ("max_people", 0, "out of range"),
    ("max_people", 201, "out of range"),
    ("max_people", 3.0, "type"),
    ("max_age_s", -1.0, "out of range"),
    ("mesh", "medium", "one of low, full, got 'medium'"),
    ("image_transport", "theora", "one of auto, raw, compressed, got 'theora'"),
    ("checkpoint", "other", "can only be changed while the node is unconfigured"),
    ("device", "cpu", "can only be changed while the node is unconfigured"),
    ("body_prefix", "left_", "can only be changed while the node is unconfigured"),
    ("body_prefix", "1 body", "must be letters, digits and _, the first a letter"),
    ("fixed_frame", "/odom", "without a leading slash"),
    ("ground_frame", "base footprint", "without spaces"),
    ("transform_timeout_s", 60.0, "out of range Min: 0.0, Max: 10.0"),
    ("depth_max_delay_s", -0.01, "out of range Min: 0.0, Max: 1.0"),
    ("use_depth", "yes", "type"),
    ("autostart", False, "read-only"),
    ("diagnostics_period_s", 2.0, "read-only"),
]


def test_what_is_out_of_range_is_refused_with_the_reason(wire: Callable[..., Wire]) -> None:
    here = wire()
    before = here.node.parameters
    for name, value, reason in REFUSED:
        assert reason in refusal(here, name, value), name
        assert here.node.get_parameter(name).value == getattr(before, name)
    assert here.node.parameters == before


def test_what_is_read_at_configuration_changes_while_the_node_is_not_configured(wire: Callable[..., Wire]) -> None:
    here = wire()
    here.node.trigger_deactivate()
    here.node.trigger_cleanup()
    assert refusal(here, "body_prefix", "left_body_") == ""
    here.node.trigger_configure()
    here.node.trigger_activate()
    (human,) = here.exchange(here.listen(HumanArray, "/humans")).humans
    assert human.frame_id == "left_body_7"


def test_several_changes_are_taken_or_refused_together(wire: Callable[..., Wire]) -> None:
    here = wire()
    changes = [Parameter("score_threshold", value=0.8), Parameter("mesh", value="medium")]
    assert not here.node.set_parameters_atomically(changes).successful
    assert here.node.parameters.score_threshold == 0.4


def test_the_transport_changes_live(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    here.exchange(humans)
    encoded = cv2.imencode(".png", np.full((48, 64, 3), (10, 20, 200), np.uint8))[1]
    compressed = CompressedImage(format="png", data=encoded.tobytes())
    assert refusal(here, "image_transport", "compressed") == ""
    here.exchange(humans, compressed)
    assert here.estimator.last_image[0, 0].tolist() == [200, 20, 10]
    assert refusal(here, "image_transport", "raw") == ""
    here.exchange(humans, image_message())
    assert here.estimator.last_image[0, 0].tolist() == [90, 90, 90]


def test_a_change_does_not_forget_camera_info_that_came_once(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    here.calibrate(calibration(k=50.0, p=40.0))
    assert here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_K
    here.peer.destroy_publisher(here.camera_info)
    for change in ({"use_depth": False}, {"fixed_frame": "camera"}, {"ground_frame": "camera"}):
        here.set(**change)
        assert here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_K, change


def test_every_parameter_is_described(wire: Callable[..., Wire]) -> None:
    here = wire()
    request = DescribeParameters.Request(names=list(RULES))
    descriptors = here.call(DescribeParameters, "/perception_node/describe_parameters", request).descriptors
    assert [descriptor.name for descriptor in descriptors] == list(RULES)
    for descriptor in descriptors:
        rule, default = RULES[descriptor.name], DEFAULTS[descriptor.name]
        assert descriptor.description.startswith(rule.description)
        assert descriptor.read_only == rule.fixed
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        assert len(ranges) == (
            1 if descriptor.type in (ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_DOUBLE) else 0
        )
        assert all(each.from_value <= default <= each.to_value for each in ranges)
        assert all(choice in descriptor.additional_constraints for choice in rule.choices)
