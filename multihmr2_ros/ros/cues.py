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

"""What the node knows of an image beside its pixels: where the camera was, where the floor is, how far things are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.depth import depth_from_ros
from multihmr2_ros.placement import Ground

from .inputs import CameraImage, Inputs, deserialized
from .parameters import NodeParameters
from .target_frame import Target
from .transforms import Unknown


@dataclass(frozen=True, eq=False)
class Cues:
    """Each None where it was not asked for, or is not known.

    fixed_from_camera (4, 4): the camera's pose in the fixed frame, which has a name, at the image's stamp. ground: in
    the camera's frame. depth (H, W): uint16 mm or float32 m of the pixels of the image as it came. target: the frame
    of the messages.
    """

    fixed_from_camera: NDArray[np.float64] | None = None
    fixed_frame: str = ""
    ground: Ground | None = None
    depth: NDArray[np.generic] | None = None
    target: Target | None = None


class CueFinder:
    """Finds the cues of one image after the other, in the worker's thread, which may wait for them.

    report takes a cause and a text. facts: for the diagnostics, what the last image was worked on with.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self.facts: dict[str, str] = {}

    def find(self, inputs: Inputs, camera: CameraImage, parameters: NodeParameters) -> Cues:
        deadline_s = time.monotonic() + parameters.transform_timeout_s
        fixed_from_camera = self._pose(
            inputs, camera, parameters.fixed_frame, deadline_s, "velocities of this image do without"
        )
        ground = self._ground(inputs, camera, parameters.ground_frame, deadline_s)
        target = self._target(inputs, camera, parameters.target_frame, deadline_s)
        depth, about_depth = self._depth(inputs, camera, parameters.depth_max_delay_s)
        own_frame = camera.header.frame_id if target is None else target.frame_id
        is_unplaced = bool(parameters.target_frame) and target is None
        self.facts = {
            "velocity frame": own_frame if fixed_from_camera is None else parameters.fixed_frame,
            "ground": "not used" if ground is None else f"plane z = 0 of {parameters.ground_frame}",
            "depth": about_depth,
            "target frame": "not known: people are not published" if is_unplaced else own_frame,
        }
        return Cues(fixed_from_camera, parameters.fixed_frame, ground, depth, target)

    def _pose(
        self, inputs: Inputs, camera: CameraImage, frame: str, deadline_s: float, consequence: str
    ) -> NDArray[np.float64] | None:
        """(4, 4) frame from camera; None where no frame is asked for, or it is not known in time."""
        if not frame or inputs.transforms is None:
            return None
        try:
            return inputs.transforms.pose(frame, camera.header, deadline_s - time.monotonic())
        except Unknown as reason:
            self._report("transform", f"{reason}: {consequence} {frame!r}")
            return None

    def _ground(self, inputs: Inputs, camera: CameraImage, frame: str, deadline_s: float) -> Ground | None:
        pose = self._pose(inputs, camera, frame, deadline_s, "distances of this image do without")
        if pose is None:
            return None
        try:
            return Ground.of_fixed_frame(pose)
        except UserError as error:
            self._report("ground", f"{error} (ground_frame {frame!r})")
            return None

    def _target(self, inputs: Inputs, camera: CameraImage, frame: str, deadline_s: float) -> Target | None:
        pose = self._pose(inputs, camera, frame, deadline_s, "people of this image are not published in")
        if pose is None or inputs.transforms is None:
            return None
        return Target(frame, pose, inputs.transforms.rate(frame, camera.header, pose))

    def _depth(self, inputs: Inputs, camera: CameraImage, most_s: float) -> tuple[NDArray[np.generic] | None, str]:
        """(H, W), or None; and, in words, which of both and why."""
        images = inputs.depth_images
        if images is None:
            return None, "not used: use_depth is false"
        message = images.nearest(camera.header.stamp_ns, most_s)
        if message is None and images.is_alive:
            return None, f"not used: none within {most_s} s of the image"
        if message is None:
            return None, f"not used: nothing comes on {inputs.depth_topic}"
        try:
            return depth_from_ros(deserialized(message, Image), camera.header, camera.image.shape[:2]), "used"
        except UserError as error:
            self._report("depth", str(error))
            return None, "not used: it does not fit"
