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

"""The tracker gives exactly the published ids, and a robot's settings are no worse than the published ones."""

from __future__ import annotations

import numpy as np
import pytest

from multihmr2_ros.tracking import Tracker, TrackerConfig
from test.helpers.tracking_oracle import PublishedTracker, Score, published_ids, score_ids
from test.helpers.tracking_scenes import GOLDEN_NAMES, Room, Sequence, golden, simulate, track


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize(
    ("rate_hz", "start_s"),
    [
        (1.0, 0.0),  # the published frame index
        (1.0, 1.0e9),  # whole seconds since 1970
        (30.0, 0.0),  # t / 30 has no exact binary form
        (30.0, 1_760_000_000.123456),  # a camera's clock: a precision of 0.2 µs in float64
        (29.97, 12.5),  # an odd rate
        (7.0, 3.0),
    ],
)
def test_golden_ids_are_exact_at_any_nominal_rate(name: str, rate_hz: float, start_s: float) -> None:
    sequence, expected = golden(name)
    ids = track(Tracker(TrackerConfig.reference(rate_hz)), sequence, rate_hz, start_s)
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_ids_do_not_hang_on_float32_rounding(name: str) -> None:
    sequence, expected = golden(name)
    double = Sequence(
        sequence.offsets,
        sequence.feature.astype(np.float64) * 1000,  # the length of a feature has no meaning
        sequence.location.astype(np.float64),
        sequence.rotation.astype(np.float64),
        sequence.true_person,
    )
    np.testing.assert_array_equal(track(Tracker(TrackerConfig.reference()), double), expected)


def test_published_method_written_plainly_gives_the_golden_ids() -> None:
    sequence, expected = golden("few")
    np.testing.assert_array_equal(published_ids(sequence), expected)


@pytest.mark.parametrize(
    "room",
    [
        Room(people=3),  # periods without people in view
        Room(people=8, frames=100, false_positives=0.3),  # many ids
        Room(feature_common=1.0, frames=200),  # everyone looks the same
        Room(camera_yaw_rad_s=1.2),  # fast in the image
        Room(people=2, missed=0.7),  # mostly unseen
    ],
)
def test_forgetting_motion_models_changes_no_id(room: Room) -> None:
    sequence = simulate(room, seed=5)
    np.testing.assert_array_equal(track(Tracker(TrackerConfig.reference()), sequence), published_ids(sequence))


def test_published_method_keeps_motion_models_that_can_never_be_assigned() -> None:
    """Motivates forgetting: the models of people who left stay forever."""
    sequence = simulate(Room(people=3, frames=300, false_positives=0.5), seed=5)
    published, tracker = PublishedTracker(), Tracker(TrackerConfig.reference())
    for t, detections in enumerate(sequence.detections()):
        remembered = {track_id for _, track_id, _ in published.bank}
        remembered.update(published.step(detections.feature, detections.location, detections.rotation, t))
        tracker.update(detections, t)
    assert {snapshot.track_id for snapshot in tracker.list_tracks()} == remembered
    assert len(published.motion) > 3 * len(remembered)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_dropped_frames_cost_little(name: str) -> None:
    """With a third of the frames dropped at random, people keep their ids as they do with all frames."""
    sequence, expected = golden(name)
    dropped = np.random.default_rng(0).random(len(sequence)) < 0.33
    tracker = Tracker(TrackerConfig.reference())
    ids = np.full(len(expected), -1)
    for t, detections in enumerate(sequence.detections()):
        if not dropped[t]:
            ids[sequence.rows(t)] = tracker.update(detections, t).track_id
    kept = ids >= 0
    kept_sequence = Sequence(
        sequence.offsets, sequence.feature, sequence.location, sequence.rotation, sequence.true_person[kept]
    )
    assert score_ids(kept_sequence, ids[kept]).idf1 >= score_ids(kept_sequence, expected[kept]).idf1 - 0.02


def _report(rows: dict[str, tuple[Score, Score]]) -> None:
    print(f"\n{'sequence':24s} {'IDF1':>7s} {'MOTA':>7s} {'switches':>9s}  (reference → default)")
    for name, pair in rows.items():
        idf1, mota, switches = ("{:.4f} → {:.4f}", "{:.4f} → {:.4f}", "{} → {}")
        print(
            f"{name:24s} {idf1.format(*(score.idf1 for score in pair))}  "
            f"{mota.format(*(score.mota for score in pair))}  "
            f"{switches.format(*(score.id_switches for score in pair))}"
        )


def _compare(sequence: Sequence) -> tuple[Score, Score]:
    reference = track(Tracker(TrackerConfig.reference(30)), sequence, 30)
    default = track(Tracker(TrackerConfig()), sequence, 30)
    return score_ids(sequence, reference), score_ids(sequence, default)


def test_default_settings_gain_on_the_golden_sequences() -> None:
    """Justifies the differences from the published settings."""
    scores = {name: _compare(golden(name)[0]) for name in GOLDEN_NAMES}
    _report(scores)
    for reference, default in scores.values():
        assert default.idf1 >= reference.idf1
        assert default.mota >= reference.mota
        assert default.id_switches <= reference.id_switches
    assert sum(default.idf1 - reference.idf1 for reference, default in scores.values()) > 0.02


def test_default_settings_gain_in_simulated_rooms() -> None:
    """The rooms were not used to choose the settings; a room of people who look the same must not become worse."""
    rooms = {
        "ten people": Room(people=10),
        "crowd, rough features": Room(people=12, feature_noise=0.9, feature_common=0.5),
        "turning camera": Room(people=8, camera_yaw_rad_s=1.0),
        "everyone looks the same": Room(people=6, feature_common=1.0, feature_noise=0.3),
    }
    scores = {name: [_compare(simulate(room, seed)) for seed in (101, 102)] for name, room in rooms.items()}
    _report({f"{name} {run}": pair for name, pairs in scores.items() for run, pair in enumerate(pairs)})
    pairs = [pair for same_room in scores.values() for pair in same_room]
    assert np.mean([default.idf1 - reference.idf1 for reference, default in pairs]) > 0.01
    assert sum(default.id_switches for _, default in pairs) < sum(reference.id_switches for reference, _ in pairs)
    blind = scores["everyone looks the same"]
    assert np.mean([default.idf1 - reference.idf1 for reference, default in blind]) > -0.02
