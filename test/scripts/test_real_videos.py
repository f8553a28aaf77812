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

"""`scripts/real_videos.py`: identities and places of people in real videos."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.video import VideoWriter
from multihmr2_ros.people import People
from test import paths
from test.helpers.people_factory import make_people, pinhole


@pytest.fixture
def videos(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(paths.ROOT / "scripts"))
    import real_videos

    return real_videos


def compute_identity_metrics(videos: ModuleType, *frames: tuple[int, list[int]]) -> dict[str, float]:
    """Return the metrics of a video of ten frames, with the first person in 1 to 4 and the second in 6 to 8.

    frames: (frame, ids detected in it).
    """
    times = videos.IdentityTimes(videos.Presence(Path("video.mp4"), 10, ((1, 4), (6, 8))))
    for frame, ids in frames:
        times.add(frame, np.array(ids, np.int64))
    values: dict[str, float] = times.compute_metrics()[0]
    return values


def test_one_identity_each_is_perfect(videos: ModuleType) -> None:
    ids = {frame: [5] if 1 <= frame <= 4 else [6] if 6 <= frame <= 8 else [] for frame in range(10)}
    values = compute_identity_metrics(videos, *ids.items())
    assert values.pop("somebody found while nobody is there %") == 0
    assert list(values.values()) == [100] * 7


def test_shares_of_the_frames_found_and_of_all(videos: ModuleType) -> None:
    """The first person changes the id in one of three frames with detections; in one of two others there is a false
    alarm."""
    values = compute_identity_metrics(
        videos, (0, [9]), (1, [5]), (2, [5]), (3, [6]), (4, []), (5, []), (6, [7]), (7, [7, 8]), (8, [7])
    )
    assert values["somebody found while a person is there %"] == pytest.approx(100 * 6 / 7)
    assert values["somebody found while nobody is there %"] == 50
    assert values["one id, of a person's frames found, least %"] == pytest.approx(100 * 2 / 3)
    assert values["one id, of a person's frames found, mean %"] == pytest.approx(100 * 5 / 6)
    assert values["one id, of all of a person's frames, least %"] == 50
    assert values["that id's uniqueness, least %"] == 100


def test_an_id_that_two_people_have_is_not_unique(videos: ModuleType) -> None:
    values = compute_identity_metrics(videos, (1, [5]), (2, [5]), (3, [5]), (6, [5]))
    assert values["one id, of a person's frames found, least %"] == 100
    assert values["that id's uniqueness, least %"] == 25
    assert values["that id's uniqueness, mean %"] == 50


def test_a_person_who_is_never_found_has_no_identity(videos: ModuleType) -> None:
    values = compute_identity_metrics(videos, (1, [5]), (6, []))
    assert values["one id, of a person's frames found, least %"] == 0
    assert values["one id, of a person's frames found, mean %"] == 50


def write_video(path: Path, frames: int) -> Path:
    with VideoWriter(path, 64, 48, fps=10) as video:
        for number in range(frames):
            video.write(np.full((48, 64, 3), 20 * number, np.uint8), number / 10)
    return path


class BrightFramesEstimator:
    """Estimator that returns one person of track 3 in bright frames."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def reset(self) -> None:
        self.stamps.clear()

    def step(self, frame: Frame, /) -> People:
        self.stamps.append(frame.stamp)
        bright = int(frame.image.mean() > 70)
        return make_people(bright, track_id=np.array([3][:bright]))


def test_a_video_is_evaluated_every_second_frame(videos: ModuleType, tmp_path: Path) -> None:
    estimator, shown = BrightFramesEstimator(), []
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"video": "video.mp4", "n_frames": 10, "tracks": [{"frames": [4, 9]}]}))
    write_video(tmp_path / "video.mp4", 10)
    presence = videos.Presence.read(labels, tmp_path)
    times = videos.watch(estimator, presence, 2, lambda frame, people: shown.append(frame.name))
    assert estimator.stamps == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert times.frames == {None: 2, 0: 3}
    assert times.found == {None: 0, 0: 3}
    assert shown == ["video_000000"]


def test_a_video_that_ends_too_early_is_refused(videos: ModuleType, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 5)
    with pytest.raises(UserError, match=r"video\.mp4 must have 10 frames, .*got 5"):
        list(videos.frames_of(path, 10, 1))


def make_joints(distance_m: float, x_m: float = 0.0) -> np.ndarray:
    """Return joints (13, 3) m of a person, with the midpoint of the hips on the camera's axis, shifted by x_m."""
    joints = np.random.default_rng(1).uniform(-0.5, 0.5, (13, 3))
    joints -= joints[[7, 8]].mean(axis=0)
    return np.asarray(joints + np.array([x_m, 0.0, distance_m]))


def compute_place_errors(videos: ModuleType, joints: list[np.ndarray], true: np.ndarray) -> dict[str, float]:
    errors, k = videos.VideoErrors(), pinhole()
    people = make_people(len(joints), k=k, predicted_vertical_fov=2 * np.arctan(0.5 * 480 / 500.0) + np.radians(3.0))
    errors.add(np.array(joints).reshape(-1, 13, 3), true, people, k)
    figures: dict[str, float] = (errors + videos.VideoErrors()).compute_metrics()
    return figures


def test_the_truth_has_no_errors_of_position_and_pose(videos: ModuleType) -> None:
    figures = compute_place_errors(videos, [make_joints(4.0, 1.5), make_joints(4.0)], make_joints(4.0))
    assert list(figures.values()) == pytest.approx([100, 0, 0, 0, 3], abs=1e-6)


def test_errors_of_position_and_pose_equal_the_changes(videos: ModuleType) -> None:
    true = make_joints(4.0)
    farther = compute_place_errors(videos, [true + np.array([0, 0, 0.4])], true)
    assert list(farther.values()) == pytest.approx([100, 0, 0, 10, 3], abs=1e-6)
    hips = true[[7, 8]].mean(axis=0)
    larger = compute_place_errors(videos, [hips + 1.1 * (true - hips)], true)
    assert larger["MPJPE mm"] == pytest.approx(100 * np.linalg.norm(true - hips, axis=1).mean())
    assert larger["PA-MPJPE mm"] == pytest.approx(0, abs=1e-6)


def test_without_detections_only_the_field_of_view_is_evaluated(videos: ModuleType) -> None:
    figures = compute_place_errors(videos, [], make_joints(4.0))
    assert figures["person found %"] == 0
    assert np.isnan(figures["MPJPE mm"])
    assert figures["vertical field of view error, K not given °"] == pytest.approx(3)


def test_joints_are_found_by_their_names(videos: ModuleType, tmp_path: Path) -> None:
    names = ["Head", *reversed(videos.JOINTS), "LHeel"]
    joints = [[[float(row), 0.0, 3.0] for row in range(len(names))]]
    content = {"video": "v.mp4", "K": pinhole().tolist(), "joint_names": names, "joints_cam_m": joints}
    (tmp_path / "camera.json").write_text(json.dumps(content))
    video = videos.CalibratedVideo.read(tmp_path / "camera.json", tmp_path)
    assert video.joints.shape == (1, 13, 3)
    assert video.joints[0, :, 0].tolist() == [float(row) for row in range(13, 0, -1)]
