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

"""`multihmr2 VERB …`: runs the verb's module; prints user errors as one line, with exit status 2."""

from __future__ import annotations

import errno
import importlib
import logging
import re
import sys
from collections.abc import Sequence

from multihmr2_ros import __version__
from multihmr2_ros.cli.options import add_quiet
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import remove_temporaries
from multihmr2_ros.hardware import make_threads_wait_passively
from multihmr2_ros.progress import set_quiet
from multihmr2_ros.terminal import ArgumentParser, Terminated, discard_output, end_on_signals, make_streams_safe

# Each verb is a module of this folder with HELP, add_arguments(parser) and run(args) -> exit status. The modules import
# no large packages at module level, so that `--help` is fast.
VERBS = ("run", "weights", "simulate", "label", "train", "evaluate", "bench", "doctor")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # for errors without a file name: of standard output
URL = re.compile(r"(--[^=]+=)?(https?|ftp|file|rtsp|rtmp|s3|gs)://", re.IGNORECASE)  # tcp:// is a Dask scheduler


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 success, 2 user error, 128 + n ended by signal n."""
    make_streams_safe()
    parser = _make_parser()
    argv = sys.argv[1:] if argv is None else argv
    if (refusal := _check_arguments(argv)) is not None:
        print(f"multihmr2: {refusal}", file=sys.stderr)
        return 2
    try:
        args = parser.parse_args(argv)
        args.arguments = argv[1:]  # of the verb
    except UserError as error:
        print(f"multihmr2: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(format=f"multihmr2 {args.verb}: %(message)s", level=logging.WARNING)
    logging.getLogger("multihmr2_ros").setLevel(logging.INFO)
    set_quiet(args.quiet)
    make_threads_wait_passively()
    try:
        with end_on_signals():
            status: int = args.run(args)
            sys.stdout.flush()  # with the errors below, not when Python ends
        return status
    except UserError as error:
        print(f"multihmr2 {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nmultihmr2 {args.verb}: interrupted", file=sys.stderr)
        return 130
    except Terminated as error:
        print(f"\nmultihmr2 {args.verb}: ended by {error.name}", file=sys.stderr)
        return int(error.code or 0)
    except BrokenPipeError:
        discard_output()
        return 141
    except OSError as error:  # such as a folder without search permission, or a name that is too long
        if error.filename is None and error.errno not in FULL_DISK:
            raise
        if error.filename is None:
            discard_output()
            print(f"multihmr2 {args.verb}: cannot write the output: {error.strerror}", file=sys.stderr)
            return 2
        reason = UserError(f"cannot access {error.filename}: {error.strerror}; check the path and its permissions")
        print(f"multihmr2 {args.verb}: {reason}", file=sys.stderr)
        return 2
    finally:
        remove_temporaries()


def _make_parser() -> ArgumentParser:
    """Return the parser with a subcommand for each verb."""
    parser = ArgumentParser(
        prog="multihmr2", description="People in images: identity, full-body mesh, metric position, velocity."
    )
    parser.add_argument("--version", action="version", version=f"multihmr2 {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        module = importlib.import_module(f".{name}", __package__)
        verb = verbs.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(verb)
        add_quiet(verb)
        verb.set_defaults(run=module.run)
    return parser


def _check_arguments(argv: Sequence[str]) -> str | None:
    """Return an error message for an empty argument (an empty path would be the current folder) or a URL, else None."""
    for before, argument in zip(["", *argv], argv, strict=False):
        if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
            place = argument.strip() or before or "multihmr2"
            return f"expected a value after {place.rstrip('=')!r}, got an empty argument; check shell variables"
        if URL.match(argument):
            return f"expected the path of a file or folder, got the URL {argument!r}; save it as a file first"
    return None


if __name__ == "__main__":
    sys.exit(main())
