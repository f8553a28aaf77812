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

"""The node's output about people over real rclpy and DDS: messages, TF, markers, and the intrinsics used."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import BodyModel, Human, HumanArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from multihmr2_ros.frame import Frame
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.ros.restarts import load_estimator
from test.helpers.ros_wire import LATCHED, Wire, calibration
from test.helpers.stand_in_estimator import FACES, PELVIS, TETRAHEDRON


def test_a_person_comes_out_where_they_are_with_one_id_everywhere(wire: Callable[..., Wire]) -> None:
    here = wire()
    transforms, markers = here.listen(TFMessage, "/tf"), here.listen(MarkerArray, "/perception_node/markers")
    points, overlays = (
        here.listen(PointCloud2, "/perception_node/points"),
        here.listen(Image, "/perception_node/overlay"),
    )
    models = here.listen(BodyModel, "/perception_node/body_model", LATCHED)
    humans = here.exchange(here.listen(HumanArray, "/humans"))
    here.until(lambda: transforms and markers and points and overlays and models)

    assert humans.header.frame_id == "camera"
    assert humans.intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    (human,) = humans.humans
    place = human.pelvis.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], PELVIS[0], rtol=1e-6)
    assert (human.track_id, human.frame_id, human.state) == (7, "body_7", Human.CONFIRMED)
    assert human.velocity_frame == "camera"
    assert len(human.vertices) == 0
    assert humans.inference_time >= 0
    assert humans.total_latency >= humans.age_at_receipt > 0

    (transform,) = transforms[-1].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("camera", "body_7")
    assert transform.header.stamp == humans.header.stamp
    shift = transform.transform.translation
    np.testing.assert_allclose([shift.x, shift.y, shift.z], PELVIS[0], rtol=1e-6)
    assert transform.transform.rotation == human.pelvis.pose.orientation

    assert {(marker.ns, marker.id, marker.action) for marker in markers[-1].markers} == {
        ("mesh", 7, Marker.ADD),
        ("label", 7, Marker.ADD),
    }
    mesh = next(marker for marker in markers[-1].markers if marker.ns == "mesh")
    assert mesh.header == humans.header
    corners = np.array([[point.x, point.y, point.z] for point in mesh.points])
    np.testing.assert_allclose(corners, (PELVIS + TETRAHEDRON)[FACES.ravel()], rtol=1e-6)

    assert points[-1].width == len(TETRAHEDRON)
    assert (overlays[-1].height, overlays[-1].width, overlays[-1].encoding) == (48, 64, "rgb8")
    assert models[-1].faces.tolist() == FACES.ravel().tolist()
    assert models[-1].phenotype_labels[0] == "gender"


def test_markers_of_a_track_that_ended_are_deleted_once(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans, markers = here.listen(HumanArray, "/humans"), here.listen(MarkerArray, "/perception_node/markers")
    here.exchange(humans)
    here.estimator.people["track_id"] = np.array([9])
    here.exchange(humans)
    here.exchange(humans)
    here.until(lambda: len(markers) >= 3)
    actions = [{(marker.ns, marker.id): marker.action for marker in message.markers} for message in markers]
    change = next(index for index, action in enumerate(actions) if ("mesh", 9) in action)
    assert actions[change][("mesh", 7)] == actions[change][("label", 7)] == Marker.DELETE
    assert all(("mesh", 7) not in action for action in actions[change + 1 :])


def test_where_the_intrinsics_came_from_is_said(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")

    def after(camera_info: CameraInfo) -> HumanArray:
        here.calibrate(camera_info)
        return here.exchange(humans)

    assert here.exchange(humans).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    raw = after(calibration(k=50.0, p=40.0))
    assert (raw.intrinsics_source, raw.k[0]) == (HumanArray.INTRINSICS_K, 50.0)
    here.node.set_parameters([Parameter("image_rectified", value=True)])
    rectified = here.exchange(humans)
    assert (rectified.intrinsics_source, rectified.k[0]) == (HumanArray.INTRINSICS_P, 40.0)
    assert after(calibration(k=0.0, p=0.0)).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    other_size = calibration(k=50.0, p=40.0)
    other_size.width = 640
    assert after(other_size).intrinsics_source == HumanArray.INTRINSICS_PREDICTED
    here.node.set_parameters([Parameter("vertical_fov_rad", value=1.0)])
    parameter = here.exchange(humans)
    assert parameter.intrinsics_source == HumanArray.INTRINSICS_PARAMETER
    assert parameter.vertical_fov == pytest.approx(1.0)


def test_points_of_a_distorted_raw_image_are_those_of_the_image_as_it_came(wire: Callable[..., Wire]) -> None:
    here = wire()
    humans = here.listen(HumanArray, "/humans")
    distorted = calibration(k=50.0, p=40.0)
    distorted.distortion_model, distorted.d = "plumb_bob", [0.2, 0.05, 0.01, -0.01, 0.0]
    here.calibrate(distorted)
    (human,) = here.exchange(humans).humans
    rays = np.reshape(human.joints, (-1, 3))
    coefficients = np.array(distorted.d)
    expected, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.reshape(distorted.k, (3, 3)), coefficients)
    np.testing.assert_allclose(np.reshape(human.joints_2d, (-1, 2)), expected[:, 0], atol=1e-3)
    assert not here.estimator.last_image[0, 0].any(), "the network sees a corner without a pixel behind it"


def test_the_overlay_of_a_distorted_raw_image_is_drawn_through_the_lens(wire: Callable[..., Wire]) -> None:
    here = wire()
    here.estimator.people |= {"pelvis": np.array([[0.2, 0.1, 0.6]])}
    overlays = here.listen(Image, "/perception_node/overlay")
    distorted = calibration(k=40.0, p=40.0)
    distorted.distortion_model, distorted.d = "plumb_bob", [0.8, 0.0, 0.01, -0.01, 0.0]
    here.calibrate(distorted)
    overlay = here.exchange(overlays)
    k = np.reshape(distorted.k, (3, 3))

    def by_opencv(points: np.ndarray) -> np.ndarray:
        rays = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(k).T
        return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), k, np.array(distorted.d))[0].reshape(-1, 2)

    gray = np.full((48, 64, 3), 90, np.uint8)
    people = here.estimator.step(Frame(gray, 0.0, k))
    drawn = np.frombuffer(overlay.data, np.uint8).reshape(gray.shape)
    np.testing.assert_array_equal(drawn, draw_people(gray, people, FACES, distort=by_opencv))
    assert (drawn != draw_people(gray, people, FACES)).any()


@pytest.mark.parametrize("weights", ["small_checkpoint", "multi_hmr_checkpoint"])
def test_the_real_estimator_in_the_node(
    wire: Callable[..., Wire], weights: str, request: pytest.FixtureRequest
) -> None:
    here, path = wire(), request.getfixturevalue(weights)
    here.node.trigger_deactivate()
    here.node.trigger_cleanup()
    here.node._make_estimator = load_estimator
    here.node.set_parameters([Parameter("checkpoint", value=str(path)), Parameter("device", value="cpu")])
    here.node.trigger_configure()
    here.node.trigger_activate()
    models = here.listen(BodyModel, "/perception_node/body_model", LATCHED)
    humans = here.exchange(here.listen(HumanArray, "/humans"))
    here.until(lambda: models)
    assert 3 * len(models[-1].bone_labels) == len(humans.humans[0].joints) == 3 * 163
    assert len(models[-1].faces) == 3 * 1226
    assert humans.inference_time > 0


def test_compressed_images(wire: Callable[..., Wire]) -> None:
    here = wire(image_transport="compressed")
    humans = here.listen(HumanArray, "/humans")
    encoded = cv2.imencode(".png", np.full((48, 64, 3), (10, 20, 200), np.uint8))[1]
    message = CompressedImage(format="png", data=encoded.tobytes())
    message.header.frame_id = "camera"
    assert here.exchange(humans, message).header.frame_id == "camera"
    assert here.estimator.last_image[0, 0].tolist() == [200, 20, 10]
