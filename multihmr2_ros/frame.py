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

"""A camera image with its calibration, depth and ground plane: the input of `Estimator.step`.

Live cameras, bags, videos, image folders and data sets are all read as frames. The image is always as recorded; only
the estimator undistorts it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .camera import intrinsics_from_fov, require_k_in_pixels
from .depth import RelativeDepthMap, check_depth
from .errors import UserError
from .lens import Distort, LensDistortion
from .people import IntrinsicsSource

GIVEN, PREDICTED = "given", "predicted"


@dataclass(frozen=True)
class GroundPlane:
    """The ground plane, normal · x = offset_m, in the camera's optical frame.

    normal (3,) has unit length and points up, so −offset_m is the camera's height above the ground in m. A normal of
    another length or sign is normalized so that it points to the camera's side. Raises UserError for a zero or
    non-finite normal or offset, and for a plane through the camera (offset 0).
    """

    normal: NDArray[np.float64]
    offset_m: float

    def __post_init__(self) -> None:
        normal = np.asarray(self.normal, np.float64)
        length = float(np.linalg.norm(normal)) if normal.shape == (3,) else 0.0
        if not (np.isfinite(length) and length > 0 and np.isfinite(self.offset_m)):
            raise UserError(
                "a ground plane must have a normal of 3 numbers, not all 0, and an offset in m, got "
                f"{np.asarray(self.normal).tolist()} and {self.offset_m}; correct the plane"
            )
        if self.offset_m == 0:
            raise UserError("the camera must be above the ground, got a plane with offset 0 m; correct the offset")
        scale = -np.sign(self.offset_m) / length
        object.__setattr__(self, "normal", normal * scale)
        object.__setattr__(self, "offset_m", float(self.offset_m * scale))

    @classmethod
    def from_fixed_frame(cls, fixed_from_camera: ArrayLike, height_m: float = 0.0) -> GroundPlane:
        """Return the plane z = height_m of a fixed frame whose z axis points up, such as odom and map in ROS.

        fixed_from_camera (4, 4): the camera's pose in that frame. Raises UserError if the camera is not above the
        plane.
        """
        pose = np.asarray(fixed_from_camera, np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise UserError(
                f"the camera's pose must be a finite (4, 4) matrix, got shape {pose.shape}; pass a rotation and "
                "translation"
            )
        below_m = height_m - float(pose[2, 3])
        if below_m >= 0:
            raise UserError(
                f"the camera must be above the ground, got {below_m:.3f} m below; give a frame whose z axis points up"
            )
        return cls(pose[2, :3], below_m)


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image with its calibration, depth and pose.

    image              (H, W, 3) uint8 RGB, as recorded
    stamp              s, of the image
    k                  (3, 3) float64 intrinsics in px of the undistorted image; None: the network predicts them
    intrinsics_source  source of k; always PREDICTED without k
    name               file stem for results
    lens               lens distortion of the image; None: no distortion
    depth              (H, W) uint16 mm or float32 m, registered to the image as recorded (0, NaN and infinite are
                       holes), or a relative depth map, or None
    ground             the ground plane in the camera's frame, or None
    fixed_from_camera  (4, 4) pose of the camera in the fixed frame at the stamp, or None; if given, velocities are
                       relative to the fixed frame, else to the camera
    fixed_frame        name of the fixed frame, "" if unnamed
    """

    image: NDArray[np.uint8]
    stamp: float = 0.0
    k: NDArray[np.float64] | None = None
    intrinsics_source: IntrinsicsSource = IntrinsicsSource.K
    name: str = "frame"
    lens: LensDistortion | None = None
    depth: NDArray[np.generic] | RelativeDepthMap | None = None
    ground: GroundPlane | None = None
    fixed_from_camera: NDArray[np.float64] | None = None
    fixed_frame: str = ""

    def __post_init__(self) -> None:
        if self.k is None:
            object.__setattr__(self, "intrinsics_source", IntrinsicsSource.PREDICTED)

    @property
    def distort(self) -> Distort | None:
        """Function that maps points of the undistorted image to points of `image`; None without a lens."""
        return None if self.lens is None else self.lens.distort_points

    def check(self) -> None:
        """Raise UserError for an image, a lens or a depth image that cannot be used."""
        height, width = _check_image_size(self.image)
        if self.lens is not None and (self.lens.camera.height, self.lens.camera.width) != (height, width):
            raise UserError(
                f"the lens is calibrated for images of {self.lens.camera.width} x {self.lens.camera.height} px, got an "
                f"image of {width} x {height} px; give the calibration of this image size"
            )
        check_depth(self.depth, (height, width))

    def undistort(self) -> Frame:
        """Return the frame without lens distortion: image and depth of a pinhole camera with the same K."""
        if self.lens is None:
            return self
        depth = self.depth
        if isinstance(depth, RelativeDepthMap):
            values = self.lens.undistort_depth(depth.values.astype(np.float32), hole=np.nan)
            depth = RelativeDepthMap(values, depth.kind)
        elif depth is not None:
            depth = self.lens.undistort_depth(depth)
        return dataclasses.replace(self, image=self.lens.undistort_image(self.image), depth=depth, lens=None)

    def points_as_recorded(self, points_2d: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map points (..., 2) px of the undistorted image to px of `image`; NaN outside the lens model's range."""
        points = points_2d if self.lens is None else self.lens.distort_points(points_2d)
        return points.astype(np.float32)


AnyFrame = TypeVar("AnyFrame", bound=Frame)


@dataclass(frozen=True)
class IntrinsicsChoice:
    """The user's choice of the intrinsics that people are placed with.

    source            "given": k or vertical_fov_rad below if set, else the frame's; "predicted": by the network
    k                 (3, 3) px of the image, or None
    vertical_fov_rad  vertical field of view, or None
    """

    source: str = GIVEN
    k: NDArray[np.float64] | None = None
    vertical_fov_rad: float | None = None

    def apply(self, frame: AnyFrame) -> AnyFrame:
        """Return the frame with the chosen intrinsics. The lens does not change, because the image does not.

        Raises UserError for focal lengths that no camera has.
        """
        height, width = frame.image.shape[:2]
        if self.source == PREDICTED:
            return dataclasses.replace(frame, k=None)
        if self.k is not None:
            require_k_in_pixels(self.k, width, height)
            return dataclasses.replace(frame, k=self.k, intrinsics_source=IntrinsicsSource.PARAMETER)
        if self.vertical_fov_rad is not None:
            k = intrinsics_from_fov(self.vertical_fov_rad, width, height)
            return dataclasses.replace(frame, k=k, intrinsics_source=IntrinsicsSource.PARAMETER)
        return frame


def _check_image_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Return (height, width). Raise UserError unless the image is (height, width, 3) uint8 and has pixels."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image must be a (height, width, 3) uint8 RGB array, got {came}; convert it first")
    if 0 in image.shape:
        raise UserError(f"an image must have at least 1 x 1 px, got {image.shape[1]} x {image.shape[0]} px")
    return image.shape[0], image.shape[1]
