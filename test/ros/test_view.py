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

"""The view of a live node, over DDS: its recording is read back by Rerun's own reader."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from multihmr2_ros.ros import view
from test.helpers.rerun_reading import Read
from test.helpers.ros_wire import TIMEOUT_S, Wire, calibration, image_message, processes
from test.helpers.stand_in_estimator import PELVIS, TETRAHEDRON

MODULE = "multihmr2_ros.ros.view"
RERUN = "rerun is not installed: pip install 'multihmr2_ros[view]'"


def test_a_live_node_is_recorded(wire: Callable[..., Wire], tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason=RERUN)
    here, path = wire(publish_vertices=True), tmp_path / "live.rrd"
    with processes() as start:
        process = start(MODULE, "--save", str(path), "--image", "/image")
        for publisher in (here.image, here.camera_info):  # the node and the view
            here.until(lambda publisher=publisher: publisher.get_subscription_count() == 2)
        first_s, more = here.stamp_s, 5
        while more and here.stamp_s < first_s + 100:
            here.camera_info.publish(calibration(40.0, 40.0))
            here.spin(0.2)
            here.send()
            here.spin(0.3)
            more -= any(tmp_path.iterdir())  # the recording is opened with the first people
        assert process.stop(signal.SIGINT, TIMEOUT_S) == 0, process.log()
        shown = int(process.log().split(" images → ")[0].split()[-1])
    read = Read(path)
    positions = read.values("/world/camera/people/meshes/7", "vertex_positions")
    assert len(positions) == shown > 0
    assert np.array(positions) == pytest.approx(np.tile(PELVIS + TETRAHEDRON, (shown, 1, 1)))
    assert read.values("/world/camera/people/names", "labels")[0][0].startswith("#7 · ")
    (matrix,) = read.values("/world/camera/image", "image_from_camera")[-1:]
    assert pytest.approx(np.array([[40, 0, 32], [0, 40, 24], [0, 0, 1]])) == np.reshape(matrix, (3, 3)).T
    stamps = [row["stamp"].total_seconds() for row in read.rows_with("/world/camera/image", "blob")]
    assert len(stamps) == shown
    assert set(stamps) <= set(range(first_s + 1, here.stamp_s + 1)), "of the images"


def test_nothing_to_show(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason=RERUN)
    with processes() as start:
        process = start(MODULE, "--save", str(tmp_path / "live.rrd"))
        deadline_s = time.monotonic() + TIMEOUT_S
        while "waiting" not in process.log() and time.monotonic() < deadline_s:
            time.sleep(0.2)
        status = process.stop(signal.SIGINT, TIMEOUT_S)
        lines = process.log().splitlines()
    reason = "no publisher of /humans: start the node, or give its topic with --topic"
    assert lines == [f"view: {reason} (waiting; Ctrl-C ends)", f"view: nothing was shown: {reason}"]
    assert status == 2
    assert not list(tmp_path.iterdir())


def test_the_memory_of_waiting_images_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size, images = len(image_message().data), view.WaitingImages()
    monkeypatch.setattr(view, "MAX_IMAGE_BYTES", 3 * size)
    for second in range(5):
        message = image_message()
        message.header.stamp.sec = second
        images.add(message)
    assert [images.find(second * 10**9) is not None for second in range(5)] == [False, False, True, True, True]
    monkeypatch.setattr(view, "MAX_IMAGE_BYTES", size - 1)
    message.header.stamp.sec = 5
    images.add(message)
    assert len(images) == 1, "the newest is kept, however large"
    monkeypatch.undo()
    for second in range(100):
        images.add(Image(header=Header(stamp=Time(sec=second))))
    assert len(images) == view.MAX_IMAGES
    images.drop_until(98 * 10**9)
    assert len(images) == 1


@pytest.mark.usefixtures("restore_signal_handlers")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topic", "a b", "--save", "live.rrd"], "expected a topic name such as /camera/image_raw, got 'a b'"),
        (["--image", "1/a", "--save", "live.rrd"], "expected a topic name such as /camera/image_raw, got '1/a'"),
        (["--save", "new/live.rrd"], "the folder new of live.rrd does not exist: create it first"),
        ([], "there is no display for the viewer; use --web, or --save FILE.rrd"),
        (["--web", "99999"], "the port of the web viewer must lie between 1 and 65535, got 99999"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rerun", reason=RERUN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert view.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"view: {said}")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("restore_signal_handlers")
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)  # as without an installation: importing raises ImportError
    assert view.main([]) == 2
    assert capsys.readouterr().err == f"view: {RERUN}\n"
