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

"""Lens distortion of a calibrated camera: removed from images and depth images, and applied to points."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .camera import CameraModel, compute_undistortion_maps, distort_points

# Points (..., 2) px of the undistorted image → (..., 2) px of the image as recorded; NaN if the lens model is not valid
# there.
Distort = Callable[[NDArray[np.floating]], NDArray[np.floating]]

KEPT_LENSES = 16  # lenses whose lookup tables are kept: 10 bytes per pixel each


class LensDistortion:
    """The lens of one camera. `get_lens` returns one object per camera, so its lookup tables are computed once.

    camera: calibration of the image as recorded. The undistorted image has the same size and K.
    """

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera

    def undistort_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the undistorted image (H, W, 3), of a pinhole camera with the same K; black outside the source."""
        import cv2

        return np.asarray(cv2.remap(image, *self._undistortion_maps, cv2.INTER_LINEAR), np.uint8)

    def undistort_depth(self, depth: NDArray[Any], hole: float = 0.0) -> NDArray[Any]:
        """Return the undistorted depth image (H, W), uint16 mm or float32 m along the optical axis.

        Uses the nearest pixel, because interpolation across an edge would give a depth between the two surfaces.
        hole: the value outside the source image.
        """
        import cv2

        return np.asarray(cv2.remap(depth, self._nearest_pixels, np.empty(0), cv2.INTER_NEAREST, borderValue=hole))

    def distort_points(self, points_2d: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map points (..., 2) px of the undistorted image to px of the image as recorded (see `distort_points`)."""
        return distort_points(points_2d, self.camera)

    @functools.cached_property
    def _undistortion_maps(self) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        return compute_undistortion_maps(self.camera)

    @functools.cached_property
    def _nearest_pixels(self) -> NDArray[np.int16]:
        return find_nearest_pixels(*self._undistortion_maps)


def get_lens(camera: CameraModel) -> LensDistortion | None:
    """Return the camera's lens, or None if the camera has no distortion."""
    if not camera.distortion_model:
        return None
    k, distortion = camera.k.tobytes(), camera.distortion.tobytes()
    return _make_lens(k, distortion, camera.distortion_model, camera.width, camera.height)


@functools.lru_cache(maxsize=KEPT_LENSES)
def _make_lens(k: bytes, distortion: bytes, model: str, width: int, height: int) -> LensDistortion:
    """Return the cached lens. k, distortion: bytes of float64."""
    return LensDistortion(CameraModel(np.frombuffer(k).reshape(3, 3), np.frombuffer(distortion), model, width, height))


def find_nearest_pixels(whole: NDArray[np.int16], rest: NDArray[np.uint16]) -> NDArray[np.int16]:
    """Round OpenCV's lookup tables to whole pixels x, y (H, W, 2), which `cv2.remap` also accepts as a table."""
    import cv2

    half = cv2.INTER_TAB_SIZE // 2
    up = np.stack([rest % cv2.INTER_TAB_SIZE // half, rest // cv2.INTER_TAB_SIZE // half], axis=-1)
    return whole + up.astype(np.int16)
