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

"""Smoothing of poses and distances over time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.errors import UserError
from multihmr2_ros.tracking import Detections, SmoothingConfig, Tracker, TrackerConfig, TrackingResult, VelocityConfig
from multihmr2_ros.tracking.smoothing import PoseEstimate, update_poses

Array = NDArray[np.float64]
RATE_HZ = 15.0
SMOOTHED = TrackerConfig(smoothing=SmoothingConfig())
PELVIS = np.array([0.4, 0.1, 4.0])


def turn(angle_rad: float, axis: int = 1) -> Array:
    """Return the rotation (3, 3) by an angle about x, y or z."""
    return Rotation.from_rotvec(angle_rad * np.eye(3)[axis]).as_matrix()


def angle_between(a: Array, b: Array) -> Array:
    """Return the angles (…) in rad between rotations (…, 3, 3)."""
    relative = (a.swapaxes(-1, -2) @ b).reshape(-1, 3, 3)
    return Rotation.from_matrix(relative).magnitude().reshape(a.shape[:-2])


def filter_angles(angles_rad: Array, config: SmoothingConfig) -> Array:
    """Return the smoothed angles (n,) of one bone that rotates about y."""
    estimates: list[PoseEstimate | None] = [None]
    smoothed = []
    for step, angle in enumerate(angles_rad):
        estimates = list(update_poses(estimates, turn(angle)[None, None], step / RATE_HZ, config))
        assert estimates[0] is not None
        smoothed.append(Rotation.from_matrix(estimates[0].rotation[0]).as_rotvec()[1])
    return np.array(smoothed)


def detect(pelvis: Array, bones: Array, distance_sigma_m: float | None = None) -> Detections:
    """Return the detection of one person at a pelvis (3,) m with bone rotations (B, 3, 3)."""
    location = np.append(610 * pelvis[:2] / pelvis[2] / 768 + 0.5, -np.log(pelvis[2]))
    sigma_m = None if distance_sigma_m is None else np.array([distance_sigma_m])
    return Detections(
        np.ones((1, 4)), location[None], bones[None, 0], pelvis[None], bone_rotations=bones[None],
        distance_sigma_m=sigma_m,
    )  # fmt: skip


def smooth(
    tracker: Tracker, detections: Detections, step: int, fixed_from_camera: Array | None = None
) -> tuple[Array, Array]:
    """Return the smoothed pelvis (3,) m and bone rotations (B, 3, 3)."""
    result = tracker.update(
        detections, step / RATE_HZ, fixed_from_camera, "odom" if fixed_from_camera is not None else ""
    )
    assert result.pelvis is not None
    assert result.bone_rotations is not None
    return result.pelvis[0], result.bone_rotations[0]


@pytest.mark.parametrize("time_constant_s", [0.05, 0.15, 1.0])
def test_without_gain_it_is_a_low_pass_filter_of_first_order(time_constant_s: float) -> None:
    config = SmoothingConfig(time_constant_s, gain_per_rad=0.0)
    smoothed = filter_angles(np.array([0.0] + [1.0] * 30), config)
    remaining = (1 + 1 / RATE_HZ / time_constant_s) ** -np.arange(31.0)
    np.testing.assert_allclose(1 - smoothed, remaining, atol=1e-9)


def test_noise_of_a_still_pose_is_reduced() -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=600)
    smoothed = filter_angles(noise, SmoothingConfig())
    assert np.std(np.diff(smoothed)) < 0.55 * np.std(np.diff(noise))
    assert np.std(smoothed) < 0.8 * np.std(noise)


def test_fast_movements_are_followed() -> None:
    """A bone rotates at 3 rad/s; the gain reduces its delay to less than 60 %."""
    angles = 3.0 * np.arange(10) / RATE_HZ
    delay_s = (angles - filter_angles(angles, SmoothingConfig()))[-1] / 3.0
    delay_without_gain_s = (angles - filter_angles(angles, SmoothingConfig(gain_per_rad=0.0)))[-1] / 3.0
    assert 0 < delay_s < 0.04
    assert delay_s < 0.6 * delay_without_gain_s


def test_a_second_image_of_the_same_time_changes_nothing() -> None:
    tracker = Tracker(SMOOTHED)
    bones = np.stack([turn(0.3), turn(-0.2, 0)])
    smooth(tracker, detect(PELVIS, bones), 0)
    _, first = smooth(tracker, detect(PELVIS, bones @ turn(0.1)), 1)
    _, second = smooth(tracker, detect(PELVIS, bones @ turn(0.5)), 1)
    np.testing.assert_allclose(second, first, atol=1e-9)


def test_after_a_gap_the_pose_is_that_of_the_image() -> None:
    estimates = update_poses([None], turn(0.0)[None, None], 0.0, SmoothingConfig())
    estimates = update_poses(estimates, turn(1.0)[None, None], 1.9, SmoothingConfig())
    assert angle_between(estimates[0].rotation[0], turn(1.0)) < 0.1


def test_bodies_are_smoothed_independently_of_each_other() -> None:
    generator = np.random.default_rng(1)
    poses = Rotation.random(2 * 3 * 5, random_state=2).as_matrix().reshape(2, 3, 5, 3, 3)  # stamp, body, bone
    config = SmoothingConfig()
    together = update_poses(list(update_poses([None] * 3, poses[0], 0.0, config)), poses[1], 0.1, config)
    for body in generator.permutation(3):
        alone = update_poses(list(update_poses([None], poses[0, [body]], 0.0, config)), poses[1, [body]], 0.1, config)
        np.testing.assert_allclose(alone[0].rotation, together[body].rotation, atol=1e-12)


def test_when_the_camera_turns_the_pose_of_a_standing_person_does_not_lag() -> None:
    """With the camera's pose, the root is smoothed in the fixed frame; without, it lags behind."""
    lag = {}
    for is_known in (True, False):
        tracker = Tracker(SMOOTHED)
        for step in range(20):
            fixed_from_camera = np.eye(4)
            fixed_from_camera[:3, :3] = turn(0.8 * step / RATE_HZ)
            camera_from_fixed = fixed_from_camera[:3, :3].T
            bones = np.stack([camera_from_fixed @ turn(2.0), turn(0.4, 2)])
            detected = detect(camera_from_fixed @ PELVIS, bones)
            _, smoothed = smooth(tracker, detected, step, fixed_from_camera if is_known else None)
        lag[is_known] = angle_between(smoothed[0], bones[0])
        np.testing.assert_allclose(smoothed[1], bones[1], atol=1e-9)
    assert lag[True] < 1e-6
    assert lag[False] > 0.03


