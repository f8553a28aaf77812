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

"""`multihmr2 label`: fits bodies to real images, for training."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihmr2_ros.cli import options
from multihmr2_ros.cli.depth_maps import DepthMaps, add_depth_maps, open_depth_maps
from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from multihmr2_ros.labeling.annotations import Annotations
    from multihmr2_ros.placement import RelativeDepthMap

logger = logging.getLogger(__name__)

DETECTOR, POSE_ESTIMATOR = "PekingU/rtdetr_r50vd", "usyd-community/vitpose-base-simple"
HELP = "fit bodies to images of people, as pseudo-ground truth for `train --pseudo-truth`"
DESCRIPTION = """\
Fits Anny bodies to the 2D keypoints of people in real images and writes them to one file for
`multihmr2 train --pseudo-truth`. The keypoints come from a COCO keypoint file (optionally with `keypoint_score` and
`landmarks_3d_mm`), or from a detector and a pose estimator of the package transformers. Poses, headings and positions
in the image can be used for training. Distances and statures are not measurements: they follow from priors and the
assumed camera. With depth maps, the distances of all people of an image are consistent with each other."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument(
        "source",
        type=Path,
        metavar="IMAGES|COCO_JSON",
        help="folder of images, or a COCO keypoint file (person_keypoints_*.json)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="output file, .npz")
    parser.add_argument(
        "--motions", type=Path, metavar="DIR",
        help="folder of BVH files from which the pose prior is learned (default: random poses within the joint limits)",
    )  # fmt: skip
    parser.add_argument(
        "--vertical-fov", type=float, default=55.0, metavar="DEG",
        help="assumed vertical field of view of every image, in degrees (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--least-keypoints", type=int, default=8, metavar="N",
        help="minimum number of annotated keypoints of a person (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--most-error", type=float, default=0.04, metavar="FRACTION",
        help="maximum mean keypoint error of a body, as a fraction of the longer side of the bounding box (default: "
        "%(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--complete", action=argparse.BooleanOptionalAction,
        help="all people in the images are annotated (uncertain ones as crowds), so that scores can be trained, too "
        "(default: on with a COCO file, off with a detector)",
    )  # fmt: skip
    group = parser.add_argument_group("images without annotations (needs the extra 'train')")
    group.add_argument(
        "--detector", metavar="DIR|NAME",
        help="RT-DETR in the format of transformers: a folder, or a name on the Hugging Face Hub (default: "
        f"{DETECTOR})",
    )  # fmt: skip
    group.add_argument(
        "--pose-estimator", metavar="DIR|NAME",
        help="ViTPose in the format of transformers: a folder, or a name on the Hugging Face Hub (default: "
        f"{POSE_ESTIMATOR})",
    )  # fmt: skip
    options.add_device(group)  # type: ignore[arg-type]
    add_depth_maps(parser)
    parser.add_argument(
        "--images", type=Path, metavar="DIR",
        help="folder of the COCO file's images, for --depth-model (default: the folder of the COCO file)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    _check_options(args)
    depth_maps = open_depth_maps(args, _resolve_device(args) if args.depth_model is not None else "cpu")
    annotations = _read_annotations(args)
    from multihmr2_ros.labeling.bodies import FitSelection, label_bodies, save_bodies
    from multihmr2_ros.labeling.pose_prior import learn_pose_prior
    from multihmr2_ros.progress import make_progress_bar

    prior = learn_pose_prior(args.motions)
    complete = args.complete if args.complete is not None else args.source.is_file()
    with make_progress_bar(name="bodies", unit="body") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        selection = FitSelection(args.least_keypoints, args.most_error)
        arrays, report = label_bodies(annotations, prior, selection, complete, progress)
    placed = ""
    if depth_maps is not None:
        arrays, placed = _place_bodies(args, depth_maps, annotations, arrays)
    if args.source.is_file():  # detected people are in upright images
        arrays["image_size"] = annotations.sizes
    save_bodies(args.out, arrays)
    print(report.to_text())
    print(placed, end="\n" if placed else "")
    print(f"{args.out}: {len(arrays['image'])} bodies in {len(annotations.image_names)} images")
    if depth_maps is not None and depth_maps.missing:
        raise UserError(depth_maps.report())
    return 0


def _resolve_device(args: argparse.Namespace) -> str:
    from multihmr2_ros.network.inference import Runtime

    return Runtime(device=args.device).resolve().device


def _place_bodies(
    args: argparse.Namespace, depth_maps: DepthMaps, annotations: Annotations, arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], str]:
    """Place the bodies with depth maps; return their arrays and one line for the terminal."""
    from multihmr2_ros.labeling.crowds import place_bodies
    from multihmr2_ros.media.images import read_image

    sizes = {
        name: (int(width), int(height))
        for name, (width, height) in zip(annotations.image_names, annotations.sizes, strict=True)
    }
    folder = args.images or (args.source if args.source.is_dir() else args.source.parent)

    def find(name: str) -> NDArray[np.generic] | RelativeDepthMap | None:
        width, height = sizes[name]
        stem = str(Path(name).with_suffix(""))
        labeled_size = (width, height) if args.source.is_file() else None
        return depth_maps.find_map(stem, (height, width), lambda: read_image(folder / name, labeled_size))

    arrays, report = place_bodies(arrays, sizes, find)
    return arrays, report.to_text()


