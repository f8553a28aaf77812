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

"""`multihmr2 simulate`: bags and folders of simulated people with the truth about them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.cli import options
from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from multihmr2_ros.cli.simulated_outputs import BagOutput, FolderOutput
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.simulation.sequence import Shot, Studio

HELP = "render simulated people into a bag, with ground truth"
DESCRIPTION = """\
Simulated people before a camera, with the truth about them: images on /camera/image_raw (or
/camera/image_raw/compressed) with camera_info, TF (odom, base_link, camera_optical_frame), depth if asked for, and a
multihmr2_ros/HumanArray per image on /ground_truth/humans. There, every person of the scene is listed, seen or not:
score is the visible fraction (the share of the person's own silhouette that the image shows; 0: hidden, or outside),
track_id the person, box that of the visible pixels, velocity the true one over the ground (along the camera's axes;
along those of odom where the camera moves)."""
FOLDERS = {
    "motions": "BVH files",
    "backgrounds": "photographs without people",
    "textures": "surfaces and fabrics",
    "garments": "MakeHuman clothes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH",
        help="bag (NAME.mcap, NAME.db3, or a folder in rosbag2's format), or folder; must not exist",
    )  # fmt: skip
    parser.add_argument(
        "--as", dest="kind", choices=("bag", "images"), default="bag",
        help="a bag, or a folder of pictures with labels as .npz (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument(
        "--sequences", type=int, metavar="N",
        help="many: PATH becomes a folder of N bags or folders, with consecutive seeds from --seed on",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a sequence (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="images a second (default: %(default)s)")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of the images, px (default: %(default)s)")
    parser.add_argument(
        "--people", type=int, nargs=2, default=(1, 5), metavar=("MIN", "MAX"), help="in a scene (default: 1 5)"
    )
    parser.add_argument("--moving-camera", action="store_true", help="the camera drives and turns; it is then on /tf")
    parser.add_argument(
        "--depth", nargs="?", const="exact", choices=("exact", "noisy"),
        help="depth images too, in mm: exact (default), or noisy, with the noise and the holes of a sensor",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("raw", "jpeg"), default="raw", help="of the images in a bag (default: %(default)s)"
    )
    parser.add_argument(
        "--vertices", choices=("none", "low", "full"), default="low",
        help="mesh of the truth (default: %(default)s, 615 vertices a person)",
    )  # fmt: skip
    for name, what in FOLDERS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of {what} (default: none)")


def run(args: argparse.Namespace) -> int:
    scene_options = _scene_options(args)
    targets = _targets(args)
    from tqdm import tqdm

    from multihmr2_ros.simulation.sequence import Studio, frame_count, one_thread

    images = frame_count(scene_options)
    studio = Studio()
    with one_thread(), tqdm(total=images * len(targets), desc=args.out.name, unit="image", disable=None) as bar:
        for seed, path in targets:
            with _output(path, args) as output:
                for shot, depth_mm in _shots(studio, seed, scene_options, args):
                    output.write(shot, depth_mm)
                    bar.update()
    many = f"{len(targets)} sequences of " if args.sequences is not None else ""
    print(f"{args.out}: {many}{images} images, seed {args.seed}")
    return 0


def _scene_options(args: argparse.Namespace) -> SceneOptions:
    from multihmr2_ros.simulation.scene import SceneOptions

    if not args.seconds > 0 or args.seed < 0:
        raise UserError(f"--seconds must be above 0 and --seed 0 or more, got {args.seconds:g} and {args.seed}")
    width, height = options.parse_size(args.size)
    folders = {name: getattr(args, name) for name in FOLDERS}
    for name, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} must be a folder of {FOLDERS[name]}, but {folder} is none")
    return SceneOptions(
        width=width,
        height=height,
        people=tuple(args.people),
        duration_s=args.seconds,
        frame_rate_hz=args.rate,
        moving_camera=args.moving_camera,
        **folders,
    )


def _targets(args: argparse.Namespace) -> list[tuple[int, Path]]:
    """Seeds and what is to be written of them, found to be possible before anything slow begins."""
    from multihmr2_ros.media.files import cannot_write

    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another name, or remove it first")
    if not args.out.parent.is_dir():
        raise UserError(f"there is no folder {args.out.parent} to write {args.out.name} into; make it first")
    if args.sequences is None:
        return [(args.seed, args.out)]
    if args.sequences < 1:
        raise UserError(f"--sequences must be 1 or more, got {args.sequences}")
    try:
        args.out.mkdir()
    except OSError as error:
        raise cannot_write(args.out, error) from error
    suffix = ".mcap" if args.kind == "bag" else ""
    seeds = range(args.seed, args.seed + args.sequences)
    return [(seed, args.out / f"seed_{seed:07d}{suffix}") for seed in seeds]


def _output(path: Path, args: argparse.Namespace) -> BagOutput | FolderOutput:
    from multihmr2_ros.cli.simulated_outputs import BagOutput, FolderOutput

    if args.kind == "images":
        return FolderOutput(path)
    return BagOutput(path, as_jpeg=args.format == "jpeg", moving_camera=args.moving_camera)


def _shots(
    studio: Studio, seed: int, scene_options: SceneOptions, args: argparse.Namespace
) -> Iterator[tuple[Shot, NDArray[np.uint16] | None]]:
    """Every image of a sequence with its depth image, where one is asked for."""
    import numpy as np

    from multihmr2_ros.simulation.rendering.sensor import exact_depth, measured_depth

    noise = np.random.default_rng([seed, 1])
    for shot in studio.shots(seed, scene_options, args.vertices):
        depth = shot.rendered.depth
        if args.depth is None:
            yield shot, None
        else:
            yield shot, exact_depth(depth) if args.depth == "exact" else measured_depth(depth, noise)
