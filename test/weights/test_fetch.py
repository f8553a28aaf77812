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

"""Downloads of checkpoints from a local HTTP server that breaks connections, sends wrong data and stalls."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from multihmr2_ros import UserError
from multihmr2_ros.weights import fetch as downloading
from multihmr2_ros.weights.fetch import fetch_weights
from test.helpers.weights_server import CONTENT, ETAG, Server, entry, one_line

pytestmark = pytest.mark.usefixtures("empty_weights_folder")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def leave_part(folder: Path, content: bytes, version: str | None = ETAG) -> None:
    """Leave the files of an interrupted download."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.pt.part").write_bytes(content)
    if version is not None:
        (folder / "tiny.pt.part.version").write_text(version + "\n")


def test_fetch_leaves_the_file_and_nothing_else(server: Server, tmp_path: Path) -> None:
    path = fetch_weights(entry(server.url), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == ["tiny.pt"]
    assert len(server.requests) == 1
    assert "Range" not in server.requests[0]


def test_fetch_of_a_file_that_is_here_asks_nobody(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(CONTENT)
    assert fetch_weights(entry(server.url), tmp_path) == tmp_path / "tiny.pt"
    assert server.requests == []


def test_fetch_leaves_another_file_of_that_name_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(b"the user's")
    with pytest.raises(UserError, match="move or delete it") as error:
        fetch_weights(entry(server.url), tmp_path)
    assert hashlib.sha256(b"the user's").hexdigest() in one_line(error)
    assert (tmp_path / "tiny.pt").read_bytes() == b"the user's"
    assert server.requests == []


def test_fetch_takes_up_a_broken_connection(server: Server, tmp_path: Path) -> None:
    server.drop_after = [200_000, 0, 300_000]
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT
    offsets = [int(request.get("Range", "bytes=0-")[6:-1]) for request in server.requests]
    assert len(offsets) == 4
    assert offsets == sorted(offsets)
    assert 0 < offsets[1] <= 200_000
    assert offsets[2] == offsets[1]  # no new data in between
    assert offsets[3] > 300_000
    assert all(request["If-Range"] == ETAG for request in server.requests[1:])


def test_fetch_gives_up_and_the_next_one_goes_on(server: Server, tmp_path: Path) -> None:
    server.drop_after = [150_000] * downloading.ATTEMPTS
    server.content = CONTENT + CONTENT
    wanted = entry(server.url, server.content)
    with pytest.raises(UserError, match=r"was lost 5 times; .* are kept in .*repeat the command") as error:
        fetch_weights(wanted, tmp_path)
    one_line(error)
    assert names_in(tmp_path) == ["tiny.pt.part", "tiny.pt.part.version"]
    kept = (tmp_path / "tiny.pt.part").stat().st_size
    assert server.content.startswith((tmp_path / "tiny.pt.part").read_bytes())
    assert kept > 300_000
    assert fetch_weights(wanted, tmp_path).read_bytes() == server.content
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
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert server.sent_bytes == len(CONTENT) - (have if knows_ranges else 0)
    assert names_in(tmp_path) == ["tiny.pt"]


def test_fetch_begins_anew_when_the_file_on_the_server_has_changed(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, b"x" * 1000, '"version-0"')
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert server.requests[0]["If-Range"] == '"version-0"'


def test_fetch_begins_anew_when_the_part_is_too_long(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT + b"more")
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT


def test_fetch_begins_anew_when_another_range_comes(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:1000])
    server.wrong_range = True
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT
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
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT
    assert server.requests[1].get("If-Range") == validator


@pytest.mark.parametrize("content", [b"", b"wrong", CONTENT[:-1], CONTENT + b"x", bytes(len(CONTENT))])
def test_fetch_keeps_nothing_of_a_wrong_file(content: bytes, server: Server, tmp_path: Path) -> None:
    server.content = content
    wanted = entry(server.url)
    with pytest.raises(UserError, match="expected SHA-256") as error:
        fetch_weights(wanted, tmp_path)
    message = one_line(error)
    for fact in (wanted.sha256, hashlib.sha256(content).hexdigest(), server.url, "try again"):
        assert fact in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (404, {}, "returned HTTP status 404 Not Found"),
        (503, {}, "returned HTTP status 503 Service Unavailable"),
        (200, {"Content-Type": "text/html; charset=utf-8"}, "a web page instead of the file"),
    ],
)
def test_fetch_says_what_the_server_refused(
    status: int, headers: dict[str, str], reason: str, server: Server, tmp_path: Path
) -> None:
    server.status, server.headers = status, headers
    leave_part(tmp_path, CONTENT[:1000], None)
    with pytest.raises(UserError, match=reason) as error:
        fetch_weights(entry(server.url), tmp_path)
    assert f"download {server.url} in another way and put it in {tmp_path}" in one_line(error)
    assert (tmp_path / "tiny.pt.part").read_bytes() == CONTENT[:1000]


def test_fetch_without_a_network(tmp_path: Path) -> None:
    closed = Server()
    url = closed.url
    closed.server_close()
    with pytest.raises(UserError, match=r"127\.0\.0\.1 cannot be reached \(ConnectionError\)") as error:
        fetch_weights(entry(url), tmp_path)
    assert f"download {url} in another way and put it in {tmp_path}" in one_line(error)
    assert names_in(tmp_path) == []


def test_fetch_from_a_server_that_falls_silent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(downloading, "ATTEMPTS", 2)
    server.stall_after = 70_000
    with pytest.raises(UserError, match="repeat the command to continue"):
        fetch_weights(entry(server.url), tmp_path)
    assert len(server.requests) == downloading.ATTEMPTS
    assert (tmp_path / "tiny.pt.part").stat().st_size > 65_536


def test_fetch_checks_the_space_before_it_writes(server: Server, tmp_path: Path) -> None:
    server.claimed_length = 10**17
    with pytest.raises(UserError, match=r"needs 100000000\.0 GB more in .* are free; free some") as error:
        fetch_weights(entry(server.url), tmp_path)
    one_line(error)
    assert "tiny.pt" not in names_in(tmp_path)


def test_fetch_into_a_folder_that_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot write tiny\.pt to .*: (File exists|Not a directory);.*--to"):
            fetch_weights(entry(server.url), folder)
    assert server.requests == []


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Become an ordinary user within the block: root may write everywhere."""
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
        with (
            ordinary_user(),
            pytest.raises(UserError, match="Permission denied; free some space, or"),
        ):
            fetch_weights(entry(server.url), tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert server.requests == []


@pytest.mark.parametrize("have", [0, 1000])
def test_two_downloads_do_not_write_one_file(have: int, server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:have])
    with open(tmp_path / "tiny.pt.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is downloading"):
            fetch_weights(entry(server.url), tmp_path)
        assert (tmp_path / "tiny.pt.part").read_bytes() == CONTENT[:have]
    assert fetch_weights(entry(server.url), tmp_path).read_bytes() == CONTENT
