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

"""People in a target frame: the arithmetic, and the node with real TF over DDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from multihmr2_ros.msg import HumanArray
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.ros.conversions import people_to_markers
from multihmr2_ros.ros.target_frame import TargetFrame, place_people_in, transform_people
from test.helpers.moving_camera import robot
from test.helpers.people_factory import make_people
from test.helpers.ros_wire import Wire, message_of, values_of
from test.helpers.stand_in_estimator import FACES, PELVIS, TETRAHEDRON
from test.ros.test_ros_moving_camera import BASE_FROM_CAMERA, NS, ODOM_FROM_DRIVE, START_NS, Robot, answer, stamped

HEADER = HeaderContent(1, 2, "camera")
TURN = Rotation.from_euler("xyz", [0.4, -0.3, 1.2]).as_matrix()
COVARIANCE = np.diag([0.01, 0.04, 0.25])


def pose(turn: NDArray[np.float64], shift: list[float]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    return matrix


# --- the arithmetic


def test_places_directions_and_covariances_turn_together() -> None:
    vertices = np.random.default_rng(1).normal(size=(3, 5, 3))
    people = make_people(
        3, vertices=vertices, pelvis_covariance=np.tile(COVARIANCE, (3, 1, 1)),
        velocity_covariance=np.tile(2 * COVARIANCE, (3, 1, 1)),
    )  # fmt: skip
    there = transform_people(TargetFrame("map", pose(TURN, [1.0, -2.0, 3.0]), np.zeros((4, 4))), people)
    for before, after in (
        (people.pelvis, there.pelvis), (people.joints, there.joints), (people.vertices, there.vertices)
    ):  # fmt: skip
        expected = [TURN @ point + [1.0, -2.0, 3.0] for point in before.reshape(-1, 3)]
        np.testing.assert_allclose(after.reshape(-1, 3), expected, atol=1e-6)
    np.testing.assert_allclose(there.velocity, [TURN @ each for each in people.velocity])
    np.testing.assert_allclose(there.pelvis_covariance, [TURN @ COVARIANCE @ TURN.T] * 3, atol=1e-12)
    np.testing.assert_allclose(there.velocity_covariance, [2 * TURN @ COVARIANCE @ TURN.T] * 3, atol=1e-12)
    np.testing.assert_allclose(there.rotations[:, 0], TURN @ people.rotations[:, 0], atol=1e-6)
    np.testing.assert_array_equal(there.rotations[:, 1:], people.rotations[:, 1:])
    # Bones have the same positions relative to the pelvis as the joints.
    np.testing.assert_allclose(there.bone_poses[..., :3, 3], there.joints - there.joints[:, :1], atol=1e-5)
    for name in ("joints_2d", "k", "score", "stature"):
        np.testing.assert_array_equal(getattr(there, name), getattr(people, name))


def test_a_velocity_over_the_ground_keeps_its_own_frame() -> None:
    people = make_people(2, velocity_frame="fixed")
    there = transform_people(TargetFrame("base", pose(TURN, [1.0, 2.0, 3.0]), np.ones((4, 4))), people)
    np.testing.assert_array_equal(there.velocity, people.velocity)
    np.testing.assert_array_equal(there.velocity_covariance, people.velocity_covariance)


def test_who_goes_along_with_the_camera_moves_in_the_target_frame() -> None:
    """Compares with positions of a point that moves in the camera frame while the camera drives and turns."""
    place, velocity, step_s = np.array([0.5, 0.2, 4.0]), np.array([0.3, -0.1, 0.6]), 1e-6

    def in_target(time_s: float) -> NDArray[np.float64]:
        matrix = ODOM_FROM_DRIVE @ robot(time_s)
        return np.asarray(matrix[:3, :3] @ (place + velocity * time_s) + matrix[:3, 3])

    rate = (ODOM_FROM_DRIVE @ robot(step_s) - ODOM_FROM_DRIVE @ robot(-step_s)) / (2 * step_s)
    people = make_people(1, pelvis=place[None], velocity=velocity[None])
    there = transform_people(TargetFrame("odom", ODOM_FROM_DRIVE @ robot(0.0), rate), people)
    np.testing.assert_allclose(there.velocity[0], (in_target(step_s) - in_target(-step_s)) / (2 * step_s), atol=1e-6)


def test_where_the_camera_s_motion_is_not_known_no_velocity_is_told() -> None:
    people = make_people(2)
    there = transform_people(TargetFrame("map", pose(TURN, [0.0, 0.0, 0.0]), np.full((4, 4), np.nan)), people)
    assert np.isnan(there.velocity).all()
    assert np.isnan(there.velocity_covariance).all()
    assert np.isfinite(there.pelvis).all()


def test_places_far_from_a_map_s_origin_are_exact() -> None:
    people = make_people(1)
    there = transform_people(
        TargetFrame("utm", pose(np.eye(3), [500_000.0, 5_300_000.0, 0.0]), np.zeros((4, 4))), people
    )
    expected = people.pelvis.astype(np.float64) + np.array([500_000.0, 5_300_000.0, 0.0])
    np.testing.assert_allclose(there.pelvis, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("target", [None, TargetFrame("camera", np.eye(4), np.zeros((4, 4)))])
def test_the_image_s_own_frame_changes_nothing(target: TargetFrame | None) -> None:
    people = make_people(1)
    placed = place_people_in(target, people, HEADER)
    assert placed.people is people
    assert placed.header == HEADER


def test_labels_tell_the_distance_from_the_camera_and_stand_above_people() -> None:
    people = make_people(2, vertices=np.random.default_rng(1).normal(size=(2, 3, 3)))
    target = TargetFrame("base", BASE_FROM_CAMERA, np.zeros((4, 4)))
    placed = place_people_in(target, people, HEADER)
    faces = np.array([[0, 1, 2]])
    before = people_to_markers(people, HEADER, faces)
    after = people_to_markers(placed.people, placed.header, faces, placed.camera)
    assert [marker.text for marker in after] == [marker.text for marker in before]
    for old, new in zip(before, after, strict=True):
        turned = BASE_FROM_CAMERA[:3, :3] @ old.position + BASE_FROM_CAMERA[:3, 3]
        if old.text:
            np.testing.assert_allclose(new.position, turned, atol=1e-5)
        assert new.header.frame_id == "base"


# --- the node


def test_everything_with_a_place_is_in_the_target_frame(wire: Callable[..., Wire]) -> None:
    """A camera fixed to the robot: /tf_static only."""
    here = wire(target_frame="base", transform_timeout_s=10.0, publish_vertices=True, diagnostics_period_s=0.1)
    velocity, covariance = np.array([[0.5, 0.0, -1.0]]), COVARIANCE[None]
    here.estimator.people |= {
        "velocity": velocity, "velocity_covariance": covariance, "pelvis_covariance": 3 * covariance,
    }  # fmt: skip
    humans, transforms = here.listen(HumanArray, "/humans"), here.listen(TFMessage, "/tf")
    markers = here.listen(MarkerArray, "/perception_node/markers")
    points = here.listen(PointCloud2, "/perception_node/points")
    overlays = here.listen(Image, "/perception_node/overlay")
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    Robot(here).wait_for_the_node()
    message = answer(here, humans, START_NS)
    here.until(lambda: transforms and markers and points and overlays)
    turn, shift = BASE_FROM_CAMERA[:3, :3], BASE_FROM_CAMERA[:3, 3]
    place = turn @ PELVIS[0] + shift

    (human,) = message.humans
    assert (message.header.frame_id, human.velocity_frame) == ("base", "base")
    assert message.header.stamp == Time(sec=START_NS // NS)
    spot, speed = human.pelvis.pose.position, human.velocity
    np.testing.assert_allclose([spot.x, spot.y, spot.z], place, atol=1e-6)
    np.testing.assert_allclose(human.joints[:3], place, atol=1e-6)
    np.testing.assert_allclose(np.reshape(human.vertices, (-1, 3)), (PELVIS + TETRAHEDRON) @ turn.T + shift, atol=1e-6)
    np.testing.assert_allclose([speed.x, speed.y, speed.z], turn @ velocity[0], atol=1e-12)
    expected = turn @ COVARIANCE @ turn.T
    np.testing.assert_allclose(np.reshape(human.velocity_covariance, (3, 3)), expected, atol=1e-12)
    np.testing.assert_allclose(np.reshape(human.pelvis.covariance, (6, 6))[:3, :3], 3 * expected, atol=1e-12)

    (transform,) = [each for each in transforms[-1].transforms if each.child_frame_id == "body_7"]
    assert (transform.header.frame_id, transform.header.stamp) == ("base", message.header.stamp)
    moved = transform.transform.translation
    np.testing.assert_allclose([moved.x, moved.y, moved.z], place, atol=1e-6)
    assert transform.transform.rotation == human.pelvis.pose.orientation

    assert {each.header.frame_id for each in markers[-1].markers} == {"base"}
    mesh = next(each for each in markers[-1].markers if each.ns == "mesh")
    corners = np.array([[point.x, point.y, point.z] for point in mesh.points])
    np.testing.assert_allclose(corners, ((PELVIS + TETRAHEDRON) @ turn.T + shift)[FACES.ravel()], atol=1e-6)
    cloud = np.frombuffer(points[-1].data, "<f4").reshape(-1, 3)
    assert points[-1].header.frame_id == "base"
    np.testing.assert_allclose(cloud, (PELVIS + TETRAHEDRON) @ turn.T + shift, atol=1e-6)
    assert overlays[-1].header.frame_id == "camera", "a picture has the camera's frame"
    here.until(lambda: values_of(diagnostics)["target frame"] == "base")

    here.call(SetBool, "/perception_node/enable", SetBool.Request(data=False))
    here.until(lambda: humans[-1].humans == [] and points[-1].width == 0)
    assert humans[-1].header.frame_id == points[-1].header.frame_id == "base"
    here.until(lambda: any(each.action == Marker.DELETE for each in markers[-1].markers))
    assert {each.header.frame_id for each in markers[-1].markers} == {"base"}


def test_without_the_transform_nothing_is_published_and_it_is_told(wire: Callable[..., Wire]) -> None:
    here = wire(target_frame="odom", transform_timeout_s=0.05, diagnostics_period_s=0.1)
    humans, transforms = here.listen(HumanArray, "/humans"), here.listen(TFMessage, "/tf")
    markers = here.listen(MarkerArray, "/perception_node/markers")
    points = here.listen(PointCloud2, "/perception_node/points")
    overlays = here.listen(Image, "/perception_node/overlay")
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.send_until(lambda: overlays)
    reason = "no transform connects 'camera' with 'odom': people of this image are not published in 'odom'"
    here.until(lambda: reason in message_of(diagnostics))
    here.until(lambda: int(values_of(diagnostics)["unplaced"] or 0) >= 1)
    assert values_of(diagnostics)["target frame"] == "not known: people are not published"
    assert "people are published" not in message_of(diagnostics)
    assert values_of(diagnostics)["in work"] == "0"
    assert [len(each) for each in (humans, transforms, markers, points)] == [0, 0, 0, 0]
    assert here.estimator.steps >= 1, "tracks live on"

    own_robot = Robot(here)
    own_robot.wait_for_the_node()
    stamp_ns = (here.stamp_s + 100) * NS
    own_robot.tell(stamp_ns)
    own_robot.wait_until_heard(2)
    assert answer(here, humans, stamp_ns).header.frame_id == "odom"
    here.until(lambda: values_of(diagnostics)["target frame"] == "odom")


def test_a_camera_that_moves_in_the_target_frame(wire: Callable[..., Wire]) -> None:
    """A person at rest in the camera frame moves at the camera's velocity."""
    here = wire(target_frame="odom", transform_timeout_s=10.0)
    here.estimator.people |= {"velocity": np.zeros((1, 3)), "velocity_covariance": COVARIANCE[None]}
    humans, transforms = here.listen(HumanArray, "/humans"), here.listen(TFMessage, "/tf")
    moving = Robot(here).moving  # the camera's pose on the base is static
    here.until(lambda: moving.get_subscription_count() > 1)

    def tell(seconds_s: float) -> None:
        shift = BASE_FROM_CAMERA.copy()
        shift[0, 3] += 2.0 * seconds_s
        stamp_ns = START_NS + round(seconds_s * NS)
        moving.publish(
            TFMessage(transforms=[stamped("odom", "base", stamp_ns, shift @ np.linalg.inv(BASE_FROM_CAMERA))])
        )

    def velocity(message: Any) -> list[float]:
        (human,) = message.humans
        assert (message.header.frame_id, human.velocity_frame) == ("odom", "odom")
        return [human.velocity.x, human.velocity.y, human.velocity.z]

    tell(0.0)
    first = answer(here, humans, START_NS)
    assert np.isnan(velocity(first)).all(), "it is not known where the camera was before"
    assert np.isnan(first.humans[0].velocity_covariance).all()
    tell(0.2)
    second = answer(here, humans, START_NS + NS // 5)
    np.testing.assert_allclose(velocity(second), [2.0, 0.0, 0.0], atol=1e-6)
    turn = BASE_FROM_CAMERA[:3, :3]
    np.testing.assert_allclose(
        np.reshape(second.humans[0].velocity_covariance, (3, 3)), turn @ COVARIANCE @ turn.T, atol=1e-12
    )

    def places() -> list[float]:
        bodies = [each for message in transforms for each in message.transforms if each.child_frame_id == "body_7"]
        return [each.transform.translation.x for each in bodies]

    here.until(lambda: len(places()) >= 2)
    assert places()[-1] - places()[0] == pytest.approx(0.4, abs=1e-6), "each at its own image's stamp"


def test_velocities_over_the_ground_keep_the_fixed_frame(wire: Callable[..., Wire]) -> None:
    here = wire(target_frame="base", fixed_frame="camera", transform_timeout_s=10.0)
    velocity = np.array([[0.5, 0.0, -1.0]])
    here.estimator.people |= {"velocity": velocity, "velocity_frame": "fixed"}
    humans = here.listen(HumanArray, "/humans")
    Robot(here).wait_for_the_node()
    message = answer(here, humans, START_NS)
    (human,) = message.humans
    assert (message.header.frame_id, human.velocity_frame) == ("base", "camera")
    np.testing.assert_array_equal([human.velocity.x, human.velocity.y, human.velocity.z], velocity[0])


def test_the_target_frame_may_change_while_the_node_runs(wire: Callable[..., Wire]) -> None:
    here = wire(transform_timeout_s=10.0)
    humans = here.listen(HumanArray, "/humans")
    own_robot = Robot(here)
    assert answer(here, humans, START_NS).header.frame_id == "camera"
    here.set(target_frame="base")
    own_robot.wait_for_the_node()
    assert answer(here, humans, START_NS + NS).header.frame_id == "base"
    here.set(target_frame="camera")
    message = answer(here, humans, START_NS + 2 * NS)
    spot = message.humans[0].pelvis.pose.position
    np.testing.assert_allclose([spot.x, spot.y, spot.z], PELVIS[0], rtol=1e-6)
    here.set(target_frame="")
    assert answer(here, humans, START_NS + 3 * NS).header.frame_id == "camera"
