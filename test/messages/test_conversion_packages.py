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

"""ROS's own conversion packages: the conditions of their use, and agreement with the package's own conversions.

The packages have no wheels; comparisons are skipped if they are not installed. To test the pure Python ones, put
sensor_msgs_py, tf_transformations and transforms3d into a folder at the front of PYTHONPATH.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, PointCloud2

from multihmr2_ros.messages import conversion_packages, images
from multihmr2_ros.messages.cdr import point_cloud_to_cdr
from multihmr2_ros.messages.content import HeaderContent, PointCloudContent
from multihmr2_ros.messages.conversion_packages import PACKAGES, describe_packages, get_converter
from multihmr2_ros.messages.human_array import SHORT_SEQUENCE, rotations_to_quaternions
from multihmr2_ros.messages.images import ENCODINGS, image_from_ros
from multihmr2_ros.ros.content_publisher import point_cloud_to_ros
from multihmr2_ros.ros.conversions import image_to_ros

HEADER = HeaderContent(12, 34, "camera")
BUILT_FOR_NUMPY_1 = """
import sys
print("A module that was compiled using NumPy 1.x cannot be run in\\nNumPy 2 as it may crash.", file=sys.stderr)
raise ImportError("numpy.core.multiarray failed to import\\n(auto-generated)")
"""


@pytest.fixture(autouse=True)
def decided_anew() -> Iterator[None]:
    """Reset the decision before and after each test."""
    forget()
    yield
    forget()


def forget() -> None:
    conversion_packages.find_converter.cache_clear()
    images._is_converted_by_cv_bridge.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that installs a package of these files before all others of its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, code: str = "", module: str = "", in_module: str = "") -> None:
        """Write the files of a package.

        - name: name of the package.
        - code: code of the package itself.
        - module: a module in it, for example "boost.cv_bridge_boost".
        - in_module: code of that module.
        """
        file = tmp_path / name / (module.replace(".", "/") + ".py" if module else "__init__.py")
        file.parent.mkdir(parents=True)
        for folder in {file.parent, tmp_path / name}:
            (folder / "__init__.py").write_text("")
        file.write_text(in_module)
        (tmp_path / name / "__init__.py").write_text(code)

    return write


# --- the decision


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_that_cannot_be_imported_is_one_line(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str], package: str
) -> None:
    install(package, BUILT_FOR_NUMPY_1)
    assert get_converter(package) is None
    line = f"by own code ({package} cannot be imported: numpy.core.multiarray failed to import (auto-generated))"
    assert line in describe_packages()
    assert "\n" not in describe_packages()
    assert capsys.readouterr().err == "", "NumPy's page about it helps nobody here"


def test_a_cv_bridge_that_goes_on_without_numpy_is_not_called(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Boost's initialization prints NumPy's error and continues; the first image would end the process."""
    prints = "import sys; print('AttributeError: _ARRAY_API not found', file=sys.stderr)"
    install("cv_bridge", PORT_OF_ROS_1 + "\ndel CvBridge.imgmsg_to_cv2", "boost.cv_bridge_boost", prints)
    assert get_converter("cv_bridge") is None
    assert "images by own code (cv_bridge cannot be imported: it is built for NumPy 1)" in describe_packages()
    assert capsys.readouterr().err == ""


def test_clouds_sent_as_bytes_are_not_attributed_to_sensor_msgs_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conversion_packages.TRIALS, "sensor_msgs_py", object)
    monkeypatch.setitem(conversion_packages.MODULES, "sensor_msgs_py", "sensor_msgs")  # one that exists
    assert "clouds by sensor_msgs_py" in describe_packages()
    assert "clouds by own code (sensor_msgs_py is slower)" in describe_packages(sends_bytes=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / package).is_dir()])
    assert get_converter(package) is None
    assert f"by own code ({package} is not installed)" in describe_packages()


def test_a_package_with_another_error_or_another_answer_is_not_used(install: Callable[..., None]) -> None:
    # Older transforms3d uses numpy.float; ports of ROS 1's cv_bridge ignore row padding.
    install("tf_transformations", "import numpy\nnumpy.no_such_type")
    install("sensor_msgs_py", "", "point_cloud2", "def create_cloud_xyz32(header, points): return header")
    install("cv_bridge", PORT_OF_ROS_1, "boost.cv_bridge_boost")
    assert [get_converter(package) for package in PACKAGES] == [None, None, None]
    for words in ("no_such_type", "'Header' object has no attribute", "cv_bridge fails a test conversion"):
        assert words in describe_packages()
    np.testing.assert_array_equal(image_from_ros(image_message(padding=3)), PIXELS)


