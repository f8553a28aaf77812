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

"""The launch files under real `ros2 launch`. Skipped if it is not installed: it has no wheels."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test import paths

rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
pytest.importorskip("launch_ros", reason="launch_ros is not installed: it has no wheel; on a ROS machine it is there")
pytest.importorskip("ros2launch", reason="ros2launch is not installed: it has no wheel; on a ROS machine it is there")

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_path
from diagnostic_msgs.msg import DiagnosticArray
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from sensor_msgs.msg import Image

from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.ros.parameters import DEFAULTS
from test.helpers.bag_factory import camera_messages, write_bag
from test.helpers.ros_domain import DOMAIN_ID
from test.ros.test_config import PROFILE_VARIABLES

try:
    SHARE = get_package_share_path("multihmr2_ros")
except PackageNotFoundError:
    pytest.skip("the package is not installed: make setup", allow_module_level=True)

LAUNCH = paths.ROOT / "launch"
TIMEOUT_S = 120.0  # for each step; a busy machine needs 40 s to start a launch with a node
ROS2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]


class Launched:
    """A running `ros2 launch`, and a node that inspects the processes it started."""

    def __init__(self, log: Path, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
        environment |= {"ROS_DOMAIN_ID": str(DOMAIN_ID), "ROS_LOG_DIR": str(log.parent)}
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*ROS2, "launch", *arguments],
                env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.peer = rclpy.create_node("peer")

    @property
    def output(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.output
            rclpy.spin_once(self.peer, timeout_sec=0.05)

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.peer.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def parameters(self, node: str) -> dict[str, Any]:
        names = [*DEFAULTS, "use_sim_time"]
        answer = self.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names))
        return {name: parameter_value_to_python(value) for name, value in zip(names, answer.values, strict=True)}

    def subscribed(self, namespace: str) -> set[str]:
        """Return the image and calibration topics to which the node subscribes."""
        try:
            found = self.peer.get_subscriber_names_and_types_by_node("perception_node", namespace)
        except rclpy.node.NodeNameNonExistentError:
            return set()
        return {name for name, (kind,) in found if kind.startswith("sensor_msgs")}

    def interrupt(self) -> int:
        """Send SIGINT to the whole process group, like Ctrl-C in a terminal, and return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=TIMEOUT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.peer.destroy_node()


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    rclpy.init(domain_id=DOMAIN_ID)
    running: list[Launched] = []

    def start(file: str, *arguments: str) -> Launched:
        """Start one of our launch files, or another one, given with its folder."""
        command = [file] if "/" in file else ["multihmr2_ros", file]
        running.append(Launched(tmp_path / f"launch_{len(running)}.log", *command, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.close()
    rclpy.try_shutdown()


def loaded(name: str) -> Any:
    """Return a launch file as a module."""
    loader = SourceFileLoader(name.replace(".", "_"), str(LAUNCH / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def arguments_of(name: str) -> dict[str, DeclareLaunchArgument]:
    description = loaded(name).generate_launch_description()
    return {argument.name: argument for argument in description.get_launch_arguments()}


def test_the_installed_files_are_those_of_the_source_tree() -> None:
    for folder in ("launch", "config"):
        for path in (LAUNCH.parent / folder).glob("*.*"):
            assert (SHARE / folder / path.name).read_bytes() == path.read_bytes(), "make setup"


def test_arguments_are_named_and_typed_like_what_they_set() -> None:
    module = loaded("perception.launch.py")
    known = DEFAULTS | {"use_sim_time": False}
    for argument, (parameter, kind) in module.PARAMETERS.items():
        assert type(known[parameter]) is kind
        assert parameter in (argument, f"image_{argument}")
    arguments = arguments_of("perception.launch.py")
    others = {"namespace", "cameras", "params_file", "log_level", "respawn", "rviz", "rviz_frame"}
    assert set(arguments) == set(module.PARAMETERS) | set(module.INPUTS) | others
    assert all(re.match(r"\w.+\.", argument.description) for argument in arguments.values())


def test_every_argument_of_perception_is_one_of_replay() -> None:
    replay = arguments_of("replay.launch.py")
    assert set(replay) == set(arguments_of("perception.launch.py")) | {"bag", "rate", "loop", "record"}
    assert replay["bag"].default_value is None, "it must be given"


@pytest.mark.parametrize("key", ["/**", "perception_node", "/perception_node"])
def test_the_parameter_file_arrives_and_given_arguments_override_it(
    launched: Callable[..., Launched], tmp_path: Path, key: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"{key}:\n  ros__parameters:\n    autostart: false\n    device: cuda:3\n    precision: fp32\n"
        "    score_threshold: 0.7\n    use_sim_time: true\n"
    )
    here = launched("perception.launch.py", f"params_file:={file}", "device:=cpu", "body_prefix:=front_")
    expected = {"autostart": False, "device": "cpu", "precision": "fp32", "score_threshold": 0.7}
    expected |= {"use_sim_time": True, "body_prefix": "front_"}
    assert here.parameters("/perception_node") == DEFAULTS | expected
    assert here.interrupt() == 0
    assert "process has finished cleanly" in here.output


def test_inputs_and_outputs_are_where_the_arguments_say(
    launched: Callable[..., Launched], small_checkpoint: Path
) -> None:
    here = launched(
        "perception.launch.py", "namespace:=robot", "image:=/front/image", "camera_info:=info", "depth:=depth",
        "device:=cpu", f"checkpoint:={small_checkpoint}",
    )  # fmt: skip
    here.until(lambda: here.subscribed("/robot") == {"/front/image", "/robot/info", "/robot/depth"})
    published = dict(here.peer.get_publisher_names_and_types_by_node("perception_node", "/robot"))
    for topic in ("/robot/humans", "/robot/perception_node/markers", "/tf", "/diagnostics"):
        assert topic in published
    compressed = Parameter("image_transport", value="compressed").to_parameter_msg()
    request = SetParameters.Request(parameters=[compressed])
    here.call(SetParameters, "/robot/perception_node/set_parameters", request)
    here.until(lambda: here.subscribed("/robot") == {"/front/image/compressed", "/robot/info", "/robot/depth"})

    pid = re.search(r"\[perception_node-1\]: process started with pid \[(\d+)\]", here.output)
    assert pid is not None
    variables = dict(
        entry.split("=", 1) for entry in Path(f"/proc/{pid[1]}/environ").read_text().split("\0") if "=" in entry
    )
    assert Path(variables["FASTDDS_DEFAULT_PROFILES_FILE"]).samefile(SHARE / "config" / "fastdds.xml")
    assert here.interrupt() == 0
    assert "process has finished cleanly" in here.output


def test_a_mistake_in_an_argument_is_named(launched: Callable[..., Launched]) -> None:
    here = launched("perception.launch.py", "checkpoint:=no_such_file.pt")
    assert here.process.wait(timeout=TIMEOUT_S) == 1
    assert "no_such_file.pt" in here.output
    assert "exit code 2" in here.output
    assert "perception_node-1 has failed: the reason is in its messages above" in here.output


INCLUDING = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch_ros.actions import PushRosNamespace


def generate_launch_description():
    ours = IncludeLaunchDescription("{file}", launch_arguments={arguments}.items())
    return LaunchDescription([GroupAction([PushRosNamespace("robot"), ours])])
"""


def test_a_mistake_in_the_configuration_is_not_repeated(launched: Callable[..., Launched]) -> None:
    here = launched("perception.launch.py", "respawn:=true", "checkpoint:=no_such_file.pt")
    assert here.process.wait(timeout=TIMEOUT_S) == 1
    assert here.output.count("checkpoint 'no_such_file.pt' does not exist") == 1
    assert "perception_node-1 cannot be configured: the reason is in its messages above" in here.output


def test_a_node_that_ends_is_started_again(launched: Callable[..., Launched]) -> None:
    here = launched("perception.launch.py", "respawn:=true", "autostart:=false")
    started = re.compile(r"process started with pid \[(\d+)\]")
    here.until(lambda: ("perception_node", "/") in here.peer.get_node_names_and_namespaces())
    os.kill(int(started.findall(here.output)[0]), signal.SIGKILL)
    here.until(lambda: len(started.findall(here.output)) == 2)
    assert here.interrupt() == 0


def test_a_launch_file_that_includes_ours_has_its_own_arguments_and_pushes_a_namespace(
    launched: Callable[..., Launched], tmp_path: Path
) -> None:
    file = tmp_path / "robot.launch.py"
    arguments = {"cameras": "front rear", "autostart": "false"}
    file.write_text(INCLUDING.format(file=SHARE / "launch" / "perception.launch.py", arguments=arguments))
    here = launched(str(file), "camera:=front")
    here.until(lambda: len([1 for name in here.peer.get_node_names() if name == "perception_node"]) == 2)
    found = here.peer.get_node_names_and_namespaces()
    assert {("perception_node", "/robot/front"), ("perception_node", "/robot/rear")} <= set(found)
    assert here.interrupt() == 0


def test_replay_finds_the_node_in_a_pushed_namespace(
    launched: Callable[..., Launched], tmp_path: Path, small_checkpoint: Path
) -> None:
    file, bag = tmp_path / "robot.launch.py", bag_of_images(tmp_path / "walk", "/robot/image")
    arguments = {"bag": str(bag), "image": "image", "device": "cpu", "checkpoint": str(small_checkpoint)}
    file.write_text(INCLUDING.format(file=SHARE / "launch" / "replay.launch.py", arguments=arguments))
    here = launched(str(file))
    here.until(lambda: "[play-2]: process started" in here.output)


def is_installed(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def refused(here: Launched, said: str) -> None:
    """Assert that the launch ends with this message before it starts any process."""
    assert here.process.wait(timeout=TIMEOUT_S) == 1
    assert said in here.output
    assert "process started" not in here.output


@pytest.mark.skipif(is_installed("rviz2"), reason="RViz is installed here")
@pytest.mark.parametrize("file", ["perception.launch.py", "replay.launch.py"])
def test_rviz_that_is_not_installed_is_named_before_anything_starts(
    launched: Callable[..., Launched], tmp_path: Path, file: str
) -> None:
    bag = [f"bag:={bag_of_images(tmp_path / 'walk')}"] if file.startswith("replay") else []
    refused(launched(file, "rviz:=true", "autostart:=false", *bag), "rviz:=true needs RViz: sudo apt install ros-")


@pytest.mark.parametrize(
    ("file", "argument", "said"),
    [
        ("perception.launch.py", "params_file:={tmp}/no.yaml", "no.yaml does not exist: give a YAML file"),
        ("perception.launch.py", "params_file:={tmp}", " is not a file: give a YAML file"),
        ("perception.launch.py", "chekpoint:=nano", "there is no argument chekpoint; did you mean checkpoint:=?"),
        ("replay.launch.py", "recrod:=people", "there is no argument recrod; did you mean record:=?"),
        ("replay.launch.py", "xyz:=1", "xyz:=1: there is no argument xyz; --show-args lists all arguments"),
        ("{launch}/perception.launch.py", "xyz:=1", "xyz:=1: there is no argument xyz"),
        ("perception.launch.py", "autostart:=maybe", "autostart:=maybe must be true or false"),
        ("replay.launch.py", "bag:={tmp}/no_bag", "no_bag does not exist: give a rosbag2 folder"),
        ("replay.launch.py", "rate:=fast", "rate:=fast must be a number above 0"),
        ("replay.launch.py", "rate:=0", "rate:=0 must be a number above 0"),
        ("replay.launch.py", "bag:={tmp}", "is not a bag: it contains no .mcap or .db3 file"),
        ("replay.launch.py", "bag:={launch}/replay.launch.py", "replay.launch.py is not a bag; give a rosbag2 folder"),
        ("replay.launch.py", "image:=/x", "has no images on /x; it has images on /camera/image_raw: image:=/camera/"),
        ("replay.launch.py", "transport:=compressed", "has only raw images on /camera/image_raw: omit transport:=comp"),
        ("replay.launch.py", "record:={tmp}", "already exists: give another name, or remove it"),
        ("replay.launch.py", "record:={tmp}/new/people", "/new does not exist: create it first"),
    ],
)
def test_arguments_are_checked_before_anything_starts(
    launched: Callable[..., Launched], tmp_path: Path, file: str, argument: str, said: str
) -> None:
    file, argument = file.format(launch=LAUNCH), argument.format(launch=LAUNCH, tmp=tmp_path)
    needs_bag = file.startswith("replay") and not argument.startswith("bag")
    bag = [f"bag:={bag_of_images(tmp_path / 'walk')}"] if needs_bag else []
    refused(launched(file, argument, *bag), said)


def test_a_recorder_that_ends_ends_everything(
    launched: Callable[..., Launched], tmp_path: Path, small_checkpoint: Path
) -> None:
    """Playing a bag without recording the result is pointless."""
    name = tmp_path / ("a" * 300)  # longer than file names can be
    here = launched(
        "replay.launch.py", f"bag:={bag_of_images(tmp_path / 'walk')}", f"record:={name}", "device:=cpu",
        f"checkpoint:={small_checkpoint}",
    )  # fmt: skip
    assert here.process.wait(timeout=TIMEOUT_S) == 1
    assert "record-2 has failed: the reason is in its messages above" in here.output
    assert re.search(r"\[perception_node-1\]: (process has finished|sending signal)", here.output)


def bag_of_images(path: Path, *topics: str) -> Path:
    """Write three seconds of gray images at 10 Hz, stamped in 2001, to each of the topics."""
    from rclpy.serialization import serialize_message

    with BagWriter(path) as bag:
        for index in range(30):
            message = Image(height=48, width=64, encoding="rgb8", step=3 * 64)
            message.data.frombytes(np.full((48, 64, 3), 90 + index, np.uint8).tobytes())
            message.header.frame_id = "camera_optical_frame"
            time_ns = 1_000_000_000_000_000_000 + index * 100_000_000
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(time_ns, 1_000_000_000)
            for topic in topics or ("/camera/image_raw",):
                bag.write(topic, "sensor_msgs/msg/Image", serialize_message(message), time_ns)
    return path


def test_compressed_images_are_selected_if_only_these_are_recorded(tmp_path: Path) -> None:
    context = LaunchContext()
    context.launch_configurations["bag"] = str(write_bag(tmp_path / "walk.mcap", camera_messages(1, "jpeg")))
    (action,) = loaded("replay.launch.py").check_bag(context)
    action.execute(context)
    assert context.launch_configurations["transport"] == "compressed"


@pytest.mark.slow
def test_a_bag_is_replayed_in_its_own_time_and_recorded(
    launched: Callable[..., Launched], tmp_path: Path, small_checkpoint: Path
) -> None:
    bag, record = bag_of_images(tmp_path / "walk"), tmp_path / "people"
    here = launched(
        "replay.launch.py", f"bag:={bag}", f"record:={record}", "device:=cpu", f"checkpoint:={small_checkpoint}",
        "use_sim_time:=false",
    )  # fmt: skip
    assert here.process.wait(timeout=TIMEOUT_S) == 0, here.output
    assert "process[play-3] was required: shutting down" in here.output
    assert here.output.count("use_sim_time:=false has no effect") == 1
    with BagReader(record) as recorded:
        humans = [recorded.decode(message) for message in recorded.messages(["/humans"])]
    seen = [message for message in humans if any(message.k)]
    assert seen, here.output  # a busy machine drops most of the 30 images
    assert all(message.header.stamp.sec in range(1_000_000_000, 1_000_000_004) for message in seen)
    assert all(message.total_latency < 5 for message in seen), "the clock is the bag's"


def test_replay_ends_when_the_node_cannot_start(launched: Callable[..., Launched], tmp_path: Path) -> None:
    here = launched("replay.launch.py", f"bag:={bag_of_images(tmp_path / 'walk')}", "checkpoint:=no_such_file.pt")
    assert here.process.wait(timeout=TIMEOUT_S) == 1
    assert "perception_node-1 has failed" in here.output


def test_ctrl_c_ends_a_replay_and_its_recorder_cleanly(launched: Callable[..., Launched], tmp_path: Path) -> None:
    bag = bag_of_images(tmp_path / "walk")
    here = launched("replay.launch.py", f"bag:={bag}", f"record:={tmp_path}/people", "autostart:=false")
    here.until(lambda: "recording /diagnostics" in here.output)
    received: list[DiagnosticArray] = []
    here.peer.create_subscription(DiagnosticArray, "/diagnostics", received.append, 10)
    here.until(lambda: len(received) >= 3)  # the recorder has received one of them, too
    assert here.interrupt() == 0
    assert here.output.count("process has finished cleanly") == 2, here.output
    assert "Caught exception" not in here.output


def test_replay_fails_with_its_player(
    launched: Callable[..., Launched], tmp_path: Path, small_checkpoint: Path
) -> None:
    bag = bag_of_images(tmp_path / "walk", "/camera/image_raw", "/camera-1/image_raw")  # a name that ROS does not allow
    here = launched("replay.launch.py", f"bag:={bag}", "device:=cpu", f"checkpoint:={small_checkpoint}")
    assert here.process.wait(timeout=TIMEOUT_S) == 1
    assert "play-2 has failed: the reason is in its messages above" in here.output
