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

"""`multihmr2 train`: training on renders and datasets; resumable, and with torchrun on several GPUs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihmr2_ros.cli import options
from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    from multihmr2_ros.network.config import NetworkConfig
    from multihmr2_ros.training.config import TrainingConfig
    from multihmr2_ros.training.data import SampleSource
    from multihmr2_ros.training.rendering import RenderCacheConfig

HELP = "train a network on rendered people, and on datasets you own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run: state, weights, log, curves")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; repeat its other options")
    parser.add_argument("--steps", type=int, default=100_000, help="length of the run (default: %(default)s)")
    parser.add_argument(
        "--time-limit", type=float, metavar="MINUTES", help="save and end after this time (default: no limit)"
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--network",
        default="nano",
        metavar="NAME|JSON",
        help="nano, scratch, large, or a JSON file of sizes (default: %(default)s)",
    )
    network.add_argument(
        "--from", dest="start_from", metavar="NAME|FILE", help="start from these weights (fine-tuning)"
    )
    parser.add_argument(
        "--encoder-weights", type=Path, metavar="FILE",
        help="pretrained weights of the encoder: those of a network, or the output of scripts/convert_movenet.py "
        "(default: with --from its own, else the bundled model's)",
    )  # fmt: skip
    parser.add_argument(
        "--consistency-with", metavar="NAME|FILE",
        help="penalize differences of rotations and joints from this model's (weights: --loss consistency_pose=…)",
    )  # fmt: skip
    options.add_device(parser)
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the network (default: %(default)s)"
    )
    _add_optimization(parser)
    _add_renders(parser)
    _add_datasets(parser)
    _add_features(parser)
    _add_lifting(parser)


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--batch-size", type=int, default=32, help="images per step and process (default: %(default)s)")
    group.add_argument(
        "--input-size", type=int, metavar="PX",
        help="longest side of training inputs; less than the network's makes early training faster "
        "(default: the network's)",
    )  # fmt: skip
    group.add_argument("--learning-rate", type=float, default=5e-4, help="peak (default: %(default)s)")
    group.add_argument(
        "--encoder-rate",
        type=float,
        default=1.0,
        help="factor of the encoder's learning rate; 0 freezes it (default: %(default)s)",
    )
    group.add_argument("--warmup-steps", type=int, default=500, help="linear warmup (default: %(default)s)")
    group.add_argument(
        "--decay-fraction",
        type=float,
        default=0.2,
        help="share of the run at its end in which the rate falls to 0 (default: %(default)s)",
    )
    group.add_argument("--weight-decay", type=float, default=0.05, help="of AdamW (default: %(default)s)")
    group.add_argument("--ema-decay", type=float, default=0.999, help="of the averaged weights (default: %(default)s)")
    group.add_argument(
        "--matching", choices=("location", "location_3d", "joints"), default="location",
        help="distance for matching queries to people (default: %(default)s, in the image)",
    )  # fmt: skip
    group.add_argument("--loss", action="append", default=[], metavar="NAME=WEIGHT", help="weight of one loss term")
    group.add_argument(
        "--augmentation",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one number of AugmentationConfig, or none=1 for no augmentation",
    )
    group.add_argument(
        "--square-padding",
        action="store_true",
        help="pad images to squares instead of training on several aspect ratios",
    )
    group.add_argument("--k-given", type=float, default=0.5, help="share of images with known K (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of batches and weights (default: %(default)s)")
    group.add_argument(
        "--loader-workers", type=int, default=1, help="processes that make batches (default: %(default)s)"
    )
    group.add_argument(
        "--threads",
        type=int,
        default=0,
        help="of the training process; 0: OMP_NUM_THREADS, else the cores not used by loaders and renderers",
    )
    group.add_argument("--validate-steps", type=int, default=1000, help="interval (default: %(default)s)")
    group.add_argument("--checkpoint-steps", type=int, default=500, help="interval (default: %(default)s)")
    group.add_argument("--log-steps", type=int, default=50, help="interval (default: %(default)s)")


def _add_renders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rendered people")
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="render cache: folder of rendered images; created if missing"
    )
    group.add_argument("--cache-images", type=int, default=50_000, help="images kept at most (default: %(default)s)")
    group.add_argument("--held-out-images", type=int, default=200, help="for validation (default: %(default)s)")
    group.add_argument(
        "--render-workers",
        type=int,
        default=0,
        metavar="N",
        help="background processes that render (default: %(default)s)",
    )
    group.add_argument("--render-only", action="store_true", help="only fill the render cache, up to --images")
    group.add_argument("--images", type=int, default=10_000, help="number for --render-only (default: %(default)s)")
    group.add_argument(
        "--start-images", type=int, default=500, help="images needed before training begins (default: %(default)s)"
    )
    group.add_argument(
        "--most-views",
        type=float,
        default=0.0,
        help="mean uses of an image before training waits for renderers; 0: no limit",
    )
    group.add_argument("--render-size", default="320x240", metavar="WxH", help="px (default: %(default)s)")
    group.add_argument(
        "--people", type=int, nargs=2, default=(0, 8), metavar=("MIN", "MAX"), help="people per image (default: 0 8)"
    )
    for name, what in (
        ("motions", "BVH files"),
        ("backgrounds", "photographs without people"),
        ("textures", "surfaces and fabrics"),
        ("garments", "MakeHuman clothes"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of {what} (default: none)")
    group.add_argument(
        "--sam2", type=Path, metavar="DIR",
        help="folder of SAM2's video model in the format of transformers: its memory of each rendered person is stored "
        "in the render cache, and tracking features are trained on it (default: on color layouts)",
    )  # fmt: skip


def _add_datasets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("datasets")
    for name, labels, what in (
        ("coco", "JSON", "COCO person keypoints"),
        ("bedlam", "NPZ", "BEDLAM2 labels"),
        ("pseudo-truth", "NPZ", "fitted bodies, written by multihmr2 label (format: training/readers/pseudo.py)"),
    ):
        group.add_argument(
            f"--{name}", action="append", nargs=2, type=Path, default=[], metavar=("IMAGES", labels), help=what
        )
    group.add_argument(
        "--empty-images", action="append", type=Path, default=[], metavar="DIR", help="photographs without people"
    )
    group.add_argument(
        "--hold-out", type=float, default=0.0, metavar="SHARE",
        help="share of a dataset's images kept out of training, chosen by a hash of their names "
        "(scripts/real_pictures.py evaluates on them)",
    )  # fmt: skip
    group.add_argument(
        "--render-share",
        type=float,
        default=0.5,
        help="share of renders among the images, with datasets (default: %(default)s)",
    )


def _add_lifting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("steps on keypoints alone, without images (networks with a pretrained encoder)")
    group.add_argument("--keypoint-steps", type=int, default=0, help="steps at the beginning (default: %(default)s)")
    group.add_argument("--keypoint-every", type=int, default=0, metavar="N", help="afterwards every N-th step; 0: none")
    group.add_argument("--keypoint-people", type=int, default=256, help="people per step (default: %(default)s)")
    group.add_argument("--keypoint-poses", type=int, default=20_000, help="poses to draw from (default: %(default)s)")


def _add_features(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features of a frozen encoder (--encoder-rate 0)")
    group.add_argument(
        "--features", type=Path, action="append", default=[], metavar="DIR",
        help="train on the batches with features in this folder instead of on images; may be repeated",
    )  # fmt: skip
    group.add_argument("--features-only", action="store_true", help="only fill the folder with --batches batches")
    group.add_argument("--batches", type=int, default=500, help="number for --features-only (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from multihmr2_ros.training.lifting import LiftingConfig
    from multihmr2_ros.training.session import Session, fill_render_cache, train, write_features
    from multihmr2_ros.weights import resolve_checkpoint

    render_cache = _render_cache(args)
    if args.render_only:
        if render_cache is None:
            raise UserError("--render-only needs --cache, the folder to fill")
        print(fill_render_cache(render_cache, args.images, args.render_workers))
        return 0
    if args.out is None and not args.features_only:
        raise UserError("--out is missing: the folder for the run's state, weights, log and curves")
    start_from = None if args.start_from is None else resolve_checkpoint(args.start_from)
    reference = None if args.consistency_with is None else resolve_checkpoint(args.consistency_with)
    network = _make_network_config(args, start_from)
    if args.features and args.encoder_rate:
        raise UserError("--features need a frozen encoder; add --encoder-rate 0")
    lifting = None
    if args.keypoint_steps or args.keypoint_every:
        lifting = LiftingConfig(args.keypoint_steps, args.keypoint_every, args.keypoint_people, args.keypoint_poses)
    session = Session(
        out=args.out,
        network=network,
        training=_make_training_config(args, network, consistency=reference is not None),
        render_cache=render_cache,
        render_workers=args.render_workers,
        datasets=_open_datasets(args),
        render_share=args.render_share,
        start_from=start_from,
        encoder_weights=_resolve_encoder_weights(args, network),
        features=tuple(args.features),
        lifting=lifting,
        consistency_with=reference,
        resume=args.resume,
        device=args.device,
        time_limit_s=None if args.time_limit is None else 60.0 * args.time_limit,
    )
    if args.features_only:
        if not args.features or args.batches < 1:
            raise UserError("--features-only needs --features, the folder to fill, and at least 1 of --batches")
        print(write_features(session, args.batches))
        return 0
    print(train(session))
    return 0


def _resolve_encoder_weights(args: argparse.Namespace, network: NetworkConfig) -> Path | None:
    from multihmr2_ros.weights import resolve_checkpoint

    if network.encoder == "vit":
        if args.encoder_weights is not None:
            raise UserError("--encoder-weights need a network with a pretrained encoder: --network nano")
        return None
    if args.encoder_weights is not None or args.start_from is not None:
        return args.encoder_weights
    return resolve_checkpoint("nano")


def _make_network_config(args: argparse.Namespace, start_from: Path | None) -> NetworkConfig:
    from multihmr2_ros.network import checkpoint
    from multihmr2_ros.network.config import NetworkConfig
    from multihmr2_ros.training.config import NETWORKS

    if start_from is not None:
        return checkpoint.load_network(start_from).config
    if args.network in NETWORKS:
        return NETWORKS[args.network]
    try:
        sizes = json.loads(Path(args.network).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        sizes = error
    if not isinstance(sizes, dict):
        raise UserError(
            f"--network must be {', '.join(NETWORKS)} or a JSON file of sizes; {args.network!r} is neither "
            f"({sizes!r:.80})"
        )
    return NetworkConfig.from_dict(sizes)


def _make_training_config(args: argparse.Namespace, network: NetworkConfig, *, consistency: bool) -> TrainingConfig:
    from multihmr2_ros.training.augmentation import NO_AUGMENTATION, AugmentationConfig
    from multihmr2_ros.training.config import TrainingConfig
    from multihmr2_ros.training.data import BatchConfig
    from multihmr2_ros.training.losses import LossConfig
    from multihmr2_ros.training.matching import MatchingConfig
    from multihmr2_ros.training.optimizer import OptimizerConfig

    weights = _parse_numbers(args.loss, LossConfig(), "--loss")
    if consistency and not weights.keys() & {"consistency_pose", "consistency_joints"}:
        weights |= {"consistency_pose": 4.0, "consistency_joints": 8.0}
    losses = LossConfig(**weights, matching=MatchingConfig(args.matching))
    augmentation = AugmentationConfig()
    if args.augmentation == ["none=1"]:
        augmentation = NO_AUGMENTATION
    else:
        augmentation = AugmentationConfig(**_parse_numbers(args.augmentation, augmentation, "--augmentation"))
    return TrainingConfig(
        steps=args.steps,
        ema_decay=args.ema_decay,
        precision=args.precision,
        seed=args.seed,
        start_images=args.start_images,
        most_views=args.most_views,
        log_steps=args.log_steps,
        validate_steps=args.validate_steps,
        checkpoint_steps=args.checkpoint_steps,
        loader_workers=args.loader_workers,
        threads=args.threads,
        batch=BatchConfig(
            batch_size=args.batch_size,
            image_size=_choose_input_size(args, network),
            patch_size=network.patch_size,
            square_padding=args.square_padding,
            k_given=args.k_given,
            track_feature_width=network.track_feature_width if losses.track_feature else 0,
            sam2_features=args.sam2 is not None,
            augmentation=augmentation,
        ),
        optimisation=OptimizerConfig(
            learning_rate=args.learning_rate,
            encoder_factor=args.encoder_rate,
            weight_decay=args.weight_decay,
            warmup_steps=args.warmup_steps,
            decay_fraction=args.decay_fraction,
        ),
        losses=losses,
    )


def _choose_input_size(args: argparse.Namespace, network: NetworkConfig) -> int:
    """Return the longest side of training inputs, px: the network's, or a smaller one. Raises UserError otherwise."""
    if args.input_size is None:
        return network.image_size
    if not 2 * network.patch_size <= args.input_size <= network.image_size:
        raise UserError(
            f"--input-size must be from {2 * network.patch_size} to the network's {network.image_size} px, "
            f"got {args.input_size}"
        )
    return int(args.input_size)


