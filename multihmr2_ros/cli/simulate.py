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

"""`multihmr2 simulate`: writes bags and folders of simulated people with ground truth."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.cli import options
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import require_parent_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from multihmr2_ros.cli.simulated_outputs import BagOutput, FolderOutput
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.simulation.sequence import SceneRenderer, SimulatedFrame

HELP = "render simulated people into a bag, with ground truth"
DESCRIPTION = """\
Renders simulated people in front of a camera and writes a bag (or folder) with the ground truth:
/camera/image_raw (or /camera/image_raw/compressed) and /camera/camera_info; with --depth also
/camera/depth/image_raw (16UC1, mm, registered to the images; 0: no measurement) and /camera/depth/camera_info;
TF odom -> base_link -> camera_optical_frame; and on /ground_truth/humans a multihmr2_ros/HumanArray for each image.
That message lists every person of the scene, visible or not. score: the visible fraction (the fraction of the person's
silhouette that is visible; 0: occluded, or outside the image). track_id: the person. box: bounds of the visible
pixels. velocity: the true velocity over the ground, in the axes of the camera, or of odom if the camera moves. All of
TF is on /tf_static if the camera is still; with --camera-motion drive, odom -> base_link is on /tf, with the stamp
of each image. The same seed and options give the same scene; --depth does not change it."""
FOLDERS = {
    "motions": "BVH files",
    "backgrounds": "photographs without people",
    "textures": "images of surfaces and fabrics",
    "garments": "MakeHuman clothes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH",
        help="output: bag (NAME.mcap, NAME.db3, or a rosbag2 folder) or folder of images; must not exist",
    )  # fmt: skip
    parser.add_argument(
        "--as", dest="kind", choices=("bag", "images"), default="bag",
        help="output format: a bag, or a folder of images with labels as .npz (default: %(default)s)",
    )  # fmt: skip
    _add_scene(parser)
    parser.add_argument(
        "--depth", nargs="?", const="exact", choices=("exact", "noisy"),
        help="also write depth images: exact (if no value is given), or noisy as from a stereo camera: range 0.3 to "
        "10 m, noise of 1.5 mm at 1 m that grows with the square of the depth, holes at contours and in patches "
        "(default: none)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("raw", "jpeg"), help="image format in a bag (default: raw)")
    parser.add_argument(
        "--vertices", choices=("none", "low", "full"), default="low",
        help="mesh of the true people: none, low (615 vertices) or full (19158 vertices) (default: %(default)s)",
    )  # fmt: skip
    for name, what in FOLDERS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of {what} (default: none)")


def _add_scene(parser: argparse.ArgumentParser) -> None:
    """Add the options of the scenes: seeds, length, images, people and the camera's motion."""
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed; the same seed and options give the same bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--sequences", type=int, metavar="N",
        help="write N sequences into the folder PATH, with consecutive seeds from --seed on",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a sequence in s (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=10.0, metavar="HZ", help="images per second (default: %(default)s)"
    )
    parser.add_argument("--size", default="640x480", metavar="WxH", help="image size in px (default: %(default)s)")
    parser.add_argument(
        "--people",
        type=int,
        nargs=2,
        default=(1, 5),
        metavar=("MIN", "MAX"),
        help="minimum and maximum number of people in a scene (default: 1 5)",
    )
    parser.add_argument(
        "--camera-motion", choices=("still", "drive"), default="still",
        help="still, or drive: the camera is on a robot that drives at up to 1 m/s and turns to both sides, at up to "
        "45 deg/s (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--moving-camera",
        dest="camera_motion",
        action="store_const",
        const="drive",
        help="same as --camera-motion drive",
    )


