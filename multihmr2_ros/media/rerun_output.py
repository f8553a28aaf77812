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

"""Writes Rerun recordings to a file, to a viewer on this machine, or to a web viewer on localhost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import WholeFile, describe_write_error, make_temporary_path, move_into_place
from multihmr2_ros.frame import Frame
from multihmr2_ros.media.rerun_people import BodyTopology
from multihmr2_ros.media.rerun_recording import (
    APPLICATION,
    NO_CONTEXT,
    FrameContext,
    RerunScene,
    Timeline,
    import_rerun,
)
from multihmr2_ros.media.rerun_rows import ColumnBatch
from multihmr2_ros.people import People

NATIVE, WEB = "native", "web"
HOST = "127.0.0.1"
WEB_PORT = 9090
START_S = 20.0  # timeout for the start of a viewer
MIN_FREE_BYTES = 64_000_000  # the library does not report a full disk and loses data
FLUSH_S = 60.0
CHUNK_S, VIEWER_CHUNK_S = 10.0, 0.05  # the library collects single rows for this time
CHUNK_BYTES = 4_000_000
BATCH_FRAMES = 200  # images whose rows are written to a file together; a viewer gets each image at once
VIEWER_MEMORY, SERVER_MEMORY = "2GB", "512MB"  # of the window, and of the web viewer's server; old images are dropped
INSTEAD = "--view web, or --save rrd to open the file elsewhere"  # options of `multihmr2 run`, without a display

logger = logging.getLogger(__name__)


class RerunRecording(WholeFile):
    """Recording of frames to a .rrd file (path), a viewer, or both.

    Unlike other results, an interrupted recording is kept: it contains everything up to the interruption.

    name      shown by the viewer; "": the file's name without suffix
    timeline  shown by the viewer: "stamp", or "frame" for images without stamps

    Raises UserError if the disk is nearly full or rerun is not installed.
    """

    def __init__(
        self,
        path: Path | None,
        topology: BodyTopology,
        viewer: Viewer | None = None,
        name: str = "",
        timeline: Timeline = "stamp",
    ) -> None:
        self._rr = import_rerun()
        self._path = path
        self._temporary = None if path is None else make_temporary_path(path)
        self._batches: list[ColumnBatch] = []
        name = name or (path.stem if path is not None else APPLICATION)
        try:
            self._check_space()
            if self._temporary is not None:
                self._open(self._rr.FileSink(str(self._temporary)), name, is_viewer=False)
            if viewer is not None:
                self._open(self._rr.GrpcSink(viewer.url), name, is_viewer=True)
        except (OSError, RuntimeError) as error:
            raise (
                describe_write_error(path, error) if path is not None else UserError(f"the viewer has ended: {error}")
            ) from error
        self._scene = RerunScene(self._batches, topology, timeline)

    def _open(self, sink: Any, name: str, *, is_viewer: bool) -> None:
        """Open a recording stream to a file or a viewer."""
        tick_s, frames = (VIEWER_CHUNK_S, 1) if is_viewer else (CHUNK_S, BATCH_FRAMES)
        config = self._rr.ChunkBatcherConfig(flush_tick=tick_s, flush_num_bytes=CHUNK_BYTES)
        stream = self._rr.RecordingStream(APPLICATION, batcher_config=config)
        stream.set_log_time_enabled(False)
        stream.set_sinks(sink)
        stream.send_recording_name(name)
        self._batches.append(ColumnBatch(self._rr, stream, frames, is_viewer=is_viewer))

    def add(self, frame: Frame, people: People, around: FrameContext = NO_CONTEXT) -> None:
        self._check_space()
        self._scene.add(frame, people, around)

    def _check_space(self) -> None:
        if self._path is not None and shutil.disk_usage(self._path.parent).free < MIN_FREE_BYTES:
            raise UserError(f"cannot write {self._path}: less than {MIN_FREE_BYTES / 1e6:.0f} MB are free; make space")

    def close(self) -> None:
        self._scene.flush()
        for batch in self._batches:
            try:
                batch.stream.flush(timeout_sec=FLUSH_S)
            except RuntimeError as error:
                if self._path is not None and not batch.is_viewer:
                    raise describe_write_error(self._path, error) from error
                logger.warning("the viewer was closed before the end")
            batch.stream.disconnect()
        if self._temporary is None or self._path is None:
            return
        move_into_place(self._temporary, self._path)

    def discard(self) -> None:
        self.close()


class Viewer:
    """Rerun viewer in its own process. Usage statistics are switched off.

    kind      NATIVE or WEB; the native viewer stays open when the command ends, `close` ends the web viewer
    web_port  port for the browser, on localhost
    instead   options to use without a display, for the error message

    Attributes: url for recordings; address for the user. Raises UserError if the viewer cannot start.
    """

    def __init__(self, kind: str, web_port: int = WEB_PORT, instead: str = INSTEAD) -> None:
        import_rerun()
        self.kind = kind
        port = _find_free_port()
        self.url = f"rerun+http://{HOST}:{port}/proxy"
        self._settings = tempfile.TemporaryDirectory(prefix="multihmr2-rerun-")
        command = [sys.executable, "-m", "rerun", "--bind", HOST, "--port", str(port), "--hide-welcome-screen"]
        command += ["--memory-limit", VIEWER_MEMORY, "--server-memory-limit", SERVER_MEMORY]
        if kind == WEB:
            _check_port_free(web_port)
            command += ["--serve-web", "--web-viewer-port", str(web_port)]
            self.address = f"http://{HOST}:{web_port}/?url={quote(self.url, safe='')}"
        else:
            _check_display(instead)
            self.address = "the window of the viewer"
        self._process = subprocess.Popen(
            command, env=os.environ | {"XDG_CONFIG_HOME": str(self._write_private_settings())}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait_for_port(port)

    def _write_private_settings(self) -> Path:
        """Return a settings folder that switches usage statistics off; the user's own settings are not changed."""
        folder = Path(self._settings.name)
        (folder / "rerun").mkdir()
        (folder / "rerun" / "analytics.json").write_text(
            json.dumps({"analytics_enabled": False, "analytics_id": "", "metadata": {}})
        )
        return folder

    def _wait_for_port(self, port: int) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.5):
                return
            time.sleep(0.1)
        self.close()
        raise UserError("the viewer did not start; try `python -m rerun`, or write a file with --save")

    @property
    def is_open(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until the viewer ends, or for Ctrl-C."""
        self._process.wait()

    def close(self) -> None:
        """End the web viewer; a native viewer stays open."""
        if self.kind == WEB:
            with contextlib.suppress(OSError):  # the whole process group: rerun starts another process
                os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        self._settings.cleanup()


def parse_view(text: str) -> tuple[str, int]:
    """Parse "native", "web" or "web:PORT" to kind and port of the web viewer."""
    kind, separator, port = text.partition(":")
    if kind == WEB and (not separator or (port.isdecimal() and 0 < int(port) < 65536)):
        return WEB, int(port) if separator else WEB_PORT
    if text == NATIVE:
        return NATIVE, 0
    raise UserError(f"--view takes {NATIVE}, {WEB} or {WEB}:PORT; got {text!r}")


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _check_port_free(port: int) -> None:
    if not 0 < port < 65536:
        raise UserError(f"the port of the web viewer must lie between 1 and 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); choose another port") from error


def _check_display(instead: str) -> None:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"there is no display for the viewer; use {instead}")
