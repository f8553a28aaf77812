"""Checkpoints: registry, download from a real HTTP server on this machine, licence, verification."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import multihmr2_ros
from multihmr2_ros import UserError, weights
from multihmr2_ros.cli.main import main
from multihmr2_ros.weights import Weights, resolve_checkpoint, sha256_of, size_text, weights_folder
from multihmr2_ros.weights import fetch as downloading
from multihmr2_ros.weights.fetch import fetch

CONTENT = random.Random(0).randbytes(700_001)
ETAG = '"version-1"'


class Server(ThreadingHTTPServer):
    """Serves `content` with HTTP ranges, or misbehaves as the attributes say; notes each request's headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": ETAG}
        self.status = 200
        self.knows_ranges = True
        self.wrong_range = False  # answers 206 with another part than was asked for
        self.drop_after: list[int] = []  # bytes sent before the connection breaks, one entry for each request to come
        self.stall_after: int | None = None  # bytes sent before nothing more comes
        self.claimed_length: int | None = None
        self.stop_stalling = threading.Event()
        self.requests: list[dict[str, str]] = []
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.pt"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests: nothing is printed."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        start, status = 0, server.status
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same_version = self.headers.get("If-Range", server.headers.get("ETag")) == server.headers.get("ETag")
        if status == 200 and asked and server.knows_ranges and same_version:
            start, status = int(asked[1]), 206
            if start >= len(server.content):
                start, status = len(server.content), 416
        if server.wrong_range and status == 206:
            start += 1
        body = server.content[start:]
        self.send_response(status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(server.claimed_length or len(body)))
        self.end_headers()
        if server.drop_after:
            body = body[: server.drop_after.pop(0)]
        if server.stall_after is not None:
            self.send(body[: server.stall_after])
            server.stop_stalling.wait(20)
        else:
            self.send(body)

    def send(self, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.server.sent_bytes += len(body)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stop_stalling.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no waiting between attempts, an empty folder of weights."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloading, "RETRY_WAIT_S", 0.001)
    monkeypatch.setenv("MULTIHMR2_WEIGHTS", str(tmp_path / "weights"))


def entry(url: str | None, content: bytes = CONTENT, **changes: object) -> Weights:
    """A registry entry for a small file at that address."""
    weights = Weights(
        name="tiny",
        description="a tiny model",
        license_name="test licence",
        license_summary="non-commercial use only",
        commercial_use=False,
        sha256=hashlib.sha256(content).hexdigest(),
        file_name="tiny.pt",
        size_bytes=len(content),
        url=url,
    )
    return dataclasses.replace(weights, **changes)  # type: ignore[arg-type]


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """The registry with the server's file as its only entry."""
    tiny = entry(server.url)
    monkeypatch.setattr(weights, "REGISTRY", (tiny,))
    return tiny


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def leave_part(folder: Path, content: bytes, version: str | None = ETAG) -> None:
    """What an interrupted download leaves."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.pt.part").write_bytes(content)
    if version is not None:
        (folder / "tiny.pt.part.version").write_text(version + "\n")


# --- registry -------------------------------------------------------------------------------------------------------


def test_registry_entries_are_complete() -> None:
    assert len({known.name for known in weights.REGISTRY}) == len(weights.REGISTRY)
    for known in weights.REGISTRY:
        assert re.fullmatch(r"[0-9a-f]{64}", known.sha256)
        assert Path(known.file_name).name == known.file_name
        assert known.bundled == (known.url is None)
        assert known.url is None or known.url.startswith("https://")
        assert not known.bundled or known.is_here()


def test_released_checkpoint_is_for_non_commercial_use() -> None:
    released = weights.weights_named("multihmr2")
    assert not released.commercial_use
    assert "non-commercial" in released.license_summary


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MULTIHMR2_WEIGHTS": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"MULTIHMR2_WEIGHTS": "~/w"}, "/home/x/w"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/multihmr2"),
        ({"MULTIHMR2_WEIGHTS": "", "XDG_CACHE_HOME": ""}, "/home/x/.cache/multihmr2"),  # empty means unset
        ({}, "/home/x/.cache/multihmr2"),
    ],
)
def test_weights_folder(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIHMR2_WEIGHTS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in {"HOME": "/home/x", **environment}.items():
        monkeypatch.setenv(name, value)
    assert weights_folder() == Path(expected)


def test_resolve_prefers_a_name_and_takes_any_file(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_bytes(b"a file that is called like a registry entry")
    with pytest.raises(UserError, match=r"'tiny' is not on this machine: `multihmr2 weights fetch tiny` gets it"):
        resolve_checkpoint("tiny")
    assert resolve_checkpoint("./tiny") == Path("tiny")
    tiny.path().parent.mkdir()
    tiny.path().write_bytes(CONTENT)
    assert resolve_checkpoint("tiny") == tmp_path / "weights" / "tiny.pt"
    assert resolve_checkpoint(tmp_path / "tiny") == tmp_path / "tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pt", "'x.pt' does not exist: give a file, or one of the names tiny"),
        (".", "'.' is a folder: expected a .pt or .safetensors file"),
        ("", "'' is a folder"),  # Path("") is the current folder
        ("x" * 5000, "does not exist"),  # longer than a file name may be
        ("a\0b", "does not exist"),
        ("/etc/passwd/x.pt", "does not exist"),  # a file where a folder is needed
    ],
)
def test_resolve_refuses(name: str, message: str, tiny: Weights) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        resolve_checkpoint(name)
    one_line(error)


def test_missing_bundled_file_means_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = entry(None, file_name="no-such-file.safetensors", bundled=True)
    monkeypatch.setattr(weights, "REGISTRY", (bundled,))
    assert bundled.path().parent == Path(weights.__file__).parent
    with pytest.raises(UserError, match="install multihmr2_ros again"):
        resolve_checkpoint("tiny")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "size unknown"),
        (0, "0.0 kB"),
        (700_001, "700.0 kB"),
        (35_400_000, "35 MB"),
        (1_613_000_000, "1.6 GB"),
    ],
)
def test_size_text(size_bytes: int | None, text: str) -> None:
    assert size_text(size_bytes) == text


def test_sha256_of_an_empty_and_a_large_file(tmp_path: Path) -> None:
    for content in (b"", CONTENT * 4):  # more than one block
        (tmp_path / "file").write_bytes(content)
        assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match="cannot read"):
        sha256_of(tmp_path / "absent")


# --- download -------------------------------------------------------------------------------------------------------


def test_fetch_leaves_the_file_and_nothing_else(server: Server, tmp_path: Path) -> None:
    path = fetch(entry(server.url), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["tiny.pt"]
    assert len(server.requests) == 1
    assert "Range" not in server.requests[0]


def test_fetch_of_a_file_that_is_here_asks_nobody(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(CONTENT)
    assert fetch(entry(server.url), tmp_path) == tmp_path / "tiny.pt"
    assert server.requests == []


def test_fetch_leaves_another_file_of_that_name_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(b"the user's")
    with pytest.raises(UserError, match="move or delete it") as error:
        fetch(entry(server.url), tmp_path)
    assert hashlib.sha256(b"the user's").hexdigest() in one_line(error)
    assert (tmp_path / "tiny.pt").read_bytes() == b"the user's"
    assert server.requests == []


def test_fetch_takes_up_a_broken_connection(server: Server, tmp_path: Path) -> None:
    server.drop_after = [200_000, 0, 300_000]
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT
    offsets = [int(request.get("Range", "bytes=0-")[6:-1]) for request in server.requests]
    assert len(offsets) == 4
    assert offsets == sorted(offsets)
    assert 0 < offsets[1] <= 200_000
    assert offsets[2] == offsets[1]  # nothing came in between
    assert offsets[3] > 300_000
    assert all(request["If-Range"] == ETAG for request in server.requests[1:])


def test_fetch_gives_up_and_the_next_one_goes_on(server: Server, tmp_path: Path) -> None:
    server.drop_after = [150_000] * downloading.ATTEMPTS
    server.content = CONTENT + CONTENT
    wanted = entry(server.url, server.content)
    with pytest.raises(UserError, match=r"broke 5 times: .* are kept in .*the same command goes on") as error:
        fetch(wanted, tmp_path)
    one_line(error)
    assert names_in(tmp_path) == ["tiny.pt.part", "tiny.pt.part.version"]
    kept = (tmp_path / "tiny.pt.part").stat().st_size
    assert server.content.startswith((tmp_path / "tiny.pt.part").read_bytes())
    assert kept > 300_000
    assert fetch(wanted, tmp_path).read_bytes() == server.content
    assert server.requests[-1]["Range"] == f"bytes={kept}-"
    assert names_in(tmp_path) == ["tiny.pt"]


@pytest.mark.parametrize("have", [0, 1, 65_536, len(CONTENT) - 1, len(CONTENT)])
@pytest.mark.parametrize("version", [ETAG, None])
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_fetch_goes_on_from_any_place(
    have: int, version: str | None, knows_ranges: bool, server: Server, tmp_path: Path
) -> None:
    server.knows_ranges = knows_ranges
    leave_part(tmp_path, CONTENT[:have], version)
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert server.sent_bytes == len(CONTENT) - (have if knows_ranges else 0)
    assert names_in(tmp_path) == ["tiny.pt"]


def test_fetch_begins_anew_when_the_file_on_the_server_has_changed(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, b"x" * 1000, '"version-0"')
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert server.requests[0]["If-Range"] == '"version-0"'


def test_fetch_begins_anew_when_the_part_is_too_long(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT + b"more")
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT


def test_fetch_begins_anew_when_another_range_comes(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:1000])
    server.wrong_range = True
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert "Range" not in server.requests[-1]


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": ETAG, "Last-Modified": "Fri, 12 Jun 2026 00:00:00 GMT"}, ETAG),
        # RFC 9110: a weak validator must not be sent in If-Range
        ({"ETag": f"W/{ETAG}", "Last-Modified": "Fri, 12 Jun 2026 00:00:00 GMT"}, "Fri, 12 Jun 2026 00:00:00 GMT"),
        ({"ETag": f"W/{ETAG}"}, None),
        ({}, None),
    ],
)
def test_fetch_sends_the_validator_it_was_given(
    headers: dict[str, str], validator: str | None, server: Server, tmp_path: Path
) -> None:
    server.headers = headers
    server.drop_after = [100_000]
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert server.requests[1].get("If-Range") == validator


@pytest.mark.parametrize("content", [b"", b"wrong", CONTENT[:-1], CONTENT + b"x", bytes(len(CONTENT))])
def test_fetch_keeps_nothing_of_a_wrong_file(content: bytes, server: Server, tmp_path: Path) -> None:
    server.content = content
    wanted = entry(server.url)
    with pytest.raises(UserError, match="expected SHA-256") as error:
        fetch(wanted, tmp_path)
    message = one_line(error)
    for fact in (wanted.sha256, hashlib.sha256(content).hexdigest(), server.url, "try again"):
        assert fact in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (404, {}, "answered 404 Not Found"),
        (503, {}, "answered 503 Service Unavailable"),
        (200, {"Content-Type": "text/html; charset=utf-8"}, "a web page instead of the file"),
    ],
)
def test_fetch_says_what_the_server_refused(
    status: int, headers: dict[str, str], reason: str, server: Server, tmp_path: Path
) -> None:
    server.status, server.headers = status, headers
    leave_part(tmp_path, CONTENT[:1000], None)
    with pytest.raises(UserError, match=reason) as error:
        fetch(entry(server.url), tmp_path)
    assert f"download {server.url} by other means and put it in {tmp_path}" in one_line(error)
    assert (tmp_path / "tiny.pt.part").read_bytes() == CONTENT[:1000]


def test_fetch_without_a_network(tmp_path: Path) -> None:
    closed = Server()
    url = closed.url
    closed.server_close()
    start = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1 cannot be reached \(ConnectionError\)") as error:
        fetch(entry(url), tmp_path)
    assert time.monotonic() - start < 5
    assert f"download {url} by other means and put it in {tmp_path}" in one_line(error)
    assert names_in(tmp_path) == []


def test_fetch_from_a_server_that_falls_silent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "READ_TIMEOUT_S", 0.1)
    server.stall_after = 70_000
    with pytest.raises(UserError, match="the same command goes on from there"):
        fetch(entry(server.url), tmp_path)
    assert len(server.requests) == downloading.ATTEMPTS
    assert (tmp_path / "tiny.pt.part").stat().st_size > 65_536


def test_fetch_checks_the_space_before_it_writes(server: Server, tmp_path: Path) -> None:
    server.claimed_length = 10**17
    with pytest.raises(UserError, match=r"needs 100000000\.0 GB more in .* are free: make room") as error:
        fetch(entry(server.url), tmp_path)
    one_line(error)
    assert "tiny.pt" not in names_in(tmp_path)


def test_fetch_into_a_folder_that_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot write tiny\.pt to .*: (File exists|Not a directory);.*--to"):
            fetch(entry(server.url), folder)
    assert server.requests == []


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write everywhere: be another user for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_fetch_without_permission(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with ordinary_user(), pytest.raises(UserError, match="Permission denied; make room or choose another folder"):
            fetch(entry(server.url), tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert server.requests == []


@pytest.mark.parametrize("have", [0, 1000])
def test_two_downloads_do_not_write_one_file(have: int, server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:have])
    with open(tmp_path / "tiny.pt.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is downloading"):
            fetch(entry(server.url), tmp_path)
        assert (tmp_path / "tiny.pt.part").read_bytes() == CONTENT[:have]
    assert fetch(entry(server.url), tmp_path).read_bytes() == CONTENT


# --- command --------------------------------------------------------------------------------------------------------

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
    """`multihmr2 weights fetch tiny` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(multihmr2_ros.__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, tiny.sha256, str(tiny.url), *options]
    return subprocess.Popen(command, env=environment, **streams)


def fetch_on_a_terminal(tiny: Weights, typed: bytes) -> tuple[int, str]:
    """Exit status and what the terminal showed, after typing that at the question."""
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
    status = process.wait(20)
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
    assert "the licence was not accepted: nothing was fetched" in shown
    assert server.requests == []


def test_licence_without_a_terminal(tiny: Weights, server: Server) -> None:
    process = start_fetch(tiny, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"non-commercial use only" in output
    assert errors.decode().splitlines() == [
        "multihmr2 weights: the licence of tiny has to be accepted, and there is no terminal to ask on: "
        "read its terms, then add --accept-license"
    ]
    assert server.requests == []


def test_fetch_command(tiny: Weights, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["weights", "fetch", "tiny", "--accept-license", "--to", str(tmp_path / "elsewhere")]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "non-commercial use only" in output
    assert output.endswith(f"with the right SHA-256: {tmp_path}/elsewhere/tiny.pt\n")
    assert main(command[:3] + command[4:]) == 0  # here already: no licence question either
    assert "is here already" in capsys.readouterr().out
    assert len(server.requests) == 1


def test_fetch_command_without_a_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    closed = Server()
    closed.server_close()
    monkeypatch.setattr(weights, "REGISTRY", (entry(closed.url),))
    assert main(["weights", "fetch", "tiny", "--accept-license"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert closed.url in errors[0]
    assert str(weights_folder()) in errors[0]


def test_fetch_of_unknown_and_of_bundled_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "REGISTRY", (entry(None, bundled=True),))
    assert main(["weights", "fetch", "tiny"]) == 0
    assert "comes with the package" in capsys.readouterr().out
    assert main(["weights", "fetch", "huge"]) == 2
    assert "no weights are called 'huge': the names are tiny" in capsys.readouterr().err


def test_interrupted_fetch_goes_on(tiny: Weights, server: Server) -> None:
    server.stall_after = 200_000
    process = start_fetch(tiny, "--accept-license", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    part = tiny.path().with_name("tiny.pt.part")
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"the same command goes on from there" in errors
    assert b"Traceback" not in errors
    kept = part.read_bytes()
    assert kept
    assert CONTENT.startswith(kept)
    assert not tiny.path().exists()

    server.stall_after = None
    assert fetch(tiny, weights_folder()).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == f"bytes={len(kept)}-"


def test_list(tiny: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    header, absent = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "STATE", "SIZE", "LICENCE", "SHA-256", "WHERE"]
    for fact in ("tiny", "not here", "700.0 kB", "non-commercial", tiny.sha256[:12], "multihmr2 weights fetch tiny"):
        assert fact in absent
    fetch(tiny, weights_folder())
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
    assert "there is nothing to verify" in capsys.readouterr().err
    fetch(tiny, weights_folder())
    assert main(["weights", "verify"]) == 0
    assert main(["weights", "verify", "tiny"]) == 0
    assert capsys.readouterr().out == f"ok: tiny  {tiny.path()}\n" * 2
    assert main(["weights", "verify", "tiny", "absent.pt"]) == 2
    assert capsys.readouterr().out == ""  # the mistake is said before the long work


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


def test_convert_help_explains_the_risk(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["weights", "convert", "--help"])
    assert stop.value.code == 0
    assert "can execute any code" in " ".join(capsys.readouterr().out.split())
