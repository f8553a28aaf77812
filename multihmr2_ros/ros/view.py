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

"""Shows the people of a live node in Rerun, without RViz: python -m multihmr2_ros.ros.view [--topic /humans] [--web]

The drawing is that of `multihmr2 run --view`. Each HumanArray is shown with the image that has its stamp. Ctrl-C ends.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds
    from .startup import exit_on_stop_signals

    exit_on_stop_signals()

import argparse
import contextlib
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.bags.humans import people_from_human_array
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import require_parent_folder
from multihmr2_ros.frame import Frame
from multihmr2_ros.lens import LensDistortion
from multihmr2_ros.media.rerun_output import NATIVE, WEB, WEB_PORT, RerunRecording, Viewer
from multihmr2_ros.media.rerun_people import BodyTopology, find_bone_pairs
from multihmr2_ros.media.rerun_recording import FrameContext, import_rerun
from multihmr2_ros.messages.calibration import intrinsics_from_info
from multihmr2_ros.messages.images import compressed_image_from_ros, image_from_ros
from multihmr2_ros.msg import BodyModel, HumanArray
from multihmr2_ros.people import IntrinsicsSource, People
from multihmr2_ros.terminal import ArgumentParser

from .command_line import collect_stop_signals, resolve_topic, run_tool
from .conversions import header_from_ros
from .inputs import SUFFIX
from .qos import LATCHED, RELIABLE, SENSOR_DATA
from .target_frame import TargetFrame, transform_people
from .transforms import TransformListener, UnknownTransformError

IMAGE_TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
BODY_MODEL = "multihmr2_ros/msg/BodyModel"
OTHER_IMAGES = ("depth", "overlay")  # parts of the names of topics that are not the camera's images
MAX_IMAGES, MAX_IMAGE_BYTES = 60, 256 * 2**20  # that wait for their people
UPDATE_PERIOD_S = 0.2
BODY_MODEL_S = 5.0  # time limit for the BodyModel; without it, people have neither meshes nor skeletons
MAX_PROBLEMS = 50  # that are printed
SILENT_S = 5.0  # without a shown image until the reason is printed
NO_BODY = BodyTopology(np.zeros((0, 3), np.int32), None, np.zeros((0, 2), np.int64))


class WaitingImages:
    """Image messages that wait for their people, at most MAX_IMAGES of MAX_IMAGE_BYTES. The newest is always kept."""

    def __init__(self) -> None:
        self._messages: OrderedDict[int, Any] = OrderedDict()  # by stamp, in the order of arrival

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Any) -> None:
        self._messages[_read_stamp_ns(message)] = message
        while len(self) > MAX_IMAGES or (len(self) > 1 and self._count_bytes() > MAX_IMAGE_BYTES):
            self._messages.popitem(last=False)

    def find(self, stamp_ns: int) -> Any:
        """Return the image with this stamp; None if there is none."""
        return self._messages.get(stamp_ns)

    def drop_until(self, stamp_ns: int) -> None:
        """Drop the images up to a stamp. The node processes images in order."""
        self._messages = OrderedDict((stamp, each) for stamp, each in self._messages.items() if stamp > stamp_ns)

    def _count_bytes(self) -> int:
        return sum(len(message.data) for message in self._messages.values())


class LiveView:
    """Subscriptions to a node's outputs, drawn to a recording that is opened with the first people.

    node            rclpy node
    topic           of the HumanArrays
    image_topic     raw or compressed; "": the only one that is published
    fixed_frame     TF frame in which everything is shown; "": the camera's frame
    open_recording  opens the recording for bodies of a topology
    """

    def __init__(
        self,
        node: Any,
        topic: str,
        image_topic: str,
        fixed_frame: str,
        open_recording: Callable[[BodyTopology], RerunRecording],
    ) -> None:
        self._node, self._topic = node, resolve_topic(node, topic)
        self._image_topic = resolve_topic(node, image_topic) if image_topic else ""
        self._fixed_frame, self._open_recording = fixed_frame, open_recording
        self._images = WaitingImages()
        self._camera_info: CameraInfo | None = None
        self._body_model: BodyModel | None = None
        self._recording: RerunRecording | None = None
        self._first_people_s: float | None = None
        self._is_subscribed = self._is_waiting_for_body = self._is_silence_explained = False
        self._begin_s = time.monotonic()
        self._problems: set[str] = set()
        self.shown = 0
        self._transforms = TransformListener(node, "body_", lambda cause, text: self._report(text))
        node.create_subscription(HumanArray, topic, self._show, RELIABLE)

    def update(self) -> None:
        """Subscribe to topics that have appeared, and print the reason if nothing can be shown."""
        if not self._is_subscribed:
            self._subscribe_to_images()
        if not self._is_waiting_for_body:
            for topic in self._list_topics([BODY_MODEL])[:1]:
                self._node.create_subscription(BodyModel, topic, self._receive_body_model, LATCHED)
                self._is_waiting_for_body = True
        if not self.shown and not self._is_silence_explained and time.monotonic() - self._begin_s > SILENT_S:
            self._is_silence_explained = True
            self._report(f"{self.explain_silence()} (waiting; Ctrl-C ends)")

    def explain_silence(self) -> str:
        """Return why nothing is shown."""
        if self._first_people_s is None:
            if not self._node.count_publishers(self._topic):
                return f"no publisher of {self._topic}: start the node, or give its topic with --topic"
            return f"no people on {self._topic} yet: does the node receive images?"
        if not self._is_subscribed and self._image_topic:
            found = ", ".join(self._list_topics(IMAGE_TYPES)) or "none"
            return f"no publisher of images on {self._image_topic}: check --image (topics of images: {found})"
        if not self._is_subscribed:
            return "no publisher of images: give their topic with --image"
        return f"no image on {self._image_topic} has the stamp of the people on {self._topic}: check --image"

    def close(self) -> None:
        if self._recording is not None:
            self._recording.close()

    def _subscribe_to_images(self) -> None:
        found = self._list_topics(IMAGE_TYPES)
        if not self._image_topic:
            cameras = [topic for topic in found if not any(word in topic.lower() for word in OTHER_IMAGES)]
            names = sorted({topic.removesuffix(SUFFIX) for topic in cameras})
            if len(names) > 1:
                raise UserError(f"expected one topic of images, found {', '.join(names)}; choose with --image")
            found = sorted(cameras, reverse=True)  # the compressed one first
        else:
            found = [topic for topic in found if topic == self._image_topic]
        if found:
            self._image_topic = found[0]
            kind = IMAGE_TYPES[dict(self._node.get_topic_names_and_types())[found[0]][0]]
            self._node.create_subscription(kind, found[0], self._images.add, SENSOR_DATA)
            info = found[0].removesuffix(SUFFIX).rpartition("/")[0] + "/camera_info"
            self._node.create_subscription(CameraInfo, info, self._receive_camera_info, SENSOR_DATA)
            self._is_subscribed = True

    def _list_topics(self, type_names: Any) -> list[str]:
        """Return the published topics of these types."""
        topics = self._node.get_topic_names_and_types()
        return sorted(topic for topic, types in topics if types[0] in type_names and self._node.count_publishers(topic))

    def _receive_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _receive_body_model(self, message: BodyModel) -> None:
        self._body_model = message

    def _show(self, message: HumanArray) -> None:
        """Draw the people of a message, once their image has come and the BodyModel or its time limit."""
        now_s = time.monotonic()
        self._first_people_s = self._first_people_s or now_s
        image = self._images.find(_read_stamp_ns(message))
        if image is None or not message.height:
            return
        if self._body_model is None and now_s - self._first_people_s < BODY_MODEL_S:
            return
        try:
            drawn = self._read(message, image)
        except UserError as error:
            self._report(str(error))
            return
        self._images.drop_until(_read_stamp_ns(message))
        if drawn is None:
            return
        if self._recording is None:
            self._recording = self._open_recording(_make_topology(self._body_model))
        frame, people = drawn
        self._recording.add(frame, people, FrameContext.from_frame(frame))
        self.shown += 1

    def _read(self, message: HumanArray, image_message: Any) -> tuple[Frame, People] | None:
        """Return frame and people, relative to the camera; None if the people's frame is unknown.

        Raises UserError for a damaged message.
        """
        is_raw = isinstance(image_message, Image)
        image = image_from_ros(image_message) if is_raw else compressed_image_from_ros(image_message)
        people = people_from_human_array(message, (message.height, message.width))
        pose = self._find_pose(self._fixed_frame, image_message)
        if message.header.frame_id != image_message.header.frame_id:
            placed = self._find_pose(message.header.frame_id, image_message)
            if placed is None:
                return None
            people = _move_to_camera(people, placed)
            pose = placed if pose is None else pose
        lens = self._find_lens(people, image)
        frame = Frame(image, people.stamp, people.k, people.intrinsics_source, lens=lens, fixed_from_camera=pose)
        frame.check()
        return frame, people

    def _find_pose(self, frame: str, image: Any) -> NDArray[np.float64] | None:
        """Look up (4, 4) frame from camera; None if `frame` is "" or the transform is unknown."""
        if not frame:
            return None
        try:
            return self._transforms.lookup_pose(frame, header_from_ros(image.header), 0.0)
        except UnknownTransformError as reason:
            self._report(f"{reason}: these images are not shown in {frame!r}")
            return None

    def _find_lens(self, people: People, image: NDArray[np.uint8]) -> LensDistortion | None:
        if self._camera_info is None or people.intrinsics_source is not IntrinsicsSource.K:
            return None
        return intrinsics_from_info(self._camera_info, image, rectified=False).lens

    def _report(self, text: str) -> None:
        """Print a problem, once."""
        if text not in self._problems and len(self._problems) < MAX_PROBLEMS:
            self._problems.add(text)
            print(f"view: {text}", file=sys.stderr, flush=True)


def _read_stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _move_to_camera(people: People, frame_from_camera: NDArray[np.float64]) -> People:
    """Return people of another frame in the camera's; their velocities stay relative to that frame."""
    camera_from_frame = np.linalg.inv(frame_from_camera).astype(np.float64)
    return transform_people(TargetFrame("", camera_from_frame, np.zeros((4, 4))), people)