PORT_OF_ROS_1 = """
import numpy as np
from sensor_msgs.msg import Image

class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        shape = message.height, message.width, 3
        return np.ndarray(shape, np.uint8, message.data)[..., ::-1]

    def cv2_to_imgmsg(self, image, encoding, header):
        message = Image(header=header, height=image.shape[0], width=image.shape[1], encoding=encoding)
        message.step = 3 * message.width
        message.data.frombytes(image.tobytes())
        return message
"""


# --- the same results; skipped where a package is not installed

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)


def image_message(encoding: str = "rgb8", channels: int = 3, item: int = 1, padding: int = 0) -> Image:
    """Return an image of PIXELS, or of random values in the number that another encoding needs."""
    height, width = PIXELS.shape[:2]
    row = width * channels * item
    values = np.random.default_rng(4).integers(0, 256, (height, row + padding), np.uint8)
    if encoding == "rgb8":
        values[:, :row] = PIXELS.reshape(height, -1)
    message = Image(height=height, width=width, encoding=encoding, step=row + padding)
    message.data.frombytes(values.tobytes())
    return message


def needs(package: str) -> None:
    if get_converter(package) is None:
        pytest.skip(
            f"{package} {conversion_packages.find_converter(package)[1]}: no wheel of it; on a ROS machine it is there"
        )


def without(package: str, convert: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the result of the package's own conversion."""
    with monkeypatch.context() as patch:
        patch.setitem(conversion_packages.TRIALS, package, lambda: None)
        conversion_packages.find_converter.cache_clear()
        images._is_converted_by_cv_bridge.cache_clear()
        result = convert()
    conversion_packages.find_converter.cache_clear()
    images._is_converted_by_cv_bridge.cache_clear()
    return result


@pytest.mark.parametrize("padding", [0, 5, 24])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_images_are_the_same_by_cv_bridge(monkeypatch: pytest.MonkeyPatch, encoding: str, padding: int) -> None:
    needs("cv_bridge")
    channels = 4 if "a" in encoding and not encoding.startswith("bayer") else 3 if encoding[:3] in ("rgb", "bgr") else 1
    channels = 2 if "yu" in encoding or "yv" in encoding else channels
    message = image_message(encoding, channels, 2 if encoding.endswith("16") else 1, padding)
    ours = without("cv_bridge", lambda: image_from_ros(message), monkeypatch)
    theirs = image_from_ros(message)
    assert theirs.shape == ours.shape
    assert np.abs(theirs.astype(int) - ours.astype(int)).max() <= 1


def test_cv_bridge_writes_what_we_write(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("cv_bridge")
    for image in (PIXELS, PIXELS[1:4, 2:5]):
        assert image_to_ros(image, HEADER) == without("cv_bridge", lambda: image_to_ros(image, HEADER), monkeypatch)  # noqa: B023


@pytest.mark.parametrize("last", [1.0, np.nan])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_clouds_are_the_same_by_sensor_msgs_py(monkeypatch: pytest.MonkeyPatch, count: int, last: float) -> None:
    needs("sensor_msgs_py")
    points = np.random.default_rng(5).normal(size=(count, 3))
    points[-1:, 1] = last
    content = PointCloudContent(HEADER, points)
    theirs = point_cloud_to_ros(content)
    assert theirs.is_dense == (count == 0 or last == 1.0)
    ours = without("sensor_msgs_py", lambda: point_cloud_to_ros(content), monkeypatch)
    as_bytes = deserialize_message(point_cloud_to_cdr(content).to_bytes(), PointCloud2)
    for other in (ours, as_bytes):
        assert bytes(theirs.data) == bytes(other.data)
        theirs.data = other.data
        assert theirs == other


@pytest.mark.parametrize("count", [1, SHORT_SEQUENCE, SHORT_SEQUENCE + 1])
def test_quaternions_are_the_same_by_tf_transformations(count: int) -> None:
    needs("tf_transformations")
    turns = Rotation.random(count, random_state=6)
    found = rotations_to_quaternions(turns.as_matrix().astype(np.float32))
    np.testing.assert_allclose(np.abs((found * turns.as_quat()).sum(axis=1)), 1.0, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-12)


def test_the_packages_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("tf_transformations")
    needs("sensor_msgs_py")
    asked = []
    for module, name in ((get_converter("tf_transformations"), "quaternion_from_matrix"),
                         (get_converter("sensor_msgs_py"), "create_cloud_xyz32")):  # fmt: skip
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=function, n=name: (asked.append(n), f(*a))[1])
    rotations_to_quaternions(np.eye(3)[None])
    point_cloud_to_ros(PointCloudContent(HEADER, np.zeros((1, 3))))
    assert asked == ["quaternion_from_matrix", "create_cloud_xyz32"]