def _parse_numbers(texts: list[str], defaults: Any, option: str) -> dict[str, Any]:
    """Parse NAME=NUMBER texts as values of a configuration's numeric fields. Raises UserError naming the option."""
    names = [name for name, value in vars(defaults).items() if isinstance(value, float | int)]
    values: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            values[name] = type(getattr(defaults, name))(float(number)) if name in names else None
        except (ValueError, OverflowError):
            values[name] = None
        if values[name] is None:
            raise UserError(f"{option} must be NAME=NUMBER with a name of {', '.join(names)}; got {text!r}")
    return values


def _render_cache(args: argparse.Namespace) -> RenderCacheConfig | None:
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.training.rendering import RenderCacheConfig

    if args.cache is None:
        if args.render_workers:
            raise UserError("--render-workers needs --cache, the folder to render into")
        if args.sam2 is not None:
            raise UserError("--sam2 needs --cache: SAM2's features are computed from masks, which only renders have")
        return None
    width, height = options.parse_size(args.render_size)
    folders = {name: getattr(args, name) for name in ("motions", "backgrounds", "textures", "garments")}
    for name, folder in {**folders, "sam2": args.sam2}.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} must be a folder, but {folder} is not one; check the path")
    scene = SceneOptions(width=width, height=height, people=tuple(args.people), **folders)
    return RenderCacheConfig(args.cache, scene, args.cache_images, args.held_out_images, args.sam2)


def _open_datasets(args: argparse.Namespace) -> tuple[SampleSource, ...]:
    from multihmr2_ros.training.readers import (
        BedlamReader,
        CocoReader,
        EmptyImageReader,
        PseudoTruthReader,
        TrainingSplit,
    )

    if not 0 <= args.hold_out < 1:
        raise UserError(f"--hold-out must be a share from 0 to below 1, got {args.hold_out}")
    kinds = ((CocoReader, args.coco), (BedlamReader, args.bedlam), (PseudoTruthReader, args.pseudo_truth))
    readers = [reader(images, labels) for reader, given in kinds for images, labels in given]
    kept = [TrainingSplit(reader, args.hold_out) for reader in readers]
    return (*kept, *(EmptyImageReader(folder) for folder in args.empty_images))
