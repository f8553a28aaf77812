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

"""The node on a moving robot: velocities over the ground, and the floor, with real TF over DDS."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from multihmr2_ros.msg import HumanArray
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from multihmr2_ros.frame import Frame
from multihmr2_ros.people import People
from multihmr2_ros.ros.qos import TF, TF_STATIC
from multihmr2_ros.tracking import Tracker, TrackingResult
from test.helpers.moving_camera import Seen, drive, robot, walking
from test.helpers.people_factory import make_people
from test.helpers.ros_wire import ATTEMPTS, REPEAT_S, Wire, image_message, message_of, values_of
from test.helpers.stand_in_estimator import StandInEstimator

NS = 10**9
START_NS = 100 * NS
TICK_NS = 20_000_000  # transforms come at 50 Hz
# The fixed frame of the simulated drive (y down) in odom (z up), and the camera on the robot's base.
ODOM_FROM_DRIVE = np.eye(4)
ODOM_FROM_DRIVE[:3] = [[0, 0, 1, 20.0], [-1, 0, 0, -7.0], [0, -1, 0, 1.2]]
BASE_FROM_CAMERA = np.eye(4)
BASE_FROM_CAMERA[:3] = [[0, 0, 1, 0.3], [-1, 0, 0, 0.05], [0, -1, 0, 1.2]]


class Robot:
    """Publisher of the robot's pose on /tf, and once of its camera's mounting on /tf_static."""

    def __init__(self, here: Wire) -> None:
        self.here = here
        self.moving = here.peer.create_publisher(TFMessage, "/tf", TF)
        self.static = here.peer.create_publisher(TFMessage, "/tf_static", TF_STATIC)
        self.static.publish(TFMessage(transforms=[stamped("base", "camera", 0, BASE_FROM_CAMERA)]))

    def wait_for_the_node(self) -> None:
        self.here.until(lambda: self.moving.get_subscription_count() > 0 and self.static.get_subscription_count() > 0)
        self.wait_until_heard(1)  # the latched message

    def wait_until_heard(self, poses: int) -> None:
        """Wait until the node has received at least this many poses."""
        self.here.until(lambda: poses_of(self.here) >= poses)

    def tell(self, stamp_ns: int) -> None:
        pose = odom_from_camera((stamp_ns - START_NS) / NS) @ np.linalg.inv(BASE_FROM_CAMERA)
        self.moving.publish(TFMessage(transforms=[stamped("odom", "base", stamp_ns, pose)]))


def poses_of(here: Wire) -> int:
    """Return the number of poses in the node's buffer."""
    inputs = here.node._inputs
    return 0 if inputs is None or inputs.transforms is None else len(inputs.transforms._buffer)


def odom_from_camera(time_s: float) -> NDArray[np.float64]:
    return np.asarray(ODOM_FROM_DRIVE @ robot(time_s))


def stamped(parent: str, child: str, stamp_ns: int, pose: NDArray[np.float64]) -> TransformStamped:
    x, y, z = pose[:3, 3].tolist()
    qx, qy, qz, qw = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    return TransformStamped(
        header=Header(stamp=Time(sec=stamp_ns // NS, nanosec=stamp_ns % NS), frame_id=parent),
        child_frame_id=child,
        transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)),
    )


class TrackingEstimator(StandInEstimator):
    """Estimator that returns the detections of a drive by the stamp and tracks them with the real tracker."""

    def __init__(self, seen: list[Seen]) -> None:
        super().__init__(None)
        self.seen = {round(each.stamp_s, 6): each for each in seen}
        self.tracker = Tracker()

    def step(self, frame: Frame, /) -> People:
        self.steps, self.last_frame, stamp = self.steps + 1, frame, frame.stamp
        seen = self.seen[round(stamp - START_NS / NS, 6)]
        tracked = self.tracker.update(seen.detections, stamp, fixed_from_camera=frame.fixed_from_camera)
        return make_people(
            len(seen.velocity),
            pelvis=seen.detections.pelvis,
            image_size=frame.image.shape[:2],
            track_id=tracked.track_id,
            track_state=tracked.state,
            velocity=tracked.velocity,
            velocity_covariance=tracked.velocity_covariance,
            velocity_frame=tracked.velocity_frame,
            stamp=stamp,
        )


