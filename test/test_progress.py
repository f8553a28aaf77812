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

"""Progress bars: shown on a terminal only, and not with --quiet."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from multihmr2_ros.cli.main import VERBS, main
from test import paths

COMMAND = ["simulate", "--out", "{out}", "--seconds", "0.3", "--rate", "10", "--size", "64x48", "--people", "0", "0"]


def run_on_a_terminal(*arguments: str) -> str:
    """Return what `multihmr2 ARGUMENTS` writes to a terminal as standard error."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # rows, columns, px
    child = subprocess.Popen(
        [sys.executable, "-m", "multihmr2_ros.cli.main", *arguments], cwd=paths.ROOT, stderr=there, stdout=there
    )
    os.close(there)
    parts = []
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # the child has ended
            break
        if not part:
            break
        parts.append(part)
    os.close(here)
    assert child.wait() == 0, b"".join(parts).decode()
    return b"".join(parts).decode()


def test_a_terminal_shows_the_task_the_progress_and_the_time(tmp_path: Path) -> None:
    text = run_on_a_terminal(*[part.format(out=tmp_path / "a.mcap") for part in COMMAND])
    assert re.search(r"a\.mcap: +100%.*3/3 \[\d\d:\d\d<\d\d:\d\d", text), text


def test_quiet() -> None:
    assert "%" in run_on_a_terminal("weights", "verify", "nano")
    text = run_on_a_terminal("weights", "verify", "nano", "--quiet")
    assert "nano.safetensors" in text
    assert "%" not in text


def test_no_terminal() -> None:
    command = [sys.executable, "-m", "multihmr2_ros.cli.main", "weights", "verify", "nano"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, check=True)
    assert b"nano.safetensors" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize("verb", [*VERBS, "weights fetch"])
def test_every_command_has_quiet(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    assert "--quiet" in capsys.readouterr().out


def test_all_bars_are_made_in_one_place() -> None:
    users = [path.name for path in (paths.ROOT / "multihmr2_ros").rglob("*.py") if "import tqdm" in path.read_text()]
    assert users == ["progress.py"]
