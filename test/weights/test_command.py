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

"""`multihmr2 weights`: license, fetching, listing and verifying, with a real server, terminal and processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import multihmr2_ros
from multihmr2_ros import weights
from multihmr2_ros.cli.main import main
from multihmr2_ros.weights import Weights, find_weights_folder
from multihmr2_ros.weights.fetch import fetch_weights
from test.helpers.weights_server import CONTENT, Server, entry

pytestmark = pytest.mark.usefixtures("empty_weights_folder")

DRIVER = """
import signal, sys
from multihmr2_ros import weights
from multihmr2_ros.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
weights.REGISTRY = (
    weights.Weights("tiny", "a tiny model", "test licence", "non-commercial use only", False, sys.argv[1], "tiny.pt",
                    url=sys.argv[2]),
)
sys.exit(main(["weights", "fetch", "tiny", *sys.argv[3:]]))
"""


def start_fetch(tiny: Weights, *options: str, **streams: int) -> subprocess.Popen[bytes]:
    """Start `multihmr2 weights fetch tiny` in a separate process."""
    environment = os.environ | {"PYTHONPATH": str(Path(multihmr2_ros.__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, tiny.sha256, str(tiny.url), *options]
    return subprocess.Popen(command, env=environment, **streams)


def fetch_on_a_terminal(tiny: Weights, typed: bytes) -> tuple[int, str]:
    """Return the exit status and the terminal's output after the given input to the question."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows, columns
    process = start_fetch(tiny, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    answered = False
    with contextlib.suppress(OSError):  # Linux: reading fails once the other side is closed
        while block := os.read(ours, 4096):
            shown += block
            if b"[y/N]" in shown and not answered:
                answered = True
                os.write(ours, typed)
    status = process.wait(120)
    os.close(ours)
    return status, shown.decode()


@pytest.mark.parametrize("answer", [b"y\n", b"YES\n"])
def test_licence_is_asked_for_on_a_terminal(answer: bytes, tiny: Weights) -> None:
    status, shown = fetch_on_a_terminal(tiny, answer)
    assert status == 0, shown
    assert shown.index("non-commercial use only") < shown.index("Do you accept these terms? [y/N]")
    assert "100%" in shown  # the progress bar
    assert tiny.path().read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [b"\n", b"n\n", b"\x04"])  # control-D is the end of the input
def test_licence_that_is_not_accepted(answer: bytes, tiny: Weights, server: Server) -> None:
    status, shown = fetch_on_a_terminal(tiny, answer)
    assert status == 2
    assert "the license was not accepted; nothing was downloaded" in shown
    assert server.requests == []


