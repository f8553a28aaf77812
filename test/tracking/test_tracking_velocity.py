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

"""Accuracy and calibration of velocities."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from multihmr2_ros.tracking import Detections, Tracker, TrackerConfig, TrackingResult, VelocityConfig
from multihmr2_ros.tracking.velocity import MotionEstimate, compute_measurement_noise, update_estimates

CONFIG = VelocityConfig()
# People who neither stand still nor walk steadily, but accelerate at random all the time.
RESTLESS = VelocityConfig(walking_acceleration_density=CONFIG.acceleration_density, mode_duration_s=1e9)
RATE_HZ = 30.0


def look(pelvis: NDArray[np.float64]) -> Detections:
    """Return detections of people (n, 3) m in the camera frame, each with a distinct feature."""
    n = len(pelvis)
    location = np.column_stack([610 * pelvis[:, :2] / pelvis[:, 2:] / 768 + 0.5, -np.log(pelvis[:, 2])])
    return Detections(np.eye(n), location, np.tile(np.eye(3), (n, 1, 1)), pelvis)


def noisy(pelvis: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return pelvises (n, 3) m with the noise of the configured camera."""
    factor = np.linalg.cholesky(compute_measurement_noise(pelvis, CONFIG))
    return pelvis + (factor @ generator.normal(size=(len(pelvis), 3, 1)))[:, :, 0]


