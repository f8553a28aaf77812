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

"""`make demo`: plays a camera's recording to the live node, and shows the published people.

Three processes communicate over DDS, on this machine only: a player publishes the images of a bag, the node detects
people, and a recorder writes the node's messages to another bag. The images are simulated (`multihmr2 simulate`) or
from a video (--video). The node uses the bundled model, or the model of --checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from demo_input import IMAGES, VIDEO_SECONDS, open_video, write_simulated_people
from demo_input import write_video as write_video_as_bag
from demo_results import NODE, print_summary, print_table, read_recording, write_video

from multihmr2_ros.bags.camera import CAMERA_INFO
from multihmr2_ros.errors import UserError
from multihmr2_ros.ros.domain import isolate
from multihmr2_ros.weights import resolve_checkpoint

PUBLISHED = ("/humans", "/tf", f"{NODE}/markers", f"{NODE}/body_model", "/diagnostics")
START_S = 120.0  # time limit for the node to load its network
LAST_IMAGE_S = 3.0  # for the image that is being processed when the player ends
END_S = 15.0  # time limit for a process to end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder for bags, video and logs (default: %(default)s)"
    )
    parser.add_argument("--video", type=Path, help="use this video instead of simulated images")
    parser.add_argument("--checkpoint", default="nano", help="weights: a name or a file (default: %(default)s)")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # also when the terminal is closed
        signal.signal(number, signal.default_int_handler)
    try:
        run(args.out, args.video, args.checkpoint)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    return 0


def run(out: Path, video: Path | None, name: str) -> None:
    """Run the demo and write its files to `out`. Raises UserError if a step fails."""
    weights = resolve_checkpoint(name)
    source = None if video is None else open_video(video)
    prepare(out, video)
    bag, recorded, overlay = out / "camera.mcap", out / "recorded.mcap", out / "people.mp4"
    if source is None:
        print("1. simulating a recording of 8 s, with walking people …", flush=True)
        played = write_simulated_people(bag)  # prints the name of the bag
    else:
        print(f"1. converting {video} to a bag (at most the first {VIDEO_SECONDS} s) …", flush=True)
        played = write_video_as_bag(source, bag)
        print(f"   → {bag}, {played} images", flush=True)
    print("2. playing the bag to the live node over DDS, and recording the node's messages …", flush=True)
    play_through_node(out, bag, recorded, weights)
    print(f"   → {recorded}: {', '.join(PUBLISHED)}, and the images\n3. people detected by the node:", flush=True)
    recording = read_recording(recorded, IMAGES, NODE)
    print_table(recording)
    print_summary(recording, played, bag)
    write_video(recording, overlay)
    print(f"Open {overlay}: camera images on the left, the newest processed image with its people on the right.")


def prepare(out: Path, video: Path | None) -> None:
    """Create the folder, and remove the files of an earlier demo.

    Raises UserError if the folder is not writable, or if the video is one of these files.
    """
    names = ("camera.mcap", "recorded.mcap", "people.mp4", "node.log", "recorder.log", "player.log")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if video is not None and any((out / name).exists() and video.samefile(out / name) for name in names):
            raise UserError(f"the demo would replace the video {video}; choose another folder: make demo OUT=…")
        for name in names:
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "ros_log", ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another folder: make demo OUT=…") from error


def play_through_node(out: Path, bag: Path, recorded: Path, weights: Path) -> None:
    """Play the bag's images to the node, and record its messages in `recorded`, with three processes."""
    parameters = {"checkpoint": weights.resolve(), "image_transport": "compressed", "publish_vertices": "true"}
    names = {"image/compressed": IMAGES, "camera_info": CAMERA_INFO}
    ros_args = [text for item in parameters.items() for text in ("-p", "{}:={}".format(*item))]
    ros_args += [text for item in names.items() for text in ("-r", "{}:={}".format(*item))]
    topics = [*PUBLISHED, IMAGES, CAMERA_INFO]
    with (
        isolate(),
        process(out, "recorder", "record", str(recorded), "--topics", *topics) as recorder,
        process(out, "node", "node", "--ros-args", *ros_args) as node,
    ):
        wait(
            lambda: all(f"recording {topic} " in read(out, "recorder") for topic in PUBLISHED),
            START_S,
            out,
            node,
            recorder,
        )
        with process(out, "player", "play", str(bag), "--wait-for", "2") as player:
            wait(lambda: player.poll() is not None, 2 * START_S, out, node, recorder)
            if player.returncode:
                fail(out, "player")
        time.sleep(LAST_IMAGE_S)
        stop(out, node)
        stop(out, recorder)


class Process(subprocess.Popen[bytes]):
    """A process with the name of its log."""

    name: str


@contextlib.contextmanager
def process(out: Path, name: str, module: str, *arguments: str) -> Iterator[Process]:
    """Start a module of `multihmr2_ros.ros` whose output goes to <name>.log; end it with the block."""
    environment = os.environ | {
        "ROS_LOG_DIR": str((out / "ros_log").resolve()),
        "PYTHONUNBUFFERED": "1",
    }
    with (out / f"{name}.log").open("wb") as log:
        started = Process(
            [sys.executable, "-m", f"multihmr2_ros.ros.{module}", *arguments],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,  # only this process receives Ctrl-C, and it ends the others
        )  # fmt: skip
    started.name = name
    try:
        yield started
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.terminate()
            started.wait(END_S)
        started.kill()
        started.wait()


def wait(done: Callable[[], bool], timeout_s: float, out: Path, *running: Process) -> None:
    """Wait until done(). Raises UserError if one of the running processes ends, or after the time limit."""
    deadline_s = time.monotonic() + timeout_s
    while not done():
        for each in running:
            if each.poll() is not None:
                fail(out, each.name)
        if time.monotonic() > deadline_s:
            raise UserError(
                f"expected new messages, got none for {timeout_s:.0f} s; see {out}/node.log, then run make demo again"
            )
        time.sleep(0.1)


def stop(out: Path, running: Process) -> None:
    """Send SIGINT to a process. Raises UserError if it does not end in time, or with an error status."""
    running.send_signal(signal.SIGINT)
    try:
        status = running.wait(END_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"the {running.name} did not exit within {END_S:.0f} s; see {out}/{running.name}.log") from None
    if status:
        fail(out, running.name)


def fail(out: Path, name: str) -> None:
    """Raise UserError with the last line of a process's log."""
    lines = read(out, name).strip().splitlines() or ["no output"]
    raise UserError(f"the {name} exited too early: {lines[-1]}; see {out}/{name}.log")


def read(out: Path, name: str) -> str:
    """Return the text of a process's log."""
    return (out / f"{name}.log").read_text(errors="replace")


if __name__ == "__main__":
    raise SystemExit(main())
