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

"""Bodies fitted to keypoints, against bodies with known parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multihmr2_ros.body import rotations_from_vectors
from multihmr2_ros.errors import UserError
from multihmr2_ros.labeling.fitting import Fits, Fitter, compute_fit_error
from multihmr2_ros.labeling.observations import Observations
from multihmr2_ros.labeling.pose_prior import compute_pose_features, learn_pose_prior, pose_from_segments
from multihmr2_ros.labeling.posed_keypoints import CAMERA_FROM_LEVEL, HingedPose, rotate_about_y
from multihmr2_ros.simulation.motion.pose import Pose as SegmentPose
from multihmr2_ros.simulation.motion.pose import rotate_about
from multihmr2_ros.simulation.motion.random_poses import pose_from_random_angles, sample_angles
from multihmr2_ros.simulation.motion.retarget import load_motion
from multihmr2_ros.simulation.motion.skeleton import compute_bone_rotations
from test.helpers.labeling_scenes import (
    load_full_body,
    load_keypoint_model,
    make_prior,
    make_random_pose,
    make_scene,
    without,
)
from test.helpers.motion_cases import make_rig

pytestmark = pytest.mark.usefixtures("one_thread")


def fit(people: Observations) -> Fits:
    return Fitter(load_keypoint_model(), make_prior()).fit(people)


def compute_joints(fits: Fits) -> np.ndarray:
    """Return joints (n, 17, 3) m from the pelvis, camera axes."""
    with torch.no_grad():
        return load_keypoint_model()(fits.phenotypes, fits.pose).keypoints.numpy()


def compute_joint_errors(fits: Fits, truth: np.ndarray) -> np.ndarray:
    """Return the mean distance (n,) mm of the 12 body joints, relative to the midpoint of the hips."""
    found, truth = (
        points[:, 5:] - points[:, 11:13].mean(axis=1, keepdims=True) for points in (compute_joints(fits), truth)
    )
    return 1000 * np.linalg.norm(found - truth, axis=-1).mean(axis=1)


def compute_facing_errors(fits: Fits, truth: np.ndarray) -> np.ndarray:
    """Return the angles (n,) rad between the directions from the right hip and shoulder to the left ones, seen from
    above."""
    across = [(p[:, 5] - p[:, 6] + p[:, 11] - p[:, 12])[:, [0, 2]] for p in (compute_joints(fits), truth)]
    angles = [np.arctan2(a[:, 1], a[:, 0]) for a in across]
    return np.abs((angles[0] - angles[1] + np.pi) % (2 * np.pi) - np.pi)


def compute_segments(pose: HingedPose) -> np.ndarray:
    chest = pose.pelvis @ rotations_from_vectors(pose.chest)
    segments = [pose.pelvis, chest]
    for side in range(2):
        upper, thigh = chest @ pose.upper_arms[:, side], pose.pelvis @ pose.thighs[:, side]
        segments += [
            upper,
            upper @ rotate_about_y(-pose.elbows[:, side]),
            thigh,
            thigh @ rotate_about_y(pose.knees[:, side]),
        ]
    return torch.stack(segments, dim=1).double().numpy()


def test_keypoints_without_a_mesh_equal_those_of_the_posed_mesh() -> None:
    body, pose = load_full_body(), make_random_pose(5)
    phenotypes = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    shape = load_keypoint_model().expand_shape(phenotypes)
    rest = body.compute_rest_bone_poses(shape).numpy()
    poses = [SegmentPose(segments) for segments in compute_segments(pose)]
    turns = compute_bone_rotations(poses, rest, body.bone_labels, body.bone_parents)
    turns[:, 0] = CAMERA_FROM_LEVEL @ turns[:, 0]
    rotations = load_keypoint_model().compute_rotations(body, phenotypes, pose)
    np.testing.assert_allclose(rotations, turns, atol=1e-5)
    posed = body(shape, rotations)
    origin = posed.joints[:, :1].numpy()
    found = load_keypoint_model()(phenotypes, pose)
    np.testing.assert_allclose(found.keypoints, body.regress_coco_keypoints(posed.vertices.numpy()) - origin, atol=2e-5)
    np.testing.assert_allclose(found.center, (posed.vertices[:, body.center_vertex].numpy() - origin[:, 0]), atol=1e-5)


def test_poses_equal_segments() -> None:
    generator = np.random.default_rng(0)
    segments = np.stack([pose_from_random_angles(sample_angles(generator)).orientation for _ in range(20)])
    pose, off = pose_from_segments(segments)
    np.testing.assert_allclose(compute_segments(pose), segments, atol=1e-5)
    assert off.max() < 1e-6


def test_with_landmarks_bodies_are_recovered() -> None:
    scene = make_scene(24)
    fits = fit(scene.people)
    errors = compute_joint_errors(fits, scene.joints)
    assert np.median(errors) < 60
    assert np.mean(errors) < 80
    assert np.median(compute_facing_errors(fits, scene.joints)) < 0.2
    assert (compute_facing_errors(fits, scene.joints) < np.pi / 3).mean() > 0.9
    assert np.median(compute_fit_error(scene.people, fits)) < 0.012


def test_without_landmarks_left_and_right_determine_the_facing_direction() -> None:
    """Depth has two solutions in this case; front and back, and the image itself, have one."""
    scene = make_scene(24, seed=1, landmarks=False)
    fits = fit(scene.people)
    assert np.median(compute_fit_error(scene.people, fits)) < 0.012
    assert np.median(compute_joint_errors(fits, scene.joints)) < 110
    across = (scene.joints[:, 5] - scene.joints[:, 6])[:, 0]
    plain = np.abs(across) > 0.15  # seen from front or back
    found = (compute_joints(fits)[:, 5] - compute_joints(fits)[:, 6])[:, 0]
    assert (np.sign(found[plain]) == np.sign(across[plain])).mean() > 0.95


def test_knees_and_elbows_bend_the_right_way() -> None:
    for landmarks in (True, False):
        pose = fit(make_scene(12, seed=2, noise_px=3.0, landmarks=landmarks).people).pose
        for hinge in (pose.elbows, pose.knees):
            assert (hinge >= 0).all()
            assert (hinge <= 2.7).all()


def test_hidden_legs_have_likely_poses() -> None:
    scene = make_scene(12, seed=3)
    hidden = without(scene.people, [13, 14, 15, 16])
    hidden = dataclasses.replace(hidden, visibility=np.where(np.arange(33) >= 25, 0.0, hidden.visibility))
    fits = fit(hidden)
    assert np.median(compute_fit_error(hidden, fits)) < 0.015
    assert (make_prior().compute_cost(fits.pose) < 40).all()
    assert np.isfinite(compute_joints(fits)).all()


def test_one_wrong_keypoint_does_not_turn_a_body() -> None:
    scene = make_scene(12, seed=4)
    points = scene.people.keypoints.copy()
    points[:, 10] += 120  # a right wrist of another person
    fits = fit(dataclasses.replace(scene.people, keypoints=points))
    others = [5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16]
    off = np.linalg.norm(fits.keypoints - scene.people.keypoints, axis=-1)[:, others]
    assert np.median(off / scene.people.size[:, None]) < 0.02


def test_a_batch_gives_each_person_the_same_body_as_alone() -> None:
    scene = make_scene(3, seed=5)
    together = fit(scene.people)
    alone = fit(scene.people.select(slice(1, 2)))
    np.testing.assert_allclose(alone.keypoints[0], together.keypoints[1], atol=0.5)


def test_the_prior_rejects_poses_beyond_the_joint_limits() -> None:
    generator = np.random.default_rng(6)
    likely, _ = pose_from_segments(
        np.stack([pose_from_random_angles(sample_angles(generator)).orientation for _ in range(50)])
    )
    costs = make_prior().compute_cost(likely)
    backwards = likely._replace(thighs=likely.thighs @ torch.from_numpy(rotate_about(2, np.pi)).float())
    assert (make_prior().compute_cost(backwards) > costs + 20).all()
    assert compute_pose_features(likely).shape == (50, 34)


def test_a_prior_of_recordings_prefers_recorded_poses(tmp_path: Path) -> None:
    """People in the recordings move their arms and never bend a leg."""
    generator = np.random.default_rng(7)
    names = ("left_shoulder", "right_shoulder")
    frames = [{name: tuple(generator.uniform(-60, 60, 3).tolist()) for name in names} for _ in range(300)]
    (tmp_path / "arms.bvh").write_text(make_rig(*frames))
    learned = learn_pose_prior(tmp_path)
    seen, _ = pose_from_segments(load_motion(tmp_path / "arms.bvh").orientation)
    sitting = seen._replace(
        thighs=seen.thighs @ torch.from_numpy(rotate_about(1, -1.5)).float(), knees=seen.knees + 1.5
    )
    assert learned.compute_cost(seen).median() + 20 < learned.compute_cost(sitting).median()
    assert (learned.starts.knees < 0.1).all()


def test_a_folder_without_recordings_for_a_prior_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected \*\.bvh files in .*, found none"):
        learn_pose_prior(tmp_path)
    with pytest.raises(UserError, match="expected a folder of motions"):
        learn_pose_prior(tmp_path / "nowhere")
    (tmp_path / "still.bvh").write_text(make_rig({}, {}, {}))
    with pytest.raises(UserError, match=r"expected at least 100 different poses in .*, got 1;"):
        learn_pose_prior(tmp_path)
