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

"""Camera geometry: intrinsics, ROS calibration, lens distortion, resize and pad, projection.

Units: pixels, meters, radians. Frame of reference: the camera's optical frame (x right, y down, z forward). A pinhole
camera K = [[fx, s, cx], [0, fy, cy], [0, 0, 1]] maps (x, y, z) to (u, v) with [u, v, 1]ᵀ = K [x, y, z]ᵀ / z, u to the
right and v down.

Pixel convention: resizing by `scale` and padding by `pad` maps the point u to u·scale + pad; K is scaled and shifted in
the same way, as in the network's training. A K given by the user or by ROS is used without a shift, although OpenCV's
origin is the center of the first pixel, not its outer corner. The published method accepts this difference of at most
half a pixel, too.
"""

from .camera_info import CameraInfoContent, camera_from_info, has_empty_p
from .distortion import (
    DISTORTION_COEFFICIENTS,
    MAX_COEFFICIENT,
    CameraModel,
    UnusableDistortionError,
    check_lens,
    compute_undistortion_maps,
    distort_points,
    undistort_points,
)
from .pinhole import (
    back_project,
    compute_vertical_fov,
    intrinsics_from_fov,
    project,
    require_k_in_pixels,
    validate_k,
)
from .resize import ResizePad

__all__ = [
    "DISTORTION_COEFFICIENTS",
    "MAX_COEFFICIENT",
    "CameraInfoContent",
    "CameraModel",
    "ResizePad",
    "UnusableDistortionError",
    "back_project",
    "camera_from_info",
    "check_lens",
    "compute_undistortion_maps",
    "compute_vertical_fov",
    "distort_points",
    "has_empty_p",
    "intrinsics_from_fov",
    "project",
    "require_k_in_pixels",
    "undistort_points",
    "validate_k",
]
