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

"""`multihmr2 run`: messages for unusable inputs, options and output folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from multihmr2_ros.cli.main import main
from test.helpers.run_results import list_names, save_image


def write_empty_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def write_truncated_image(path: Path) -> Path:
    content = save_image(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def write_text(path: Path) -> Path:
    path.write_text("not an image")
    return path


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (write_empty_file, "a.png"), (write_truncated_image, "a.png"), (write_text, "a.png"), (write_text, "a.mp4"),
        (write_text, "a.txt"), (make_folder, "a"),
        (lambda path: path, "missing.png"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_used(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], name: str
) -> None:
    path = make(tmp_path / name)
    assert run(path, save_image(tmp_path / "good.png")) == 2, "the unusable input is an error …"
    assert list_names(tmp_path / "out") == ["good.npz", "good_overlay.png"], "… and the good input is not lost"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 run: ")]
    assert len(lines) == 1
    assert name in lines[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--save photos", "photos"),
        ("--k 0 0 0 0", "K"),
        ("--k nan 5 5 5", "K"),
        ("--vertical-fov 190", "--vertical-fov must be"),
        ("--vertical-fov 180", "between 0 and 180 degrees, got 180"),
        ("--vertical-fov nan", "between 0 and 180 degrees, got nan"),
        ("--score-threshold 2", "score_threshold"),
        ("--max-people 0", "max_people"),
        ("--device toaster", "toaster"),
        ("--device cuda:77", "cuda:77"),
        ("--precision fp16", "fp16"),
        ("--checkpoint nothing.pt", "nothing.pt"),
    ],
)
def test_mistakes_in_options(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, word: str
) -> None:
    assert run(save_image(tmp_path / "a.png"), options=options) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert word in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "place"),
    [(["run", "", "--out", "o"], "run"), (["run", "a.jpg", "--out", " "], "--out"), (["train", "--out="], "--out"),
     (["evaluate", "a", "--checkpoint", "", "--out", "o"], "--checkpoint"), ([""], "multihmr2")],
)  # fmt: skip
def test_empty_arguments_are_not_the_current_folder(
    arguments: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"after '{place}', got an empty argument" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["run", "https://example.org/a.jpg", "--out", "o"], ["run", "RTSP://camera/live", "--out", "o"],
     ["evaluate", "a.mcap", "--checkpoint=http://example.org/a.pt", "--out", "o"]],
)  # fmt: skip
def test_urls_are_not_opened(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    (url,) = [argument for argument in arguments if "://" in argument]
    assert f"got the URL {url!r}; save it as a file first" in line
    assert not list(tmp_path.iterdir())


def test_two_inputs_of_one_name(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(save_image(tmp_path / "a.png"), save_image(tmp_path / "a.jpg")) == 2
    assert "same name" in capsys.readouterr().err


def test_a_damaged_image_of_a_folder(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "album").mkdir()
    save_image(tmp_path / "album" / "good.png")
    write_truncated_image(tmp_path / "album" / "bad.png")
    assert run(tmp_path / "album") == 2
    assert list_names(tmp_path / "out") == ["good.npz", "good_overlay.png"]
    assert f"multihmr2 run: {tmp_path / 'album'}: 1 of 2 images could be read" in capsys.readouterr().err.splitlines()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert run(save_image(tmp_path / "a.png")) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_output_is_a_file(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("in the way")
    assert run(save_image(tmp_path / "a.png")) == 2
    assert "cannot create the folder" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--checkpoint nothing.pt", "missing.png", "--k 0 0 0 0", "--vertical-fov 190"])
def test_mistakes_are_reported_before_pytorch_is_imported(tmp_path: Path, wrong: str) -> None:
    """The import takes seconds."""
    code = "import sys; sys.modules['torch'] = None; from multihmr2_ros.cli.main import main; sys.exit(main())"
    inputs = [] if wrong == "missing.png" else [str(save_image(tmp_path / "a.png"))]
    command = [sys.executable, "-c", code, "run", *inputs, *wrong.split(), "--out", str(tmp_path / "out")]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stdout == ""
