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

"""People in the messages of other packages: their content, tested without the message packages."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from test.paths import ROOT

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from diagnostic_msgs.msg import DiagnosticArray
from multihmr2_ros.msg import HumanArray
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from multihmr2_ros.body import COCO_KEYPOINTS, Body
from multihmr2_ros.camera import CameraModel, distort_points, project
from multihmr2_ros.people import TrackState
from multihmr2_ros.ros.interfaces.bodies import (
    MAX_BODIES,
    compute_skeletons_2d,
    make_rep155_prefix,
    select_tracked_rows,
)
from multihmr2_ros.ros.interfaces.detections import people_to_detections
from multihmr2_ros.ros.interfaces.outputs import describe_installation, import_messages
from multihmr2_ros.ros.interfaces.people import transform_to_fixed_frame
from test.helpers.people_factory import make_full_mesh, make_people
from test.helpers.posed_people import posed_people
from test.helpers.ros_wire import Log, Wire, message_of, values_of

# The camera 1.2 m above the origin of the fixed frame (x forward, y left, z up), looking along its x axis.
LEVEL = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.2], [0.0, 0.0, 0.0, 1.0]])

# Skeleton2D's points with the names of COCO; its second point is the neck, which COCO lacks.
SKELETON = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "left_eye", "right_eye",
    "left_ear", "right_ear",
)  # fmt: skip


@pytest.fixture(scope="module")
def full() -> Body:
    return Body("full")


@pytest.fixture(scope="module")
def low() -> Body:
    return Body("low")


# --- people_msgs


def test_a_person_stands_where_they_are_in_the_fixed_frame() -> None:
    people = make_people(
        1, pelvis=np.array([[0.5, 0.3, 4.0]]), velocity=np.array([[0.0, 1.0, 0.0]]), velocity_frame="fixed"
    )
    (person,) = transform_to_fixed_frame(people, LEVEL)
    assert person.name == "body_1"
    np.testing.assert_allclose(person.position, [4.0, -0.5, 0.9], atol=1e-6)
    assert person.velocity == (0.0, 1.0, 0.0), "already along the axes of the fixed frame"
    assert person.reliability == pytest.approx(people.score[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"velocity_frame": "camera"},  # contains the camera's own motion
        {"velocity": np.array([[np.nan, 0.0, 1.0]]), "velocity_frame": "fixed"},
    ],
)
def test_a_velocity_that_is_not_known_over_the_ground_is_told_as_standing(changes: dict[str, object]) -> None:
    (person,) = transform_to_fixed_frame(make_people(1, **changes), LEVEL)
    assert person.velocity == (0.0, 0.0, 0.0)


def test_only_confirmed_people_with_a_place_are_told() -> None:
    people = make_people(4, track_state=np.array([2, 1, 2, 0]), track_id=np.array([4, 5, 6, -1]))
    people.pelvis[2, 1] = np.nan
    assert [person.name for person in transform_to_fixed_frame(people, LEVEL, "front_")] == ["front_4"]
    assert transform_to_fixed_frame(make_people(0), LEVEL) == []


@pytest.mark.parametrize(
    ("age", "expected"),
    # the body model's anchors are 0, 1/3, 2/3 and 1
    [(0.0, "baby"), (0.16, "baby"), (0.18, "child"), (0.49, "child"), (0.51, "adult"), (0.84, "old"), (1.2, "old")],
)
def test_tags(age: float, expected: str) -> None:
    shape = np.full((1, 6), 0.5, np.float32)
    shape[0, 1] = age
    people = make_people(1, running_shape=shape, stature=np.array([1.234]), track_age_s=np.array([2.5]))
    (person,) = transform_to_fixed_frame(people, LEVEL)
    assert person.tags == {"age_class": expected, "stature_m": "1.23", "track_age_s": "2.5"}


# --- REP-155


@pytest.mark.parametrize(
    ("body_prefix", "expected"),
    [
        ("body_", "body_b"),  # body_7 would give the id 7, which is not a valid topic name
        ("body_p", "body_p"),
        ("body_front_", "body_front_"),
        ("front_", "body_front_"),
        ("body_3_", "body_b3_"),
        ("body__", "body_b_"),
    ],
)
def test_frames_of_rep_155_are_body_and_an_id_that_starts_with_a_letter(body_prefix: str, expected: str) -> None:
    assert make_rep155_prefix(body_prefix) == expected
    assert make_rep155_prefix(expected) == expected


def test_the_best_confirmed_people_are_tracked() -> None:
    many = make_people(MAX_BODIES + 5)
    assert select_tracked_rows(many).tolist() == list(range(MAX_BODIES))
    states = np.array([TrackState.CONFIRMED, TrackState.TENTATIVE, TrackState.CONFIRMED, TrackState.UNTRACKED])
    few = make_people(4, track_state=states, track_id=np.array([1, 2, 3, -1]))
    few.pelvis[0] = np.nan
    assert select_tracked_rows(few).tolist() == [2]
    assert select_tracked_rows(make_people(0)).tolist() == []


@pytest.mark.parametrize("mesh", ["low", "full"])
def test_the_skeleton_is_the_coco_keypoints(mesh: str, full: Body, low: Body) -> None:
    pelvis = np.array([[x, 0.0, 4.0] for x in np.linspace(-1.0, 1.0, 6)])
    whole = posed_people(full, pelvis)
    people = whole if mesh == "full" else posed_people(low, pelvis)
    keypoints = full.regress_coco_keypoints(whole.vertices)
    shoulders = [COCO_KEYPOINTS.index(f"{side}_shoulder") for side in ("left", "right")]
    by_name = dict(zip(COCO_KEYPOINTS, keypoints.swapaxes(0, 1), strict=True))
    by_name["neck"] = keypoints[:, shoulders].mean(axis=1)
    expected = np.stack([project(by_name[name], people.k) for name in SKELETON], axis=1)
    found = compute_skeletons_2d(people, low.bone_labels)
    pixels = found[..., :2] * [640, 480]
    distance_m = np.linalg.norm(pixels - expected, axis=2) * 4.0 / people.k[0, 0]
    assert distance_m.max() < 0.045
    assert distance_m.mean() < 0.02
    np.testing.assert_allclose(found[..., 2], np.repeat(people.score[:, None], 18, axis=1))


def test_points_outside_the_image_have_no_confidence_and_stay_in_range(low: Body) -> None:
    people = posed_people(low, np.array([[0.0, 0.4, 1.0], [9.0, 0.0, 4.0], [0.0, 0.0, 4.0]]))
    people.joints_2d[2] = np.nan
    near, beside, unknown = compute_skeletons_2d(people, low.bone_labels)
    assert 0 < (near[:, 2] > 0).sum() < 18, "their feet are below the image"
    assert not beside[:, 2].any()
    assert not unknown[:14, 2].any()
    for points in (near, beside, unknown):
        assert ((points >= 0) & (points <= 1)).all()
    assert compute_skeletons_2d(people.select(np.zeros(0, np.int64)), low.bone_labels).shape == (0, 18, 3)
    without_mesh = dataclasses.replace(people, vertices=people.vertices[:, :0])
    assert not compute_skeletons_2d(without_mesh, low.bone_labels)[0, [0, 14, 15, 16, 17], 2].any()


def test_the_face_is_where_the_lens_puts_it(low: Body) -> None:
    people = posed_people(low, np.array([[-1.5, 0.3, 3.0], [1.2, 0.3, 3.0]]))
    camera = CameraModel(
        width=640, height=480, k=people.k, distortion_model="plumb_bob", distortion=np.array([-0.2, 0.05, 0, 0, 0])
    )
    bent = dataclasses.replace(people, joints_2d=distort_points(people.joints_2d, camera).astype(np.float32))
    straight, found = (compute_skeletons_2d(each, low.bone_labels)[..., :2] * [640, 480] for each in (people, bent))
    expected = distort_points(straight, camera)
    assert np.abs(expected - straight)[:, 0].max() > 8.0, "the distortion is there to be seen"
    np.testing.assert_allclose(found, expected, atol=1.5)


# --- vision_msgs


def test_boxes_are_turned_with_the_body_and_hold_every_vertex(low: Body) -> None:
    people = posed_people(low, np.array([[0.5, 0.1, 4.0], [-0.5, 0.0, 3.0]]), turns_rad=0.7)
    boxes = people_to_detections(people)
    assert boxes.name == ["body_1", "body_2"]
    for row in range(2):
        axes = Rotation.from_quat(boxes.quaternion[row]).as_matrix()
        inside = np.abs((people.vertices[row] - boxes.center[row]) @ axes) - boxes.size[row] / 2
        assert inside.max() < 1e-5
        np.testing.assert_allclose(inside.max(axis=0), 0.0, atol=1e-5)
        assert axes[1, 2] < -0.9, "z is up: against the camera's y"
        assert boxes.size[row, 2] == max(boxes.size[row])
    np.testing.assert_allclose(boxes.pelvis, people.pelvis)


def test_boxes_without_a_mesh_a_track_or_a_place() -> None:
    people = make_people(3, track_id=np.array([4, -1, 6]))
    people.joints[2, 5] = np.nan
    boxes = people_to_detections(people, "front_")
    assert boxes.name == ["front_4", ""]
    assert boxes.size.shape == (2, 3)
    assert (boxes.size > 0).all()
    assert people_to_detections(make_people(0)).center.shape == (0, 3)


def test_boxes_hold_the_body_only() -> None:
    sizes = [people_to_detections(make_full_mesh(2, guides_m)).size for guides_m in (0.0, 1.0)]
    np.testing.assert_allclose(*sizes)


# --- packages


def test_what_is_said_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert import_messages("no_such_msgs") is None
    assert import_messages("std_msgs").Header is Header
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    assert (
        describe_installation("vision_msgs") == "vision_msgs is not installed: sudo apt install ros-kilted-vision-msgs"
    )
    for package, repository in (("people_msgs", "wg-perception/people"), ("hri_msgs", "ros4hri/hri_msgs")):
        said = describe_installation(package)
        assert "apt" not in said
        assert f"https://github.com/{repository}," in said
        assert repository in (ROOT / "docs" / "navigation.md").read_text(encoding="utf-8")
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert describe_installation("hri_msgs") == "hri_msgs is not installed: sudo apt install ros-humble-hri-msgs"
    assert "apt" not in describe_installation("people_msgs"), "no distribution has it"


@pytest.mark.skipif(import_messages("hri_msgs") is not None, reason="hri_msgs is installed here")
def test_a_package_that_is_missing_is_named_once_where_it_was_asked_for(
    wire: Callable[..., Wire], capfd: pytest.CaptureFixture[str]
) -> None:
    log = Log(capfd)
    here = wire(publish_bodies="always", diagnostics_period_s=0.1)
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.until(lambda: "hri_msgs is not installed" in message_of(diagnostics))
    assert values_of(diagnostics)["bodies"].startswith("not published: hri_msgs is not installed")
    assert len([line for line in log.warnings() if "hri_msgs" in line]) == 1
    assert not log.has("vision-msgs"), "auto is silent"


def test_a_package_that_does_not_fit_this_ros_does_not_stop_the_node(
    wire: Callable[..., Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vision_msgs" / "msg").mkdir(parents=True)
    (tmp_path / "vision_msgs" / "msg" / "__init__.py").write_text("class Detection3DArray: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("vision_msgs")]:
        monkeypatch.delitem(sys.modules, name)
    log = Log(capfd)
    here = wire(publish_people="never", publish_bodies="never", diagnostics_period_s=0.1)
    for name in [name for name in sys.modules if name.startswith("vision_msgs")]:
        del sys.modules[name]  # not with monkeypatch, which would restore it for the tests that follow
    diagnostics = here.listen(DiagnosticArray, "/diagnostics")
    here.until(lambda: "vision_msgs cannot be used" in values_of(diagnostics)["detections"])
    assert log.has("vision_msgs cannot be used")
    assert len(here.exchange(here.listen(HumanArray, "/humans")).humans) == 1
