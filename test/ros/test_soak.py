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

"""Half an hour at 30 Hz with the live node in its own process: people come and go, the camera stops and restarts, its
clock jumps.

Memory, latency and open files must stay constant. `make soak`, or `make soak MINUTES=5` for a shorter run.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from multihmr2_ros.msg import HumanArray
from rclpy.serialization import deserialize_message
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from test.helpers.ros_wire import EVERYTHING, Peer, Process, processes, values_of

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
OUT = os.environ.get("SOAK_OUT", "")
CAMERA_LIVES_S, CAMERA_IS_GONE_S = 45.0, 3.0
JUMP_EVERY_S = 11.0
WARM_UP = 0.25  # share of the run after which everything has been allocated once


@dataclass
class Record:
    """Samples taken each second of the run."""

    time_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    rate_hz: list[float] = field(default_factory=list)
    people: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)  # CPU time of one image, which other programs do not change

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array(values, np.float64) for name, values in vars(self).items()}


@dataclass
class Heard:
    """Messages received since the last sample. latencies_ms: time from the arrival of an image to its people."""

    latencies_ms: list[float] = field(default_factory=list)
    people: list[int] = field(default_factory=list)
    markers: int = 0

    def humans(self, data: bytes) -> None:
        message = deserialize_message(data, HumanArray)
        self.people.append(len(message.humans))
        self.latencies_ms.append(1e3 * (message.total_latency - message.age_at_receipt))


@pytest.mark.soak
def test_half_an_hour_of_people_restarts_and_clock_jumps(peer: Peer, tmp_path: Path) -> None:
    with processes() as start:
        node = start("test.helpers.soak_node_process", "--ros-args", "-p", "mesh:=low")
        diagnostics = peer.listen(DiagnosticArray, "/diagnostics", EVERYTHING)
        heard = Heard()
        listen(peer, heard)
        record, cameras = Record(), 0
        begin_s = time.monotonic()
        while time.monotonic() - begin_s < 60.0 * MINUTES:
            camera = start("test.helpers.camera_process", "--jump-every", str(JUMP_EVERY_S))
            cameras += 1
            sample(peer, node, heard, record, begin_s, CAMERA_LIVES_S)
            camera.stop(signal.SIGKILL if cameras % 2 else signal.SIGINT, 10.0)
            sample(peer, node, heard, record, begin_s, CAMERA_IS_GONE_S)
            assert node.popen.poll() is None, node.log()
        values = values_of(diagnostics)
        assert node.stop(signal.SIGTERM, 15.0) == 0
        log = node.log()
    series = record.arrays()
    out = Path(OUT) if OUT else tmp_path
    plot(series, out / "soak.png")
    print(summary(series, values, cameras, out / "soak.png"))
    assert "Traceback" not in log
    assert len(log.splitlines()) < 50 + 12 * MINUTES, "the log grows with the problems, not with the images"
    assert values["unusable"] == "0"
    assert values["restarts"] == "0"
    assert heard.markers > 0
    assert np.nanmax(series["people"]) - np.nanmin(series["people"]) > 2, "people come and go"
    check_flat(series)


def listen(here: Peer, heard: Heard) -> None:
    def count_marker(_: bytes) -> None:
        heard.markers += 1

    here.peer.create_subscription(HumanArray, "/humans", heard.humans, EVERYTHING, raw=True)
    here.peer.create_subscription(MarkerArray, "/perception_node/markers", count_marker, EVERYTHING, raw=True)
    here.peer.create_subscription(TFMessage, "/tf", lambda _: None, EVERYTHING, raw=True)


def sample(here: Peer, node: Process, heard: Heard, record: Record, begin_s: float, seconds_s: float) -> None:
    """Take a sample each second for seconds_s."""
    spent_ms = processor_ms(node)
    for _ in range(int(seconds_s)):
        here.spin(1.0)
        of_process = Path(f"/proc/{node.popen.pid}")
        before_ms, spent_ms = spent_ms, processor_ms(node)
        latencies_ms, heard.latencies_ms = heard.latencies_ms, []
        people, heard.people = heard.people, []
        p50, p99 = np.percentile(latencies_ms, [50, 99]) if latencies_ms else (np.nan, np.nan)
        record.time_s.append(time.monotonic() - begin_s)
        record.memory_mib.append(node.resident_mib())
        record.files.append(len(os.listdir(of_process / "fd")))
        record.threads.append(len(os.listdir(of_process / "task")))
        record.rate_hz.append(len(latencies_ms))
        record.people.append(float(np.mean(people)) if people else np.nan)
        record.p50_ms.append(p50)
        record.p99_ms.append(p99)
        record.processor_ms.append((spent_ms - before_ms) / len(latencies_ms) if len(latencies_ms) > 10 else np.nan)


def processor_ms(node: Process) -> float:
    """Return the CPU time of the process so far (ms)."""
    fields = Path(f"/proc/{node.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return 1e3 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_flat(series: dict[str, np.ndarray]) -> None:
    """Check that no series has a slope after the warm-up and that its last quarter resembles the first."""
    hours = series["time_s"] / 3600.0
    kept = hours >= WARM_UP * hours[-1]
    for name, most_growth, most_ratio in (("memory_mib", 10.0, 1.03), ("files", 2.0, 1.03), ("threads", 1.0, 1.03)):
        values = series[name][kept]
        growth = trend_over_run(hours[kept], values)
        assert growth < most_growth, f"{name} grows by {growth:.1f} in the run"
        assert ratio_of_quarters(values) < most_ratio, name
    # Other programs increase latencies for minutes at a time: the best seconds of each quarter are compared.
    for name, share, most_ratio in (("processor_ms", 50, 1.25), ("p50_ms", 10, 1.5), ("p99_ms", 10, 2.0)):
        values = series[name][kept]
        ratio = ratio_of_quarters(values[np.isfinite(values)], share)
        assert ratio < most_ratio, f"{name}: the last quarter is {ratio:.2f} of the first"


def trend_over_run(hours: np.ndarray, values: np.ndarray) -> float:
    """Return the increase of a fitted line from the first value to the last."""
    slope = np.polyfit(hours, values, 1)[0]
    return float(slope * (hours[-1] - hours[0]))


def ratio_of_quarters(values: np.ndarray, share: float = 50) -> float:
    """Return the ratio of the last quarter's percentile `share` to the first's."""
    quarter = max(len(values) // 4, 1)
    return float(np.percentile(values[-quarter:], share) / np.percentile(values[:quarter], share))


def summary(series: dict[str, np.ndarray], values: dict[str, str], cameras: int, picture: Path) -> str:
    kept = series["time_s"] >= WARM_UP * series["time_s"][-1]
    hours = series["time_s"][kept] / 3600.0
    lines = [
        f"{series['time_s'][-1] / 60:.1f} minutes, {cameras} cameras, images: {values['received']} received, "
        f"{values['processed']} processed, {values['dropped']} dropped",
        f"latency (ms): p50 {np.nanmedian(series['p50_ms']):.1f}, p99 {np.nanmedian(series['p99_ms']):.1f} "
        f"(medians over seconds), worst second's p99 {np.nanmax(series['p99_ms']):.1f}",
    ]
    for name in ("memory_mib", "files", "threads", "processor_ms", "p50_ms", "p99_ms"):
        finite = np.isfinite(series[name][kept])
        data = series[name][kept][finite]
        lines.append(
            f"{name}: first {data[0]:.1f}, last {data[-1]:.1f}, line gains {trend_over_run(hours[finite], data):+.2f}, "
            f"last/first quarter {ratio_of_quarters(data):.3f}"
        )
    return "\n".join([*lines, str(picture)])


def plot(series: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    axes: Any = figure.subplots(4, 1, sharex=True)
    minutes = series["time_s"] / 60.0
    axes[0].plot(minutes, series["memory_mib"])
    axes[0].set_ylabel("memory (MiB)")
    axes[1].plot(minutes, series["p50_ms"], label="p50")
    axes[1].plot(minutes, series["p99_ms"], label="p99", linewidth=0.7)
    axes[1].plot(minutes, series["processor_ms"], label="processor time", linewidth=0.7)
    axes[1].set_ylabel("latency (ms)")
    axes[1].set_yscale("log")
    axes[1].legend()
    axes[2].plot(minutes, series["files"], label="file descriptors")
    axes[2].plot(minutes, series["threads"], label="threads")
    axes[2].set_ylabel("open")
    axes[2].set_ylim(0, 1.3 * series["files"].max())
    axes[2].legend()
    axes[3].plot(minutes, series["rate_hz"], label="images (Hz)", linewidth=0.7)
    axes[3].plot(minutes, series["people"], label="people")
    axes[3].set_ylabel("throughput")
    axes[3].set_xlabel("time (minutes)")
    axes[3].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
