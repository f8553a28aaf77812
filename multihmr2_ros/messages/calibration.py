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

"""Intrinsics and lens distortion of an image from its CameraInfo, for messages of rclpy and of rosbags."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import (
    CameraInfoContent,
    CameraModel,
    UnusableDistortionError,
    camera_from_info,
    check_lens,
    has_empty_p,
)
from multihmr2_ros.errors import UserError
from multihmr2_ros.lens import LensDistortion, get_lens
from multihmr2_ros.people import IntrinsicsSource


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics and lens distortion of an image.

    k        (3, 3) px of the undistorted image; None: to be predicted
    source   origin of k
    lens     distortion of the image; None: there is none, or it cannot be used
    problem  error in the camera_info, one line; "" if none
    notice   remark on the camera_info that is not an error, one line; "" if none
    """

    k: NDArray[np.float64] | None = None
    source: IntrinsicsSource = IntrinsicsSource.PREDICTED
    lens: LensDistortion | None = None
    problem: str = ""
    notice: str = ""


def intrinsics_from_info(camera_info: Any, image: NDArray[np.uint8], *, rectified: bool) -> Intrinsics:
    """Return the intrinsics of an image (H, W, 3) from its sensor_msgs/CameraInfo. Errors are in `problem`."""
    facts = camera_info_content(camera_info, image, rectified=rectified)
    try:
        camera, problem = _make_camera(facts)
    except UserError as error:
        return Intrinsics(problem=f"{error}; intrinsics are predicted until camera_info is corrected")
    if camera is None:
        return Intrinsics(problem="camera_info is uncalibrated (all 0): intrinsics are predicted")
    notice = "camera_info.p is all 0: k is used for the rectified images" if rectified and has_empty_p(facts) else ""
    return Intrinsics(camera.k, IntrinsicsSource(camera.source), get_lens(camera), problem, notice)


def _make_camera(facts: CameraInfoContent) -> tuple[CameraModel | None, str]:
    """Return `camera_from_info`, without a distortion that cannot be used, and the error in the distortion or ""."""
    try:
        camera = camera_from_info(facts)
        if camera is None:
            return None, ""
        is_usable, problem = _check_lens_once(
            camera.k.tobytes(), camera.distortion.tobytes(), camera.distortion_model, camera.width, camera.height
        )
    except UnusableDistortionError as error:
        is_usable, problem = False, str(error)
    if is_usable:
        return camera, problem
    problem = f"{problem}; K is used without distortion until camera_info is corrected"
    return camera_from_info(dataclasses.replace(facts, d=())), problem


@functools.lru_cache(maxsize=16)
def _check_lens_once(k: bytes, distortion: bytes, model: str, width: int, height: int) -> tuple[bool, str]:
    """Call `check_lens` once per camera. k, distortion: bytes of float64."""
    return check_lens(CameraModel(np.frombuffer(k).reshape(3, 3), np.frombuffer(distortion), model, width, height))


def camera_info_content(camera_info: Any, image: NDArray[np.uint8], *, rectified: bool) -> CameraInfoContent:
    """Copy a sensor_msgs/CameraInfo and the size of its image (H, W, 3) into `CameraInfoContent`."""
    roi = camera_info.roi
    return CameraInfoContent(
        image_width=image.shape[1],
        image_height=image.shape[0],
        rectified=rectified,
        width=camera_info.width,
        height=camera_info.height,
        k=camera_info.k,
        p=camera_info.p,
        distortion_model=camera_info.distortion_model,
        d=camera_info.d,
        r=camera_info.r,
        binning_x=camera_info.binning_x,
        binning_y=camera_info.binning_y,
        roi_x_offset=roi.x_offset,
        roi_y_offset=roi.y_offset,
        roi_width=roi.width,
        roi_height=roi.height,
        roi_do_rectify=roi.do_rectify,
    )