def run(args: argparse.Namespace) -> int:
    scene_options = _make_scene_options(args)
    targets = _list_targets(args)
    from multihmr2_ros.progress import make_progress_bar
    from multihmr2_ros.simulation.sequence import SceneRenderer, count_frames, limit_to_one_thread

    images = count_frames(scene_options)
    with contextlib.nullcontext() if args.sequences is None else _make_folder(args.out):
        renderer = SceneRenderer()
        with (
            limit_to_one_thread(),
            make_progress_bar(name=args.out.name, unit="image", total=images * len(targets)) as bar,
        ):
            for seed, path in targets:
                with _open_output(path, args) as output:
                    for frame, depth_mm in _render_frames(renderer, seed, scene_options, args):
                        output.write(frame, depth_mm)
                        bar.update()
    sequence_unit, image_unit = "sequence" if len(targets) == 1 else "sequences", "image" if images == 1 else "images"
    many = f"{len(targets)} {sequence_unit} of " if args.sequences is not None else ""
    print(f"{args.out}: {many}{images} {image_unit}, seed {args.seed}")
    return 0


def _make_scene_options(args: argparse.Namespace) -> SceneOptions:
    from multihmr2_ros.simulation.scene import SceneOptions

    for name, value in (("seconds", args.seconds), ("rate", args.rate)):
        if not value > 0:
            raise UserError(f"--{name} must be above 0, got {value:g}")
    if args.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {args.seed}")
    if args.format is not None and args.kind != "bag":
        raise UserError(f"--format is for bags, got --as {args.kind}, whose images are PNG files; omit --format")
    width, height = options.parse_size(args.size)
    folders = {name: getattr(args, name) for name in FOLDERS}
    for name, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} must be a folder of {FOLDERS[name]}, got {folder}; check the path")
    return SceneOptions(
        width=width,
        height=height,
        people=tuple(args.people),
        duration_s=args.seconds,
        frame_rate_hz=args.rate,
        moving_camera=args.camera_motion == "drive",
        **folders,
    )


def _list_targets(args: argparse.Namespace) -> list[tuple[int, Path]]:
    """Return the seeds and the paths to write; raise UserError before rendering if one cannot be written."""
    if args.out.exists():
        raise UserError(f"{args.out} already exists; choose another --out, or remove it")
    require_parent_folder(args.out)
    if args.sequences is None:
        return [(args.seed, args.out)]
    if args.sequences < 1:
        raise UserError(f"--sequences must be 1 or more, got {args.sequences}")
    suffix = ".mcap" if args.kind == "bag" else ""
    seeds = range(args.seed, args.seed + args.sequences)
    return [(seed, args.out / f"seed_{seed:07d}{suffix}") for seed in seeds]


@contextlib.contextmanager
def _make_folder(folder: Path) -> Iterator[None]:
    """Make the folder of the sequences. Remove it if an error left it empty, because the folder must not exist."""
    from multihmr2_ros.files import describe_write_error

    try:
        folder.mkdir()
    except OSError as error:
        raise describe_write_error(folder, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def _open_output(path: Path, args: argparse.Namespace) -> BagOutput | FolderOutput:
    from multihmr2_ros.cli.simulated_outputs import BagOutput, FolderOutput

    if args.kind == "images":
        return FolderOutput(path)
    return BagOutput(path, as_jpeg=args.format == "jpeg", moving_camera=args.camera_motion == "drive")


def _render_frames(
    renderer: SceneRenderer, seed: int, scene_options: SceneOptions, args: argparse.Namespace
) -> Iterator[tuple[SimulatedFrame, NDArray[np.uint16] | None]]:
    """Yield every image of a sequence with its depth image, or None without depth."""
    import numpy as np

    from multihmr2_ros.simulation.rendering.sensor import simulate_measured_depth, to_exact_depth

    noise = np.random.default_rng([seed, 1])
    for frame in renderer.render_frames(seed, scene_options, args.vertices):
        depth = frame.rendered.depth
        if args.depth is None:
            yield frame, None
        else:
            yield frame, to_exact_depth(depth) if args.depth == "exact" else simulate_measured_depth(depth, noise)
