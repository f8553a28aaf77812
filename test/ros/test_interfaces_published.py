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

"""People in the messages of other packages, published by the node and received over DDS.

The message packages are built on the first run from the definitions in `test.helpers.optional_messages`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from multihmr2_ros.msg import HumanArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from multihmr2_ros.body import Body
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.people import People, TrackState
from multihmr2_ros.ros.interfaces.bodies import KEEP_TOPICS_S, MAX_BODIES, BodiesOutput
from multihmr2_ros.ros.interfaces.outputs import InterfaceOutputs, import_messages
from multihmr2_ros.ros.parameters import NodeParameters
from multihmr2_ros.ros.target_frame import CameraFrame, TargetFrame
from test.helpers.optional_messages import importable
from test.helpers.people_factory import make_people, pinhole
from test.helpers.posed_people import posed_people
from test.helpers.ros_wire import LATCHED, Peer, Wire, image_message, message_of, values_of, wires
from test.helpers.stand_in_estimator import PELVIS, StandInEstimator

pytestmark = pytest.mark.slow

SYSTEM_DEFAULT = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.SYSTEM_DEFAULT, durability=DurabilityPolicy.SYSTEM_DEFAULT
)  # QoS of libhri's subscriptions
LEVEL = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.2], [0.0, 0.0, 0.0, 1.0]])
LABELS = tuple(f"bone_{index}" for index in range(163))
IMAGE = np.zeros((480, 640, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _packages() -> Iterator[None]:
    with importable("people_msgs", "hri_msgs", "vision_msgs"):
        yield


@pytest.fixture(scope="module")
def low() -> Body:
    return Body("low")


@pytest.fixture
def hri() -> Any:
    return import_messages("hri_msgs")


class Publisher(Peer):
    """Peer whose node publishes the interfaces of given people."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__()
        self.outputs = InterfaceOutputs(self.peer, dataclasses.replace(NodeParameters(), **parameters))
        self.stamp_s = 10

    def tell(self, people: People, fixed_frame: str = "odom", fixed_from_camera: np.ndarray | None = LEVEL) -> int:
        """Publish the people of an image one second after the last one and return its stamp (s)."""
        self.stamp_s += 1
        header = HeaderContent(self.stamp_s, 5, "camera")
        frame = CameraFrame(IMAGE, header=header, fixed_frame=fixed_frame, fixed_from_camera=fixed_from_camera)
        self.outputs.publish(frame, people, frame.place(people), LABELS)
        return self.stamp_s

    def close(self) -> None:
        self.outputs.destroy()
        super().close()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with wires():
        peer = Publisher()
        yield peer
        peer.close()


# --- people_msgs, as read by the social costmap layer


def test_people_are_told_in_the_fixed_frame_at_the_stamp_of_the_image(publisher: Publisher) -> None:
    # The layer subscribes to the absolute topic with best effort.
    came = publisher.listen(import_messages("people_msgs").People, "/people", qos_profile_sensor_data)
    people = make_people(
        2, pelvis=np.array([[0.5, 0.3, 4.0], [0.0, 0.2, 2.0]]), velocity=np.array([[0.0, 1.2, 0.0]] * 2),
        velocity_frame="fixed",
    )  # fmt: skip
    stamp_s = publisher.tell(people)
    publisher.until(lambda: came)
    assert (came[-1].header.frame_id, came[-1].header.stamp.sec, came[-1].header.stamp.nanosec) == ("odom", stamp_s, 5)
    first, second = came[-1].people
    assert (first.name, second.name) == ("body_1", "body_2")
    np.testing.assert_allclose([first.position.x, first.position.y, first.position.z], [4.0, -0.5, 0.9], atol=1e-6)
    assert (first.velocity.x, first.velocity.y, first.velocity.z) == (0.0, 1.2, 0.0)
    assert first.reliability == pytest.approx(people.score[0])
    assert list(first.tagnames) == ["age_class", "stature_m", "track_age_s"]
    assert len(first.tags) == len(first.tagnames)


