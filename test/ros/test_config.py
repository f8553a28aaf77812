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

"""The files in config/ (parameters, RViz displays, the Fast DDS profile) against the node and the middleware."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from test import paths

rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.ros.domain import reserve_domain
from multihmr2_ros.ros.node import PerceptionNode
from multihmr2_ros.ros.parameters import DEFAULTS, RULES, NodeParameters
from multihmr2_ros.ros.restarts import make_configuration
from test.helpers.ros_domain import DOMAIN_ID
from test.helpers.stand_in_estimator import StandInEstimator

CONFIG = paths.ROOT / "config"
PROFILES_DOMAIN_ID = reserve_domain()  # for processes whose shared memory is inspected: no other process maps it
SEGMENT_BYTES = 32 * 1024 * 1024
MESSAGE_OF_DISPLAY = {
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
}
HISTORY = {"Keep Last": HistoryPolicy.KEEP_LAST}
RELIABILITY = {"Reliable": ReliabilityPolicy.RELIABLE, "Best Effort": ReliabilityPolicy.BEST_EFFORT}
DURABILITY = {"Volatile": DurabilityPolicy.VOLATILE, "Transient Local": DurabilityPolicy.TRANSIENT_LOCAL}
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CONFIG.parent / "scripts"))
    return importlib.import_module("parameter_table")


# --- parameters


def test_the_parameter_file_is_what_the_table_says(generator: ModuleType) -> None:
    text = (CONFIG / "perception.yaml").read_text(encoding="utf-8")
    assert text == generator.yaml_file(), "run: python scripts/parameter_table.py"
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert values == DEFAULTS
    assert {name: type(value) for name, value in values.items()} == {name: type(DEFAULTS[name]) for name in DEFAULTS}


def test_every_description_and_range_is_in_the_parameter_file() -> None:
    text = " ".join((CONFIG / "perception.yaml").read_text(encoding="utf-8").replace("#", " ").split())
    for name, rule in RULES.items():
        assert " ".join(rule.description.replace("#", " ").split()) in text, name
        for word in (rule.low, rule.high, *rule.choices):
            assert word is None or str(word) in text, name


@pytest.mark.parametrize("namespace", ["", "/robot"])
def test_a_node_reads_the_parameter_file(tmp_path: Path, namespace: str) -> None:
    """One default is changed, so that an ignored file is detected."""
    changed = tmp_path / "perception.yaml"
    text = (CONFIG / "perception.yaml").read_text(encoding="utf-8")
    changed.write_text(text.replace("score_threshold: 0.4", "score_threshold: 0.9"))
    rclpy.init(domain_id=DOMAIN_ID)
    try:
        arguments = ["--ros-args", "--params-file", str(changed), "-p", "autostart:=false"]
        node = PerceptionNode(StandInEstimator, cli_args=arguments, namespace=namespace)
        read = {name: node.get_parameter(name).value for name in DEFAULTS}
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    assert read == DEFAULTS | {"score_threshold": 0.9, "autostart": False}


@pytest.mark.parametrize("smoothing", ["auto", "always", "never"])
def test_smoothing_of_the_node_is_that_of_its_estimator(smoothing: Any) -> None:
    parameters = NodeParameters(smoothing=smoothing)
    assert make_configuration(parameters, EstimatorConfig()).smoothing == smoothing


# --- RViz


def displays() -> list[dict[str, Any]]:
    return yaml.safe_load((CONFIG / "perception.rviz").read_text())["Visualization Manager"]["Displays"]


def profile(topic: dict[str, Any]) -> QoSProfile:
    """Return the QoS of a display's `Topic`."""
    return QoSProfile(
        depth=topic["Depth"],
        history=HISTORY[topic["History Policy"]],
        reliability=RELIABILITY[topic["Reliability Policy"]],
        durability=DURABILITY[topic["Durability Policy"]],
    )


def test_rviz_shows_what_the_node_publishes() -> None:
    rclpy.init(domain_id=DOMAIN_ID)
    try:
        node = PerceptionNode(StandInEstimator)
        offered = {publisher.topic_name: publisher for publisher in node.publishers}
        types = {
            topic: [f"{publisher.msg_type.__module__.split('.')[0]}/msg/{publisher.msg_type.__name__}"]
            for topic, publisher in offered.items()
        }
        shown = {display["Topic"]["Value"]: display for display in displays() if display["Class"] in MESSAGE_OF_DISPLAY}
        assert set(shown) == {f"/perception_node/{name}" for name in ("markers", "overlay", "points")}
        for topic, display in shown.items():
            assert types[topic] == [MESSAGE_OF_DISPLAY[display["Class"]]]
            compatibility, reason = qos_check_compatible(offered[topic].qos_profile, profile(display["Topic"]))
            assert compatibility != QoSCompatibility.ERROR, reason
        assert "/tf" in offered, "the TF display"
        assert node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


def test_rviz_matches_every_camera_and_draws_only_the_people_over_it() -> None:
    names = [display["Name"] for display in displays()]
    (camera,) = [display for display in displays() if display["Class"] == "rviz_default_plugins/Camera"]
    assert profile(camera["Topic"]).reliability == ReliabilityPolicy.BEST_EFFORT
    assert set(camera["Visibility"]) - {"Value"} == set(names) - {camera["Name"]}
    assert camera["Visibility"]["People"]
    assert len(set(names)) == len(names)


