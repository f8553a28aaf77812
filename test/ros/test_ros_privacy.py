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

"""Files written and connections opened by a running node: no image data on disk, and no connections except DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from test.paths import ROOT

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import HumanArray
from sensor_msgs.msg import Image

from test.helpers.ros_wire import DOMAIN_ID, TIMEOUT_S, Peer, image_message

UNCONNECTED = re.compile(r"0+:0000")


def sockets(process_id: int, protocol: str) -> list[tuple[str, str]]:
    """Return the local and remote addresses of the process's sockets."""
    own = set()
    for name in os.listdir(f"/proc/{process_id}/fd"):
        try:
            own.add(os.readlink(f"/proc/{process_id}/fd/{name}"))
        except FileNotFoundError:
            continue
    table = Path(f"/proc/{process_id}/net/{protocol}")
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return [(row[1], row[2]) for row in rows if f"socket:[{row[9]}]" in own]


@pytest.mark.skipif(not Path("/proc/self/net/udp").exists(), reason="reads /proc, which this system lacks")
def test_a_run_leaves_nothing_of_the_images_and_speaks_to_dds_only(peer: Peer, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("home", "tmp", "cwd", "cache")}
    for folder in folders.values():
        folder.mkdir()
    environment = os.environ | {
        "ROS_DOMAIN_ID": str(DOMAIN_ID), "HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]),
        "XDG_CACHE_HOME": str(folders["cache"]), "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    environment.pop("ROS_LOG_DIR", None)
    log = tmp_path / "log"
    with log.open("w") as output:
        node = subprocess.Popen(
            [sys.executable, "-m", "test.helpers.node_process", "0.0"], env=environment, cwd=folders["cwd"],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        humans = peer.listen(HumanArray, "/humans")
        images = peer.peer.create_publisher(Image, "image", 1)
        peer.until(lambda: images.get_subscription_count() > 0)
        noise = np.random.default_rng(0).integers(1, 256, (48, 64, 3), dtype=np.uint8).tobytes()
        good, black, damaged = image_message(), image_message(), image_message(step=1)
        good.data = noise
        black.data = bytes(len(noise))  # the estimator fails

        def send_until_all_were_received() -> bool:
            for message in (good, black, damaged):
                images.publish(message)
                peer.spin(0.05)
            problems = log.read_text()
            return bool(humans) and "ZeroDivisionError" in problems and "rows" in problems

        peer.until(send_until_all_were_received)
        assert sockets(node.pid, "tcp") + sockets(node.pid, "tcp6") == []
        addresses = sockets(node.pid, "udp") + sockets(node.pid, "udp6")
        assert addresses, "DDS"
        assert all(UNCONNECTED.fullmatch(remote) for _, remote in addresses)
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(TIMEOUT_S)
    left = [path for folder in folders.values() for path in folder.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(folders["home"] / ".ros" / "log") for path in left), left
    written = b"".join(path.read_bytes() for path in [*left, log])
    assert b"Traceback" in written, "the estimator's failure is logged"
    assert len(written) < 20_000, "the texts of a few problems"
