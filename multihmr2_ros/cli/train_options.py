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

"""Options of `multihmr2 train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from multihmr2_ros.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run: training state, weights, log and curves"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out; give the same other options as before"
    )
    parser.add_argument("--steps", type=int, default=100_000, help="number of training steps (default: %(default)s)")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help="save the state and stop after this time (default: no limit)",
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--network",
        default="nano",
        metavar="NAME|JSON",
        help="nano, scratch, large, multi-hmr, multi-hmr-camera, or a JSON file with the network configuration "
        "(default: %(default)s)",
    )
    network.add_argument(
        "--from", dest="start_from", metavar="NAME|FILE", help="initialize the network with these weights (fine-tuning)"
    )
    parser.add_argument(
        "--encoder-weights", type=Path, metavar="FILE",
        help="pretrained weights of the encoder: a weights file, or the output of scripts/convert_movenet.py "
        "(default: the encoder of --from, otherwise of the bundled model)",
    )  # fmt: skip
    parser.add_argument(
        "--consistency-with", metavar="NAME|FILE",
        help="penalize differences of rotations and joints from this model's predictions (weights: --loss "
        "consistency_pose=… and consistency_joints=…)",
    )  # fmt: skip
    options.add_device(parser)
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="numerical precision of the network (default: %(default)s)",
    )
    _add_optimization(parser)
    _add_batches(parser)
    _add_log(parser)
    _add_renders(parser)
    _add_datasets(parser)
    _add_features(parser)
    _add_lifting(parser)


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization and losses")
    group.add_argument("--learning-rate", type=float, default=5e-4, help="peak learning rate (default: %(default)s)")
    group.add_argument(
        "--encoder-rate",
        type=float,
        default=1.0,
        help="learning rate of the encoder, as a factor of --learning-rate; 0 freezes the encoder (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--warmup-steps",
        type=int,
        default=500,
        help="number of steps of linear warmup of the learning rate (default: %(default)s)",
    )
    group.add_argument(
        "--decay-fraction",
        type=float,
        default=0.2,
        help="fraction of the run, at its end, in which the learning rate falls to 0 (default: %(default)s)",
    )
    group.add_argument("--weight-decay", type=float, default=0.05, help="weight decay of AdamW (default: %(default)s)")
    group.add_argument(
        "--ema-decay",
        type=float,
        default=0.999,
        help="decay per step of the averaged weights (EMA) (default: %(default)s)",
    )
    group.add_argument(
        "--matching", choices=("location", "location_3d", "joints"), default="location",
        help="distance for matching queries to people: location in the image, location in 3D, or 3D joints (default: "
        "%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--loss",
        action="append",
        default=[],
        metavar="NAME=WEIGHT",
        help="weight of one loss term; can be repeated; an unknown name prints the list of names",
    )


def _add_batches(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("batches of images")
    group.add_argument("--batch-size", type=int, default=32, help="images per step and process (default: %(default)s)")
    group.add_argument(
        "--input-size", type=int, metavar="PX",
        help="longest side of the training images; a value below the network's input size makes early training faster "
        "(default: the network's input size)",
    )  # fmt: skip
    group.add_argument(
        "--augmentation",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one value of AugmentationConfig; can be repeated; none=1 disables augmentation",
    )
    group.add_argument(
        "--square-padding",
        action="store_true",
        help="pad images to squares instead of training on several aspect ratios",
    )
    group.add_argument(
        "--k-given",
        type=float,
        default=0.5,
        help="fraction of the images for which the network gets the intrinsics (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="random seed of batches and initial weights (default: %(default)s)"
    )
    group.add_argument(
        "--loader-workers", type=int, default=1, help="number of processes that make batches (default: %(default)s)"
    )
    group.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads of the training process; 0: OMP_NUM_THREADS if set, otherwise the cores not used by loaders "
        "and renderers (default: %(default)s)",
    )


def _add_log(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("validation, log and saved states")
    group.add_argument(
        "--validate-steps", type=int, default=1000, help="number of steps between validations (default: %(default)s)"
    )
    group.add_argument(
        "--checkpoint-steps", type=int, default=500, help="number of steps between saved states (default: %(default)s)"
    )
    group.add_argument(
        "--log-steps", type=int, default=50, help="number of steps between lines of the log (default: %(default)s)"
    )


def _add_renders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rendered people")
    group.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of the render cache (rendered training images); created if missing",
    )
    group.add_argument(
        "--cache-images",
        type=int,
        default=50_000,
        help="maximum number of images in the render cache (default: %(default)s)",
    )
    group.add_argument(
        "--held-out-images",
        type=int,
        default=200,
        help="number of rendered images for validation (default: %(default)s)",
    )
    group.add_argument(
        "--render-workers",
        type=int,
        default=0,
        metavar="N",
        help="number of background processes that render (default: %(default)s)",
    )
    group.add_argument(
        "--render-only", action="store_true", help="fill the render cache with --images images, without training"
    )
    group.add_argument(
        "--images", type=int, default=10_000, help="number of images for --render-only (default: %(default)s)"
    )
    group.add_argument(
        "--start-images",
        type=int,
        default=500,
        help="minimum number of rendered images before training begins (default: %(default)s)",
    )
    group.add_argument(
        "--most-views",
        type=float,
        default=0.0,
        help="mean number of uses of an image before training waits for the renderers; 0: no limit (default: "
        "%(default)s)",
    )
    _add_scenes(group)


def _add_scenes(group: argparse._ArgumentGroup) -> None:
    """Add the options of what is rendered."""
    group.add_argument(
        "--render-size",
        default="320x240",
        metavar="WxH",
        help="size of the rendered images in px (default: %(default)s)",
    )
    group.add_argument(
        "--people",
        type=int,
        nargs=2,
        default=(0, 8),
        metavar=("MIN", "MAX"),
        help="minimum and maximum number of people per image (default: 0 8)",
    )
    for name, what in (
        ("motions", "BVH files"),
        ("backgrounds", "photographs without people"),
        ("textures", "images of surfaces and fabrics"),
        ("garments", "MakeHuman clothes"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of {what} (default: none)")
    group.add_argument(
        "--sam2", type=Path, metavar="DIR",
        help="folder of SAM2's video model in the format of transformers; tracking features are trained on its memory "
        "features of each rendered person, which are stored in the render cache (default: trained on color layouts)",
    )  # fmt: skip


def _add_datasets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("datasets")
    for name, labels, what in (
        ("coco", "JSON", "COCO keypoint annotations; can be repeated"),
        ("bedlam", "NPZ", "BEDLAM2 labels; can be repeated"),
        (
            "pseudo-truth",
            "NPZ",
            "fitted bodies, written by `multihmr2 label`; can be repeated (format: training/readers/pseudo.py)",
        ),
    ):
        group.add_argument(
            f"--{name}", action="append", nargs=2, type=Path, default=[], metavar=("IMAGES", labels), help=what
        )
    group.add_argument(
        "--empty-images",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="photographs without people; can be repeated",
    )
    group.add_argument(
        "--hold-out", type=float, default=0.0, metavar="FRACTION",
        help="fraction of the images of each dataset that is not used for training, chosen by a hash of the file "
        "names (scripts/real_pictures.py evaluates on these images) (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--render-share",
        type=float,
        default=0.5,
        help="fraction of rendered images among the training images, if datasets are given (default: %(default)s)",
    )


def _add_lifting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "keypoint steps: training on keypoints, without images (networks with a pretrained encoder)"
    )
    group.add_argument(
        "--keypoint-steps", type=int, default=0, help="number of keypoint steps at the beginning (default: %(default)s)"
    )
    group.add_argument(
        "--keypoint-every",
        type=int,
        default=0,
        metavar="N",
        help="afterwards, every N-th step is a keypoint step; 0: none (default: %(default)s)",
    )
    group.add_argument(
        "--keypoint-people", type=int, default=256, help="people per keypoint step (default: %(default)s)"
    )
    group.add_argument(
        "--keypoint-poses", type=int, default=20_000, help="number of poses for keypoint steps (default: %(default)s)"
    )


def _add_features(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features of a frozen encoder (--encoder-rate 0)")
    group.add_argument(
        "--features", type=Path, action="append", default=[], metavar="DIR",
        help="train on the encoder features in this folder instead of on images; can be repeated",
    )  # fmt: skip
    group.add_argument(
        "--features-only",
        action="store_true",
        help="write the features of --batches batches to the folder, without training; always on the CPU",
    )
    group.add_argument(
        "--batches", type=int, default=500, help="number of batches for --features-only (default: %(default)s)"
    )
