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

HELP = "train a network on rendered people and on datasets"


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
    _add_renders(parser)
    _add_datasets(parser)
    _add_features(parser)
    _add_lifting(parser)


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--batch-size", type=int, default=32, help="images per step and process (default: %(default)s)")
    group.add_argument(
        "--input-size", type=int, metavar="PX",
        help="longest side of the training images; a value below the network's input size makes early training faster "
        "(default: the network's input size)",
    )  # fmt: skip
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
        help="write the features of --batches batches to the folder, without training",
    )
    group.add_argument(
        "--batches", type=int, default=500, help="number of batches for --features-only (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from multihmr2_ros.training.lifting import LiftingConfig
    from multihmr2_ros.training.session import Session, fill_render_cache, train, write_features
    from multihmr2_ros.weights import resolve_checkpoint

    render_cache = _render_cache(args)
    if args.render_only:
        if render_cache is None:
            raise UserError("--render-only needs --cache, the folder of the rendered images")
        print(fill_render_cache(render_cache, args.images, args.render_workers))
        return 0
    if args.out is None and not args.features_only:
        raise UserError("expected --out DIR, the folder for the run's state, weights, log and curves")
    start_from = None if args.start_from is None else resolve_checkpoint(args.start_from)
    reference = None if args.consistency_with is None else resolve_checkpoint(args.consistency_with)
    network = _make_network_config(args, start_from)
    if args.features and args.encoder_rate:
        raise UserError("--features needs a frozen encoder; add --encoder-rate 0")
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
            raise UserError("--features-only needs --features DIR, the output folder, and --batches of at least 1")
        print(write_features(session, args.batches))
        return 0
    print(train(session))
    return 0


def _resolve_encoder_weights(args: argparse.Namespace, network: NetworkConfig) -> Path | None:
    from multihmr2_ros.weights import resolve_checkpoint

    if network.encoder == "vit":
        if args.encoder_weights is not None:
            raise UserError("--encoder-weights needs a network with a pretrained encoder; add --network nano")
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
            f"--network must be {', '.join(NETWORKS)} or a JSON file with the network configuration, got "
            f"{args.network!r} ({sizes!r:.80})"
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
            raise UserError("--render-workers needs --cache, the folder of the rendered images")
        if args.sam2 is not None:
            raise UserError("--sam2 needs --cache, because only rendered images have masks for SAM2's features")
        return None
    width, height = options.parse_size(args.render_size)
    folders = {name: getattr(args, name) for name in ("motions", "backgrounds", "textures", "garments")}
    for name, folder in {**folders, "sam2": args.sam2}.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} must be a folder, got {folder}; check the path")
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
        raise UserError(f"--hold-out must be at least 0 and below 1, got {args.hold_out}")
    kinds = ((CocoReader, args.coco), (BedlamReader, args.bedlam), (PseudoTruthReader, args.pseudo_truth))
    readers = [reader(images, labels) for reader, given in kinds for images, labels in given]
    kept = [TrainingSplit(reader, args.hold_out) for reader in readers]
    return (*kept, *(EmptyImageReader(folder) for folder in args.empty_images))
