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

"""Results never replace, or mix with, files that the command did not write (`cli/result_files.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.cli.main import main
from multihmr2_ros.cli.result_files import RunNames, find_existing_evaluation
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.results import write_results
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.media.sources import ImageSource, VideoSource, make_source_name
from multihmr2_ros.media.video import VideoWriter
from multihmr2_ros.training.config import NETWORKS, TrainingConfig
from multihmr2_ros.training.session import Session
from multihmr2_ros.training.training_run import train
from test.helpers.evaluation_bags import write_scene


def save_image(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    return path


def save_video(path: Path, frames: int) -> Path:
    with VideoWriter(path, 64, 48, fps=10) as video:
        for index in range(frames):
            video.write(np.full((48, 64, 3), 10 * index, np.uint8), index / 10)
    return path


@pytest.fixture
def run(small_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*inputs: Path, out: Path | None = None, options: str = "--save params") -> int:
        fixed = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--mesh", "low"]
        return main(["run", *map(str, inputs), "--out", str(out or tmp_path / "out"), *fixed, *options.split()])

    return run


def read_contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "inputs",
    [
        ("left", "right"),  # frames of the same name
        ("left", "left/1.png"),
        ("clips", "walk.mp4"),  # walk_000000.png beside the first frame of walk.mp4
        ("clips/walk_000000.png", "walk.mp4"),
        ("walk.mp4", "other/walk.mp4"),
    ],
)
def test_inputs_that_would_share_a_result(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], inputs: tuple[str, ...]
) -> None:
    for name in ("left/1.png", "right/1.png", "clips/walk_000000.png", "other/a.png"):
        save_image(tmp_path / name)
    save_video(tmp_path / "walk.mp4", 1)
    save_video(tmp_path / "other" / "walk.mp4", 1)
    assert run(*(tmp_path / name for name in inputs)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(str(tmp_path / name) in line for name in inputs)
    assert "same name" in line
    assert read_contents(tmp_path / "out") == {}


def test_names_of_files_that_are_not_written_do_not_matter(tmp_path: Path) -> None:
    """A folder of images named walk and a video walk.mp4: they share a file only with --save video."""
    folder = ImageSource([save_image(tmp_path / "a.png")], None, "walk")
    video = VideoSource(save_video(tmp_path / "walk.mp4", 1))
    assert not RunNames(folder, ["params"]).has_common_names(RunNames(video, ["params", "video"]))
    assert RunNames(folder, ["video"]).has_common_names(RunNames(video, ["video"]))
    names = RunNames(video, ["params"])
    assert "walk_000012.npz" in names
    assert "walk_1234567.npz" in names
    assert not {"walk_12.npz", "walk_000012.glb", "walk_overlay.mp4", "my_walk_000012.npz"} & {
        name for name in ("walk_12.npz", "walk_000012.glb", "walk_overlay.mp4", "my_walk_000012.npz") if name in names
    }


def test_a_folder_has_no_suffix(run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("walk_v1.0", "walk_v1.1"):
        save_image(tmp_path / name / f"{name}.png")
    assert run(tmp_path / "walk_v1.0", tmp_path / "walk_v1.1", options="--save video") == 0
    assert sorted(read_contents(tmp_path / "out")) == ["walk_v1.0_overlay.mp4", "walk_v1.1_overlay.mp4"]
    monkeypatch.chdir(tmp_path / "walk_v1.0")
    assert (make_source_name("."), make_source_name("../walk_v1.1/"), make_source_name("walk_v1.0.png")) == (
        "walk_v1.0", "walk_v1.1", "walk_v1.0",
    )  # fmt: skip


@pytest.mark.parametrize("options", ["--save params", "--save params --overwrite"])
def test_the_input_folder_is_no_place_for_results(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    save_image(tmp_path / "album" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "album")
    before = read_contents(tmp_path / "album")
    assert run(tmp_path / "album", out=tmp_path / "link", options=options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is the same folder as the input" in line
    assert read_contents(tmp_path / "album") == before


def test_an_input_is_never_replaced(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results in the folder of an image are allowed, unless one of them is an input itself."""
    image, other = save_image(tmp_path / "a" / "a.png"), save_image(tmp_path / "a" / "a_overlay.png")
    before = read_contents(tmp_path / "a")
    assert run(image, other, out=tmp_path / "a", options="--save overlay --overwrite") == 2
    assert "would replace the input" in capsys.readouterr().err
    assert read_contents(tmp_path / "a") == before
    assert run(image, out=tmp_path / "a") == 0
    assert sorted(read_contents(tmp_path / "a")) == ["a.npz", "a.png", "a_overlay.png"]