def _check_options(args: argparse.Namespace) -> None:
    """Raise UserError for unusable options, before slow work begins."""
    if args.out.suffix != ".npz":
        raise UserError(f"--out must be a file that ends in .npz, got {str(args.out)!r}; rename it")
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise UserError(f"--out must be a file in an existing folder, got {args.out}; create the folder first")
    if not args.source.exists():
        raise UserError(f"{args.source} does not exist: give a folder of images or a COCO keypoint file")
    if args.source.is_file() and (args.detector is not None or args.pose_estimator is not None):
        raise UserError(f"--detector and --pose-estimator are for a folder of images, got {args.source}; omit them")
    if args.images is not None and (args.source.is_dir() or args.depth_model is None):
        raise UserError("--images is for a COCO file with --depth-model; omit --images")
    if not 1.0 <= args.vertical_fov <= 170.0:  # false for NaN, too
        raise UserError(f"--vertical-fov must be from 1 to 170 degrees, got {args.vertical_fov:g}")
    if not 4 <= args.least_keypoints <= 17:
        raise UserError(f"--least-keypoints must be from 4 to 17, got {args.least_keypoints}")
    if not args.most_error > 0:
        raise UserError(f"--most-error must be above 0, got {args.most_error:g}; 0.04 is 4 % of the box")
    if args.motions is not None and not args.motions.is_dir():
        raise UserError(f"--motions must be a folder, got {args.motions}; check the path")
    options.check_writable(args.out)


def _read_annotations(args: argparse.Namespace) -> Annotations:
    """Read the people of a COCO file, or detect them in a folder of images."""
    from multihmr2_ros.labeling.annotations import collect_annotations, read_coco

    fov = math.radians(args.vertical_fov)
    if args.source.is_file():
        return read_coco(args.source, fov)
    from multihmr2_ros.labeling.detection import PeopleDetector
    from multihmr2_ros.media.images import read_image
    from multihmr2_ros.media.sources import list_images
    from multihmr2_ros.progress import make_progress_bar

    paths = list_images(args.source)
    names: list[str] = []
    detect = PeopleDetector(args.detector or DETECTOR, args.pose_estimator or POSE_ESTIMATOR, _resolve_device(args))
    sizes, persons = [], []
    for path in make_progress_bar(paths, name="images", unit="image"):
        try:
            image = read_image(path)
        except UserError as error:
            logger.warning("%s; the image is skipped", error)  # one damaged file must not end the run
            continue
        persons += detect(image, len(names))
        names.append(path.name)
        sizes.append((image.shape[1], image.shape[0]))
    if not names:
        raise UserError(f"expected readable images in {args.source}, found none; check the folder")
    return collect_annotations(names, sizes, persons, fov)
