"""Command-line options that several verbs share, and what they mean to the core."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.network.inference import Runtime


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="multihmr2",
        metavar="NAME|FILE",
        help="weights: a name from `multihmr2 weights list`, or a file (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of encoder and decoder; body and geometry are always fp32 (default: %(default)s)",
    )


def runtime(args: argparse.Namespace) -> Runtime:
    """The runtime that add_runtime's options ask for, checked before anything slow begins."""
    from multihmr2_ros.network.inference import Runtime

    return Runtime(device=args.device, precision=args.precision).resolve()


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT → (width, height)."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise UserError(f"a size is WIDTHxHEIGHT in pixels, such as 768x448; got {text!r}")
    return int(width), int(height)


def make_folder(folder: Path) -> None:
    """Find out now, not after an hour's work, that results cannot be written."""
    from multihmr2_ros.media.files import atomic_path

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from None
    probe = folder / ".multihmr2-write-test"
    with atomic_path(probe) as temporary:
        temporary.touch()
    probe.unlink()
