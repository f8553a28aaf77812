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

"""`perception_cameras`: the nodes of several cameras in one process share the network."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import HumanArray
from sensor_msgs.msg import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator
from multihmr2_ros.network.shared_inference import CameraInference
from multihmr2_ros.ros.cameras import SharedEstimatorFactory, main, split_cameras
from multihmr2_ros.ros.parameters import NodeParameters
from test.helpers.ros_wire import (
    BEST_EFFORT,
    EVERYTHING,
    TIMEOUT_S,
    Peer,
    Process,
    image_message,
    processes,
    ros_context,
)

ROS = ["--ros-args", "-r", "image:=image_raw"]


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    with processes() as make:
        yield make


def test_two_cameras_of_one_process(small_checkpoint: Path, start: Callable[..., Process]) -> None:
    parameters = [f"checkpoint:={small_checkpoint}", "device:=cpu", "score_threshold:=0.0", "max_people:=3"]
    options = [text for value in parameters for text in ("-p", value)]
    with ros_context(), contextlib.closing(Peer()) as peer:
        process = start("multihmr2_ros.ros.cameras", "front", "robot/rear", *ROS, *options)
        cameras = {"front": "front_", "robot/rear": "rear_"}
        publishers = [peer.peer.create_publisher(Image, f"/{camera}/image_raw", BEST_EFFORT) for camera in cameras]
        peer.until(lambda: all(peer.peer.count_publishers(f"/{camera}/humans") for camera in cameras))
        humans = {camera: peer.listen(HumanArray, f"/{camera}/humans", EVERYTHING) for camera in cameras}

        def send_until_both_answered() -> bool:
            for publisher in publishers:
                publisher.publish(image_message())
            peer.spin(0.5)
            return all(any(message.humans for message in came) for came in humans.values())

        peer.until(send_until_both_answered)
        for camera, prefix in cameras.items():
            people = [person for message in humans[camera] for person in message.humans]
            assert all(person.frame_id.startswith(prefix) for person in people if person.frame_id)
        assert process.stop(signal.SIGINT, TIMEOUT_S) == 0, process.log()
    assert "does nothing" not in process.log()


def load(factory: SharedEstimatorFactory, parameters: NodeParameters) -> CameraInference:
    estimator = factory(parameters)
    assert isinstance(estimator, Estimator)
    assert isinstance(estimator.inference, CameraInference)
    return estimator.inference


def test_nodes_with_the_same_settings_share_the_network(small_checkpoint: Path) -> None:
    factory = SharedEstimatorFactory()
    parameters = NodeParameters(checkpoint=str(small_checkpoint), device="cpu", precision="fp32")
    first, second = load(factory, parameters), load(factory, parameters)
    assert first.inference is second.inference
    more = load(factory, dataclasses.replace(parameters, max_people=5))
    assert more.inference is not first.inference
    assert more._shared is first._shared
    assert load(factory, dataclasses.replace(parameters, threads=2))._shared is not first._shared
    first._shared.has_failed = True
    again, and_again = load(factory, parameters), load(factory, parameters)
    assert again._shared is and_again._shared is not first._shared


@pytest.mark.parametrize("names", [[], ["front", "front"], ["/front"], ["2nd"], ["front", "image:=/x"], ["front-left"]])
def test_unusable_names(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perception_cameras", *names, *ROS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("perception_cameras: expected different names of cameras")


def test_names_and_other_arguments() -> None:
    assert split_cameras(["x", "front", "robot/rear", *ROS]) == (["front", "robot/rear"], ["x", *ROS])
    with pytest.raises(UserError, match="end differently"):
        split_cameras(["x", "front/left", "rear/left"])
    with pytest.raises(UserError):
        split_cameras(["x", *ROS])
