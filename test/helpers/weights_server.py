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

"""A small file of weights on a local HTTP server that can simulate faults, with a registry entry."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from multihmr2_ros import UserError
from multihmr2_ros.weights import Weights

CONTENT = random.Random(0).randbytes(700_001)
ETAG = '"version-1"'


class Server(ThreadingHTTPServer):
    """HTTP server of `content` with ranges. The attributes set the faults to simulate; request headers are recorded."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": ETAG}
        self.status = 200
        self.knows_ranges = True
        self.wrong_range = False  # replies 206 with a range other than requested
        self.drop_after: list[int] = []  # bytes sent before the connection is closed, one entry per request
        self.stall_after: int | None = None  # bytes sent before the server stalls
        self.claimed_length: int | None = None
        self.stop_stalling = threading.Event()
        self.requests: list[dict[str, str]] = []
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.pt"

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients that close the connection are part of the tests."""


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
        self.server.sent_bytes += len(body)  # recorded first: the client may finish before this thread continues
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stop_stalling.set()
        server.shutdown()
        thread.join()
        server.server_close()


def entry(url: str | None, content: bytes = CONTENT, **changes: object) -> Weights:
    """Return a registry entry for a small file at that address."""
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


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
