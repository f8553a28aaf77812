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

"""Effects of the environment on the command: signals, encodings, closed streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.cli.main import VERBS, main
from multihmr2_ros.media.video import VideoWriter
from test.helpers.signals import stop_ignoring_signals

COMMAND = [sys.executable, "-m", "multihmr2_ros.cli.main"]


WRITES = """
import sys, time
from multihmr2_ros.cli import main as command
from multihmr2_ros.cli.main import VERBS
from multihmr2_ros.media.video import VideoWriter
import numpy as np

def write(args):
    video = VideoWriter(sys.argv[1] + "/a.mp4", 64, 48, 10)  # not yet in a block that cleans up after it
    print("writing", flush=True)
    if "block" in sys.argv:
        with video:
            video.write(np.zeros((48, 64, 3), np.uint8), 0.0)
            time.sleep(600)
    time.sleep(600)

import multihmr2_ros.cli.doctor
multihmr2_ros.cli.doctor.run = write
sys.exit(command.main(["doctor"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("where", ["block", "before the block"])
def test_a_signal_leaves_no_half_written_file(tmp_path: Path, number: signal.Signals, where: str) -> None:
    program = [sys.executable, "-c", WRITES, str(tmp_path), where]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=stop_ignoring_signals
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "writing\n"
        time.sleep(0.3)
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        running.send_signal(number)
        _, errors = running.communicate(timeout=300)
    assert running.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in errors
    word = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert errors.strip().splitlines()[-1] == f"multihmr2 doctor: {word}"


INTERRUPTED_IMPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupter:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from multihmr2_ros.cli import run_command
sys.exit(run_command())
"""


@pytest.mark.parametrize("module", ["main", "doctor"])
def test_ctrl_c_during_the_imports_is_one_line(module: str) -> None:
    program = [sys.executable, "-c", INTERRUPTED_IMPORT, f"multihmr2_ros.cli.{module}"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nmultihmr2: interrupted\n")


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    script = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from multihmr2_ros.terminal import end_on_signals\n"
        "with end_on_signals(): os.kill(os.getpid(), signal.SIGHUP); print('went on')\n"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["went on", "True"]


# --- paths


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "NAME.jpg", "--out", "o"], ["run", "NAME.mcap", "--out", "o"], ["run", "a.jpg", "--out", "NAME"],
        ["evaluate", "NAME.mcap", "--out", "o"], ["simulate", "--out", "NAME.mcap"],
        ["label", "NAME", "--out", "o.npz"], ["label", "a.json", "--out", "NAME.npz"],
        ["weights", "convert", "nano", "NAME.safetensors"], ["bench", "--json", "NAME"],
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_accessed_is_named_in_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a folder without search permission, which tests of the root user cannot have."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.jpg")
    too_long = 300 * "a"
    assert main([argument.replace("NAME", too_long) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert too_long in line
    assert "File name too long" in line


# --- encodings


def test_messages_survive_any_encoding(small_checkpoint: Path, tmp_path: Path) -> None:
    """File names in UTF-8, and arrows and ellipses in messages; results have the names that the user gave."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIO"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / "Müllerstraße 人"
    folder.mkdir()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "größe.png")
    with VideoWriter(folder / "日本.mp4", 64, 48, fps=10) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    options = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--mesh", "low", "--out", str(folder / "→")]
    inputs = [str(folder / "größe.png"), str(folder / "日本.mp4"), str(folder / "ÿ.mp4")]
    done = subprocess.run([*COMMAND, "run", *inputs, *options], env=environment, capture_output=True, check=False)
    errors = done.stderr.decode("latin-1")
    assert done.returncode == 2, errors
    assert "Traceback" not in errors
    assert "there is no file or folder" in errors
    assert {path.name for path in (folder / "→").iterdir()} == {
        "größe.npz", "größe_overlay.png", "日本_000000.npz", "日本_overlay.mp4",
    }  # fmt: skip
    assert done.stdout.count(b": 1 frame, ") == 2
    assert done.stdout.count(b" -> ") == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "cp1252:strict", "utf-8"])
def test_signs_in_any_encoding(encoding: str) -> None:
    script = (
        "from multihmr2_ros.terminal import make_streams_safe; make_streams_safe()\n"
        "import sys; print('a → b … 人 \\udcff'); print('→ 人', file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0)
    if encoding == "utf-8":
        assert done.stdout.decode() == "a → b … 人 \\udcff\n"
    else:
        dots = "…".encode("cp1252") if encoding.startswith("cp1252") else b"..."
        assert done.stdout == b"a -> b " + dots + b" \\u4eba \\udcff\n"
        assert done.stderr == b"-> \\u4eba\n"


def test_help_in_ascii() -> None:
    script = (
        "import contextlib, sys; from multihmr2_ros.cli.main import main, VERBS\n"
        "for verb in VERBS:\n"
        "    with contextlib.suppress(SystemExit): main([verb, '--help'])"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(VERBS)


# --- standard output on a full disk


@pytest.mark.parametrize(
    ("arguments", "program"),
    [(["weights", "list"], "multihmr2 weights"), (["--help"], "multihmr2"), (["run", "--help"], "multihmr2")],
)
@pytest.mark.parametrize("buffered", [False, True])
def test_standard_output_on_a_full_disk_is_one_line(buffered: bool, arguments: list[str], program: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == f"{program}: cannot write the output: No space left on device\n"


# --- standard error that is closed, or whose reader has exited


def test_closed_standard_error_does_not_stop_the_work(small_checkpoint: Path, tmp_path: Path) -> None:
    """A damaged image among valid ones causes messages; the next file that is opened must not become standard error."""
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:60])
    options = f"--checkpoint '{small_checkpoint}' --device cpu --mesh low --save params"
    out = tmp_path / "out"
    script = f"{' '.join(COMMAND)} run '{folder}' --out '{out}' {options} <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sorted(path.name for path in out.iterdir()) == ["a.npz", "b.npz"]
    assert all(set(np.load(path)) > {"k"} for path in out.iterdir())


def test_a_reader_of_standard_error_that_has_gone(tmp_path: Path) -> None:
    script = (
        "import sys, time; from multihmr2_ros.terminal import make_streams_safe; make_streams_safe()\n"
        "import logging; logging.basicConfig(); time.sleep(0.3)\n"
        "for _ in range(1000): print('a message', file=sys.stderr, flush=True); logging.warning('another')\n"
        "open(sys.argv[1], 'w').write('done')"
    )
    target = tmp_path / "result"
    command = f"'{sys.executable}' -c \"$1\" '{target}' 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command, "bash", script], capture_output=True, text=True, check=False)
    assert (done.returncode, target.read_text()) == (0, "done")


def test_a_closed_stream_is_never_a_result_file(tmp_path: Path) -> None:
    """Without standard error, the next opened file gets its file descriptor, and with it the messages of libraries."""
    script = (
        "import os, sys; from multihmr2_ros.terminal import make_streams_safe; make_streams_safe()\n"
        "file = open(sys.argv[1], 'w'); file.write('mine'); file.flush(); os.write(2, b'a message of a library')"
    )
    target = tmp_path / "result"
    command = f"'{sys.executable}' -c \"$1\" '{target}' 2>&-"
    subprocess.run(["bash", "-c", command, "bash", script], check=True)
    assert target.read_text() == "mine"