def answer(here: Wire, humans: list[HumanArray], stamp_ns: int) -> HumanArray:
    """Send an image with this stamp, again if it is lost, and return the node's message about it."""
    stamp = Time(sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    message = image_message(header=Header(stamp=stamp, frame_id="camera"))
    here.wait_until_matched(here.image)
    for _ in range(ATTEMPTS):
        here.image.publish(message)
        deadline_s = time.monotonic() + REPEAT_S
        while time.monotonic() < deadline_s:
            here.executor.spin_once(timeout_sec=0.01)
            if humans and humans[-1].header.stamp == stamp:
                return humans[-1]
    raise AssertionError(f"{ATTEMPTS} images did not bring an answer")


def velocities(message: HumanArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return velocities (n, 3) m/s and covariances (n, 3, 3)."""
    velocity = [[human.velocity.x, human.velocity.y, human.velocity.z] for human in message.humans]
    return np.array(velocity), np.array([human.velocity_covariance for human in message.humans]).reshape(-1, 3, 3)


def test_velocities_over_the_ground_while_the_robot_drives_and_turns(wire: Callable[..., Wire]) -> None:
    """At 1 m/s and 45°/s past two people standing and two walking; the results equal those for the true poses."""
    people = np.concatenate([np.zeros((2, 3)), walking(2, 1.2, seed=12)])
    seen = list(drive(people, 10.0, 3.0, seed=13))
    here = wire(autostart=False, fixed_frame="odom", transform_timeout_s=10.0)
    here.estimator = TrackingEstimator(seen)
    here.node.trigger_configure()
    here.node.trigger_activate()
    humans, transforms = here.listen(HumanArray, "/humans"), here.listen(TFMessage, "/tf")
    own_robot, reference, errors, speeds = Robot(here), Tracker(), [], []
    own_robot.wait_for_the_node()
    own_robot.tell(START_NS - TICK_NS // 2)
    own_robot.wait_until_heard(2)
    stamps = [START_NS + round(each.stamp_s * NS) for each in seen]
    for each, stamp_ns in zip(seen, stamps, strict=True):
        for tick in range(5):  # between the images, never at their stamps
            own_robot.tell(stamp_ns + tick * TICK_NS + TICK_NS // 2)
        message = answer(here, humans, stamp_ns)
        assert message.header.frame_id == "camera"
        pose = odom_from_camera(each.stamp_s)
        expected: TrackingResult = reference.update(each.detections, stamp_ns / NS, fixed_from_camera=pose)
        if each.stamp_s == 0:
            continue
        assert {human.velocity_frame for human in message.humans} == {"odom"}
        velocity, covariance = velocities(message)
        if each.stamp_s >= 1:
            true = each.velocity @ ODOM_FROM_DRIVE[:3, :3].T
            speeds.append(np.linalg.norm(velocity[:2], axis=1))
            errors.append(np.linalg.norm(velocity[2:], axis=1) / np.linalg.norm(true[2:], axis=1) - 1)
            np.testing.assert_allclose(velocity, expected.velocity, atol=0.05)
            np.testing.assert_allclose(covariance, expected.velocity_covariance, atol=0.01)
    assert np.mean(np.array(speeds) < 0.1) >= 0.95
    assert np.median(np.abs(errors)) < 0.15
    bodies = [each for message in transforms for each in message.transforms if each.child_frame_id.startswith("body_")]
    assert bodies
    assert {each.header.frame_id for each in bodies} == {"camera"}
    assert {each.header.stamp.sec * NS + each.header.stamp.nanosec for each in bodies} <= set(stamps)


def test_nobody_listens_to_tf_for_nothing(wire: Callable[..., Wire]) -> None:
    here = wire()

    def listens() -> bool:
        found = here.peer.get_subscriptions_info_by_topic("/tf")
        return any(each.node_name == "perception_node" for each in found)

    here.exchange(here.listen(HumanArray, "/humans"))
    assert not listens()
    here.set(fixed_frame="odom")
    here.until(listens)
    here.set(fixed_frame="")
    here.until(lambda: not listens())
    here.set(ground_frame="base_footprint")
    here.until(listens)


def test_a_transform_that_comes_late_is_waited_for_by_the_worker_alone(wire: Callable[..., Wire]) -> None:
    """The executor receives the transform while an image waits for it, which fails if the executor itself waits."""
    here = wire(fixed_frame="odom", transform_timeout_s=10.0)
    humans = here.listen(HumanArray, "/humans")
    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    for stamp_ns in (START_NS + NS, START_NS + 2 * NS):
        own_robot.tell(stamp_ns - NS // 2)
        own_robot.wait_until_heard(2)
        stamp = Time(sec=stamp_ns // NS)
        here.image.publish(image_message(header=Header(stamp=stamp, frame_id="camera")))
        here.spin(0.5)
        assert not any(message.header.stamp == stamp for message in humans)
        own_robot.tell(stamp_ns + 1)
        answer(here, humans, stamp_ns)
    expected = odom_from_camera(2.0)
    np.testing.assert_allclose(here.estimator.last_cues["fixed_from_camera"], expected, atol=1e-3)


def test_a_transform_that_does_not_come_leaves_the_camera_frame_and_is_told(wire: Callable[..., Wire]) -> None:
    here = wire(fixed_frame="odom", transform_timeout_s=0.05, diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    message = answer(here, humans, START_NS)
    assert [human.velocity_frame for human in message.humans] == ["camera"]
    assert "fixed_from_camera" not in here.estimator.last_cues
    reason = "no transform connects 'camera' with 'odom': velocities of this image are not relative to 'odom'"
    here.until(lambda: reason in message_of(diagnostics))
    here.until(lambda: values_of(diagnostics)["velocity frame"] == "camera")

    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    own_robot.tell(START_NS + NS)
    own_robot.wait_until_heard(2)
    answer(here, humans, START_NS + 2 * NS)
    here.until(lambda: "the newest is 1.000 s older: velocities" in message_of(diagnostics))
    own_robot.tell(START_NS + 3 * NS)
    own_robot.wait_until_heard(3)
    answer(here, humans, START_NS + 3 * NS)
    assert "fixed_from_camera" in here.estimator.last_cues
    here.until(lambda: values_of(diagnostics)["velocity frame"] == "odom")


def test_the_fixed_frame_may_change(wire: Callable[..., Wire]) -> None:
    here = wire(transform_timeout_s=10.0)
    humans, own_robot = here.listen(HumanArray, "/humans"), Robot(here)
    answer(here, humans, START_NS)
    known, names = [], []
    for second, frame in enumerate(("odom", "odom", "base", "base", ""), start=1):
        here.set(fixed_frame=frame)
        if frame:
            own_robot.wait_for_the_node()
            own_robot.tell(START_NS + second * NS)
            own_robot.wait_until_heard(2)
        answer(here, humans, START_NS + second * NS)
        known.append(here.estimator.last_cues.get("fixed_from_camera"))
        names.append(here.estimator.last_cues["fixed_frame"])
    assert [pose is not None for pose in known] == [True, True, True, True, False]
    assert names == ["odom", "odom", "base", "base", ""]
    np.testing.assert_allclose(known[1], odom_from_camera(2.0), atol=1e-6)
    np.testing.assert_allclose(known[2], BASE_FROM_CAMERA, atol=1e-6)


def test_the_camera_s_own_frame_may_be_the_fixed_one(wire: Callable[..., Wire]) -> None:
    """A camera on the wall needs no transforms."""
    here = wire(fixed_frame="camera")
    answer(here, here.listen(HumanArray, "/humans"), START_NS)
    np.testing.assert_array_equal(here.estimator.last_cues["fixed_from_camera"], np.eye(4))


def test_the_floor_comes_from_the_ground_frame(wire: Callable[..., Wire]) -> None:
    here = wire(ground_frame="base", transform_timeout_s=10.0, diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    message = answer(here, humans, START_NS)
    ground = here.estimator.last_cues["ground"]
    np.testing.assert_allclose(ground.normal, [0, -1, 0], atol=1e-9)
    assert ground.offset_m == pytest.approx(-1.2)
    assert [human.velocity_frame for human in message.humans] == ["camera"]
    here.until(lambda: values_of(diagnostics)["ground"] == "plane z = 0 of base")

    here.set(ground_frame="camera")  # the camera would lie on the floor
    answer(here, humans, START_NS + NS)
    assert "ground" not in here.estimator.last_cues
    here.until(lambda: "the camera must be above the ground" in message_of(diagnostics))


def test_time_that_goes_back_clears_the_transforms(wire: Callable[..., Wire]) -> None:
    here = wire(fixed_frame="odom", transform_timeout_s=0.0)
    humans, own_robot = here.listen(HumanArray, "/humans"), Robot(here)
    own_robot.wait_for_the_node()
    for step in range(21):
        own_robot.tell(START_NS + step * NS // 10)
    own_robot.wait_until_heard(22)
    answer(here, humans, START_NS + 2 * NS)
    assert "fixed_from_camera" in here.estimator.last_cues
    answer(here, humans, START_NS + NS)
    assert "fixed_from_camera" not in here.estimator.last_cues, "those of the time before it went back"
    assert here.estimator.resets == 1


def test_what_was_told_anew_before_the_first_image_of_the_next_round_is_kept(wire: Callable[..., Wire]) -> None:
    """A bag in a loop, with a transform published once a second and used for the following second."""
    here = wire(fixed_frame="odom", transform_timeout_s=0.0)
    humans, own_robot = here.listen(HumanArray, "/humans"), Robot(here)
    own_robot.wait_for_the_node()
    for second in range(30, 33):
        own_robot.tell(START_NS + second * NS)
    own_robot.wait_until_heard(4)
    answer(here, humans, START_NS + 32 * NS)
    for second in range(2):
        own_robot.tell(START_NS + second * NS)
    here.until(lambda: poses_of(here) == 3)
    answer(here, humans, START_NS)
    assert "fixed_from_camera" in here.estimator.last_cues
    answer(here, humans, START_NS + NS // 2)
    assert "fixed_from_camera" in here.estimator.last_cues
    assert here.estimator.resets == 1


@pytest.mark.parametrize(
    ("body_prefix", "people"), [("body_", ["body_7", "body_b7"]), ("front_", ["front_7", "body_front_7"])]
)
def test_people_do_not_enter_the_transforms(wire: Callable[..., Wire], body_prefix: str, people: list[str]) -> None:
    here = wire(fixed_frame="odom", body_prefix=body_prefix)
    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    frames = [*people, "rear_7", "front_wheel", "body_link"]
    own_robot.moving.publish(TFMessage(transforms=[stamped("camera", name, START_NS, np.eye(4)) for name in frames]))
    own_robot.wait_until_heard(4)
    assert here.node._inputs is not None
    assert here.node._inputs.transforms is not None
    kept = here.node._inputs.transforms._buffer._moving
    assert set(kept) == {"rear_7", "front_wheel", "body_link"}


def test_damaged_and_hostile_transforms_do_no_harm(wire: Callable[..., Wire]) -> None:
    here = wire(fixed_frame="odom", transform_timeout_s=0.0, diagnostics_period_s=0.1)
    humans, diagnostics = here.listen(HumanArray, "/humans"), here.listen(DiagnosticArray, "/diagnostics")
    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    nowhere = np.full((4, 4), np.nan)
    hostile = TFMessage(transforms=[TransformStamped()])
    hostile.transforms.append(stamped("odom", "base", START_NS, np.eye(4)))
    hostile.transforms[-1].transform.translation.x = float(nowhere[0, 0])
    loop = TFMessage(transforms=[stamped("a", "b", START_NS, np.eye(4)), stamped("b", "a", START_NS, np.eye(4))])
    for message in (hostile, loop):
        own_robot.moving.publish(message)
    here.until(lambda: "2 transforms on /tf were rejected: no name, a name of more than" in message_of(diagnostics))
    assert here.node._inputs is not None
    assert here.node._inputs.transforms is not None
    here.node._inputs.transforms._receive(b"\0\1\0\0garbage", False)
    here.until(lambda: "received a damaged TFMessage (11 bytes)" in message_of(diagnostics))
    before = poses_of(here)
    own_robot.tell(START_NS)
    own_robot.wait_until_heard(before + 1)
    assert len(answer(here, humans, START_NS).humans) == 1
    assert "fixed_from_camera" in here.estimator.last_cues


def test_the_node_ends_while_an_image_waits_for_its_transform(wire: Callable[..., Wire]) -> None:
    here = wire(fixed_frame="odom", transform_timeout_s=10.0)
    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    own_robot.tell(START_NS - NS)
    own_robot.wait_until_heard(2)
    here.wait_until_matched(here.image)
    began_s = time.monotonic()
    message = image_message(header=Header(stamp=Time(sec=100), frame_id="camera"))
    here.until(lambda: here.image.publish(message) or here.node.counters.in_work)
    here.close_node()
    assert time.monotonic() - began_s < 10, "the transform is not waited for any longer"
    assert here.node.counters.unusable == 0, "its subscriptions have gone meanwhile"
