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

"""Streams and signals of a command: a closed terminal does not stop it, and signals leave no incomplete files."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import IO, Any

from multihmr2_ros.errors import UserError

ASCII_SIGNS = {"→": "->", "…": "...", "–": "-", "−": "-", "×": "x", "±": "+-", "∞": "inf", "°": " deg", "²": "2"}
ERROR_HANDLER = "multihmr2_ascii"
END_SIGNALS = ("SIGTERM", "SIGHUP")


class Terminated(SystemExit):
    """Exit requested by a signal; files are cleaned up as after Ctrl-C."""

    def __init__(self, name: str) -> None:
        super().__init__(128 + getattr(signal, name))
        self.name = name


@contextlib.contextmanager
def end_on_signals() -> Iterator[None]:
    """Raise Terminated at the first SIGTERM or SIGHUP in the block. Ignored signals (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a closed terminal sends two; the cleanup continues
        raise Terminated(signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in END_SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler == signal.SIG_DFL}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_streams_safe() -> None:
    """Make writing to the terminal safe in any encoding, and with a closed standard error."""
    _fill_closed_descriptors()
    codecs.register_error(ERROR_HANDLER, _replace_with_ascii)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed; tqdm and logging also use sys.__stderr__
            stream: IO[str] = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors=ERROR_HANDLER)
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:  # not a replacement that captures it
        sys.stderr = _TolerantStream(sys.stderr)


class ArgumentParser(argparse.ArgumentParser):
    """Parser that raises UserError if its help cannot be written, as on a full disk. argparse ignores such errors."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            print_output(message)
        else:
            super()._print_message(message, file)


def print_output(text: str) -> None:
    """Write text to standard output. Raises UserError if it cannot be written; a closed pipe (`| head`) is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        raise UserError(f"cannot write the output: {error.strerror}") from error


def discard_output() -> None:
    """Write further standard output to the null device. Else Python's last flush would report the same error again."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _TolerantStream:
    """Stream that ignores write errors, for example after its reader has ended."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fill_closed_descriptors() -> None:
    """Open the null device for closed standard streams.

    Otherwise the next opened file would get such a descriptor, and libraries would write messages into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)


def _replace_with_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that cannot be encoded: known symbols by their usual ASCII form, others by \\uXXXX."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    escaped = [ASCII_SIGNS.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters]
    return "".join(escaped), error.end
