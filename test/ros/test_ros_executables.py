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

"""The executables of the ROS package, as launch starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")

from multihmr2_ros.ros.command_line import collect_stop_signals, interrupt_on_stop_signals
from test import paths


@pytest.mark.usefixtures("restore_signal_handlers")
def test_the_second_signal_of_a_terminal_and_a_launch_file_is_ignored() -> None:
    received = collect_stop_signals()
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    assert received == [signal.SIGINT]
    interrupt_on_stop_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


PROGRAMS = [
    *(["-m", f"multihmr2_ros.ros.{name}"] for name in ("node", "cameras", "play", "record", "view")),
    *([str(paths.ROOT / "scripts" / name)] for name in ("perception_node", "perception_cameras")),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[-1].rpartition("/")[2])
def test_ctrl_c_while_modules_are_imported_ends_the_process_without_a_traceback(
    tmp_path: Path, program: list[str], number: signal.Signals
) -> None:
    (tmp_path / "rclpy.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    process = subprocess.Popen(
        [sys.executable, *program],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{paths.ROOT}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("program", PROGRAMS[:5], ids=lambda program: program[-1].rpartition(".")[2])
def test_help_on_a_full_disk_fails(program: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *program, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.endswith(": cannot write the output: No space left on device\n")
    assert done.stderr.count("\n") == 1
