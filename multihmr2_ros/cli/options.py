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

"""Command-line options shared by several verbs, and their conversion to configurations."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.estimator import EstimatorConfig
    from multihmr2_ros.frame import IntrinsicsChoice
    from multihmr2_ros.network.inference import Runtime


def add_quiet(parser: argparse.ArgumentParser, default: object = False) -> None:
    parser.add_argument("--quiet", action="store_true", default=default, help="show no progress bars")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="nano",
        metavar="NAME|FILE",
        help="weights: a name from `multihmr2 weights list`, or a file (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if available), cpu, cuda or cuda:N (default: %(default)s)"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N",
        help="CPU threads of the network; 0: OMP_NUM_THREADS if set, otherwise half of the cores, at most 8 (default: "
        "%(default)s)",
    )  # fmt: skip


def add_runtime(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    add_threads(parser)
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="numerical precision of encoder and decoder, auto: the fastest; body and geometry are always fp32 "
        "(default: %(default)s)",
    )


def make_runtime(args: argparse.Namespace) -> Runtime:
    """Convert the options of add_runtime to a resolved Runtime. Raises UserError before slow work begins."""
    from multihmr2_ros.network.inference import Runtime

    return Runtime(device=args.device, precision=args.precision, threads=args.threads).resolve()


def add_estimation(parser: argparse.ArgumentParser, *, mesh: str, mesh_help: str) -> None:
    """Add the options of the estimator. mesh: default resolution."""
    add_checkpoint(parser)
    add_runtime(parser)
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.4,
        metavar="SCORE",
        help="minimum score of a detection, 0 to 1; half of it for people who are tracked (default: %(default)s)",
    )
    parser.add_argument(
        "--nms-distance", type=float, default=0.25, metavar="M",
        help="minimum distance in m between the pelvises of two people; of closer people, only the highest score is "
        "kept (NMS); 0 disables it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-people",
        type=int,
        default=20,
        metavar="N",
        help="maximum number of people per frame (default: %(default)s)",
    )
    add_input_size(parser)
    parser.add_argument("--mesh", choices=("full", "low"), default=mesh, help=f"{mesh_help} (default: %(default)s)")
    parser.add_argument(
        "--track", action=argparse.BooleanOptionalAction, default=True,
        help="track people in videos and bags (default: on); images are independent of each other",
    )  # fmt: skip
    parser.add_argument(
        "--smoothing", choices=("auto", "always", "never"), default="auto",
        help="smooth poses and distances of tracked people over time; auto: with nano (default: %(default)s)",
    )  # fmt: skip


def add_input_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-size", type=int, metavar="PX",
        help="longest side of the network's input; smaller is faster, but misses small people (default: the network's)",
    )  # fmt: skip


def make_estimator_config(args: argparse.Namespace) -> EstimatorConfig:
    """Convert the options of add_estimation to an EstimatorConfig. Raises UserError for invalid values."""
    from multihmr2_ros.estimator import EstimatorConfig

    return EstimatorConfig(
        score_threshold=args.score_threshold,
        nms_distance_m=args.nms_distance,
        max_people=args.max_people,
        input_size=args.input_size,
        mesh=args.mesh,
        track=args.track,
        smoothing=args.smoothing,
    )


def add_camera(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--k", nargs=4, type=float, metavar=("FX", "FY", "CX", "CY"),
        help="intrinsics in px of the image (default: camera_info of a bag, otherwise predicted)",
    )  # fmt: skip
    group.add_argument(
        "--vertical-fov", type=float, metavar="DEG", help="vertical field of view in degrees, instead of --k"
    )


def make_intrinsics_choice(args: argparse.Namespace, source: str = "given") -> IntrinsicsChoice:
    """Convert the options of add_camera to an IntrinsicsChoice of this source. Raises UserError for invalid values."""
    import numpy as np

    from multihmr2_ros.camera import validate_k
    from multihmr2_ros.frame import IntrinsicsChoice

    k = fov_rad = None
    if args.k is not None:
        fx, fy, cx, cy = args.k
        k = validate_k(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]))
    if args.vertical_fov is not None:
        if not 0 < args.vertical_fov < 180:
            raise UserError(f"--vertical-fov must be between 0 and 180 degrees, got {args.vertical_fov:g}")
        fov_rad = float(np.radians(args.vertical_fov))
    return IntrinsicsChoice(source, k, fov_rad)


def add_bag_cues(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("depth, ground and motion of the camera (bags only)")
    group.add_argument(
        "--depth-topic", metavar="TOPIC|off",
        help="topic of depth images, registered to the color images; they refine the distances of people; off "
        "disables them (default: the only suitable topic)",
    )  # fmt: skip
    group.add_argument(
        "--ground-frame", default="", metavar="FRAME",
        help="TF frame whose plane z = 0 is the ground, such as base_footprint; the ground refines the distances of "
        "people (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--fixed-frame", default="", metavar="FRAME",
        help="fixed TF frame, such as odom; velocities are then over the ground (default: none; velocities are "
        "relative to the camera)",
    )  # fmt: skip


def make_bag_cues(args: argparse.Namespace) -> dict[str, Any]:
    """Convert the options of add_bag_cues to keyword arguments of `BagSource`."""
    return {"depth_topic": args.depth_topic, "ground_frame": args.ground_frame, "fixed_frame": args.fixed_frame}


def parse_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT to (width, height). Raises UserError for other texts."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise UserError(f"a size must be WIDTHxHEIGHT in px, such as 768x448; got {text!r}")
    return int(width), int(height)


def check_distinct_names(paths: Iterable[Path]) -> None:
    """Raise UserError if two inputs have the same name; results are named after their input."""
    from multihmr2_ros.media.sources import make_source_name

    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(make_source_name(path), path)
        if other is not path:
            raise UserError(
                f"{other} and {path} would have results of the same name; rename one, or use a different --out for each"
            )


def make_folder(folder: Path) -> None:
    """Create the folder and check that it is writable. Raises UserError before the long work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}; choose another --out") from None
    _try_to_write(folder, folder)


def check_writable(file: Path) -> None:
    """Raise UserError if a file with this name exists or cannot be created."""
    if file.exists():
        raise UserError(f"{file} already exists; choose another name, or remove it")
    _try_to_write(file.parent, file)


def _try_to_write(folder: Path, target: Path) -> None:
    """Create and remove a file in the folder. Raises UserError, with the name of the target, if that fails."""
    from multihmr2_ros.files import describe_write_error, make_temporary_path, remove_temporary

    probe = make_temporary_path(folder / "write-test")
    try:
        probe.touch()
    except OSError as error:
        raise describe_write_error(target, error) from None
    finally:
        remove_temporary(probe)
