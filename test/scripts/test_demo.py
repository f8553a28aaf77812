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

"""`make demo` as run by a user: a bag through the live node, a table, a video, and no remaining process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.bags.camera import COMPRESSED_IMAGES as IMAGES
from multihmr2_ros.bags.definitions import make_typestore
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.media.video import VideoWriter
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import Timing, people_to_content
from test import paths
from test.helpers.bag_factory import START_NS, compressed_image, make_image, write_bag
from test.helpers.people_factory import make_people
from test.helpers.scripts import load_script

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
from rclpy.serialization import serialize_message

from multihmr2_ros.ros.conversions import human_array_to_ros

demo_results = load_script("demo_results")

SCRIPTS = paths.ROOT / "scripts"
NODE = "/perception_node"


def demo(out: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPTS / "demo.py"), "--out", str(out), *map(str, options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def small_video(path: Path, seconds_s: float = 2.0) -> Path:
    rng = np.random.default_rng(0)
    with VideoWriter(path, 320, 240, fps=10) as video:
        for index in range(round(10 * seconds_s)):
            video.write(rng.integers(0, 256, (240, 320, 3), np.uint8), index / 10)
    return path


def processes_about(out: Path) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # the process has ended
            continue
        if str(out) in line and "multihmr2_ros" in line:
            found.append(line)
    return found


@pytest.mark.slow
def test_the_demo_and_the_picture_of_its_markers(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    running = demo(out)
    text, _ = running.communicate(timeout=300)
    assert running.returncode == 0, text
    assert "Traceback" not in text
    assert not processes_about(out)
    played, processed, dropped = map(
        int, re.search(r"(\d+) images played, (\d+) processed, (\d+) dropped", text).groups()
    )
    assert played == 80
    assert processed > 5
    assert processed + dropped <= played
    rows = re.findall(r"^ *(\d+) +(\d+) ms  (.*)$", text, re.MULTILINE)
    assert 5 < len(rows) <= 16
    assert all(re.match(r"#\d+ [\d.]+ m|nobody", people) for *_, people in rows)
    assert "p50" in text
    with BagReader(out / "recorded.mcap") as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
    assert {"/humans", "/tf", f"{NODE}/markers", f"{NODE}/body_model", "/diagnostics"} < set(counts)
    assert counts["/humans"] >= processed
    with av.open(str(out / "people.mp4")) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(images) == counts["/camera/image_raw/compressed"]
    left, right = np.split(images[-1].astype(int), 2, axis=1)
    assert (np.abs(left - right).max(axis=2) > 60).sum() > 500, "people are drawn on the right"

    screenshot = tmp_path / "rviz.png"
    command = [sys.executable, str(SCRIPTS / "render_markers.py"), str(out / "recorded.mcap"), str(screenshot)]
    subprocess.run(command, check=True, timeout=300)
    image = np.asarray(Image.open(screenshot))
    assert image.shape == (600, 960, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100


@pytest.mark.slow
def test_a_video_of_ones_own(tmp_path: Path) -> None:
    running = demo(tmp_path / "demo", "--video", small_video(tmp_path / "walk.mp4"))
    text, _ = running.communicate(timeout=300)
    assert running.returncode == 0, text
    assert "20 images played" in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: int) -> None:
    out = tmp_path / "demo"
    running = demo(out, "--video", small_video(tmp_path / "walk.mp4", 10.0))
    deadline_s = time.monotonic() + 200
    while not (out / "player.log").exists():
        assert time.monotonic() < deadline_s
        assert running.poll() is None
        time.sleep(0.2)
    assert len(processes_about(out)) >= 2, "the recorder and the player"
    os.kill(running.pid, number)
    text, _ = running.communicate(timeout=300)
    assert (running.returncode, text.splitlines()[-1]) == (130, "demo: interrupted")
    assert not processes_about(out)


@pytest.mark.parametrize(("video", "said"), [("missing.mp4", "no file or folder"), ("people.mp4", "would replace")])
def test_a_mistake_keeps_the_files_of_the_earlier_demo(tmp_path: Path, video: str, said: str) -> None:
    content = small_video(tmp_path / "people.mp4").read_bytes()
    running = demo(tmp_path, "--video", tmp_path / video)
    text, _ = running.communicate(timeout=300)
    assert running.returncode == 2
    assert said in text.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["people.mp4"]
    assert (tmp_path / "people.mp4").read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--video", "missing.mp4"), "there is no file or folder missing.mp4"),
        (("--video", "OUT"), "holds no images"),
    ],
)
def test_mistakes_are_reported_in_one_line(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    running = demo(tmp_path, *(str(tmp_path) if each == "OUT" else each for each in options))
    text, _ = running.communicate(timeout=300)
    assert running.returncode == 2
    (line,) = [line for line in text.splitlines() if line.startswith("demo: ")]
    assert said in line
    assert "Traceback" not in text


def write_recording(path: Path, sizes: list[tuple[int, int]], answered: list[int]) -> Path:
    """Write a bag with an image of each size (width, height), and empty answers to some of them."""
    messages = []
    for index, size in enumerate(sizes):
        time_ns = START_NS + index * 10**8
        messages.append((IMAGES, time_ns, compressed_image(make_image(index, *size), time_ns)))
        if index in answered:
            header = HeaderContent(time_ns // 10**9, time_ns % 10**9, "camera")
            content = people_to_content(make_people(0), header, Timing(), with_vertices=True)
            humans = serialize_message(human_array_to_ros(content))
            humans = make_typestore().deserialize_cdr(humans, "multihmr2_ros/msg/HumanArray")
            messages.append(("/humans", time_ns + 1, humans))
    return write_bag(path, messages)


@pytest.mark.parametrize("answered", [[0], [0, 1, 2]], ids=["first image", "every image"])
def test_the_video_of_images_of_several_sizes(tmp_path: Path, answered: list[int]) -> None:
    sizes = [(96, 64), (64, 48), (160, 120)]
    recording = demo_results.read_recording(write_recording(tmp_path / "a.mcap", sizes, answered), IMAGES, NODE)
    demo_results.write_video(recording, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert frames == 3 * [(2 * 96, 64 + demo_results.CAPTION_PX)]


@pytest.mark.parametrize(("answered", "is_proposed"), [([0], True), ([0, 1], False)])
def test_a_user_with_dropped_images_learns_how_to_process_all(
    tmp_path: Path, answered: list[int], is_proposed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_recording(tmp_path / "a.mcap", 2 * [(96, 64)], answered)
    recording = demo_results.read_recording(bag, IMAGES, NODE)
    demo_results.print_summary(recording, 2, Path("my demo/camera.mcap"))
    command = "multihmr2 run 'my demo/camera.mcap' --out results"
    assert (command in capsys.readouterr().out) == is_proposed


@pytest.mark.parametrize(("name", "status"), [("a.webp", 0), ("a.mp4", 2), ("a", 2)])
def test_an_animation_has_a_webp_file(tmp_path: Path, name: str, status: int) -> None:
    bag = write_recording(tmp_path / "a.mcap", 2 * [(96, 64)], [0, 1])
    command = [sys.executable, str(SCRIPTS / "animate_recording.py"), str(bag), str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == status
    assert (tmp_path / name).exists() == (status == 0)
    if status:
        problem = f"the output file must end in .webp, got {str(tmp_path / name)!r}; rename it"
        assert done.stderr == f"animate_recording: {problem}\n"
