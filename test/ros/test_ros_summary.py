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

"""The short summary, the overlay as JPEG, and QoS settings of users."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from multihmr2_ros.msg import HumanArray
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.people import TrackState
from multihmr2_ros.ros.conversions import format_summary
from multihmr2_ros.ros.target_frame import TargetFrame, place_people_in
from test.helpers.people_factory import make_people
from test.helpers.ros_wire import Wire, message_of

HEADER = HeaderContent(1, 2, "camera")


def test_a_line_for_each_person() -> None:
    people = make_people(
        2, pelvis=np.array([[0.0, 0.0, 3.0], [3.0, 0.0, 4.0]]), velocity=np.array([[0.0, 0.6, 0.8], [np.nan] * 3]),
        stature=np.array([1.7, 1.02], np.float32), track_id=np.array([7, -1]),
        track_state=np.array([TrackState.TENTATIVE, TrackState.UNTRACKED]), score=np.array([0.9, 0.5], np.float32),
    )  # fmt: skip
    assert format_summary(place_people_in(None, people, HEADER)).splitlines() == [
        "2 people in camera, velocities in camera",
        "#7: 3.0 m from the camera, at (0.00, 0.00, 3.00) m, 1.0 m/s, 1.70 m tall, score 0.90, tentative",
        "untracked: 5.0 m from the camera, at (3.00, 0.00, 4.00) m, speed unknown, 1.02 m tall, score 0.50",
    ]
    far = np.eye(4)
    far[:3, 3] = [100.0, 0.0, 0.0]
    head, first, _ = format_summary(
        place_people_in(TargetFrame("map", far, np.zeros((4, 4))), people, HEADER)
    ).splitlines()
    assert head == "2 people in map, velocities in map"
    assert "3.0 m from the camera, at (100.00, 0.00, 3.00) m" in first
    assert format_summary(place_people_in(None, make_people(0), HEADER)) == "nobody"


def test_the_summary_and_the_picture_as_jpeg(wire: Callable[..., Wire]) -> None:
    here = wire()
    summaries = here.listen(String, "/perception_node/summary")
    pictures = here.listen(CompressedImage, "/perception_node/overlay/compressed")
    here.exchange(pictures)
    here.until(lambda: summaries)
    assert summaries[-1].data.splitlines()[1].startswith("#7: 4.1 m from the camera, at (1.00, 0.20, 4.00) m")
    assert (pictures[-1].format, pictures[-1].header.frame_id) == ("jpeg", "camera")
    jpeg = cv2.imdecode(np.frombuffer(pictures[-1].data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    raw = here.exchange(here.listen(Image, "/perception_node/overlay"))
    assert np.abs(jpeg - np.reshape(np.frombuffer(raw.data, np.uint8), jpeg.shape)).mean() < 3
    here.call(SetBool, "/perception_node/enable", SetBool.Request(data=False))
    here.until(lambda: summaries[-1].data == "nobody")


def test_the_user_s_quality_of_service(wire: Callable[..., Wire]) -> None:
    overrides = {
        "qos_overrides./image.subscription.reliability": "reliable",
        "qos_overrides./image.subscription.depth": 3,
        "qos_overrides./camera_info.subscription.durability": "transient_local",
        "qos_overrides./depth.subscription.depth": 2,
        "qos_overrides./tf.subscription.reliability": "best_effort",
        "qos_overrides./tf_static.subscription.durability": "volatile",
    }
    here = wire(fixed_frame="odom", **overrides)
    assert here.node._inputs._depths.qos_profile.depth == 2
    for _ in range(2):  # a parameter change renews the subscription
        images, infos = here.node._inputs._images.qos_profile, here.node._inputs._infos.qos_profile
        assert (images.reliability, images.depth) == (ReliabilityPolicy.RELIABLE, 3)
        assert (infos.reliability, infos.durability) == (
            ReliabilityPolicy.BEST_EFFORT,
            DurabilityPolicy.TRANSIENT_LOCAL,
        )
        moving, static = (each.qos_profile for each in here.node._inputs.transforms._subscriptions)
        assert (moving.reliability, moving.depth) == (ReliabilityPolicy.BEST_EFFORT, 100)
        assert (static.reliability, static.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
        here.set(use_depth=False)
    there = wire(namespace="/other")
    assert there.node._inputs._images.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


@pytest.mark.parametrize(("kind", "value"), [("reliability", "realiable"), ("depth", "three"), ("depth", -1)])
def test_a_quality_of_service_that_is_none_is_told(wire: Callable[..., Wire], kind: str, value: str | int) -> None:
    here = wire(diagnostics_period_s=0.1, **{f"qos_overrides./image.subscription.{kind}": value})
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.until(lambda: "qos_overrides./image.subscription: expected depth" in message_of(diagnostics))
    assert here.exchange(here.listen(HumanArray, "/humans")).humans