def test_rviz_is_set_up_for_an_optical_frame() -> None:
    """z forward, y down: the floor is parallel to x and z and below the camera; the view is upright, from behind the
    camera."""
    manager = yaml.safe_load((CONFIG / "perception.rviz").read_text())["Visualization Manager"]
    (grid,) = [display for display in displays() if display["Class"] == "rviz_default_plugins/Grid"]
    assert (grid["Plane"], grid["Reference Frame"]) == ("XZ", "<Fixed Frame>")
    assert grid["Offset"]["Y"] > 0
    view = manager["Views"]["Current"]
    assert view["Pitch"] < 0, "RViz's orbit: below is where z is less, in an optical frame behind"
    assert view["Yaw"] == pytest.approx(1.5 * 3.14159265, abs=1e-3), "up is -y"


# --- Fast DDS

# Maps segments of other processes, too: a process that was killed leaves messages in the ports of its domain.
SEGMENTS = """
import pathlib, rclpy
def find_segments():
    return {path for path in pathlib.Path("/dev/shm").glob("fastrtps_*") if "_port" not in path.name}
others = find_segments()
rclpy.init()
node = rclpy.create_node("segments")
maps = pathlib.Path("/proc/self/maps").read_text()
print(max(path.stat().st_size for path in find_segments() - others if f"{path}\\n" in maps))
rclpy.shutdown()
"""


def with_profiles(path: Path | None) -> dict[str, str]:
    """Return this process's environment on a separate domain, with profiles from path only."""
    environment = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    return (
        environment
        | {"ROS_DOMAIN_ID": str(PROFILES_DOMAIN_ID)}
        | ({} if path is None else dict.fromkeys(PROFILE_VARIABLES, str(path)))
    )


def segment_bytes(path: Path | None) -> tuple[int, str]:
    """Return the size of a process's shared memory with these profiles, and the output of Fast DDS about them."""
    code = [sys.executable, "-c", SEGMENTS]
    finished = subprocess.run(code, env=with_profiles(path), capture_output=True, text=True, timeout=120, check=True)
    *complaints, size = finished.stdout.splitlines()
    return int(size), "\n".join(complaints) + finished.stderr


needs_fast_dds = pytest.mark.skipif(
    os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp", reason="another middleware is used"
)


@needs_fast_dds
def test_the_profile_is_accepted_and_makes_the_shared_memory_large_enough() -> None:
    before, _ = segment_bytes(None)
    after, complaints = segment_bytes(CONFIG / "fastdds.xml")
    assert before < 640 * 480 * 3
    assert SEGMENT_BYTES <= after < 1.2 * SEGMENT_BYTES
    assert complaints == ""


@needs_fast_dds
def test_a_damaged_profile_would_be_noticed(tmp_path: Path) -> None:
    damaged = tmp_path / "fastdds.xml"
    damaged.write_text((CONFIG / "fastdds.xml").read_text().replace("segment_size", "segment_width"))
    size, complaints = segment_bytes(damaged)
    assert size < SEGMENT_BYTES
    assert "XMLPARSER" in complaints


@pytest.mark.parametrize(
    ("given", "distribution", "expected"),
    [
        ({}, "jazzy", {"FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"}),
        ({}, "humble", {"FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"}),
        ({}, "kilted", {"FASTDDS_DEFAULT_PROFILES_FILE"}),  # which warns about the older name
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "mine.xml"}, "jazzy", set()),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "mine.xml"}, "jazzy", set()),
    ],
)
def test_the_environment_names_the_profile_unless_the_user_has_one(
    given: dict[str, str], distribution: str, expected: set[str]
) -> None:
    """Run scripts/env.sh up to the activation of the virtual environment."""
    root = CONFIG.parent
    text = (root / "scripts" / "env.sh").read_text()
    start = text.index('if [ -z "${FASTDDS')
    block = text[start : text.index("\nfi\n", start) + 4]
    script = f"_multihmr2_root={root}\n{block}\nenv | grep '^FAST.*PROFILES' || true\n"
    environment = {"PATH": os.environ["PATH"], "ROS_DISTRO": distribution} | given
    lines = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in lines.split())
    assert found == given | dict.fromkeys(expected, str(CONFIG / "fastdds.xml"))


PUBLISHER = """
import rclpy, time
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
publisher = rclpy.create_node("camera").create_publisher(
    Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
image = Image(height=480, width=640, encoding="rgb8", step=3 * 640)
image.data.frombytes(bytes(480 * 640 * 3))
while not publisher.get_subscription_count():
    time.sleep(0.05)
time.sleep(0.5)
begin = time.monotonic()
for index in range(180):
    time.sleep(max(0.0, begin + index / 30 - time.monotonic()))
    image.header.stamp.sec = index
    publisher.publish(image)
time.sleep(0.5)
"""
SUBSCRIBER = """
import rclpy, time
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node, came = rclpy.create_node("viewer"), []
node.create_subscription(
    Image, "image", lambda _: came.append(time.monotonic()),
    QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT), raw=True)
begin = time.monotonic()
while time.monotonic() - (came[-1] if came else begin + 20) < 2:
    rclpy.spin_once(node, timeout_sec=0.1)
print(len(came))
"""


def arrived(path: Path | None) -> int:
    """Return how many of 180 images of 640 × 480 px, published at 30 Hz with best effort, arrive in another process."""
    environment = with_profiles(path)
    viewer = subprocess.Popen([sys.executable, "-c", SUBSCRIBER], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        subprocess.run([sys.executable, "-c", PUBLISHER], env=environment, timeout=60, check=True)
        return int(viewer.communicate(timeout=30)[0])
    finally:
        viewer.kill()


@needs_fast_dds
@pytest.mark.slow
def test_images_arrive_with_the_profile() -> None:
    """The losses without the profile depend on the kernel's buffers, so the test only asserts that it is not worse."""
    plain, profiled = arrived(None), arrived(CONFIG / "fastdds.xml")
    print(f"640 x 480 at 30 Hz, of 180 images: {plain} without the profile, {profiled} with it")
    assert profiled >= 170
    assert profiled >= plain - 3