def test_an_empty_list_takes_people_back(publisher: Publisher) -> None:
    came = publisher.listen(import_messages("people_msgs").People, "/people")

    def told(action: Callable[[], Any]) -> list[tuple[str, int]]:
        """Return the frame and the number of people of each message that the action causes."""
        before = len(came)
        action()
        publisher.spin(0.3)
        return [(message.header.frame_id, len(message.people)) for message in came[before:]]

    somebody, nobody = make_people(1), make_people(0)
    header = HeaderContent(99, 0, "camera")
    assert told(lambda: publisher.outputs.publish_empty(header)) == [], "nobody was told, and no fixed frame is known"
    assert told(lambda: publisher.tell(somebody)) == [("odom", 1)]
    assert told(lambda: publisher.tell(nobody)) == [("odom", 0)]
    assert told(lambda: publisher.tell(nobody)) == [("odom", 0)]
    assert told(lambda: publisher.tell(somebody)) == [("odom", 1)]
    assert told(lambda: publisher.outputs.publish_empty(header)) == [("odom", 0)]  # deactivated or disabled
    assert told(lambda: publisher.tell(somebody)) == [("odom", 1)]
    # No transform for a second: the last positions are no longer valid.
    assert told(lambda: publisher.tell(somebody, fixed_from_camera=None)) == [("odom", 0)]
    assert told(lambda: publisher.tell(somebody, fixed_from_camera=None)) == []
    assert publisher.outputs.facts["people"] == "not published: no transform from camera to odom"
    assert told(lambda: publisher.tell(somebody)) == [("odom", 1)]
    assert publisher.outputs.facts["people"] == "published"
    assert told(lambda: publisher.tell(somebody, fixed_frame="", fixed_from_camera=None)) == [("odom", 0)]
    assert publisher.outputs.facts["people"] == "not published: the parameter fixed_frame is not set"


def test_the_node_tells_people_in_its_fixed_frame(wire: Callable[..., Wire]) -> None:
    here = wire(fixed_frame="odom", diagnostics_period_s=0.1)
    here.estimator.people |= {"velocity": np.array([[0.0, 1.2, 0.0]]), "velocity_frame": "fixed"}
    came, diagnostics = (
        here.listen(import_messages("people_msgs").People, "/people"),
        here.listen(DiagnosticArray, "/diagnostics"),
    )
    here.send_until(lambda: values_of(diagnostics)["people"] == "not published: no transform from camera to odom")
    assert not came
    x, y, z, w = Rotation.from_matrix(LEVEL[:3, :3]).as_quat()
    pose = Transform(translation=Vector3(z=1.2), rotation=Quaternion(x=x, y=y, z=z, w=w))
    static = here.peer.create_publisher(TFMessage, "/tf_static", LATCHED)
    link = TransformStamped(header=Header(frame_id="odom"), child_frame_id="camera", transform=pose)
    static.publish(TFMessage(transforms=[link]))
    message = here.exchange(came)
    assert message.header.frame_id == "odom"
    (person,) = message.people
    expected = LEVEL[:3, :3] @ PELVIS[0] + LEVEL[:3, 3]
    np.testing.assert_allclose([person.position.x, person.position.y, person.position.z], expected, rtol=1e-6)
    assert (person.name, person.velocity.y) == ("body_7", 1.2)
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=False)).success
    here.until(lambda: not came[-1].people)
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=True)).success
    here.send_until(lambda: came[-1].people)
    here.node.trigger_deactivate()
    here.until(lambda: not came[-1].people)
    assert came[-1].header.frame_id == "odom"


# --- REP-155, as read by libhri


