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

"""`multihmr2 weights list|fetch|verify|convert`: lists, downloads, verifies and converts checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from multihmr2_ros import weights as registry
from multihmr2_ros.caches import expand_home
from multihmr2_ros.cli import options
from multihmr2_ros.errors import UserError
from multihmr2_ros.weights import Weights

HELP = "list, fetch, verify and convert checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = actions.add_parser("list", help="list the checkpoints with state, size, license, SHA-256 and path")
    action.set_defaults(run_action=_list)

    action = actions.add_parser("fetch", help="download a released checkpoint after its license is accepted")
    action.add_argument("name", metavar="NAME", help="a name from `multihmr2 weights list`")
    action.add_argument("--accept-license", action="store_true", help="accept the license without a prompt")
    action.add_argument(
        "--to", type=Path, metavar="FOLDER", help="folder for the file (default: shown by `multihmr2 weights list`)"
    )
    action.set_defaults(run_action=_fetch)

    action = actions.add_parser("verify", help="compare the SHA-256 of checkpoints with the released values")
    action.add_argument("files", nargs="*", metavar="NAME|FILE", help="checkpoints (default: all on this machine)")
    action.set_defaults(run_action=_verify)

    action = actions.add_parser("convert", help="convert a .pt checkpoint to .safetensors, which cannot execute code")
    action.add_argument("source", metavar="FILE", help="input checkpoint: a name or a file")
    action.add_argument("target", type=Path, metavar="OUT.safetensors", help="output file")
    action.add_argument(
        "--accept-risk",
        action="store_true",
        help="unpickle all objects of the file. This can execute any code with your permissions; use it only for "
        "files from a trusted source, preferably files that `multihmr2 weights verify` reports as ok",
    )
    action.set_defaults(run_action=_convert)
    for action in actions.choices.values():
        options.add_quiet(action, default=argparse.SUPPRESS)  # the verb has the default


def run(args: argparse.Namespace) -> int:
    status: int = args.run_action(args)
    return status


def _list(args: argparse.Namespace) -> int:
    rows = [("NAME", "STATE", "SIZE", "LICENSE", "SHA-256", "WHERE")]
    for weights in registry.REGISTRY:
        rows.append(
            (
                weights.name,
                _describe_state(weights),
                registry.format_size(weights.size_bytes),
                weights.license_name + ("" if weights.commercial_use else " (non-commercial)"),
                weights.sha256[:12],
                str(weights.path())
                if weights.is_downloaded()
                else f"`multihmr2 weights fetch {weights.name}` downloads it",
            )
        )
    print(_format_table(rows))
    print(f"downloads are stored in {registry.find_weights_folder()}")
    return 0


def _describe_state(weights: Weights) -> str:
    if not weights.is_downloaded():
        return "missing"
    return "bundled" if weights.bundled else "fetched"


def _format_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _fetch(args: argparse.Namespace) -> int:
    weights = registry.find_weights(args.name)
    if weights.url is None:
        print(f"{weights.name} is part of the package; no download is needed")
        return 0
    from multihmr2_ros.weights.fetch import fetch_weights, find_fetched_file

    folder = registry.find_weights_folder() if args.to is None else expand_home(args.to)
    here = find_fetched_file(weights, folder)
    if here is not None:
        print(f"{weights.name} is already present, with the correct SHA-256: {here}")
        return 0
    _require_license(weights, args.accept_license)
    print(f"fetching {weights.url} ({registry.format_size(weights.size_bytes)}) to {folder}", flush=True)
    try:
        path = fetch_weights(weights, folder)
    except KeyboardInterrupt:
        print("\nthe partial download is kept; repeat the command to continue", file=sys.stderr)
        raise
    print(f"{weights.name} was downloaded, with the correct SHA-256: {path}")
    return 0


def _require_license(weights: Weights, accepted: bool) -> None:
    """Show the license. Raises UserError unless it was accepted, by the option or by answering yes on a terminal."""
    print(f"{weights.description}\nlicense: {weights.license_name}: {weights.license_summary}", flush=True)
    if accepted:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"the license of {weights.name} must be accepted, but the input is not a terminal; read the terms, then "
            "add --accept-license"
        )
    try:
        answer = input("Do you accept these terms? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("the license was not accepted; nothing was downloaded")


def _verify(args: argparse.Namespace) -> int:
    names = args.files or [weights.name for weights in registry.REGISTRY if weights.is_downloaded()]
    if not names:
        raise UserError("no checkpoint is on this machine; see `multihmr2 weights list`")
    paths = [registry.resolve_checkpoint(name) for name in names]  # all of them before the long work begins
    all_ok = True
    for name, path in zip(names, paths, strict=True):
        ok, verdict = _verify_file(name, path)
        all_ok = all_ok and ok
        print(f"{verdict}  {path}", flush=True)
    return 0 if all_ok else 2


def _verify_file(name: str, path: Path) -> tuple[bool, str]:
    """Return whether the file is a known checkpoint and matches its name, and the line to print."""
    actual = registry.compute_sha256(path)
    claimed = next((known for known in registry.REGISTRY if name == known.name or path.name == known.file_name), None)
    found = next((known for known in registry.REGISTRY if known.sha256 == actual), None)
    if claimed is not None and claimed is not found:
        return False, f"mismatch: expected SHA-256 {claimed.sha256} ({claimed.name}), got {actual}"
    if found is None:
        return False, f"unknown file: SHA-256 {actual} is not in `multihmr2 weights list`"
    return True, f"ok: {found.name}"


def _convert(args: argparse.Namespace) -> int:
    if args.target.suffix != ".safetensors":
        raise UserError(f"expected an output file that ends in .safetensors, got {str(args.target)!r}")
    source = registry.resolve_checkpoint(args.source)
    options.check_writable(args.target)
    from multihmr2_ros.network.checkpoint import convert_weights

    convert_weights(source, args.target, allow_pickle=args.accept_risk)
    print(f"wrote {args.target}")
    return 0