def _make_topology(model: BodyModel | None) -> BodyTopology:
    if model is None:
        return NO_BODY
    faces = np.array(model.faces, np.int32).reshape(-1, 3)
    return BodyTopology(faces, None, find_bone_pairs(list(model.bone_labels), list(model.bone_parents)))


def _make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m multihmr2_ros.ros.view", description="Show the people of a live node in Rerun; Ctrl-C ends."
    )
    parser.add_argument("--topic", default="/humans", help="of the people (default: %(default)s)")
    parser.add_argument(
        "--image", default="", metavar="TOPIC", help="of the images (default: the only one, compressed if it exists)"
    )
    parser.add_argument("--fixed-frame", default="", metavar="FRAME", help="TF frame, such as odom (default: none)")
    parser.add_argument(
        "--web", nargs="?", type=int, const=WEB_PORT, metavar="PORT",
        help="show it in a browser on this machine instead of a window (default port: %(const)s)",
    )  # fmt: skip
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="write a recording; a window opens only without")
    return parser


@contextlib.contextmanager
def _open_viewer(options: argparse.Namespace) -> Iterator[Viewer | None]:
    if options.web is None and options.save is not None:
        yield None
        return
    kind, port = (NATIVE, 0) if options.web is None else (WEB, options.web)
    with contextlib.closing(Viewer(kind, port, "--web, or --save FILE.rrd to open the file elsewhere")) as viewer:
        if options.web is not None:
            print(f"open {viewer.address} in a browser on this machine", flush=True)
        yield viewer