@pytest.mark.parametrize("options", ["--save params", "--save params --overwrite"])
def test_the_folder_of_depth_maps_is_no_place_for_results(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    image, maps = save_image(tmp_path / "a.png"), tmp_path / "maps"
    maps.mkdir()
    np.savez(maps / "a.npz", depth=np.ones((48, 64), np.float32))
    before = read_contents(maps)
    assert run(image, out=maps, options=f"{options} --depth-maps {maps}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is the same folder as the input" in line
    assert read_contents(maps) == before


def test_nothing_is_replaced_without_being_asked(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.npz").write_text("of somebody else")
    (out / "notes.txt").write_text("kept")
    (out / "b.npz").write_text("of another input")
    image = save_image(tmp_path / "a.png")
    before = read_contents(out)
    assert run(image) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(out / "a.npz") in line
    assert "--overwrite" in line
    assert read_contents(out) == before
    assert run(image, options="--save params --overwrite") == 0
    after = read_contents(out)
    assert after.pop("a.npz").startswith(b"PK")
    assert before.pop("a.npz") == b"of somebody else"
    assert after == before


def test_a_shorter_run_leaves_nothing_of_a_longer_one(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = save_video(tmp_path / "walk.mp4", 4)
    assert run(video) == 0
    save_video(video, 2)
    before = read_contents(tmp_path / "out")
    assert run(video) == 2
    assert "walk_000000.npz already exists (and 3 more" in capsys.readouterr().err
    assert read_contents(tmp_path / "out") == before
    assert run(video, options="--save params --overwrite") == 0
    assert sorted(read_contents(tmp_path / "out")) == ["walk_000000.npz", "walk_000001.npz"]


def test_old_results_stay_where_a_new_run_fails(run: Callable[..., int], tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png")
    assert run(image) == 0
    before = read_contents(tmp_path / "out")
    image.write_bytes(image.read_bytes()[:100])
    assert run(image, options="--save params --overwrite") == 2
    assert read_contents(tmp_path / "out") == before


def test_evaluations_do_not_mix(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def evaluate(*arguments: object) -> int:
        fixed = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--max-people", "2", "--no-video"]
        return main(["evaluate", *map(str, arguments), "--out", str(out), *fixed, "--no-plots"])

    first, second = (write_scene(tmp_path / f"{name}.mcap", 2) for name in ("first", "second"))
    assert evaluate(first, second) == 0
    (out / "second" / "notes.txt").write_text("kept")
    before = read_contents(out)
    capsys.readouterr()
    assert evaluate(first) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "results.json already exists" in line
    assert read_contents(out) == before
    assert evaluate(first, "--overwrite") == 0
    expected = ["frames.csv", "highlights.zip", "people.csv", "predictions.mcap", "report.html", "results.json"]
    expected.append("second/notes.txt")
    assert sorted(read_contents(out)) == expected, "nothing is left of the bags that were evaluated before"
    before = read_contents(out)
    for arguments in ([out / "predictions.mcap", "--recorded"], [first, "--truth", out / "predictions.mcap"]):
        assert evaluate(*arguments, "--overwrite") == 2
        assert "would replace the input" in capsys.readouterr().err
        assert read_contents(out) == before


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_folders_of_other_evaluations_are_kept(tmp_path: Path, is_interrupted: bool) -> None:
    """The evaluation in the folder has the sequence "mine"; the others were put there by commands of their own."""
    for name in ("mine", "other", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "frames.csv").touch()
    (tmp_path / "inner" / "results.json").touch()
    expected = {tmp_path / "mine" / "frames.csv"}
    if is_interrupted:  # without a list of its folders, all tables that do not belong to other results are its own
        expected.add(tmp_path / "other" / "frames.csv")
    else:
        sequences = [SequenceResult(name, "", "given", name, Totals()) for name in ("mine", "inner")]
        write_results(tmp_path, sequences, {}, {}, [])
        expected.add(tmp_path / "results.json")
    assert set(find_existing_evaluation(tmp_path, [], whole=True)) == expected


@pytest.mark.parametrize("name", ["network.safetensors", "log.jsonl", "state-00000001.pt"])
def test_training_replaces_no_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("somebody's own")
    with pytest.raises(UserError, match="already"):
        train(Session(out=tmp_path, network=NETWORKS["nano"], training=TrainingConfig()))
    assert read_contents(tmp_path) == {name: b"somebody's own"}
