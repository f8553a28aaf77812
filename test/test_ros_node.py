"""The node over real rclpy and DDS, with an estimator of known output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from multihmr2_ros.msg import BodyModel, Human, HumanArray  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from multihmr2_ros.ros.estimation import load_estimator  # noqa: E402
from multihmr2_ros.ros.node import PerceptionNode  # noqa: E402
from test.stand_in_estimator import FACES, PELVIS, TETRAHEDRON, StandInEstimator  # noqa: E402

DOMAIN_ID = 88  # of no other test file
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=50)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Wire:
    """The node under test and a node of ours on the same domain: publishes images, keeps what comes."""

    def __init__(self, seconds_s: float = 0.0, **parameters: Any) -> None:
        self.estimator = StandInEstimator(None, seconds_s)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = PerceptionNode(lambda _: self.estimator, parameter_overrides=overrides)
        self.peer = rclpy.create_node("peer")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.image = self.peer.create_publisher(Image, "image", BEST_EFFORT)
        self.compressed = self.peer.create_publisher(CompressedImage, "image/compressed", BEST_EFFORT)
        self.camera_info = self.peer.create_publisher(CameraInfo, "camera_info", BEST_EFFORT)
        self.stamp_s = 100

    def listen(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        came: list[Any] = []
        self.peer.create_subscription(kind, topic, came.append, qos)
        self.until(lambda: self.peer.count_publishers(topic) > 0)
        return came

    def until(self, condition: Callable[[], Any], timeout_s: float = 8.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited for {timeout_s} s"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds_s: float) -> None:
        deadline = time.monotonic() + seconds_s
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def send(self, message: Any = None) -> Any:
        """Publish an image (a grey one by default), a second after the last one."""
        message = image_message() if message is None else message
        self.stamp_s += 1
        message.header.stamp.sec = self.stamp_s
        publisher = self.compressed if isinstance(message, CompressedImage) else self.image
        self.until(lambda: publisher.get_subscription_count() > 0)
        publisher.publish(message)
        return message

    def send_until(self, condition: Callable[[], Any], message: Any = None) -> None:
        """Send an image, again every second: with best effort, the first one may be lost."""
        for _ in range(8):
            self.send(message)
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                if condition():
                    return
                self.executor.spin_once(timeout_sec=0.02)
        raise AssertionError("eight images did not bring about what was waited for")

    def exchange(self, came: list[Any], message: Any = None) -> Any:
        """Send an image and wait for the answer about it."""
        for _ in range(5):  # best effort
            sent = self.send(message)
            try:
                self.until(lambda: came and came[-1].header.stamp == sent.header.stamp, 2.0)  # noqa: B023
            except AssertionError:
                continue
            return came[-1]
        raise AssertionError("no answer to five images")

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.peer.create_client(kind, f"/perception_node/{name}")
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        assert self.node.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.peer.destroy_node()


def image_message(**changes: Any) -> Image:
    """A grey image, some of its fields changed without the others."""
    message = Image(height=48, width=64, encoding="rgb8", step=3 * 64)
    message.data.frombytes(np.full((48, 64, 3), 90, np.uint8).tobytes())
    message.header.frame_id = "camera"
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def calibration(k: float, p: float) -> CameraInfo:
    message = CameraInfo(width=64, height=48)
    message.k = [k, 0.0, 32.0, 0.0, k, 24.0, 0.0, 0.0, 1.0]
    message.p = [p, 0.0, 32.0, 0.0, 0.0, p, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    rclpy.init(domain_id=DOMAIN_ID)
    wires: list[Wire] = []

    def make(**options: Any) -> Wire:
        wires.append(Wire(**options))
        return wires[-1]

    yield make
    for each in wires:
        each.close()
    rclpy.try_shutdown()


def test_a_person_comes_out_where_they_are_with_one_id_everywhere(wire: Callable[..., Wire]) -> None:
    here = wire()
    transforms, markers = here.listen(TFMessage, "/tf"), here.listen(MarkerArray, "/perception_node/markers")
    points, overlays = (
        here.listen(PointCloud2, "/perception_node/points"),
        here.listen(Image, "/perception_node/overlay"),
    )
    models = here.listen(BodyModel, "/perception_node/body_model", LATCHED)
    humans = here.exchange(here.listen(HumanArray, "/humans"))
    here.until(lambda: transforms and markers and points and overlays and models)

    assert humans.header.frame_id == "camera"
    assert humans.intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    (human,) = humans.humans
    place = human.pelvis.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], PELVIS[0], rtol=1e-6)
    assert (human.track_id, human.frame_id, human.state) == (7, "body_7", Human.CONFIRMED)
    assert human.velocity_frame == "camera"
    assert len(human.vertices) == 0
    assert humans.inference_time >= 0
    assert humans.total_latency >= humans.age_at_receipt > 0

    (transform,) = transforms[-1].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("camera", "body_7")
    assert transform.header.stamp == humans.header.stamp
    shift = transform.transform.translation
    np.testing.assert_allclose([shift.x, shift.y, shift.z], PELVIS[0], rtol=1e-6)
    assert transform.transform.rotation == human.pelvis.pose.orientation

    assert {(marker.ns, marker.id, marker.action) for marker in markers[-1].markers} == {
        ("mesh", 7, Marker.ADD),
        ("label", 7, Marker.ADD),
    }
    mesh = next(marker for marker in markers[-1].markers if marker.ns == "mesh")
    assert mesh.header == humans.header
    corners = np.array([[point.x, point.y, point.z] for point in mesh.points])
    np.testing.assert_allclose(corners, (PELVIS + TETRAHEDRON)[FACES.ravel()], rtol=1e-6)

    assert points[-1].width == len(TETRAHEDRON)
    assert (overlays[-1].height, overlays[-1].width, overlays[-1].encoding) == (48, 64, "rgb8")
    assert models[-1].faces.tolist() == FACES.ravel().tolist()
    assert models[-1].phenotype_labels[0] == "gender"


def test_deactivation_says_that_nobody_is_there(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, markers = here.listen(HumanArray, "/humans"), here.listen(MarkerArray, "/perception_node/markers")
    here.exchange(humans)
    here.until(lambda: markers)
    here.node.trigger_deactivate()
    here.until(lambda: not humans[-1].humans and markers[-1].markers[0].action == Marker.DELETE)
    assert humans[-1].header.frame_id == "camera"
    assert list(humans[-1].k) == [0.0] * 9
    assert {(marker.ns, marker.id) for marker in markers[-1].markers} == {("mesh", 7), ("label", 7)}
    assert {marker.action for marker in markers[-1].markers} == {Marker.DELETE}


def test_markers_of_a_track_that_ended_are_deleted_once(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, markers = here.listen(HumanArray, "/humans"), here.listen(MarkerArray, "/perception_node/markers")
    here.exchange(humans)
    here.estimator.people["track_id"] = np.array([9])
    here.exchange(humans)
    here.exchange(humans)
    here.until(lambda: len(markers) >= 3)
    actions = [{(marker.ns, marker.id): marker.action for marker in message.markers} for message in markers]
    change = next(index for index, action in enumerate(actions) if ("mesh", 9) in action)
    assert actions[change][("mesh", 7)] == actions[change][("label", 7)] == Marker.DELETE
    assert all(("mesh", 7) not in action for action in actions[change + 1 :])


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ({"encoding": "32FC1"}, "encoding"),
        ({"encoding": "no such"}, "encoding"),
        ({"height": 0, "width": 0}, "pixels"),
        ({"height": 4000}, "bytes"),
        ({"step": 1}, "rows"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_and_the_next_one_is_processed(
    wire: Callable[..., Wire], fault: dict[str, Any], what: str
) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    here.send_until(lambda: diagnostics and what in diagnostics[-1].status[0].message, image_message(**fault))
    assert not humans
    assert len(here.exchange(humans).humans) == 1


def test_damaged_bytes_and_a_failing_estimator_do_not_stop_the_node(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics, humans = here.listen(DiagnosticArray, "/diagnostics"), here.listen(HumanArray, "/humans")
    rng = np.random.default_rng(0)
    here.until(lambda: here.image.get_subscription_count() > 0)
    for _ in range(100):
        here.image.publish(b"\0\1\0\0" + rng.bytes(int(rng.integers(0, 300))))
        here.spin(0.005)
    black = image_message()
    black.data = bytes(len(black.data))
    here.until(lambda: diagnostics and "damaged Image" in diagnostics[-1].status[0].message)
    here.send_until(lambda: "a black image" in diagnostics[-1].status[0].message, black)
    assert len(here.exchange(humans).humans) == 1


def test_where_the_intrinsics_came_from_is_said(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    here.until(lambda: here.camera_info.get_subscription_count() > 0)

    def after(camera_info: CameraInfo) -> HumanArray:
        here.camera_info.publish(camera_info)
        here.spin(0.2)
        return here.exchange(humans)

    assert here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    raw = after(calibration(k=50.0, p=40.0))
    assert (raw.intrinsics_source, raw.k[0]) == (HumanArray.INTRINSICS_K, 50.0)
    here.node.set_parameters([Parameter("image_rectified", value=True)])
    rectified = here.exchange(humans)
    assert (rectified.intrinsics_source, rectified.k[0]) == (HumanArray.INTRINSICS_P, 40.0)
    assert after(calibration(k=0.0, p=0.0)).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    other_size = calibration(k=50.0, p=40.0)
    other_size.width = 640
    assert after(other_size).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    here.node.set_parameters([Parameter("vertical_fov_rad", value=1.0)])
    parameter = here.exchange(humans)
    assert parameter.intrinsics_source == HumanArray.INTRINSICS_PARAMETER
    assert parameter.vertical_fov == pytest.approx(1.0)


def test_points_of_a_distorted_raw_image_are_those_of_the_image_as_it_came(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    here.until(lambda: here.camera_info.get_subscription_count() > 0)
    distorted = calibration(k=50.0, p=40.0)
    distorted.distortion_model, distorted.d = "plumb_bob", [0.2, 0.05, 0.01, -0.01, 0.0]
    here.camera_info.publish(distorted)
    here.spin(0.2)
    (human,) = here.exchange(humans).humans
    rays = np.array([[joint.x, joint.y, joint.z] for joint in human.joints])
    coefficients = np.array(distorted.d)
    expected, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.reshape(distorted.k, (3, 3)), coefficients)
    np.testing.assert_allclose(np.reshape(human.joints_2d, (-1, 2)), expected[:, 0], atol=1e-3)
    assert not here.estimator.images[-1][0, 0].any(), "the network sees a corner without a pixel behind it"


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
@pytest.mark.parametrize("durability", [DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL])
def test_every_publisher_of_images_matches(
    wire: Callable[..., Wire], reliability: ReliabilityPolicy, durability: DurabilityPolicy
) -> None:
    here = wire()
    here.peer.destroy_publisher(here.image)
    here.image = here.peer.create_publisher(
        Image, "image", QoSProfile(depth=1, reliability=reliability, durability=durability)
    )
    assert len(here.exchange(here.listen(HumanArray, "/humans")).humans) == 1


def test_the_real_estimator_in_the_node(wire: Callable[..., Wire], small_checkpoint: Path) -> None:
    here = wire()
    here.node.trigger_deactivate()
    here.node.trigger_cleanup()
    here.node._make_estimator = load_estimator
    here.node.set_parameters([Parameter("checkpoint", value=str(small_checkpoint)), Parameter("device", value="cpu")])
    here.node.trigger_configure()
    here.node.trigger_activate()
    models = here.listen(BodyModel, "/perception_node/body_model", LATCHED)
    humans = here.exchange(here.listen(HumanArray, "/humans"))
    here.until(lambda: models)
    assert len(models[-1].bone_labels) == len(humans.humans[0].joints) == 163
    assert len(models[-1].faces) == 3 * 1226
    assert humans.inference_time > 0


def test_missing_inputs_are_named(wire: Callable[..., Wire]) -> None:
    here = wire(diagnostics_period_s=0.1)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.until(lambda: diagnostics and diagnostics[-1].status[0].message == "no image received on /image")
    here.exchange(here.listen(HumanArray, "/humans"))
    here.until(lambda: "no camera_info received" in diagnostics[-1].status[0].message)
    values = {value.key: value.value for value in diagnostics[-1].status[0].values}
    assert values["device"] == "cpu"
    assert int(values["processed"]) >= 1


def test_only_the_newest_image_is_processed_and_the_others_are_counted(wire: Callable[..., Wire]) -> None:
    here = wire(seconds_s=0.2)
    humans = here.listen(HumanArray, "/humans")
    here.exchange(humans)
    before, dropped_before = len(here.estimator.images), humans[-1].dropped_frames
    sent = 0
    start = time.monotonic()
    while time.monotonic() - start < 2.0:
        now = here.peer.get_clock().now().to_msg()
        message = image_message()
        message.header.stamp = now
        here.image.publish(message)
        sent += 1
        here.spin(0.03)
    here.until(lambda: len(humans) > 1)
    here.spin(0.6)
    processed = len(here.estimator.images) - before
    dropped = humans[-1].dropped_frames - dropped_before
    assert 5 <= processed <= 12
    assert processed + dropped <= sent
    assert processed + dropped >= 0.9 * sent  # best effort: a few may be lost on the way
    latencies = [message.total_latency for message in humans if message.header.stamp.sec > 1_000_000]
    assert max(latencies) < 2 * 0.2 + 0.05


def test_compressed_images(wire: Callable[..., Wire]) -> None:
    here = wire(image_transport="compressed")
    humans = here.listen(HumanArray, "/humans")
    encoded = cv2.imencode(".png", np.full((48, 64, 3), (10, 20, 200), np.uint8))[1]
    message = CompressedImage(format="png", data=encoded.tobytes())
    message.header.frame_id = "camera"
    assert here.exchange(humans, message).header.frame_id == "camera"
    assert here.estimator.images[-1][0, 0].tolist() == [200, 20, 10]


def test_images_older_than_the_maximum_age_are_dropped(wire: Callable[..., Wire]) -> None:
    here = wire(max_age_s=1.0)
    humans = here.listen(HumanArray, "/humans")
    here.send()  # stamped decades ago
    here.spin(0.5)
    assert not humans
    message = image_message()
    message.header.stamp = here.peer.get_clock().now().to_msg()
    here.image.publish(message)
    here.until(lambda: humans)
    assert humans[-1].dropped_frames == 1


def test_parameters_change_live_or_are_refused_with_the_reason(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")

    def reason(name: str, value: Any) -> str:
        (result,) = here.node.set_parameters([Parameter(name, value=value)])
        return "" if result.successful else result.reason

    assert reason("score_threshold", 0.7) == ""
    assert reason("publish_vertices", True) == ""
    assert len(here.exchange(humans).humans[0].vertices) == 3 * len(TETRAHEDRON)
    assert here.estimator.config.score_threshold == 0.7
    for name, value in (("score_threshold", 1.5), ("score_threshold", float("nan")), ("mesh", "medium")):
        assert name in reason(name, value)
    assert "not configured" in reason("max_people", 5)
    here.node.trigger_deactivate()
    here.node.trigger_cleanup()
    assert reason("max_people", 5) == ""
    assert here.node.parameters.max_people == 5
    assert reason("diagnostics_period_s", 2.0)  # read once, when the node starts
    assert here.node.parameters.diagnostics_period_s == 1.0


def test_services(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    here.exchange(humans)
    assert here.call(SetBool, "enable", SetBool.Request(data=False)).success
    here.until(lambda: not humans[-1].humans)
    count = len(here.estimator.images)
    here.send()
    here.spin(0.3)
    assert len(here.estimator.images) == count
    assert here.call(SetBool, "enable", SetBool.Request(data=True)).success
    assert here.call(Trigger, "reset", Trigger.Request()).success
    here.exchange(humans)
    assert here.estimator.resets == 1


def test_every_legal_order_of_the_lifecycle(wire: Callable[..., Wire]) -> None:
    here = wire(autostart=False)
    humans: list[HumanArray] = []
    assert not here.node.is_active
    here.node.trigger_configure()
    here.node.trigger_cleanup()
    here.node.trigger_configure()
    here.peer.create_subscription(HumanArray, "/humans", humans.append, RELIABLE)
    for _ in range(2):
        here.node.trigger_activate()
        assert len(here.exchange(humans).humans) == 1
        here.node.trigger_deactivate()
        here.until(lambda: not humans[-1].humans)
    here.node.trigger_activate()
    here.node.trigger_shutdown()
    assert not here.node.is_active


def test_a_mistake_in_the_configuration_leaves_the_node_unconfigured() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "multihmr2_ros.ros.node", "--ros-args", "-p", "checkpoint:=no_such_file.pt"],
        capture_output=True,
        text=True,
        env=own_environment(),
        timeout=60,
    )
    assert finished.returncode == 2
    assert "no_such_file.pt" in finished.stdout + finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr


def test_sigint_in_the_middle_of_an_inference_ends_the_process_within_three_seconds() -> None:
    code = (
        "import sys; from multihmr2_ros.ros.node import main; "
        "from test.stand_in_estimator import slow_estimator; sys.exit(main(estimator_factory=slow_estimator))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=own_environment(), cwd=Path(__file__).parents[1])
    rclpy.init(domain_id=DOMAIN_ID)
    try:
        peer = rclpy.create_node("peer")
        publisher = peer.create_publisher(Image, "image", RELIABLE)
        humans: list[HumanArray] = []
        peer.create_subscription(HumanArray, "/humans", humans.append, RELIABLE)
        deadline = time.monotonic() + 40
        while publisher.get_subscription_count() == 0:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        publisher.publish(image_message())
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=3.0) == 0
        rclpy.spin_once(peer, timeout_sec=1.0)
        assert [len(message.humans) for message in humans] == [0], "its last word is that nobody is there"
    finally:
        process.kill()
        rclpy.try_shutdown()


def own_environment() -> dict[str, str]:
    return os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID)}