def _run(options: argparse.Namespace) -> int:
    import_rerun()
    if options.save is not None:
        if options.save.exists():
            raise UserError(f"{options.save} already exists; choose another --save, or remove it")
        require_parent_folder(options.save)
    node = rclpy.create_node("people_view")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with _open_viewer(options) as viewer:
        view = LiveView(
            node, options.topic, options.image, options.fixed_frame,
            lambda topology: RerunRecording(options.save, topology, viewer, options.topic),
        )  # fmt: skip
        with contextlib.closing(view):
            _spin(executor, view, viewer)
    if not view.shown:
        raise UserError(f"nothing was shown: {view.explain_silence()}")
    print(f"{view.shown} images" + (f" → {options.save}" if options.save is not None else ""))
    return 0


def _spin(executor: SingleThreadedExecutor, view: LiveView, viewer: Viewer | None) -> None:
    """Show people until SIGINT, SIGTERM, or the end of the viewer."""
    stopped = collect_stop_signals()
    update_s = 0.0
    while not stopped and (viewer is None or viewer.is_open):
        if time.monotonic() - update_s > UPDATE_PERIOD_S:
            view.update()
            update_s = time.monotonic()
        executor.spin_once(timeout_sec=UPDATE_PERIOD_S)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if people were shown, 2 for a user error or if nothing could be shown."""
    return run_tool("view", _make_parser(), _run, args)


if __name__ == "__main__":
    sys.exit(main())