def test_licence_without_a_terminal(tiny: Weights, server: Server) -> None:
    process = start_fetch(tiny, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert b"non-commercial use only" in output
    assert errors.decode().splitlines() == [
        "multihmr2 weights: the license of tiny must be accepted, but the input is not a terminal; read the terms, "
        "then add --accept-license"
    ]
    assert server.requests == []


def test_fetch_command(tiny: Weights, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["weights", "fetch", "tiny", "--accept-license", "--to", str(tmp_path / "elsewhere")]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "non-commercial use only" in output
    assert output.endswith(f"with the correct SHA-256: {tmp_path}/elsewhere/tiny.pt\n")
    assert main(command[:3] + command[4:]) == 0  # already present: no license question either
    assert "is already present" in capsys.readouterr().out
    assert len(server.requests) == 1


def test_fetch_to_an_unknown_home_folder(
    tiny: Weights, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(tmp_path.iterdir())
    assert main(["weights", "fetch", "tiny", "--accept-license", "--to", "~no-such-user/w"]) == 2
    assert "~no-such-user in ~no-such-user/w is no known home folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == before
    assert server.requests == []


def test_fetch_command_without_a_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    closed = Server()
    closed.server_close()
    monkeypatch.setattr(weights, "REGISTRY", (entry(closed.url),))
    assert main(["weights", "fetch", "tiny", "--accept-license"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert closed.url in errors[0]
    assert str(find_weights_folder()) in errors[0]


def test_fetch_of_unknown_and_of_bundled_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "REGISTRY", (entry(None, bundled=True),))
    assert main(["weights", "fetch", "tiny"]) == 0
    assert "is part of the package" in capsys.readouterr().out
    assert main(["weights", "fetch", "huge"]) == 2
    assert "expected one of the weights tiny, got 'huge'" in capsys.readouterr().err


def test_interrupted_fetch_goes_on(tiny: Weights, server: Server) -> None:
    server.stall_after = 200_000
    process = start_fetch(tiny, "--accept-license", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    part = tiny.path().with_name("tiny.pt.part")
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"repeat the command to continue" in errors
    assert b"Traceback" not in errors
    kept = part.read_bytes()
    assert kept
    assert CONTENT.startswith(kept)
    assert not tiny.path().exists()

    server.stall_after = None
    assert fetch_weights(tiny, find_weights_folder()).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == f"bytes={len(kept)}-"


def test_list(tiny: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    header, absent, folder = capsys.readouterr().out.splitlines()
    assert folder == f"downloads are stored in {find_weights_folder()}"
    assert header.split() == ["NAME", "STATE", "SIZE", "LICENSE", "SHA-256", "WHERE"]
    for fact in ("tiny", "missing", "700.0 kB", "non-commercial", tiny.sha256[:12], "multihmr2 weights fetch tiny"):
        assert fact in absent
    fetch_weights(tiny, find_weights_folder())
    assert main(["weights", "list"]) == 0
    present = capsys.readouterr().out.splitlines()[1]
    assert "fetched" in present
    assert present.endswith(str(tiny.path()))


@pytest.mark.parametrize(
    ("file_name", "content", "status", "verdict"),
    [
        ("tiny.pt", CONTENT, 0, "ok: tiny"),
        ("renamed.pt", CONTENT, 0, "ok: tiny"),
        ("tiny.pt", CONTENT[:-1], 2, "mismatch: expected SHA-256"),
        ("other.pt", b"", 2, "unknown file: SHA-256 e3b0c44298fc"),
    ],
)
def test_verify_file(
    file_name: str,
    content: bytes,
    status: int,
    verdict: str,
    tiny: Weights,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / file_name).write_bytes(content)
    assert main(["weights", "verify", str(tmp_path / file_name)]) == status
    assert capsys.readouterr().out.startswith(verdict)


def test_verify_everything_that_is_here(tiny: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "verify"]) == 2
    assert "no checkpoint is on this machine" in capsys.readouterr().err
    fetch_weights(tiny, find_weights_folder())
    assert main(["weights", "verify"]) == 0
    assert main(["weights", "verify", "tiny"]) == 0
    assert capsys.readouterr().out == f"ok: tiny  {tiny.path()}\n" * 2
    assert main(["weights", "verify", "tiny", "absent.pt"]) == 2
    assert capsys.readouterr().out == ""  # the error is reported before the long work


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("tiny", "out.pt", "expected an output file that ends in .safetensors, got 'out.pt'"),
        ("tiny", "out.safetensors", "checkpoint 'tiny' is not on this machine"),
        ("absent.pt", "out.safetensors", "checkpoint 'absent.pt' does not exist"),
    ],
)
def test_convert_refuses(
    source: str, target: str, message: str, tiny: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "convert", source, target]) == 2
    assert message in capsys.readouterr().err


def test_convert_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"mine")
    assert main(["weights", "convert", "nano", str(target)]) == 2
    assert f"{target} already exists" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"
    target = tmp_path / "no" / "out.safetensors"
    assert main(["weights", "convert", "nano", str(target)]) == 2
    assert f"cannot write {target}: No such file or directory" in capsys.readouterr().err


def test_convert_help_explains_the_risk(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["weights", "convert", "--help"])
    assert stop.value.code == 0
    assert "can execute any code" in " ".join(capsys.readouterr().out.split())
