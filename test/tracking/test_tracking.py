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

"""Ids, states, time, and unusable detections."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.people import TrackState
from multihmr2_ros.tracking import Detections, SmoothingConfig, Tracker, TrackerConfig, TrackingResult, VelocityConfig
from test.helpers.tracking_scenes import GOLDEN_NAMES, Room, golden, simulate, track

RATE_HZ = 30.0


def people(*places: float, **changes: Any) -> Detections:
    """Return one person at each u/side, each with a distinct feature: a single 1 at the index of the place in
    hundredths."""
    n = len(places)
    feature = np.zeros((n, 101), np.float32)
    feature[np.arange(n), [round(100 * place) for place in places]] = 1
    location = np.column_stack([np.array(places), np.full(n, 0.5), np.full(n, -1.0)]).reshape(n, 3)
    pelvis = np.column_stack([4 * np.array(places) - 2, np.zeros(n), np.full(n, np.e)]).reshape(n, 3)
    detections = Detections(
        feature, location, np.tile(np.eye(3), (n, 1, 1)), pelvis, np.full((n, 6), 0.5), np.full(n, 0.9),
        stature=np.full(n, 1.7),
    )  # fmt: skip
    return dataclasses.replace(detections, **changes)


def run(tracker: Tracker, *frames: Detections, start_s: float = 0.0) -> list[TrackingResult]:
    return [tracker.update(detections, start_s + index / RATE_HZ) for index, detections in enumerate(frames)]


def live_ids(tracker: Tracker) -> list[int]:
    return [snapshot.track_id for snapshot in tracker.list_tracks()]


def states_after(tracker: Tracker, *frames: Detections) -> list[dict[int, TrackState]]:
    """Run the tracker and return the state of each live track after each frame."""
    states = []
    for index, detections in enumerate(frames):
        tracker.update(detections, index / RATE_HZ)
        states.append({snapshot.track_id: snapshot.state for snapshot in tracker.list_tracks()})
    return states


def test_empty_frames_for_ever_and_people_after_them() -> None:
    tracker = Tracker()
    no_network_output = Detections(np.zeros((0, 0)), np.zeros((0, 3)), np.zeros((0, 3, 3)))
    for frame in [*run(tracker, *[people()] * 200), *run(tracker, *[no_network_output] * 200, start_s=10)]:
        assert frame.track_id.shape == (0,)
        assert frame.track_id.dtype == np.int64
        assert frame.velocity.shape == (0, 3)
        assert frame.velocity_covariance.shape == (0, 3, 3)
    assert tracker.list_tracks() == []
    assert tracker.update(people(0.5), 100.0).track_id.tolist() == [0]


def test_first_people_get_consecutive_ids_in_their_order() -> None:
    assert Tracker().update(people(0.9, 0.1, 0.5), 0.0).track_id.tolist() == [0, 1, 2]


def test_hundred_people_keep_their_ids() -> None:
    tracker = Tracker()
    places = np.linspace(0.0, 1.0, 100)
    for frame in run(tracker, *[people(*places)] * 40):
        assert frame.track_id.tolist() == list(range(100))


def test_states_from_tentative_to_ended() -> None:
    config = TrackerConfig(confirm_hits=3, memory_s=10 / RATE_HZ, feature_interval_s=0)
    detections = [people(0.5), people(0.5), people(0.5), people(), people(0.5), *[people()] * 11, people(0.5)]
    frames = run(Tracker(config), *detections)
    assert [frame.state.tolist() for frame in frames[:5]] == [[1], [1], [2], [], [2]]
    states = states_after(Tracker(config), *detections)
    confirmed, lost = {0: TrackState.CONFIRMED}, {0: TrackState.LOST}
    assert states[2:8] == [confirmed, lost, confirmed, lost, lost, lost]
    # Last seen at frame 4: kept until that frame is 10 frames old.
    assert [index for index, tracks in enumerate(states) if 0 not in tracks] == [14, 15, 16]
    assert frames[-1].track_id.tolist() == [1]
    assert frames[-1].state.tolist() == [TrackState.TENTATIVE]


@pytest.mark.parametrize("start_s", [0.0, 1.1, 1_760_000_000.123456])
@pytest.mark.parametrize("rate_hz", [30.0, 29.97, 7.0])
def test_memory_is_a_whole_number_of_frames_whatever_the_clock(start_s: float, rate_hz: float) -> None:
    """t / 30 has no exact binary form, and the precision of float64 for seconds since 1970 is 0.2 µs."""
    tracker = Tracker(TrackerConfig.reference(rate_hz))
    for last_seen in range(0, 300, 60):
        tracker.update(people(0.5), start_s + last_seen / rate_hz)
        assert len(tracker.list_tracks()) == 1
        ended = []
        for later in range(1, 60):
            tracker.update(people(), start_s + (last_seen + later) / rate_hz)
            ended += [] if tracker.list_tracks() else [later]
        assert ended == list(range(50, 60))


def test_track_ends_when_its_last_feature_is_forgotten() -> None:
    """With a feature every 3 frames: seen for 5 frames, features of frames 0 and 3, forgotten 10 frames after 3."""
    tracker = Tracker(TrackerConfig(memory_s=10 / RATE_HZ, feature_interval_s=3 / RATE_HZ))
    states = states_after(tracker, *[people(0.5)] * 5, *[people()] * 15)
    assert [index for index, tracks in enumerate(states) if not tracks] == list(range(13, 20))


def test_lost_people_are_kept_but_not_in_the_frame() -> None:
    tracker = Tracker(TrackerConfig(confirm_hits=2))
    frames = run(tracker, people(0.2, 0.8), people(0.2, 0.8), people(0.8), people(0.8))
    assert frames[-1].track_id.tolist() == [1]
    lost, seen = tracker.list_tracks()
    assert (lost.track_id, lost.state, lost.hits) == (0, TrackState.LOST, 2)
    assert (seen.track_id, seen.state, seen.hits) == (1, TrackState.CONFIRMED, 4)
    assert lost.unseen_s == pytest.approx(2 / RATE_HZ)
    assert seen.unseen_s == 0
    assert lost.age_s == seen.age_s == pytest.approx(3 / RATE_HZ)


def test_age_counts_from_the_first_detection_in_seconds() -> None:
    frames = run(Tracker(), people(0.2), people(0.2, 0.8), people(), people(0.2, 0.8), start_s=1.7e9)
    np.testing.assert_allclose(frames[3].age_s, [3 / RATE_HZ, 2 / RATE_HZ], atol=1e-6)


@pytest.mark.parametrize("back_s", [1e-3, 5.0, 1e9])  # out of order; a bag looping; simulated time set to zero
def test_stamp_that_jumps_back_starts_afresh_and_says_so(back_s: float, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker()
    with caplog.at_level(logging.WARNING):
        run(tracker, people(0.2, 0.8), people(0.2, 0.8), start_s=1e9)
        assert not caplog.records
        after = tracker.update(people(0.2, 0.8), 1e9 + 1 / RATE_HZ - back_s)
        assert live_ids(tracker) == [2, 3]
        following = tracker.update(people(0.2, 0.8), 1e9 + 2 / RATE_HZ - back_s)
    assert after.track_id.tolist() == [2, 3]  # never the former ids
    assert after.age_s.tolist() == [0, 0]
    assert np.isnan(after.velocity).all()
    assert [record.name for record in caplog.records] == ["multihmr2_ros.tracking.tracker"]
    assert "time jumped back" in caplog.text
    assert following.track_id.tolist() == [2, 3]


def test_looping_bag_repeats_itself_with_new_ids() -> None:
    sequence, expected = golden("few")
    tracker = Tracker(TrackerConfig.reference())
    used: set[int] = set()
    for _ in range(3):
        ids = track(tracker, sequence)
        np.testing.assert_array_equal(ids - ids.min(), expected)
        assert not used & set(ids.tolist())
        used |= set(ids.tolist())


def test_reset_ends_everyone_and_counts_on(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker()
    run(tracker, people(0.2, 0.8))
    tracker.reset()
    assert tracker.list_tracks() == []
    frame = tracker.update(people(0.2), 0.0)  # an earlier stamp after a reset is no jump
    assert frame.track_id.tolist() == [2]
    assert live_ids(tracker) == [2]
    assert tracker.update(people(0.2), 1.0).track_id.tolist() == [2]
    assert not caplog.records


def test_reset_allows_features_of_another_length() -> None:
    tracker = Tracker()
    tracker.update(people(0.2), 0.0)
    longer = people(0.2, feature=np.ones((1, 300)))
    with pytest.raises(UserError, match=r"expected 101 numbers per person as before, got 300.*reset\(\)"):
        tracker.update(longer, 0.1)
    tracker.reset()
    assert tracker.update(longer, 0.1).track_id.tolist() == [1]


def test_long_pause_ends_every_track() -> None:
    tracker = Tracker()
    run(tracker, people(0.2, 0.8), people(0.2, 0.8))
    frame = tracker.update(people(0.2, 0.8), 1e9)
    assert frame.track_id.tolist() == live_ids(tracker) == [2, 3]


def test_equal_stamp_is_a_second_look_at_one_instant(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker()
    frames = [tracker.update(people(0.2, 0.8), 5.0) for _ in range(10)]
    assert all(frame.track_id.tolist() == [0, 1] for frame in frames)
    assert not caplog.records
    assert np.isnan(frames[-1].velocity).all()
    assert np.isfinite(tracker.update(people(0.2, 0.8), 5.1).velocity).all()


def test_frames_that_drop_and_a_rate_that_changes_keep_the_ids() -> None:
    tracker = Tracker()
    stamps = np.cumsum([0, 1, 1, 1, 5, 1, 12, 3, 3, 3, 3, 0.5, 0.5, 0.5, 20, 1]) / RATE_HZ
    for stamp in stamps:
        assert tracker.update(people(0.2, 0.8), stamp).track_id.tolist() == [0, 1]


@pytest.mark.parametrize("stamp_s", [float("nan"), float("inf"), -float("inf"), 1.7e18])  # the last: nanoseconds
def test_unusable_stamps_are_refused_and_change_nothing(stamp_s: float) -> None:
    tracker = Tracker()
    run(tracker, people(0.2))
    with pytest.raises(UserError, match="stamp_s: expected finite seconds"):
        tracker.update(people(0.2), stamp_s)
    frame = tracker.update(people(0.2), 1 / RATE_HZ)
    assert frame.track_id.tolist() == [0]


@pytest.mark.parametrize(
    "transform",
    [
        np.full((4, 4), np.nan),
        np.eye(3),
        np.diag([1.0, 1.0, -1.0, 1.0]),  # a reflection
        np.diag([2.0, 2.0, 2.0, 1.0]),  # a scaling
        np.eye(4)[[3, 1, 2, 0]],
    ],
)
def test_transforms_that_are_not_rigid_are_refused(transform: np.ndarray) -> None:
    with pytest.raises(UserError, match="fixed_from_camera: expected"):
        Tracker().update(people(0.2), 0.0, transform)


@pytest.mark.parametrize("field", ["feature", "location", "rotation", "pelvis", "shape", "score"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_not_tracked_and_poison_nothing(
    field: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    clean, poisoned = Tracker(), Tracker()
    for index in range(30):
        three = people(0.1, 0.5, 0.9)
        bad = getattr(three, field).copy()
        bad[1] = value
        with caplog.at_level(logging.WARNING):
            answer = poisoned.update(dataclasses.replace(three, **{field: bad}), index / RATE_HZ)
        expected = clean.update(people(0.1, 0.9), index / RATE_HZ)
        assert answer.track_id.tolist() == [0, -1, 1]
        assert answer.state[1] == TrackState.UNTRACKED
        assert np.isnan(answer.velocity[1]).all()
        for name in ("state", "velocity", "velocity_covariance", "shape", "stature"):
            np.testing.assert_array_equal(getattr(answer, name)[[0, 2]], getattr(expected, name))
    assert "1 of 3 detections" in caplog.text
    assert live_ids(poisoned) == [0, 1]


def test_rows_whose_rotation_is_none_are_not_tracked() -> None:
    rotation = np.stack([np.eye(3), np.zeros((3, 3)), -np.eye(3)])
    answer = Tracker().update(people(0.1, 0.5, 0.9, rotation=rotation), 0.0)
    assert answer.track_id.tolist() == [0, -1, -1]


def test_detections_are_left_as_they_were() -> None:
    tracker = Tracker(TrackerConfig(smoothing=SmoothingConfig()))
    for index in range(5):
        detections = people(
            0.2, 0.8 + 0.01 * index, distance_sigma_m=np.array([0.02, np.nan]), is_weak=np.zeros(2, bool),
            bone_rotations=np.tile(np.eye(3), (2, 4, 1, 1)),
        )  # fmt: skip
        copies = {field.name: getattr(detections, field.name).copy() for field in dataclasses.fields(detections)}
        tracker.update(detections, index / RATE_HZ)
        for name, copy in copies.items():
            np.testing.assert_array_equal(getattr(detections, name), copy)


def test_without_pelvis_and_shape_there_are_ids_only() -> None:
    tracker = Tracker()
    for frame in run(tracker, *[people(0.2, 0.8, pelvis=None, shape=None, score=None)] * 3):
        assert frame.track_id.tolist() == [0, 1]
        assert frame.shape is None
        assert np.isnan(frame.velocity).all()


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("config", [TrackerConfig.reference(), TrackerConfig(nominal_rate_hz=1, memory_s=60)])
def test_order_of_the_detections_does_not_matter(name: str, config: TrackerConfig) -> None:
    """People keep the same ids in the same frames; only the order of new ids follows the order of detections."""
    sequence, _ = golden(name)
    generator = np.random.default_rng(1)
    straight, shuffled = Tracker(config), Tracker(config)
    partner: dict[int, int] = {}
    for t, detections in enumerate(sequence.detections()):
        order = generator.permutation(len(detections))
        permuted = Detections(*(getattr(detections, key)[order] for key in ("feature", "location", "rotation")))
        expected = straight.update(detections, t).track_id[order]
        for ours, theirs in zip(expected.tolist(), shuffled.update(permuted, t).track_id.tolist(), strict=True):
            assert partner.setdefault(ours, theirs) == theirs
    assert len(set(partner.values())) == len(partner)


def test_ids_are_unique_within_a_frame_and_never_come_back_after_their_end() -> None:
    sequence = simulate(Room(people=8, frames=250, missed=0.3, false_positives=0.3), seed=2)
    tracker = Tracker(TrackerConfig(memory_s=0.3))
    ended: set[int] = set()
    highest = -1
    for t, detections in enumerate(sequence.detections()):
        before = set(live_ids(tracker))
        frame = tracker.update(detections, t / RATE_HZ)
        ids = frame.track_id.tolist()
        ended |= before - set(live_ids(tracker))
        assert len(set(ids)) == len(ids)
        assert not ended & set(ids)
        new = [track_id for track_id in ids if track_id > highest]
        assert new == list(range(highest + 1, highest + 1 + len(new)))
        highest += len(new)
    live = set(live_ids(tracker))
    assert ended
    assert live | ended == set(range(highest + 1))
    assert not live & ended


def test_live_tracks_have_the_states_of_the_frame_or_are_lost() -> None:
    sequence = simulate(Room(people=6, frames=250, missed=0.2, false_positives=0.2), seed=3)
    tracker = Tracker(TrackerConfig(memory_s=0.5))
    seen_lost = False
    for t, detections in enumerate(sequence.detections()):
        frame = tracker.update(detections, t / RATE_HZ)
        seen = dict(zip(frame.track_id.tolist(), map(TrackState, frame.state.tolist()), strict=True))
        states = {snapshot.track_id: snapshot.state for snapshot in tracker.list_tracks()}
        assert seen.items() <= states.items()
        assert {state for track_id, state in states.items() if track_id not in seen} <= {TrackState.LOST}
        seen_lost |= TrackState.LOST in states.values()
    assert seen_lost


def test_capacity_bounds_bank_and_tracks_whatever_comes() -> None:
    tracker = Tracker(TrackerConfig(bank_capacity=64, memory_s=1e6, feature_interval_s=0))
    generator = np.random.default_rng(0)
    for index in range(100):  # every detection is a new person, 30 at a time: none is seen again
        location = np.column_stack([generator.random((30, 2)) * 1000, np.zeros(30)])
        detections = Detections(generator.normal(size=(30, 16)), location, np.tile(np.eye(3), (30, 1, 1)))
        tracker.update(detections, index / RATE_HZ)
        assert len(tracker.list_tracks()) <= 64 + 30
    assert tracker.update(detections, 10.0).track_id.tolist() == list(range(2970, 3000))


def test_more_people_than_the_bank_holds_do_no_harm() -> None:
    tracker = Tracker(TrackerConfig(bank_capacity=5))
    for frame in run(tracker, *[people(*np.linspace(0, 1, 12))] * 5):
        assert len(set(frame.track_id.tolist())) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": np.zeros((2, 2))}, r"Detections.location: expected an array of shape 2 × 3, got \(2, 2\)"),
        ({"rotation": np.zeros((1, 3, 3))}, r"Detections.rotation: expected an array of shape 2 × 3 × 3"),
        ({"feature": np.zeros(2)}, r"Detections.feature: expected an array of shape 2 × any, got \(2,\)"),
        ({"pelvis": np.zeros((3, 3))}, r"Detections.pelvis"),
        ({"shape": np.zeros((1, 6))}, r"Detections.shape"),
        ({"score": np.zeros((2, 1))}, r"Detections.score: expected an array of shape 2, got \(2, 1\)"),
    ],
)
def test_detections_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        people(0.2, 0.8, **changes)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (TrackerConfig, "nominal_rate_hz"),
        (TrackerConfig, "memory_s"),
        (TrackerConfig, "feature_interval_s"),
        (TrackerConfig, "bank_capacity"),
        (TrackerConfig, "nearest_neighbours"),
        (TrackerConfig, "appearance_temperature"),
        (TrackerConfig, "motion_history"),
        (TrackerConfig, "slope_penalty"),
        (TrackerConfig, "pixel_temperature"),
        (TrackerConfig, "nearness_temperature"),
        (TrackerConfig, "angle_temperature_rad"),
        (TrackerConfig, "appearance_weight"),
        (TrackerConfig, "motion_weight"),
        (TrackerConfig, "score_threshold"),
        (TrackerConfig, "confirm_hits"),
        (TrackerConfig, "shape_window_s"),
        (VelocityConfig, "depth_sigma_ratio"),
        (VelocityConfig, "lateral_sigma_ratio"),
        (VelocityConfig, "acceleration_density"),
        (VelocityConfig, "initial_speed_sigma_m_s"),
        (VelocityConfig, "stature_share"),
    ],
)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1"])
def test_settings_that_make_no_sense_are_refused_by_name_and_value(settings: type, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{settings.__name__}\.{name}: expected .*{value!r}"):
        settings(**{name: value})


def test_a_memory_shorter_than_the_feature_interval_is_refused() -> None:
    for memory_s in (0.05, 0.1):
        with pytest.raises(UserError, match="feature_interval_s: expected less than memory_s"):
            TrackerConfig(memory_s=memory_s)
    TrackerConfig(memory_s=0.05, feature_interval_s=0)


def test_settings_at_their_limits() -> None:
    TrackerConfig(score_threshold=0, slope_penalty=0, appearance_weight=0)
    TrackerConfig(score_threshold=1, motion_weight=0)
    with pytest.raises(UserError, match=r"score_threshold: expected 0 to 1, got 1\.1"):
        TrackerConfig(score_threshold=1.1)
    with pytest.raises(UserError, match="sum above 0"):
        TrackerConfig(appearance_weight=0, motion_weight=0)


def test_reference_memory_is_fifty_frames_at_any_rate() -> None:
    assert {TrackerConfig.reference(rate).memory_frames for rate in (1, 7, 29.97, 30, 59.94, 120)} == {50}


def test_slow_images_keep_their_people() -> None:
    """One image every 8 s, as of the large network on a CPU: the second interval is the first known one."""
    tracker = Tracker()
    answers = [tracker.update(people(0.5), 8.0 * index) for index in range(6)]
    assert [answer.track_id.tolist() for answer in answers] == [[0], [1], [1], [1], [1], [1]]
    assert answers[-1].state.tolist() == [TrackState.CONFIRMED]
    tracker = Tracker()
    once_a_second = [people(0.5)] * 3 + [people()] + [people(0.5)]
    answers = [tracker.update(seen, float(index)) for index, seen in enumerate(once_a_second)]
    assert answers[-1].track_id.tolist() == [0], "one missed detection at 1 Hz"


def test_stamps_may_be_long_before_zero() -> None:
    tracker = Tracker()
    assert [tracker.update(people(0.5), -1e4 + 0.1 * index).track_id.tolist() for index in range(3)] == [[0]] * 3


def weak(*places: float, among: tuple[float, ...] = ()) -> Detections:
    """Return weak detections at the places, after strong ones at others."""
    everybody = (*among, *places)
    return people(*everybody, is_weak=np.arange(len(everybody)) >= len(among))


def test_weak_detections_continue_confirmed_tracks_only() -> None:
    tracker = Tracker(TrackerConfig(confirm_hits=3))
    nobody, tentative = run(tracker, weak(0.5), people(0.5), weak(0.5))[::2]
    for frame in (nobody, tentative):
        assert frame.track_id.tolist() == [-1]
        assert frame.state.tolist() == [TrackState.UNTRACKED]
    frames = run(tracker, people(0.5), people(0.5), *[weak(0.5)] * 100, start_s=1.0)
    assert all(frame.track_id.tolist() == [0] for frame in frames)
    assert frames[-1].state.tolist() == [TrackState.CONFIRMED]


def test_weak_detections_are_associated_after_the_others_and_more_strictly() -> None:
    frames = run(Tracker(), *[people(0.5)] * 3, weak(0.5, among=(0.52,)), weak(0.5, 0.51), weak(0.9))
    assert frames[3].track_id.tolist() == [0, -1], "a strong detection comes first, although it is farther away"
    assert sorted(frames[4].track_id.tolist()) == [-1, 0], "a track has one detection"
    assert frames[5].track_id.tolist() == [-1], "it is far away"


def test_weak_detections_start_no_track_and_use_up_no_id() -> None:
    frames = run(Tracker(), people(0.1), weak(0.5, among=(0.1,)), people(0.1, 0.9))
    assert [frame.track_id.tolist() for frame in frames] == [[0], [0, -1], [0, 1]]
