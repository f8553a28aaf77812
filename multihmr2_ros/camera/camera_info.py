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

"""The camera of an image from the fields of its sensor_msgs/CameraInfo, as in image_geometry (ROS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multihmr2_ros.camera.distortion import CameraModel
from multihmr2_ros.camera.pinhole import require_k_in_pixels, validate_k
from multihmr2_ros.errors import UserError


@dataclass(frozen=True)
class CameraInfoContent:
    """The fields of a sensor_msgs/CameraInfo, under the same names, and the size of its image.

    width, height              px at full resolution; 0 if unknown
    d                          (n,) distortion coefficients
    k, r, p                    (9,), (9,) and (12,), row-major
    roi_*                      region of interest, unbinned px
    image_width, image_height  px of the image
    rectified                  whether the image topic contains rectified images

    r and roi_do_rectify are not used: people are placed in the frame of this one camera, and K and P are cropped to the
    same region, as in image_geometry.
    """

    image_width: int
    image_height: int
    rectified: bool
    width: int
    height: int
    k: ArrayLike
    p: ArrayLike
    distortion_model: str = ""
    d: ArrayLike = ()
    r: ArrayLike = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    binning_x: int = 0
    binning_y: int = 0
    roi_x_offset: int = 0
    roi_y_offset: int = 0
    roi_width: int = 0
    roi_height: int = 0
    roi_do_rectify: bool = False


def has_empty_p(info: CameraInfoContent) -> bool:
    """Return whether P is all 0 although K is set, as from drivers that undistort images or do not rectify them."""
    p, k = np.asarray(info.p, dtype=np.float64).reshape(-1), np.asarray(info.k, dtype=np.float64).reshape(-1)
    return not p.any() and bool(k.size and k[0] != 0)


def camera_from_info(info: CameraInfoContent) -> CameraModel | None:
    """Return the camera of an image, or None if its CameraInfo is uncalibrated (k[0] or p[0] is 0).

    Raw images: K and the distortion. Rectified images: P[:, :3], or K if P is all 0, without distortion. The
    full-resolution matrix is cropped to the region of interest, then binned, as in image_geometry (ROS):
    cx' = (cx - x_offset) / binning_x.

    Raises UserError for focal lengths that no camera has, and for an image of another size: it may have been cropped or
    resized, and the wrong assumption would give wrong positions. Raises UnusableDistortionError if only the distortion
    is unusable; the same content with an empty d is then accepted.
    """
    uses_p = info.rectified and not has_empty_p(info)
    name, numbers, columns = ("p", info.p, 4) if uses_p else ("k", info.k, 3)
    values = np.asarray(numbers, dtype=np.float64).reshape(-1)
    if values.size != 3 * columns:
        raise UserError(
            f"camera_info.{name} must have {3 * columns} numbers, got {values.size}; recalibrate the camera"
        )
    if values[0] == 0.0:
        return None
    full = validate_k(values.reshape(3, columns)[:, :3], f"camera_info.{name}")
    binning = np.maximum([info.binning_x, info.binning_y], 1)
    _require_matching_size(info, binning)
    to_region = np.array([[1.0, 0.0, -info.roi_x_offset], [0.0, 1.0, -info.roi_y_offset], [0.0, 0.0, 1.0]])
    k = np.diag([1.0 / binning[0], 1.0 / binning[1], 1.0]) @ to_region @ full
    require_k_in_pixels(k, info.image_width, info.image_height, f"camera_info.{name}")
    if info.rectified:
        return CameraModel(k, np.zeros(0), "", info.image_width, info.image_height, "P" if uses_p else "K")
    distortion = np.asarray(info.d, dtype=np.float64)
    return CameraModel(k, distortion, info.distortion_model, info.image_width, info.image_height, "K")


def _require_matching_size(info: CameraInfoContent, binning: NDArray[np.int64]) -> None:
    """Raise UserError unless the image has the size of the binned region; an unknown size matches every image."""
    image = np.array([info.image_width, info.image_height])
    full = np.array([info.width, info.height])
    offset = np.array([info.roi_x_offset, info.roi_y_offset])
    region = np.array([info.roi_width, info.roi_height])
    region = np.where(region > 0, region, np.where(full > 0, full - offset, image * binning))
    # Less than one bin apart: drivers drop or keep an incomplete last bin.
    if (np.abs(region - image * binning) >= binning).any():
        expected_width, expected_height = region // binning
        raise UserError(
            f"camera_info describes images of {expected_width} x {expected_height} px (after region of interest and "
            f"binning), but the image is {image[0]} x {image[1]} px; publish the camera_info of these images"
        )
