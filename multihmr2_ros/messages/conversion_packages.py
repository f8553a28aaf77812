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

"""Selection of ROS packages for conversions: cv_bridge (images), sensor_msgs_py (clouds), tf_transformations
(quaternions).

A package is used if it is installed and converts a sample correctly; otherwise the conversions of this package are
used. cv_bridge built for NumPy 1 cannot be imported with NumPy 2, ports of ROS 1 read rows with padding incorrectly,
and tf_transformations needs functions of older NumPy versions.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

PACKAGES = {"cv_bridge": "images", "sensor_msgs_py": "clouds", "tf_transformations": "quaternions"}

MODULES = {  # imported first
    "cv_bridge": "cv_bridge.boost.cv_bridge_boost",  # the compiled part, imported by cv_bridge only at the first image
    "sensor_msgs_py": "sensor_msgs_py.point_cloud2",
    "tf_transformations": "tf_transformations",
}
# Text that NumPy 2 prints for a module built for NumPy 1. Boost continues after it, and crashes at the first image.
NUMPY_1 = "_ARRAY_API"


def get_converter(package: str) -> Any:
    """Return the converter: a CvBridge, or the module sensor_msgs_py.point_cloud2 or tf_transformations. None if the
    package is not used."""
    return find_converter(package)[0]


def describe_packages(*, sends_bytes: bool = False) -> str:
    """Return one line with the packages that are used, and the reasons why the others are not.

    sends_bytes: whether clouds are sent as bytes, which takes half the time of sensor_msgs_py.
    """
    reasons = {package: find_converter(package)[1] for package in PACKAGES}
    if sends_bytes:
        reasons["sensor_msgs_py"] = reasons["sensor_msgs_py"] or "is slower"
    used = [f"{PACKAGES[package]} by {package}" for package, reason in reasons.items() if not reason]
    ours = [f"{PACKAGES[package]} by own code ({package} {reason})" for package, reason in reasons.items() if reason]
    return f"conversions: {', '.join(used + ours)}"


@cache
def find_converter(package: str) -> tuple[Any, str]:
    """Return the converter and ""; or None, if it is not used, and the reason."""
    noise = io.StringIO()  # NumPy 2 prints a long message about modules built for NumPy 1
    try:
        with contextlib.redirect_stderr(noise):
            importlib.import_module(MODULES[package])
            if NUMPY_1 in noise.getvalue():
                raise ImportError("it is built for NumPy 1")
            converter = TRIALS[package]()
    except ModuleNotFoundError as error:
        return None, "is not installed" if error.name == package else f"cannot be imported: {_to_one_line(error)}"
    except ImportError as error:
        return None, f"cannot be imported: {_to_one_line(error)}"
    except Exception as error:  # the compiled part, or another version of NumPy, may raise any type
        return None, f"cannot be used: {_to_one_line(error)}"
    return (None, "fails a test conversion") if converter is None else (converter, "")


def _try_cv_bridge() -> Any:
    bridge = importlib.import_module("cv_bridge").CvBridge()
    header = importlib.import_module("std_msgs.msg").Header(frame_id="sample")
    # Two rows of one pixel, each with one pixel of padding.
    sample = SimpleNamespace(height=2, width=1, step=6, encoding="bgr8", is_bigendian=0, data=bytes(range(12)))
    read = bridge.imgmsg_to_cv2(sample, "rgb8")
    message = bridge.cv2_to_imgmsg(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "rgb8", header)
    is_right = np.array_equal(read, [[[2, 1, 0]], [[8, 7, 6]]]) and bytes(message.data) == bytes(range(6))
    return bridge if is_right and (message.step, message.encoding, message.header) == (6, "rgb8", header) else None


def _try_sensor_msgs_py() -> Any:
    module = importlib.import_module("sensor_msgs_py.point_cloud2")
    header = importlib.import_module("std_msgs.msg").Header(frame_id="sample")
    points = np.arange(6, dtype=np.float32).reshape(2, 3)
    cloud = module.create_cloud_xyz32(header, points)
    is_right = bytes(cloud.data) == points.tobytes() and (cloud.width, cloud.height, cloud.point_step) == (2, 1, 12)
    return module if is_right and cloud.header == header else None


def _try_tf_transformations() -> Any:
    module = importlib.import_module("tf_transformations")
    quarter = np.array([[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    about_z = module.quaternion_from_matrix(quarter)
    return module if np.allclose(about_z, [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)]) else None


TRIALS = {
    "cv_bridge": _try_cv_bridge,
    "sensor_msgs_py": _try_sensor_msgs_py,
    "tf_transformations": _try_tf_transformations,
}


def _to_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