def test_bodies_over_the_wire(wire: Callable[..., Wire], low: Body, hri: Any) -> None:
    here = wire(autostart=False)
    people = posed_people(
        low, np.array([[0.1, 0.0, 3.0]]), k=pinhole(50.0, (48, 64)), image_size=(48, 64), track_id=np.array([7])
    )
    here.estimator.step = lambda *_, **__: people  # type: ignore[method-assign]
    here.estimator.body.bone_labels = low.bone_labels
    here.node.trigger_configure()
    here.node.trigger_activate()
    tracked = here.listen(hri.IdsList, "/humans/bodies/tracked", SYSTEM_DEFAULT)
    transforms = here.listen(TFMessage, "/tf")
    here.send_until(lambda: tracked and tracked[-1].ids)
    assert list(tracked[-1].ids) == ["b7"]
    assert tracked[-1].header.frame_id == "camera"
    here.until(lambda: "body_b7" in frames(transforms))
    same = {each.child_frame_id: each for message in transforms[-2:] for each in message.transforms}
    assert same["body_7"].transform == same["body_b7"].transform
    assert same["body_b7"].header.frame_id == "camera", "the parent is the sensor's frame"

    rois = here.listen(hri.NormalizedRegionOfInterest2D, "/humans/bodies/b7/roi", SYSTEM_DEFAULT)
    skeletons = here.listen(hri.Skeleton2D, "/humans/bodies/b7/skeleton2d", SYSTEM_DEFAULT)
    crops = here.listen(Image, "/humans/bodies/b7/cropped", SYSTEM_DEFAULT)
    here.send_until(lambda: rois and skeletons and crops)
    roi, skeleton, crop = rois[-1], skeletons[-1], crops[-1]
    for message in (roi, skeleton, crop):
        assert message.header.frame_id == "camera"
        assert message.header.stamp.sec > 100
    assert 0 <= roi.xmin < roi.xmax <= 1
    assert 0 <= roi.ymin < roi.ymax <= 1
    assert roi.c == pytest.approx(people.score[0])
    assert (crop.width, crop.height) == (round((roi.xmax - roi.xmin) * 64), round((roi.ymax - roi.ymin) * 48))
    assert crop.data[0] == 90, "the grey of the image"
    assert len(skeleton.skeleton) == 18
    for point, bone in (("LEFT_WRIST", "wrist.L"), ("RIGHT_KNEE", "lowerleg01.R")):
        found = skeleton.skeleton[getattr(hri.Skeleton2D, point)]
        expected = people.joints_2d[0, low.bone_labels.index(bone)] / [64, 48]
        assert (found.x, found.y, found.c) == pytest.approx((*expected, people.score[0]), abs=1e-5)


def test_nobody_is_tracked_when_nobody_is_there(wire: Callable[..., Wire], hri: Any) -> None:
    here = wire()
    tracked = here.listen(hri.IdsList, "/humans/bodies/tracked", LATCHED)
    here.send_until(lambda: tracked and tracked[-1].ids)
    here.estimator.people |= {"track_state": np.array([TrackState.TENTATIVE])}
    here.send_until(lambda: not tracked[-1].ids)
    here.estimator.people |= {"track_state": np.array([TrackState.CONFIRMED])}
    here.send_until(lambda: tracked[-1].ids)
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=False)).success
    here.until(lambda: not tracked[-1].ids)
    here.until(lambda: here.peer.count_publishers("/humans/bodies/b7/roi") == 0)
    assert here.call(SetBool, "/perception_node/enable", SetBool.Request(data=True)).success
    here.send_until(lambda: tracked[-1].ids)
    here.node.trigger_deactivate()
    here.until(lambda: not tracked[-1].ids)


