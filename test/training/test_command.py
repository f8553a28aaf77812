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

"""`multihmr2 train`: training, resuming, fine-tuning, one-line errors, and saving before it ends."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import pytest
import torch

from multihmr2_ros.cli.main import main
from multihmr2_ros.cli.train_checks import check_options
from multihmr2_ros.cli.train_options import add_arguments
from multihmr2_ros.training.state import list_state_paths
from multihmr2_ros.training.stopping import StopRequest, stop_on_signals
from multihmr2_ros.training.training_log import read_log
from test import paths
from test.helpers.signals import send_signal_to_loop, stop_ignoring_signals
from test.helpers.training_runs import NETWORK

pytestmark = pytest.mark.usefixtures("one_thread", "without_curves")


def network_file(folder: Path) -> Path:
    path = folder / "network.json"
    path.write_text(json.dumps(vars(NETWORK)))
    return path


def arguments(folder: Path, render_cache: Path, *more: str) -> list[str]:
    small = [
        "--network",
        str(network_file(folder)),
        "--cache",
        str(render_cache),
        "--batch-size",
        "2",
        "--log-steps",
        "1",
    ]
    return ["train", "--out", str(folder / "run"), "--loader-workers", "0", "--device", "cpu", *small, *more]


def test_the_command_trains_resumes_and_fine_tunes(
    tmp_path: Path, render_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, render_cache, "--steps", "1", "--input-size", "64")) == 0
    assert capsys.readouterr().out.startswith("done: step 1 of 1")
    assert main(arguments(tmp_path, render_cache, "--steps", "2")) == 2
    assert "already contains a run; add --resume" in capsys.readouterr().err
    assert main(arguments(tmp_path, render_cache, "--steps", "2", "--resume", "--matching", "joints")) == 0
    state = torch.load(list_state_paths(tmp_path / "run")[-1], weights_only=True)
    assert json.loads(state["training_config"])["losses"]["matching"]["cost"] == "joints"
    assert json.loads(state["data"])["cache"] == str(render_cache)
    weights = str(tmp_path / "run" / "network.safetensors")
    tune = ["train", "--out", str(tmp_path / "tuned"), "--from", weights, "--consistency-with", weights]
    assert (
        main([*tune, "--cache", str(render_cache), "--steps", "1", "--batch-size", "2", "--loader-workers", "0"]) == 0
    )
    row = read_log(tmp_path / "tuned" / "log.jsonl")[0]
    assert row["consistency_pose"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected --out DIR"),
        (["--out", "{tmp}/run"], "expected training images"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache"], "is empty and no process renders"),
        (["--out", "{tmp}/file/run", "--cache", "{tmp}/cache"], "cannot create the folder"),
        (["--out", "{tmp}/run", "--network", "huge"], "--network must be nano"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--input-size", "999"], "--input-size must be from 64 to"),
        (["--out", "{tmp}/run", "--network", "{tmp}/nested.json"], "--network must be nano"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--loss", "sc0re=1"], "--loss must be NAME=NUMBER"),
        (
            ["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--loss", "surplus_queries=inf"],
            "--loss must be NAME=NUMBER",
        ),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--loss", "surplus_queries=0"], "must be at least 1"),
        (  # a fraction is not rounded
            ["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--loss", "surplus_queries=2.7"],
            "--loss must be NAME=NUMBER",
        ),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--loss", "focal_score=0.5"], "--loss must be NAME=NUMBER"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--motions", "{tmp}/none"], "--motions must be a folder"),
        (["--out", "{tmp}/run", "--render-workers", "1"], "--render-workers needs --cache"),
        (["--render-only", "--cache", "{tmp}/cache", "--render-workers", "-1"], "--render-workers must be 0 or more"),
        (["--render-only"], "--render-only needs --cache"),
        (["--render-only", "--cache", "{tmp}/cache", "--images", "-5"], "--images must be 1 or more"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--time-limit", "-5"], "--time-limit must be above 0"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--time-limit", "nan"], "--time-limit must be above 0"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--render-share", "nan"], "--render-share must be from 0"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--seed", "99999999999999999999"], "seed must be at most"),
        (["--out", "{tmp}/run", "--sam2", "{tmp}"], "--sam2 needs --cache"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--sam2", "{tmp}/none"], "--sam2 must be a folder"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--sam2", "{tmp}"], "JSON file with track_feature_width"),
        (["--out", "{tmp}/run", "--from", "{tmp}/none.safetensors"], "none.safetensors"),
        (["--features", "{tmp}/f", "--features-only", "--encoder-rate", "0"], "expected training images"),
        (
            ["--features", "{tmp}/f", "--features-only", "--encoder-rate", "0", "--network", "scratch"],
            "--features needs a network with a pretrained encoder",
        ),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--resume"], "expected the state of a training run in"),
        (["--out", "{tmp}/run/1", "--empty-images", "{tmp}", "--encoder-weights", "{tmp}/file"], "{tmp}/file"),
        (["--out", "{tmp}/run", "--coco", "{tmp}/x", "{tmp}/y"], "does not exist"),
        (["--out", "{tmp}/run", "--coco", "{tmp}", "{tmp}/coco.json"], "expected images for training in {tmp}/coco"),
        (
            ["--features-only", "--features", "{tmp}/f", "--encoder-rate", "0", "--cache", "{tmp}/cache"],
            "the render cache {tmp}/cache is empty and no process renders",
        ),
        (["--out", "{tmp}/run", "--cache", "{tmp}/file"], "--cache must be a folder, got the file {tmp}/file"),
        (
            ["--features-only", "--features", "{tmp}/f", "--features", "{tmp}/g", "--encoder-rate", "0"],
            "--features-only needs one --features DIR",
        ),
        (["--render-only", "--cache", "{tmp}/new/cache", "--backgrounds", "{tmp}"], "photograph.jpg"),
        (
            ["--features-only", "--features", "{tmp}/new/f", "--encoder-rate", "0", "--empty-images", "{tmp}"],
            "photograph.jpg",
        ),
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "photograph.jpg").touch()
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "nested.json").write_text("[" * 100_000)
    assert main(["train", "--device", "cpu", *(option.format(tmp=tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.format(tmp=tmp_path) in error
    assert error.startswith("multihmr2 train: ")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "nested.json", "photograph.jpg", "coco.json"}


@pytest.mark.parametrize(
    ("name", "suggestion"), [("encoder_widht", "; did you mean 'encoder_width'?"), ("xyz", ""), ("a" * 1000, "")]
)
def test_an_unknown_name_in_the_network_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, suggestion: str
) -> None:
    path = tmp_path / "network.json"
    path.write_text(json.dumps({name: 192}))
    assert main(["train", "--out", str(tmp_path / "run"), "--network", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"--network {path} has the unknown name {name!r:.80}, " in error
    assert error.endswith(f"; correct or remove it{suggestion}\n")
    assert "newer version" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--render-only", "--cache", "c", "--seed", "1"], "--seed has no effect with --render-only; omit --seed"),
        (["--render-only", "--cache", "c", "--out", "run"], "--out has no effect with --render-only"),
        (["--features-only", "--features", "f", "--steps", "5"], "--steps has no effect with --features-only"),
        (["--features", "f", "--hold-out", "0.1"], "--hold-out has no effect on the stored batches of --features"),
        (["--features", "f", "--render-workers", "2"], "--render-workers has no effect on the stored batches"),
        (["--cache", "c", "--images", "5"], "--images has no effect without --render-only"),
        (["--cache", "c", "--batches", "5"], "--batches has no effect without --features-only"),
        (["--cache", "c", "--hold-out", "0.1"], "--hold-out has no effect without --coco"),
        (["--cache", "c", "--hold-out=0"], "--hold-out has no effect without --coco"),  # also the default
        (["--empty-images", "e", "--start-im", "500"], "--start-images has no effect without --cache"),
        (["--features", "f", "--square-padding"], "--square-padding has no effect on the stored batches"),
        (["--cache", "c", "--render-share", "0.1"], "--render-share has no effect without a dataset"),
        (["--cache", "c", "--most-views", "3"], "--most-views has no effect without --render-workers"),
        (["--cache", "c", "--keypoint-people", "9"], "--keypoint-people has no effect without --keypoint-steps"),
        (["--empty-images", "e", "--motions", "m", "--keypoint-steps", "1"], "--motions has no effect without --cache"),
    ],
)
def test_options_without_effect_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["train", *options]) == 2
    assert capsys.readouterr().err.startswith(f"multihmr2 train: {message}")


def read_documented_commands() -> list[list[str]]:
    """Return the arguments of the `multihmr2 train` commands of docs/training.md, with the variables of its recipe."""
    text = (paths.ROOT / "docs" / "training.md").read_text(encoding="utf-8").replace("\\\n", " ")
    variables = dict(re.findall(r'^([A-Z]+)="(.*)"$', text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line.startswith("multihmr2 train ") and "…" not in line]
    return [shlex.split(Template(line).substitute(variables))[1:] for line in lines]


def test_documented_commands_have_no_options_without_effect() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    commands = read_documented_commands()
    assert len(commands) >= 8
    for _, *options in commands:
        check_options(parser.parse_args(options), options)


def test_a_run_without_a_step_leaves_no_folder(
    tmp_path: Path, render_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, render_cache, "--time-limit", "1e-9")) == 2
    assert "the time limit was reached before the first step" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("restore_signal_handlers")
def test_interrupted_rendering_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cache", str(tmp_path), "--images", "100000", "--render-size", "64x48", "--people", "0", "1"]
    with send_signal_to_loop(signal.SIGTERM):
        assert main(["train", "--render-only", *options]) == 128 + signal.SIGTERM
    assert capsys.readouterr().out.startswith("stopped because SIGTERM was received: ")


@contextmanager
def running(folder: Path, render_cache: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a run with a loader process, in its own session, that has completed its first step."""
    options = arguments(folder, render_cache, "--steps", "100000", "--loader-workers", "1")
    with subprocess.Popen(
        [sys.executable, "-m", "multihmr2_ros.cli.main", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=stop_ignoring_signals,
    ) as run:
        try:
            log, deadline = folder / "run" / "log.jsonl", time.monotonic() + 180
            while not log.is_file() and time.monotonic() < deadline:
                time.sleep(0.1)
            yield run
        finally:
            run.kill()  # after a failure; otherwise it has ended


def find_loader(run: subprocess.Popen[str]) -> int:
    """Return the process id of a run's only loader."""
    [loader] = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    return int(loader)


def list_ignored_signals(process: int) -> list[signal.Signals]:
    [mask] = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return [number for number in signal.Signals if int(mask, 16) >> (number - 1) & 1]


def test_a_signal_to_the_whole_job_saves_and_ends(tmp_path: Path, render_cache: Path) -> None:
    """Signals reach the loaders, too: SIGINT from a terminal's Ctrl-C, SIGTERM from SLURM."""
    with running(tmp_path, render_cache) as run:
        ignored = list_ignored_signals(find_loader(run))
        os.killpg(run.pid, signal.SIGTERM)
        output, errors = run.communicate(timeout=180)
    assert run.returncode == 0, errors
    assert output.startswith("stopped because SIGTERM was received: step ")
    assert list_state_paths(tmp_path / "run")
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= set(ignored)


@pytest.mark.usefixtures("restore_signal_handlers")
@pytest.mark.parametrize(
    ("number", "before", "reason"),
    [
        (signal.SIGINT, signal.default_int_handler, "SIGINT was received"),
        (signal.SIGTERM, signal.SIG_DFL, "SIGTERM was received"),
        (signal.SIGHUP, signal.SIG_DFL, "SIGHUP was received"),
        (signal.SIGHUP, signal.SIG_IGN, ""),  # under nohup
    ],
)
def test_signals_request_the_end_of_a_run(number: signal.Signals, before: Any, reason: str) -> None:
    signal.signal(number, before)
    stop = StopRequest()
    with stop_on_signals(stop):
        signal.raise_signal(number)
    assert stop.reason == reason
    assert stop.exit_status == (128 + number if reason else 0)
    assert signal.getsignal(number) == before


def test_a_killed_loader_is_reported_in_one_line(tmp_path: Path, render_cache: Path) -> None:
    """The kernel kills a process in this way if memory runs out."""
    with running(tmp_path, render_cache) as run:
        os.kill(find_loader(run), signal.SIGKILL)
        _, errors = run.communicate(timeout=180)
    assert run.returncode == 2, errors
    assert "Traceback" not in errors
    assert "a loader process ended unexpectedly" in errors.strip().splitlines()[-1]
