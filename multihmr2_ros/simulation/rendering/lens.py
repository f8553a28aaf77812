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

"""Rays through pixels: the inverse of a camera's projection and distortion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from multihmr2_ros.camera import CameraModel, back_project, distort_points, undistort_points
from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.scene.scene import Camera

# Undistortion is solved on a grid of this spacing and interpolated by cubic splines (error below 0.01 px).
GRID_STEP_PX = 8.0


class CameraRays:
    """Rays of the scene's camera; Camera.distortion follows ROS's plumb_bob."""

    def __init__(self, camera: Camera) -> None:
        distorted = bool(np.any(camera.distortion))
        self.model = CameraModel(
            camera.k, camera.distortion, "plumb_bob" if distorted else "", camera.width, camera.height
        )
        self._splines = self._fit_undistortion() if distorted else None

    def _fit_undistortion(self) -> tuple[RectBivariateSpline, RectBivariateSpline]:
        width, height = self.model.width, self.model.height
        x = np.linspace(0.0, width, max(4, int(width / GRID_STEP_PX) + 1))
        y = np.linspace(0.0, height, max(4, int(height / GRID_STEP_PX) + 1))
        ideal = undistort_points(np.stack(np.meshgrid(x, y), axis=-1), self.model)
        if not np.isfinite(ideal).all():
            raise UserError(
                "a simulated lens must be valid over its whole image, but the distortion "
                f"{self.model.distortion.tolist()} folds it; choose smaller coefficients"
            )
        return RectBivariateSpline(y, x, ideal[..., 0]), RectBivariateSpline(y, x, ideal[..., 1])

    def compute_directions(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return unit rays (n, 3) in the optical frame through pixels (n, 2) of the distorted image."""
        if self._splines is not None:
            points = np.stack([spline.ev(points[:, 1], points[:, 0]) for spline in self._splines], axis=-1)
        return self.compute_ideal_directions(points)

    def compute_ideal_directions(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return unit rays (n, 3) through pixels (n, 2) of the same camera without distortion."""
        rays = back_project(points, 1.0, self.model.k)
        return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)

    def distort(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map the ideal camera's pixels to the distorted image (..., 2); NaN if they are not visible in it."""
        return distort_points(points, self.model)

    def compute_pixel_centers(self) -> NDArray[np.float64]:
        """Return pixel centers (H·W, 2) row by row."""
        y, x = np.mgrid[0 : self.model.height, 0 : self.model.width]
        return np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=-1)