def test_bodies_cost_nothing_while_nobody_listens(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, transforms = here.listen(HumanArray, "/humans"), here.listen(TFMessage, "/tf")
    here.exchange(humans)
    here.until(lambda: transforms)
    assert frames(transforms) == {"body_7"}
    assert not [name for name, _ in here.node.get_topic_names_and_types() if name.startswith("/humans/bodies/b")]


def test_who_listens_late_is_told_who_is_tracked(publisher: Publisher, hri: Any) -> None:
    publisher.tell(make_people(2))
    changed_s = publisher.tell(make_people(1))
    publisher.tell(make_people(1))  # without subscribers, and nothing new
    came = publisher.listen(hri.IdsList, "/humans/bodies/tracked", LATCHED)
    publisher.until(lambda: came)
    assert list(came[-1].ids) == ["b1"]
    assert came[-1].header.stamp.sec == changed_s


def test_topics_of_bodies_come_and_go_and_are_bounded(publisher: Publisher, hri: Any) -> None:
    now_s = 0.0
    bodies = BodiesOutput(publisher.peer, hri, "body_", clock=lambda: now_s)
    publisher.listen(hri.IdsList, "/humans/bodies/tracked")
    publisher.until(lambda: bodies.tracked.get_subscription_count() > 0)
    before = len(list(publisher.peer.publishers))

    def told(ids: range) -> set[str]:
        """Return the ids that have topics after these ids were seen."""
        people = make_people(len(ids), track_id=np.array(ids, int))
        header = HeaderContent(1, 0, "camera")
        frame = CameraFrame(IMAGE, header=header)
        bodies.publish(frame, people, frame.place(people), LABELS)
        topics = [each.topic_name.split("/") for each in publisher.peer.publishers if "/bodies/b" in each.topic_name]
        assert len(topics) == 3 * len({topic[3] for topic in topics})
        return {topic[3] for topic in topics}

    assert told(range(2)) == {"b0", "b1"}
    assert told(range(1)) == {"b0", "b1"}, "the other one may only be hidden"
    now_s = KEEP_TOPICS_S - 0.1
    assert told(range(1)) == {"b0", "b1"}
    now_s = KEEP_TOPICS_S + 0.1
    assert told(range(1)) == {"b0"}
    for first in range(100, 1100, 10):  # ids that never return, in rapid succession
        kept = told(range(first, first + 10))
        assert {f"b{number}" for number in range(first, first + 10)} <= kept
        assert len(kept) <= MAX_BODIES
    assert len(told(range(2000, 2000 + 2 * MAX_BODIES))) == MAX_BODIES
    bodies.publish_empty(HeaderContent())
    assert len(list(publisher.peer.publishers)) == before
    bodies.destroy()


def test_bodies_that_come_and_go_do_not_disturb_the_executor(wire: Callable[..., Wire], hri: Any) -> None:
    here = wire(diagnostics_period_s=0.1)
    tracked, diagnostics = (
        here.listen(hri.IdsList, "/humans/bodies/tracked"),
        here.listen(DiagnosticArray, "/diagnostics"),
    )
    forever = itertools.count(0, 5)

    def step(*_: Any, **__: Any) -> People:
        first = next(forever)
        return make_people(5, track_id=np.arange(first, first + 5), image_size=(48, 64))

    here.estimator.step = step  # type: ignore[method-assign]
    clock = here.peer.create_timer(0.02, lambda: here.image.publish(image_message()))
    here.until(lambda: len(tracked) >= 60, 30.0)
    clock.cancel()
    reports = len(diagnostics)
    here.until(lambda: len(diagnostics) >= reports + 2)
    assert here.node.counters.unusable == 0
    topics = [each.topic_name for each in here.node.publishers if each.topic_name.startswith("/humans/bodies/b")]
    assert 0 < len(topics) <= 3 * MAX_BODIES


def test_several_cameras_have_bodies_of_their_own(publisher: Publisher, hri: Any) -> None:
    bodies = BodiesOutput(publisher.peer, hri, "front_")
    came = publisher.listen(hri.IdsList, "/humans/bodies/tracked")
    publisher.until(lambda: bodies.tracked.get_subscription_count() > 0)
    people, header = make_people(1), HeaderContent(1, 0, "camera")
    frame = CameraFrame(IMAGE, header=header)
    bodies.publish(frame, people, frame.place(people), LABELS)
    publisher.until(lambda: came)
    assert list(came[-1].ids) == ["front_1"]
    bodies.destroy()


# --- vision_msgs


def test_detections(wire: Callable[..., Wire]) -> None:
    here = wire()
    came = here.listen(import_messages("vision_msgs").Detection3DArray, "/perception_node/detections")
    message = here.exchange(came)
    (detection,) = message.detections
    assert message.header.frame_id == detection.header.frame_id == "camera"
    assert detection.id == "body_7"
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("person", pytest.approx(0.95))
    place = result.pose.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], PELVIS[0], rtol=1e-6)
    assert detection.bbox.center.orientation == result.pose.pose.orientation
    assert min(detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z) > 0
    here.node.trigger_deactivate()
    here.until(lambda: not came[-1].detections)


