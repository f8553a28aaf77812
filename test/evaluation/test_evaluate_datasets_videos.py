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

"""Videos of calibrated cameras: the field of view is evaluated."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.job import DatasetJob
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.evaluation.datasets.videos import find_camera_marks, list_calibrated_videos
from multihmr2_ros.people import People
from test import paths
from test.helpers.calibrated_videos import ANIPOSE, FRAMES, POSE2SIM, SIZE, write_recording, write_video
from test.helpers.dataset_factory import Estimator, K, make_people_with_vertices, open_sequences

REAL = paths.SHARED / "data" / "real"
TRIAL = REAL / "perfanalytics_pose2sim" / "S00_P00_SingleParticipant" / "S00_P00_T01_BalancingTrial"
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML needs Python 3.11, or tomli")


def make_prediction(index: int) -> People:
    """Return no people, and a field of view 3° too small."""
    people = make_people_with_vertices(np.zeros((0, 1, 3)), K)
    return dataclasses.replace(people, predicted_vertical_fov=2 * np.arctan(120 / 400) - np.radians(3))


@pytest.mark.parametrize(
    ("calibration", "video", "name"),
    [
        (POSE2SIM, "videos/cam01.mp4", "S00_T01-cam01"),
        (POSE2SIM, "videos/cam01_take2.mp4", "S00_T01-cam01_take2"),
        (ANIPOSE, "videos-raw/walk2-camA.mp4", "S00_T01-walk2-camA"),
        (ANIPOSE, "videos-raw/A.mp4", "S00_T01-A"),
    ],
)
def test_field_of_view(tmp_path: Path, calibration: str, video: str, name: str) -> None:
    folder = write_recording(tmp_path / "session", calibration, video=video)
    reported: list[tuple[str, int | None]] = []

    def progress(items: Any, name: str, count: int | None) -> Any:
        reported.append((name, count))
        return items

    (result,) = evaluate_dataset(
        DatasetJob("calibrated-videos", folder, tmp_path / "out"), Estimator(make_prediction), progress
    )
    assert (result.name, result.problems) == (name, ())
    assert result.totals.compute_metrics() == {"FOV error": (pytest.approx(3, abs=1e-6), FRAMES)}
    rows = (tmp_path / "out" / name / "frames.csv").read_text().splitlines()
    assert len(rows) == 1 + FRAMES
    assert reported == [(name, FRAMES)]


def test_a_folder_of_links(tmp_path: Path) -> None:
    folder, links = write_recording(tmp_path / "session", POSE2SIM), tmp_path / "links"
    links.mkdir()
    for each in folder.iterdir():
        (links / each.name).symlink_to(each)
    (result,) = evaluate_dataset(DatasetJob("calibrated-videos", links, tmp_path / "out"), Estimator(make_prediction))
    assert (result.name, result.problems) == ("S00_T01-cam01", ())


@pytest.mark.parametrize(
    ("camera", "video", "is_same"),
    [
        ("cam_01", "cam1", True),
        ("int_cam01_img", "S2_Camera-01_take3", True),
        ("1", "cam01", True),
        ("B", "camB", True),
        ("cam_02", "cam01_take2", False),
        ("A", "B", False),
        ("cam1a", "cam1b", False),
        ("cam01", "cam01_cam02", False),
        ("cam_top", "cam_take", False),
    ],
)
def test_names_of_cameras_and_videos(camera: str, video: str, is_same: bool) -> None:
    assert (find_camera_marks(camera) == find_camera_marks(video)) == is_same


def test_the_exact_name_comes_first(tmp_path: Path) -> None:
    other = POSE2SIM.replace("cam_01", "cam01").replace("400.0", "300.0").partition("[metadata]")[0]
    ((_, read),) = list_calibrated_videos(write_recording(tmp_path, POSE2SIM + other))
    assert read().lens.k[0, 0] == 300  # type: ignore[union-attr]


def test_a_video_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "session", POSE2SIM)
    videos = folder / "S00_T01" / "videos"
    (videos / "a_cam01.mp4").write_bytes(b"")
    write_video(videos / "b_cam07.mp4")
    results = evaluate_dataset(DatasetJob("calibrated-videos", folder, tmp_path / "out"), Estimator(make_prediction))
    assert [len(result.problems) for result in results] == [1, 1, 0]
    assert "is empty" in results[0].problems[0]
    assert "b_cam07.mp4" in results[1].problems[0]
    assert results[2].totals.frames == FRAMES


def test_videos_whose_results_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "session", POSE2SIM)
    (folder / "S00_T01" / "videos" / "cam01.avi").write_bytes(b"")
    estimator = Estimator(make_prediction)
    with pytest.raises(UserError, match="results of the name S00_T01-cam01"):
        evaluate_dataset(DatasetJob("calibrated-videos", folder, tmp_path / "out"), estimator)
    assert estimator.index == -1, "before anything is read"


@pytest.mark.parametrize(
    ("calibration", "size", "message"),
    [
        (POSE2SIM, (240, 320), "the size of its calibration, 320 x 240 px"),
        (POSE2SIM.replace("cam_01", "cam_02"), SIZE, "got 0 of 'cam_02'"),
        (POSE2SIM.replace("matrix", "matrices"), SIZE, "does not have the documented format of its dataset"),
        (POSE2SIM.replace("9.5e-06, ", ""), SIZE, "does not have the documented format of its dataset"),
        (
            POSE2SIM + POSE2SIM.replace("[cam_01]", "[cam_1]").partition("[metadata]")[0],
            SIZE,
            "got 2 of 'cam_01', 'cam_01'",
        ),
        (
            POSE2SIM.replace("[ 320.0, 240.0]", "[ inf, 240.0]"),
            SIZE,
            "does not have the documented format of its dataset",
        ),
        ("[cam_01", SIZE, "does not have the documented format of its dataset"),
        ("a = " + "[" * 5000, SIZE, "does not have the documented format of its dataset"),
    ],
    ids=["size", "number", "key", "coefficients", "twice", "infinite", "damaged", "deep"],
)
def test_calibrations_and_videos_that_do_not_match_are_refused(
    tmp_path: Path, calibration: str, size: tuple[int, int], message: str
) -> None:
    folder = write_recording(tmp_path, calibration, size)
    with pytest.raises(UserError, match=message) as caught:
        list(next(list_calibrated_videos(folder))[1]())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_several_calibrations_are_refused(tmp_path: Path) -> None:
    folder = write_recording(tmp_path, POSE2SIM)
    (folder / "calib_old.toml").write_text(POSE2SIM)
    with pytest.raises(
        UserError, match=r"expected one calibration in .*, got calib_old\.toml, calibration/Calib_scene\.toml"
    ):
        next(list_calibrated_videos(folder))


@pytest.mark.skipif(not TRIAL.is_dir(), reason="the real videos are not beside this checkout (../shared/data/real)")
def test_real_videos(tmp_path: Path) -> None:
    """The fields of view agree with independent values; Pose2Sim's cam_01 was calibrated for another image size."""
    known = {Path(each["file"]).stem: each for each in json.loads((REAL / "derived" / "fov_dev.json").read_text())}
    text = []
    (tmp_path / "videos").mkdir()
    for name in ("cam01", "cam03"):
        (tmp_path / "videos" / f"{name}.mp4").symlink_to(TRIAL / "videos" / f"{name}.mp4")
        text.append(
            f'[{name}]\nname = "{name}"\nsize = {known[name]["size"]}\nmatrix = {known[name]["K"]}\n'
            "distortions = [0.0, 0.0, 0.0, 0.0]\nfisheye = false\n"
        )
    (tmp_path / "Calib.toml").write_text("\n".join(text))
    for video in open_sequences(list_calibrated_videos(tmp_path)):
        eval_frame = next(iter(video))
        assert eval_frame.frame is not None
        assert eval_frame.frame.image.shape[:2] == tuple(known[video.path.stem]["size"][::-1])
        assert np.degrees(eval_frame.given_fov) == pytest.approx(known[video.path.stem]["hfov_vfov_deg"][1], abs=0.01)
