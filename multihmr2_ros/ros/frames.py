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

"""Makes the frame of a received image: intrinsics from CameraInfo, depth, ground plane and camera pose from TF."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import GroundPlane, IntrinsicsChoice
from multihmr2_ros.messages.calibration import Intrinsics, intrinsics_from_info
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.depth import depth_from_ros
from multihmr2_ros.messages.images import compressed_image_from_ros, image_from_ros
from multihmr2_ros.transform_tree import normalize_frame_name

from .conversions import header_from_ros
from .inputs import Inputs, ReceivedImage
from .parameters import NodeParameters
from .target_frame import CameraFrame, TargetFrame
from .transforms import UnknownTransformError

FUTURE_S = 1.0  # tolerance of stamps in the future: clocks differ slightly, and simulated clocks advance in steps


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image (H, W, 3) uint8 RGB with its header. arrival_s: on the node's clock, which may be simulated."""

    image: NDArray[np.uint8]
    header: HeaderContent
    arrival_s: float

    @property
    def time_s(self) -> float:
        """The stamp in s; the arrival time if the image has no stamp."""
        return self.header.stamp_s or self.arrival_s

    @property
    def faults(self) -> list[str]:
        """Errors in the header, one line each."""
        faults = []
        if not self.header.frame_id:
            faults.append(
                "images have no header.frame_id: no transforms of people are published; set frame_id in "
                "the camera driver"
            )
        if not self.header.stamp_ns:
            faults.append(
                "images have no header.stamp: no transforms of people are published, and neither moving frames nor "
                "depth images can be used; set the stamp in the camera driver"
            )
        ahead_s = -self.age_at_receipt_s
        if ahead_s > FUTURE_S:
            faults.append(
                f"images are stamped {ahead_s:.1f} s in the future: ages and latencies are wrong, and max_age_s drops "
                "no image; synchronize the clocks of the camera and of this computer"
            )
        return faults

    @property
    def age_at_receipt_s(self) -> float:
        """Age of the image when it arrived, s; NaN if it is unknown."""
        return self.header.compute_age_s(self.arrival_s)


