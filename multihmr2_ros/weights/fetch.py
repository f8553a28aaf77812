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

"""Downloads a checkpoint: resumes interrupted downloads, and renames the file after its SHA-256 was verified."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests

from multihmr2_ros.errors import UserError
from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.weights import Weights, compute_sha256, format_size

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0  # without a single byte
ATTEMPTS = 5
RETRY_WAIT_S = 1.0  # before the second attempt; doubled for each one after it
_CHUNK_BYTES = 1 << 16


class _ConnectionLostError(Exception):
    """The response body ended, or stalled, before it was complete."""


def find_fetched_file(weights: Weights, folder: Path) -> Path | None:
    """Return the file in `folder` if it has the correct SHA-256, or None if there is no such file.

    Raises UserError if another file has its name; the user has to move that file.
    """
    target = folder / weights.file_name
    if not os.path.isfile(target):
        return None
    actual = compute_sha256(target)
    if actual != weights.sha256:
        raise UserError(
            f"{target} is not {weights.name}: expected SHA-256 {weights.sha256}, got {actual}; move or delete it, then "
            "fetch again"
        )
    return target


def fetch_weights(weights: Weights, folder: Path) -> Path:
    """Return the path of the checkpoint in `folder`, after downloading it if necessary.

    An interrupted download is kept beside the target as `<file name>.part`, and the next call continues it. Raises
    UserError in one line: no network, rejected by the server, no space, no permission, or a file with another SHA-256
    (which is deleted).
    """
    target = folder / weights.file_name
    part = folder / f"{weights.file_name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here = find_fetched_file(weights, folder)
        if here is None:
            with _lock_part(part) as stream:
                _download(weights, stream, part)
                os.fsync(stream.fileno())
                _require_sha256(weights, part)
                os.replace(part, target)
                _get_validator_path(part).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {weights.file_name} to {folder}: {error.strerror or error}; free some space, or choose "
            "another folder with --to"
        ) from error
    return target


@contextmanager
def _lock_part(part: Path) -> Iterator[BinaryIO]:
    """Open the part file for appending, locked. Raises UserError if another process writes it. Removes it if empty."""
    with open(part, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is downloading {part}; wait for it, or stop it") from None
        try:
            yield stream
        finally:
            if os.path.isfile(part) and part.stat().st_size == 0:
                part.unlink()


def _download(weights: Weights, stream: BinaryIO, part: Path) -> None:
    """Complete the part file; broken connections are retried, ATTEMPTS in total."""
    for attempt in range(ATTEMPTS):
        if attempt > 0:
            time.sleep(RETRY_WAIT_S * 2 ** (attempt - 1))
        try:
            with _request_rest(weights, part) as response:
                if response.status_code == 416:  # no bytes follow: the file is complete, or another one
                    if compute_sha256(part) == weights.sha256:
                        return
                    stream.truncate(0)
                    continue
                _receive(weights, response, stream, part)
                return
        except requests.RequestException as error:
            # No answer at the first attempt: most likely there is no network, and waiting would not help.
            if attempt == 0:
                reason = f"{_get_host(weights)} cannot be reached ({type(error).__name__})"
                raise UserError(_describe_manual_download(weights, part, f"{reason}: check the network")) from error
        except _ConnectionLostError:
            pass
    raise UserError(
        f"the connection to {_get_host(weights)} was lost {ATTEMPTS} times; {format_size(part.stat().st_size)} are "
        f"kept in {part}; repeat the command to continue"
    )


def _request_rest(weights: Weights, part: Path) -> requests.Response:
    """Request the missing bytes of the part file; return the response with status 200, 206 or 416.

    With `If-Range` the server sends the whole file if it has changed since the part file was started.
    """
    assert weights.url is not None
    headers = {"Accept-Encoding": "identity"}
    have = part.stat().st_size
    if have > 0:
        headers["Range"] = f"bytes={have}-"
        with suppress(FileNotFoundError):
            headers["If-Range"] = _get_validator_path(part).read_text(encoding="utf-8").strip()
    response = requests.get(weights.url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
    if response.status_code == 416 and have > 0:
        return response
    if response.status_code not in (200, 206):
        reason = f"{_get_host(weights)} returned HTTP status {response.status_code} {response.reason}"
    elif response.headers.get("Content-Type", "").startswith("text/html"):
        reason = (
            f"{_get_host(weights)} returned a web page instead of the file; check whether the network requires a login"
        )
    else:
        return response
    response.close()
    raise UserError(_describe_manual_download(weights, part, reason))


def _receive(weights: Weights, response: requests.Response, stream: BinaryIO, part: Path) -> None:
    """Append the response's body to the part file, or restart the file if the server sends it from its beginning."""
    start = stream.seek(0, os.SEEK_END) if response.status_code == 206 else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        stream.truncate(0)
        raise _ConnectionLostError
    if start == 0:
        stream.truncate(0)
        _store_validator(response, part)
    _require_space(weights, part, (total or weights.size_bytes or 0) - start)
    try:
        with make_progress_bar(name=weights.file_name, unit="B", total=total, initial=start, unit_scale=True) as bar:
            for chunk in response.iter_content(_CHUNK_BYTES):
                stream.write(chunk)
                bar.update(len(chunk))
    except requests.RequestException as error:
        raise _ConnectionLostError from error
    finally:
        stream.flush()
    if total is not None and stream.tell() < total:
        raise _ConnectionLostError


def _store_validator(response: requests.Response, part: Path) -> None:
    """Store the identifier of the server's version of the file: its strong ETag, else its date, else nothing."""
    etag = response.headers.get("ETag", "W/")
    validator = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
    if validator is None:
        _get_validator_path(part).unlink(missing_ok=True)
    else:
        _get_validator_path(part).write_text(validator + "\n", encoding="utf-8")


def _get_validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _require_space(weights: Weights, part: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(part.parent).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"{weights.file_name} needs {format_size(needed_bytes)} more in {part.parent}, but "
            f"{format_size(free_bytes)} are free; free some space, or choose another folder with --to"
        )


def _require_sha256(weights: Weights, part: Path) -> None:
    """Delete the part file and raise UserError unless its SHA-256 is correct."""
    actual = compute_sha256(part)
    if actual == weights.sha256:
        return
    size = format_size(part.stat().st_size)
    part.unlink()
    _get_validator_path(part).unlink(missing_ok=True)
    raise UserError(
        f"the file from {weights.url} is not {weights.name}: expected SHA-256 {weights.sha256}, got {actual} ({size}); "
        "it was deleted; try again; if this repeats, the file at this address has changed"
    )


def _describe_manual_download(weights: Weights, part: Path, reason: str) -> str:
    return f"{reason}; or download {weights.url} in another way and put it in {part.parent}"


def _get_host(weights: Weights) -> str:
    return urlsplit(weights.url or "").hostname or "the server"
