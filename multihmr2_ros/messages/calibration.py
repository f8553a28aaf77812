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

"""What a CameraInfo says of an image, and lens distortion taken out of it; for messages of rclpy and of rosbags."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import (
    CameraFacts,
    CameraModel,
    UnusableDistortionError,
    camera_from_info,
    check_lens,
    distort_points,
    has_empty_p,
    undistortion_maps,
)
from multihmr2_ros.errors import UserError
from multihmr2_ros.people import Distort, IntrinsicsSource


@dataclass(frozen=True)
class Intrinsics:
    """What is known about the camera of an image.

    k          (3, 3) px of the image; None: to be predicted
    source     where k came from
    problem    what is wrong with the camera_info; "" if nothing
    notice     what is worth knowing but not wrong; "" if nothing
    distorted  the camera with its distortion, where the image has any
    """

    k: NDArray[np.float64] | None
    source: IntrinsicsSource
    problem: str = ""
    notice: str = ""
    distorted: CameraModel | None = None

    @property
    def distort(self) -> Distort | None:
        """From the undistorted image to the image as it came; None where these are the same."""
        return None if self.distorted is None else functools.partial(distort_points, camera=self.distorted)


def intrinsics_from_info(camera_info: Any, image: NDArray[np.uint8], *, rectified: bool) -> Intrinsics:
    """The intrinsics of an image (H, W, 3) that came with a sensor_msgs/CameraInfo."""
    predicted = IntrinsicsSource.PREDICTED
    facts = camera_facts(camera_info, image, rectified=rectified)
    try:
        camera, problem = _camera(facts)
    except UserError as error:
        return Intrinsics(None, predicted, f"{error}; until then intrinsics are predicted")
    if camera is None:
        return Intrinsics(None, predicted, "camera_info is uncalibrated (all 0): intrinsics are predicted")
    notice = "camera_info.p is all 0: k is used for the rectified images" if rectified and has_empty_p(facts) else ""
    distorted = camera if camera.distortion_model else None
    return Intrinsics(camera.k, IntrinsicsSource(camera.source), problem, notice=notice, distorted=distorted)


def _camera(facts: CameraFacts) -> tuple[CameraModel | None, str]:
    """As camera_from_info, but without a distortion that cannot be used; and what is wrong with the distortion."""
    try:
        camera = camera_from_info(facts)
        if camera is None:
            return None, ""
        is_usable, problem = _checked_lens(
            camera.k.tobytes(), camera.distortion.tobytes(), camera.distortion_model, camera.width, camera.height
        )
    except UnusableDistortionError as error:
        is_usable, problem = False, str(error)
    if is_usable:
        return camera, problem
    return camera_from_info(dataclasses.replace(facts, d=())), f"{problem}; until then K is used without distortion"


@functools.lru_cache(maxsize=16)
def _checked_lens(k: bytes, distortion: bytes, model: str, width: int, height: int) -> tuple[bool, str]:
    """check_lens, once for each camera. k, distortion: float64."""
    return check_lens(CameraModel(np.frombuffer(k).reshape(3, 3), np.frombuffer(distortion), model, width, height))


def camera_facts(camera_info: Any, image: NDArray[np.uint8], *, rectified: bool) -> CameraFacts:
    """What a sensor_msgs/CameraInfo says of an image (H, W, 3) that came with it."""
    roi = camera_info.roi
    return CameraFacts(
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


class Lens:
    """Takes the distortion out of images and of depth images.

    What is computed for a camera is kept until another one comes.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._maps: tuple[NDArray[Any], NDArray[Any]] | None = None
        self._nearest: NDArray[np.int16] | None = None  # only where there is depth

    def undistorted(self, image: NDArray[np.uint8], camera: CameraModel) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 as the ideal pinhole camera with the same K sees it; black where the image has no pixel."""
        return np.asarray(cv2.remap(image, *self._maps_of(camera), cv2.INTER_LINEAR), np.uint8)

    def undistorted_depth(self, depth: NDArray[Any], camera: CameraModel) -> NDArray[Any]:
        """(H, W) uint16 mm or float32 m along the optical axis, moved in the same way; 0 where there is no pixel.

        Each value is that of the nearest pixel: a mean over an edge would be a surface that is not there.
        """
        maps = self._maps_of(camera)
        if self._nearest is None:
            self._nearest = _nearest_pixels(*maps)
        return np.asarray(cv2.remap(depth, self._nearest, np.empty(0), cv2.INTER_NEAREST, borderValue=0))

    def _maps_of(self, camera: CameraModel) -> tuple[NDArray[Any], NDArray[Any]]:
        key = (camera.distortion_model, camera.k.tobytes(), camera.distortion.tobytes(), camera.width, camera.height)
        if self._maps is None or key != self._key:
            self._key, self._maps, self._nearest = key, undistortion_maps(camera), None
        return self._maps


def _nearest_pixels(whole: NDArray[Any], rest: NDArray[Any]) -> NDArray[np.int16]:
    """(H, W, 2): whole pixels x, y, rounded, of tables that OpenCV made; also a table for `remap`."""
    half = cv2.INTER_TAB_SIZE // 2
    up = np.stack([rest % cv2.INTER_TAB_SIZE // half, rest // cv2.INTER_TAB_SIZE // half], axis=-1)
    return whole + up.astype(np.int16)