def test_the_pose_starts_again_with_the_fixed_frame() -> None:
    """Otherwise, the root would turn from one frame's axes to the other's."""
    tracker = Tracker(SMOOTHED)
    fixed_from_camera = np.eye(4)
    fixed_from_camera[:3, :3] = turn(1.5)
    bones = turn(0.2)[None]
    for step, pose in enumerate([None, None, fixed_from_camera, fixed_from_camera, None]):
        _, smoothed = smooth(tracker, detect(PELVIS, bones), step, pose)
        np.testing.assert_allclose(smoothed, bones, atol=1e-9)


@pytest.mark.parametrize("speed_m_s", [0.0, 1.2])
def test_distances_are_smoothed_without_lag(speed_m_s: float) -> None:
    """Distances of a person who stands or walks towards the camera, with errors of 5 %."""
    generator = np.random.default_rng(3)
    config = TrackerConfig(smoothing=SmoothingConfig(), velocity=VelocityConfig(depth_sigma_ratio=0.05))
    detected_error, smoothed_error = [], []
    for _ in range(20):
        tracker = Tracker(config)
        for step in range(60):
            true_pelvis = PELVIS * (2.0 - speed_m_s / np.linalg.norm(PELVIS) * step / RATE_HZ)
            detected = true_pelvis * np.exp(0.05 * generator.normal())
            pelvis, _ = smooth(tracker, detect(detected, np.eye(3)[None]), step)
            assert np.linalg.norm(np.cross(pelvis, detected)) < 1e-9 * detected @ detected  # on the same ray
            if step >= 15:
                detected_error.append(np.linalg.norm(detected) - np.linalg.norm(true_pelvis))
                smoothed_error.append(np.linalg.norm(pelvis) - np.linalg.norm(true_pelvis))
    assert np.std(smoothed_error) < 0.6 * np.std(detected_error)
    assert abs(np.mean(smoothed_error)) < 0.05


def test_measured_distances_do_not_change() -> None:
    """The first ones are not measured, so that the filter has another distance."""
    tracker = Tracker(SMOOTHED)
    for step in range(30):
        detected = PELVIS * (1 + 0.05 * np.sin(step))
        pelvis, _ = smooth(tracker, detect(detected, np.eye(3)[None], 0.01 if step >= 10 else None), step)
        assert np.allclose(pelvis, detected, rtol=1e-12) == (step == 0 or step >= 10)


def test_smoothing_does_not_change_identities_and_velocities() -> None:
    generator = np.random.default_rng(4)
    trackers = [Tracker(), Tracker(SMOOTHED)]
    for step in range(40):
        detected = detect(PELVIS * np.exp(0.03 * generator.normal()), Rotation.random(2, random_state=step).as_matrix())
        plain, smoothed = (tracker.update(detected, step / RATE_HZ) for tracker in trackers)
        for name in ("track_id", "state", "age_s", "velocity", "velocity_covariance"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(smoothed, name))
        assert (plain.pelvis, plain.bone_rotations) == (None, None)


def test_people_without_a_track_stay_as_they_were_detected() -> None:
    bones = turn(0.2)[None]
    tracker = Tracker(SMOOTHED)
    smooth(tracker, detect(PELVIS, bones), 0)
    invalid = detect(2 * PELVIS, -bones)
    result: TrackingResult = tracker.update(invalid, 0.1)
    assert result.track_id.tolist() == [-1]
    np.testing.assert_array_equal(result.pelvis, invalid.pelvis)
    np.testing.assert_array_equal(result.bone_rotations, invalid.bone_rotations)


@pytest.mark.parametrize(
    "values", [{"time_constant_s": 0.0}, {"gain_per_rad": -1.0}, {"speed_time_constant_s": np.nan}]
)
def test_invalid_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        SmoothingConfig(**values)