def normalised_error(error: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared Mahalanobis lengths (n,) of errors (n, D): chi-squared with D degrees of freedom if calibrated."""
    return np.einsum("ni,ni->n", error, np.linalg.solve(covariance, error[:, :, None])[:, :, 0])


def assert_calibrated(squared: NDArray[np.float64], freedom: int) -> None:
    """Assert that the mean is within the two-sided 95 % bounds of chi-squared."""
    n = len(squared)
    low, high = chi2.ppf([0.025, 0.975], freedom * n) / n
    assert low <= squared.mean() <= high, f"{low:.3f} ≤ {squared.mean():.3f} ≤ {high:.3f}"


@pytest.mark.parametrize("acceleration_density", [1.0, 1e-9])  # random acceleration; constant velocity
@pytest.mark.parametrize("rate_hz", [30.0, 7.0])
def test_covariance_is_calibrated(acceleration_density: float, rate_hz: float) -> None:
    generator = np.random.default_rng(7)
    config = VelocityConfig(acceleration_density=acceleration_density)
    n, dt = 500, 1 / rate_hz
    position = np.array([0.0, 0.0, 12.0]) + generator.normal(size=(n, 3))
    velocity = config.initial_speed_sigma_m_s * generator.normal(size=(n, 3))
    shock = np.linalg.cholesky(acceleration_density * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]))
    estimates: list[MotionEstimate | None] = [None] * n
    for step in range(61):
        measured = noisy(position, generator)
        noise = compute_measurement_noise(position, config)
        estimates = list(update_estimates(estimates, measured, noise, step * dt, config))
        if step in (1, 5, 20, 60):
            mean = np.stack([estimate.mean for estimate in estimates if estimate])
            covariance = np.stack([estimate.covariance for estimate in estimates if estimate])
            error = np.concatenate([position, velocity], axis=1) - mean
            assert_calibrated(normalised_error(error, covariance), 6)
            assert_calibrated(normalised_error(error[:, 3:], covariance[:, 3:, 3:]), 3)
        kick = np.einsum("ij,njd->nid", shock, generator.normal(size=(n, 2, 3)))
        position, velocity = position + dt * velocity + kick[:, 0], velocity + kick[:, 1]


def test_tracker_is_calibrated_from_a_moving_turning_camera() -> None:
    """End to end: the noise is along rays that turn with the camera; the velocities are in the fixed frame."""
    generator = np.random.default_rng(3)
    squared = []
    for _ in range(12):
        tracker = Tracker(TrackerConfig(velocity=RESTLESS))
        place = np.column_stack([np.linspace(-4, 4, 8), np.zeros(8), generator.uniform(9, 14, 8)])
        velocity = CONFIG.initial_speed_sigma_m_s * generator.normal(size=(8, 3))
        dt = 1 / RATE_HZ
        shock = np.linalg.cholesky(np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]))
        for step in range(31):
            pose = camera_pose(step * dt, speed_m_s=1.0, yaw_rad_s=0.4)
            answer = tracker.update(look(noisy(into_camera(place, pose), generator)), step * dt, pose)
            kick = np.einsum("ij,njd->nid", shock, generator.normal(size=(8, 2, 3)))
            if step < 30:
                place, velocity = place + dt * velocity + kick[:, 0], velocity + kick[:, 1]
        assert answer.track_id.tolist() == list(range(8))
        assert answer.velocity_frame == "fixed"
        squared.append(normalised_error(velocity - answer.velocity, answer.velocity_covariance))
    assert_calibrated(np.concatenate(squared), 3)


def camera_pose(time_s: float, speed_m_s: float, yaw_rad_s: float) -> NDArray[np.float64]:
    """Return (4, 4) fixed from camera, driving forward along z while turning about the vertical y axis."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0, yaw_rad_s * time_s, 0]).as_matrix()
    pose[2, 3] = speed_m_s * time_s
    return pose


def into_camera(place: NDArray[np.float64], pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return places (n, 3) of the fixed frame in the camera frame."""
    return (place - pose[:3, 3]) @ pose[:3, :3]


def watch(
    place: NDArray[np.float64], seconds: float, with_pose: bool, generator: np.random.Generator | None = None
) -> TrackingResult:
    """Return results for standing people (n, 3) m, seen by a camera that drives at 1 m/s and yaws at 0.3 rad/s."""
    tracker = Tracker()
    for step in range(round(seconds * RATE_HZ) + 1):
        pose = camera_pose(step / RATE_HZ, 1.0, 0.3)
        seen = into_camera(place, pose)
        detections = look(seen if generator is None else noisy(seen, generator))
        answer = tracker.update(detections, step / RATE_HZ, pose if with_pose else None)
    return answer


STANDING = np.array([[-1.0, 0.2, 9.0], [1.5, 0.2, 10.0], [4.0, 0.2, 11.0]])


def test_standing_people_stand_still_in_the_fixed_frame_while_the_camera_drives_and_turns() -> None:
    answer = watch(STANDING, 2.0, with_pose=True)
    assert answer.velocity_frame == "fixed"
    np.testing.assert_allclose(answer.velocity, 0, atol=1e-6)
    noisy_answer = watch(STANDING, 3.0, with_pose=True, generator=np.random.default_rng(0))
    sigma = np.sqrt(np.diagonal(noisy_answer.velocity_covariance, axis1=1, axis2=2))
    assert (np.abs(noisy_answer.velocity) < 3 * sigma).all()
    assert (sigma < 1).all()


def test_without_a_fixed_frame_velocities_are_relative_to_the_camera_and_say_so() -> None:
    answer = watch(STANDING, 2.0, with_pose=False)
    assert answer.velocity_frame == "camera"
    pose = camera_pose(2.0, 1.0, 0.3)
    place = into_camera(STANDING, pose)
    turning = np.cross([0, 0.3, 0], place)
    np.testing.assert_allclose(answer.velocity, -turning - np.array([0, 0, 1.0]) @ pose[:3, :3], atol=0.3)


def test_a_fixed_frame_that_comes_or_goes_restarts_the_velocities() -> None:
    tracker = Tracker()
    walking = np.array([[0.0, 0.0, 5.0], [2.0, 0.0, 6.0]])
    velocity = np.array([0.8, 0.0, 0.0])
    far_away = np.eye(4)
    far_away[:3, 3] = (1000, -2000, 0)
    frames = []
    for step in range(120):
        pose = far_away if 40 <= step < 80 else None
        frames.append(tracker.update(look(walking + velocity * step / RATE_HZ), step / RATE_HZ, pose))
    assert [frame.velocity_frame for frame in frames[::20]] == [
        "camera",
        "camera",
        "fixed",
        "fixed",
        "camera",
        "camera",
    ]
    unknown = [step for step, frame in enumerate(frames) if np.isnan(frame.velocity).any()]
    assert unknown == [0, 40, 80]
    for step in (39, 79, 119):
        np.testing.assert_allclose(frames[step].velocity, [velocity, velocity], atol=0.2)
    assert max(np.nanmax(np.abs(frame.velocity)) for frame in frames if np.isfinite(frame.velocity).any()) < 2
    assert all(frame.track_id.tolist() == [0, 1] for frame in frames)


def test_a_fixed_frame_that_is_unknown_for_a_moment_does_not_restart_its_velocities() -> None:
    """Its pose is late for one image of six, then for 1.5 s, and then the frame changes."""
    tracker, frames = Tracker(), []
    for step in range(300):
        is_known = step % 6 != 5 and not 120 <= step < 165
        true_pose = camera_pose(step / RATE_HZ, 0.2, 0.03)
        place = into_camera(STANDING, true_pose)
        frames.append(
            tracker.update(
                look(place), step / RATE_HZ, true_pose if is_known else None, "odom" if step < 240 else "map"
            )
        )
    fixed = [step for step, frame in enumerate(frames) if frame.velocity_frame == "fixed"]
    unknown = [step for step in fixed if np.isnan(frames[step].velocity).any()]
    assert unknown == [0, 165, 240], "at first, after the long gap, in another frame"
    for step in fixed:
        if step not in unknown:
            np.testing.assert_allclose(frames[step].velocity, 0, atol=1e-6)
    assert all(np.isnan(frames[step].velocity).all() for step in (5, 11, 119)), "relative to the camera: afresh"


def test_velocity_is_unknown_until_the_second_detection() -> None:
    tracker = Tracker()
    first = tracker.update(look(STANDING), 0.0)
    assert np.isnan(first.velocity).all()
    assert np.isnan(first.velocity_covariance).all()
    second = tracker.update(look(STANDING), 1 / RATE_HZ)
    assert np.isfinite(second.velocity).all()
    assert (np.linalg.eigvalsh(second.velocity_covariance) > 0).all()


def test_velocity_grows_uncertain_while_a_person_is_unseen() -> None:
    tracker = Tracker()
    for step in range(60):
        before = tracker.update(look(STANDING), step / RATE_HZ)
    after = tracker.update(look(STANDING), 60 / RATE_HZ + 1)
    grown = np.linalg.eigvalsh(after.velocity_covariance) - np.linalg.eigvalsh(before.velocity_covariance)
    assert (grown > 0.01).all()


def test_depth_is_less_certain_than_the_place_in_the_image() -> None:
    noise = compute_measurement_noise(np.array([[0.0, 0.0, 5.0], [3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]), CONFIG)
    np.testing.assert_allclose(noise[0], np.diag([0.0125, 0.0125, 0.15]) ** 2)
    ray = np.array([0.6, 0.0, 0.8])
    assert ray @ noise[1] @ ray == pytest.approx(0.15**2)
    assert (np.linalg.eigvalsh(noise) > 0).all()


def test_a_known_distance_counts_where_it_is_better_than_the_networks() -> None:
    place = np.array([[0.0, 0.0, 5.0], [3.0, 0.0, 4.0], [0.0, 0.0, 5.0], [0.0, 0.0, 5.0]])
    noise = compute_measurement_noise(place, CONFIG, np.array([0.02, 0.05, np.nan, 0.0]))
    np.testing.assert_allclose(noise[0], np.diag([0.0125, 0.0125, 0.02]) ** 2)
    ray = np.array([0.6, 0.0, 0.8])
    assert ray @ noise[1] @ ray == pytest.approx(0.05**2)
    assert np.isnan(noise[2]).all()
    assert (np.linalg.eigvalsh(noise[3]) > 0).all()

    def uncertainty(sigma_m: float | None) -> float:
        tracker = Tracker()
        for step in range(30):
            seen = look(STANDING)
            if sigma_m is not None:
                seen = dataclasses.replace(seen, distance_sigma_m=np.full(len(seen), sigma_m))
            answer = tracker.update(seen, step / RATE_HZ)
        return float(np.linalg.eigvalsh(answer.velocity_covariance).max())

    # Unknown, or less certain than the network between images: as without.
    assert uncertainty(np.nan) == uncertainty(10.0) == uncertainty(None)
    assert uncertainty(0.01) < 0.5 * uncertainty(None)


@pytest.mark.parametrize("is_fixed", [False, True])
@pytest.mark.parametrize("bias", [-0.13, 0.13])
def test_a_standing_person_stands_while_depth_images_come_and_go(bias: float, is_fixed: bool) -> None:
    """The network's distance is off by one standard deviation; for one second in four there is no depth image."""
    tracker, generator, speeds = Tracker(), np.random.default_rng(0), []
    for step in range(int(20 * RATE_HZ)):
        has_depth = int(step / RATE_HZ) % 4 < 3
        scale = (1.0 if has_depth else 1 + bias) + 0.003 * generator.standard_normal()
        sigma_m = 0.03 if has_depth else np.nan
        seen = dataclasses.replace(look(scale * STANDING[:1]), distance_sigma_m=np.array([sigma_m]))
        answer = tracker.update(seen, step / RATE_HZ, np.eye(4) if is_fixed else None)
        speeds.append(np.linalg.norm(answer.velocity[0]))
    assert answer.track_id.tolist() == [0]
    assert np.nanmax(speeds[int(2 * RATE_HZ) :]) < (
        0.1 if is_fixed else 0.8
    )  # m/s; up to 7 and 2 if such jumps are taken for motion


@pytest.mark.parametrize("lasting", [True, False])
def test_a_jump_of_the_measured_distance_is_no_motion(lasting: bool) -> None:
    """The network takes a standing child for an adult, from then on or in one image."""
    tracker, generator = Tracker(), np.random.default_rng(3)
    speeds_m_s = []
    for index in range(90):
        is_wrong = index >= 45 if lasting else index == 45
        pelvis = noisy(np.array([[0.0, 0.0, 7.0 if is_wrong else 5.0]]), generator)
        result = tracker.update(look(pelvis), index / RATE_HZ, np.eye(4))
        speeds_m_s.append(float(np.linalg.norm(result.velocity[0])))
    assert max(speeds_m_s[45:]) < max(1.0, 1.5 * max(speeds_m_s[30:45]))


def test_somebody_who_starts_to_run_is_no_jump() -> None:
    tracker, generator = Tracker(), np.random.default_rng(4)
    for index in range(60):
        pelvis = noisy(np.array([[-2.0 + 4.0 * max(0, index - 45) / RATE_HZ, 0.0, 5.0]]), generator)
        result = tracker.update(look(pelvis), index / RATE_HZ, np.eye(4))
        if index == 53:
            assert np.linalg.norm(result.velocity[0] - [4, 0, 0]) < 1.5, "after a quarter of a second"
    assert np.linalg.norm(result.velocity[0] - [4, 0, 0]) < 0.5


def test_covariance_stays_symmetric_and_positive_for_a_long_time() -> None:
    estimates: list[MotionEstimate | None] = [None]
    position = np.array([[0.0, 0.0, 3.0]])
    noise = compute_measurement_noise(position, CONFIG)
    for step in range(5_000):
        estimates = list(update_estimates(estimates, position, noise, step / RATE_HZ, CONFIG))
    assert estimates[0] is not None
    covariance = estimates[0].covariance
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    np.testing.assert_allclose(estimates[0].velocity, 0, atol=1e-9)


def test_noise_settings_reach_the_tracker() -> None:
    def velocity_sigma(config: VelocityConfig) -> float:
        tracker = Tracker(TrackerConfig(velocity=config))
        for step in range(30):
            answer = tracker.update(look(STANDING), step / RATE_HZ)
        return float(np.sqrt(answer.velocity_covariance[0, 2, 2]))

    assert velocity_sigma(VelocityConfig(depth_sigma_ratio=0.2)) > 1.5 * velocity_sigma(CONFIG)
    assert velocity_sigma(VelocityConfig(acceleration_density=0.01)) < 0.7 * velocity_sigma(CONFIG)


def see_growing_and_shrinking(stature: NDArray[np.float64], **changes: Any) -> NDArray[np.float64]:
    """Return the speeds (n,) m/s of a standing person, 4 m away, whose predicted stature (n,) m changes and whose
    distance changes by the same factor."""
    config = dataclasses.replace(CONFIG, stature_share=1.0)
    tracker, mean, speeds = Tracker(TrackerConfig(velocity=config)), np.array([[1.0, 0.5, 4.0]]), []
    for step, height in enumerate(stature):
        person = dataclasses.replace(look(mean * height / 1.7), stature=np.array([height]), **changes)
        result = tracker.update(person, step / RATE_HZ)
        assert result.stature is not None
        np.testing.assert_allclose(result.stature, stature[: step + 1].mean(), rtol=5e-3)
        speeds.append(float(np.linalg.norm(result.velocity)))
    return np.array(speeds)


def test_a_changing_stature_is_no_motion() -> None:
    stature = 1.7 * np.exp(0.06 * np.random.default_rng(3).normal(size=60))
    assert see_growing_and_shrinking(stature)[20:].max() < 0.2
    measured = see_growing_and_shrinking(stature, distance_sigma_m=np.array([0.02]))  # in another way: not corrected
    assert measured[20:].max() > 1.0
    unmeasured = see_growing_and_shrinking(stature, distance_sigma_m=np.array([np.nan]))
    assert unmeasured[20:].max() < 0.2


def test_statures_without_a_share_do_not_matter() -> None:
    speeds = []
    for stature in (None, np.array([1.2]), np.array([0.0])):
        tracker = Tracker(TrackerConfig(velocity=CONFIG))
        for step in range(5):
            person = look(np.array([[0.0, 0.0, 4.0 + 0.05 * step]]))
            result = tracker.update(dataclasses.replace(person, stature=stature), step / RATE_HZ)
        speeds.append(result.velocity[0].tolist())
    assert speeds[0] == speeds[1] == speeds[2]