class FrameMaker:
    """Maker of frames, one at a time, in the worker's thread, which may wait for transforms and depth images.

    report  called with the cause and the text of a problem
    facts   sources of the last frame's data, for the diagnostics
    notice  remark on the last frame's camera_info, "" if none
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self.facts: dict[str, str] = {}
        self.notice = ""

    def make(
        self, received: ReceivedImage, camera: DecodedImage, inputs: Inputs, parameters: NodeParameters
    ) -> CameraFrame:
        """Return the frame of a decoded image. Waits for its transforms and its depth image."""
        given = read_intrinsics(received, camera, parameters)
        self.notice = given.notice
        if given.problem:
            self._report("camera_info", given.problem)
        deadline_s = time.monotonic() + parameters.transform_timeout_s
        fixed_from_camera = self._lookup_pose(
            inputs, camera, parameters.fixed_frame, deadline_s, "velocities of this image are not relative to"
        )
        ground = self._lookup_ground(inputs, camera, parameters.ground_frame, deadline_s)
        target = self._lookup_target(inputs, camera, parameters.target_frame, deadline_s)
        depth, about_depth = self._find_depth(inputs, camera, parameters.depth_max_delay_s)
        frame = CameraFrame(
            camera.image, camera.time_s, given.k, given.source, lens=given.lens, depth=depth, ground=ground,
            fixed_from_camera=fixed_from_camera, fixed_frame=parameters.fixed_frame, header=camera.header,
            target_frame=parameters.target_frame, target=target,
        )  # fmt: skip
        own_frame = camera.header.frame_id if target is None else target.frame_id
        self.facts = {
            "velocity frame": own_frame if fixed_from_camera is None else parameters.fixed_frame,
            "ground": "not used" if ground is None else f"plane z = 0 of {parameters.ground_frame}",
            "depth": about_depth,
            "target frame": "not known: people are not published" if frame.is_unplaced else own_frame,
        }
        return IntrinsicsChoice(vertical_fov_rad=parameters.vertical_fov_rad or None).apply(frame)

    def _lookup_pose(
        self, inputs: Inputs, camera: DecodedImage, frame: str, deadline_s: float, consequence: str
    ) -> NDArray[np.float64] | None:
        """Look up (4, 4) frame from camera; None if `frame` is "", or if the transform does not arrive in time."""
        if not frame or inputs.transforms is None:
            return None
        try:
            return inputs.transforms.lookup_pose(frame, camera.header, deadline_s - time.monotonic())
        except UnknownTransformError as reason:
            self._report("transform", f"{reason}: {consequence} {frame!r}")
            return None

    def _lookup_ground(self, inputs: Inputs, camera: DecodedImage, frame: str, deadline_s: float) -> GroundPlane | None:
        pose = self._lookup_pose(inputs, camera, frame, deadline_s, "distances of this image do not use the ground of")
        if pose is None:
            return None
        try:
            return GroundPlane.from_fixed_frame(pose)
        except UserError as error:
            self._report("ground", f"{error} (ground_frame {frame!r})")
            return None

    def _lookup_target(self, inputs: Inputs, camera: DecodedImage, frame: str, deadline_s: float) -> TargetFrame | None:
        pose = self._lookup_pose(inputs, camera, frame, deadline_s, "people of this image are not published in")
        if pose is None or inputs.transforms is None:
            return None
        return TargetFrame(frame, pose, inputs.transforms.estimate_rate(frame, camera.header, pose))

    def _find_depth(
        self, inputs: Inputs, camera: DecodedImage, max_difference_s: float
    ) -> tuple[NDArray[np.generic] | None, str]:
        """Return the depth image (H, W) or None, and a text for the diagnostics: whether it is used, or why not."""
        images = inputs.depth_images
        if images is None:
            return None, "not used: use_depth is false"
        message = images.find_nearest(camera.header.stamp_ns, max_difference_s)
        if message is None and not camera.header.stamp_ns:
            return None, "not used: the image has no stamp"
        if message is None and images.is_alive:
            return None, f"not used: none within {max_difference_s} s of the image"
        if message is None:
            return None, f"not used: no messages on {inputs.depth_topic}"
        try:
            return depth_from_ros(deserialize(message, Image), camera.header, camera.image.shape[:2]), "used"
        except UserError as error:
            self._report("depth", str(error))
            return None, "not used: it does not fit the image"


def decode_camera_image(received: ReceivedImage) -> DecodedImage:
    """Decode a received image. Raises UserError for an image that cannot be used."""
    message = deserialize(received.image, CompressedImage if received.is_compressed else Image)
    image = compressed_image_from_ros(message) if received.is_compressed else image_from_ros(message)
    return DecodedImage(image, header_from_ros(message.header), received.arrival_s)


def read_intrinsics(received: ReceivedImage, camera: DecodedImage, parameters: NodeParameters) -> Intrinsics:
    """Return the intrinsics of the CameraInfo. Without one, or with the parameter vertical_fov_rad, there are none.

    A CameraInfo in another frame is used, because some drivers name another frame there, but is a problem.
    """
    if parameters.vertical_fov_rad > 0:
        return Intrinsics()
    if received.camera_info is None:
        return Intrinsics(notice="no camera_info received: intrinsics are predicted")
    try:
        info = deserialize(received.camera_info, CameraInfo)
    except UserError as error:
        return Intrinsics(problem=f"{error}; intrinsics are predicted until camera_info is corrected")
    given = intrinsics_from_info(info, camera.image, rectified=parameters.image_rectified)
    frames = [normalize_frame_name(each.frame_id) for each in (info.header, camera.header)]
    if given.problem or not all(frames) or frames[0] == frames[1]:
        return given
    return dataclasses.replace(
        given,
        problem=f"camera_info is in frame {frames[0]!r}, but the images are in {frames[1]!r}: if it is another "
        "camera's, distances are wrong; remap camera_info to the topic of this camera (camera_info:=), or correct "
        "the driver",
    )


def deserialize(data: bytes, kind: type) -> Any:
    """Deserialize a message. Raises UserError for damaged bytes."""
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # the type for invalid bytes depends on the middleware
        raise UserError(f"received a damaged {kind.__name__} ({len(data)} bytes); check its publisher") from error