def test_a_costmap_gets_no_points_of_people_after_deactivation(wire: Callable[..., Wire]) -> None:
    here = wire()
    points = here.listen(PointCloud2, "/perception_node/points")
    assert here.exchange(points).width > 0
    here.node.trigger_deactivate()
    here.until(lambda: points[-1].width == 0)
    assert points[-1].header.frame_id == "camera"


# --- selection of interfaces


def test_never_means_never(wire: Callable[..., Wire]) -> None:
    here = wire(publish_people="never", publish_bodies="never", publish_detections="never", diagnostics_period_s=0.1)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.until(lambda: values_of(diagnostics)["people"] == "not published: publish_people is never")
    topics = {each.topic_name for each in here.node.publishers}
    assert not topics & {"/people", "/humans/bodies/tracked", "/perception_node/detections"}


def test_the_diagnostics_say_why_people_are_not_told(wire: Callable[..., Wire]) -> None:
    here = wire(publish_people="always", diagnostics_period_s=0.1)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.exchange(here.listen(HumanArray, "/humans"))
    here.until(lambda: values_of(diagnostics)["people"] == "not published: the parameter fixed_frame is not set")
    here.until(lambda: "people are not published" in message_of(diagnostics))
    assert values_of(diagnostics)["bodies"] == "published"


def test_topics_can_be_remapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from multihmr2_ros.ros.node import PerceptionNode

    with wires():
        node = PerceptionNode(StandInEstimator, cli_args=["--ros-args", "-r", "/people:=/robot/people"])
        topics = {each.topic_name for each in node.publishers}
        assert "/robot/people" in topics
        assert "/people" not in topics
        assert node.close()
        left = {each.topic_name for each in node.publishers}
        assert not left & topics - {"/diagnostics", "/rosout", "/parameter_events"} - {
            name for name in left if "transition_event" in name
        }, "a node that is cleaned up publishes nothing"
        node.destroy_node()


def frames(transforms: list[TFMessage]) -> set[str]:
    return {each.child_frame_id for message in transforms for each in message.transforms}


def test_what_has_a_place_is_in_the_target_frame_or_nowhere(publisher: Publisher, hri: Any) -> None:
    """Frames of bodies and boxes need the target frame; images of bodies do not."""
    target = TargetFrame("map", LEVEL, np.zeros((4, 4)))
    tracked = publisher.listen(hri.IdsList, "/humans/bodies/tracked")
    boxes = publisher.listen(import_messages("vision_msgs").Detection3DArray, "/peer/detections")
    transforms = publisher.listen(TFMessage, "/tf")
    people, header = make_people(1), HeaderContent(1, 0, "camera")
    for pose in (None, target):
        frame = CameraFrame(IMAGE, header=header, target_frame="map", target=pose)
        publisher.outputs.publish(frame, people, frame.place(people), LABELS)
        publisher.until(lambda: tracked)
        if frame.is_unplaced:
            publisher.spin(0.3)
            assert [len(boxes), len(transforms)] == [0, 0]
    publisher.until(lambda: boxes and transforms)
    assert boxes[-1].header.frame_id == "map"
    center = boxes[-1].detections[0].results[0].pose.pose.position
    expected = LEVEL[:3, :3] @ people.pelvis[0] + LEVEL[:3, 3]
    np.testing.assert_allclose([center.x, center.y, center.z], expected, atol=1e-6)
    (transform,) = transforms[-1].transforms
    moved = transform.transform.translation
    assert (transform.header.frame_id, transform.child_frame_id) == ("map", "body_b1")
    np.testing.assert_allclose([moved.x, moved.y, moved.z], expected, atol=1e-6)
