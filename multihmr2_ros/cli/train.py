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

"""`multihmr2 train`: training from renders and from datasets; resumable, and under torchrun on several GPUs."""

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
    from multihmr2_ros.training.rendering import PoolConfig

HELP = "train a network on rendered people, and on datasets you own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run: state, weights, log, curves")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out; repeat its other options")
    parser.add_argument("--steps", type=int, default=100_000, help="length of the run (default: %(default)s)")
    parser.add_argument("--time-limit", type=float, metavar="MINUTES", help="save and end after this time")
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--network", default="nano", metavar="NAME|JSON", help="nano, scratch, large, or a file of sizes"
    )
    network.add_argument("--from", dest="start_from", metavar="NAME|FILE", help="fine-tune these weights")
    parser.add_argument(
        "--encoder-weights", type=Path, metavar="FILE",
        help="pretrained weights of the encoder: a whole network's, or what scripts/convert_movenet.py makes (default: "
        "with --from its own, else the bundled model's)",
    )  # fmt: skip
    parser.add_argument(
        "--consistency-with", metavar="NAME|FILE",
        help="hold rotations and joints to those of this model (set the weights with --loss consistency_pose=…)",
    )  # fmt: skip
    options.add_device(parser)
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the network (default: %(default)s)"
    )
    _add_optimisation(parser)
    _add_renders(parser)
    _add_datasets(parser)
    _add_features(parser)
    _add_lifting(parser)


def _add_optimisation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--batch-size", type=int, default=32, help="images a step and process (default: %(default)s)")
    group.add_argument(
        "--input-size", type=int, metavar="PX",
        help="longest side of training inputs; less than the network's makes early training quicker "
        "(default: the network's)",
    )  # fmt: skip
    group.add_argument("--learning-rate", type=float, default=5e-4, help="highest (default: %(default)s)")
    group.add_argument(
        "--encoder-rate", type=float, default=1.0, help="the encoder's part of it (default: %(default)s)"
    )
    group.add_argument("--warmup-steps", type=int, default=500, help="(default: %(default)s)")
    group.add_argument(
        "--decay-fraction", type=float, default=0.2, help="last part, falling to 0 (default: %(default)s)"
    )
    group.add_argument("--weight-decay", type=float, default=0.05, help="(default: %(default)s)")
    group.add_argument("--ema-decay", type=float, default=0.999, help="of the averaged weights (default: %(default)s)")
    group.add_argument(
        "--matching", choices=("location", "location_3d", "joints"), default="location",
        help="what queries are matched to people by (default: %(default)s, in the picture)",
    )  # fmt: skip
    group.add_argument("--loss", action="append", default=[], metavar="NAME=WEIGHT", help="one loss term's weight")
    group.add_argument(
        "--augmentation",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one number of AugmentationConfig, or none=1 for no augmentation",
    )
    group.add_argument("--k-given", type=float, default=0.5, help="share of images with known K (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    group.add_argument("--loader-workers", type=int, default=1, help="processes that make batches")
    group.add_argument(
        "--threads",
        type=int,
        default=0,
        help="of the training process; 0: OMP_NUM_THREADS, else the cores that loaders and renderers leave",
    )
    group.add_argument("--validate-steps", type=int, default=1000, help="(default: %(default)s)")
    group.add_argument("--checkpoint-steps", type=int, default=500, help="(default: %(default)s)")
    group.add_argument("--log-steps", type=int, default=50, help="(default: %(default)s)")


def _add_renders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rendered people")
    group.add_argument("--cache", type=Path, metavar="DIR", help="folder of rendered images; made if missing")
    group.add_argument("--cache-images", type=int, default=50_000, help="most images kept (default: %(default)s)")
    group.add_argument("--held-out-images", type=int, default=200, help="for validation (default: %(default)s)")
    group.add_argument("--render-workers", type=int, default=0, metavar="N", help="processes that go on rendering")
    group.add_argument("--render-only", action="store_true", help="only fill the cache, up to --images")
    group.add_argument("--images", type=int, default=10_000, help="of --render-only (default: %(default)s)")
    group.add_argument("--start-images", type=int, default=500, help="to begin training with (default: %(default)s)")
    group.add_argument("--most-views", type=float, default=0.0, help="of an image on average; 0: no bound")
    group.add_argument("--render-size", default="320x240", metavar="WxH", help="px (default: %(default)s)")
    group.add_argument("--people", type=int, nargs=2, default=(0, 8), metavar=("MIN", "MAX"), help="in an image")
    for name, what in (
        ("motions", "BVH files"),
        ("backgrounds", "photographs without people"),
        ("textures", "surfaces and fabrics"),
        ("garments", "MakeHuman clothes"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of {what} (default: none)")
    group.add_argument(
        "--sam2", type=Path, metavar="DIR",
        help="folder of SAM2's video model in the format of transformers: its memory of each rendered person is kept "
        "in the cache, and the tracking features learn it (default: they learn colour layouts)",
    )  # fmt: skip


def _add_datasets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("datasets")
    for name, labels, what in (
        ("coco", "JSON", "COCO person keypoints"),
        ("bedlam", "NPZ", "BEDLAM2 labels"),
        ("pseudo-truth", "NPZ", "fitted bodies; training/readers/pseudo.py says how they are written"),
    ):
        group.add_argument(
            f"--{name}", action="append", nargs=2, type=Path, default=[], metavar=("IMAGES", labels), help=what
        )
    group.add_argument(
        "--empty-images", action="append", type=Path, default=[], metavar="DIR", help="photographs without people"
    )
    group.add_argument(
        "--hold-out", type=float, default=0.0, metavar="SHARE",
        help="share of a dataset's images that are never trained on, chosen by a hash of their names "
        "(scripts/real_pictures.py measures on them)",
    )  # fmt: skip
    group.add_argument("--render-share", type=float, default=0.5, help="of renders beside datasets")


def _add_lifting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("poses from keypoints alone, without images (networks with a pretrained encoder)")
    group.add_argument("--keypoint-steps", type=int, default=0, help="at the beginning (default: %(default)s)")
    group.add_argument("--keypoint-every", type=int, default=0, metavar="N", help="afterwards each N-th step; 0: none")
    group.add_argument("--keypoint-people", type=int, default=256, help="in such a step (default: %(default)s)")
    group.add_argument("--keypoint-poses", type=int, default=20_000, help="posed beforehand (default: %(default)s)")


def _add_features(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features of a frozen encoder (--encoder-rate 0)")
    group.add_argument(
        "--features", type=Path, action="append", default=[], metavar="DIR",
        help="train on the batches with features in this folder instead of on images; may be given several times",
    )  # fmt: skip
    group.add_argument("--features-only", action="store_true", help="only fill the folder with --batches of them")
    group.add_argument("--batches", type=int, default=500, help="of --features-only (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from multihmr2_ros.training.lifting import LiftingConfig
    from multihmr2_ros.training.session import Session, features_only, render_only, train
    from multihmr2_ros.weights import resolve_checkpoint

    pool = _pool(args)
    if args.render_only:
        if pool is None:
            raise UserError("--render-only needs --cache, the folder to fill")
        print(render_only(pool, args.images, args.render_workers))
        return 0
    if args.out is None and not args.features_only:
        raise UserError("--out is missing: the folder for the run's state, weights, log and curves")
    start_from = None if args.start_from is None else resolve_checkpoint(args.start_from)
    reference = None if args.consistency_with is None else resolve_checkpoint(args.consistency_with)
    network = _network(args, start_from)
    if args.features and args.encoder_rate:
        raise UserError("--features are those of a frozen encoder; add --encoder-rate 0")
    lifting = None
    if args.keypoint_steps or args.keypoint_every:
        lifting = LiftingConfig(args.keypoint_steps, args.keypoint_every, args.keypoint_people, args.keypoint_poses)
    session = Session(
        out=args.out,
        network=network,
        training=_training(args, network, consistency=reference is not None),
        pool=pool,
        render_workers=args.render_workers,
        datasets=_datasets(args),
        render_share=args.render_share,
        start_from=start_from,
        encoder_weights=_encoder_weights(args, network),
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
        print(features_only(session, args.batches))
        return 0
    print(train(session))
    return 0


def _encoder_weights(args: argparse.Namespace, network: NetworkConfig) -> Path | None:
    from multihmr2_ros.weights import resolve_checkpoint

    if network.encoder == "vit":
        if args.encoder_weights is not None:
            raise UserError("--encoder-weights are those of a network with a pretrained encoder: --network nano")
        return None
    if args.encoder_weights is not None or args.start_from is not None:
        return args.encoder_weights
    return resolve_checkpoint("nano")


def _network(args: argparse.Namespace, start_from: Path | None) -> NetworkConfig:
    from multihmr2_ros.network import checkpoint
    from multihmr2_ros.network.config import NetworkConfig
    from multihmr2_ros.training.config import NETWORKS

    if start_from is not None:
        return checkpoint.load(start_from).config
    if args.network in NETWORKS:
        return NETWORKS[args.network]
    try:
        sizes = json.loads(Path(args.network).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        sizes = error
    if not isinstance(sizes, dict):
        raise UserError(
            f"--network takes {', '.join(NETWORKS)} or a JSON file of sizes; {args.network!r} is neither "
            f"({sizes!r:.80})"
        )
    return NetworkConfig.from_dict(sizes)


def _training(args: argparse.Namespace, network: NetworkConfig, *, consistency: bool) -> TrainingConfig:
    from multihmr2_ros.training.augmentation import NO_AUGMENTATION, AugmentationConfig
    from multihmr2_ros.training.config import TrainingConfig
    from multihmr2_ros.training.data import BatchConfig
    from multihmr2_ros.training.losses import LossConfig
    from multihmr2_ros.training.matching import MatchingConfig
    from multihmr2_ros.training.optimisation import OptimisationConfig

    weights = _numbers(args.loss, LossConfig(), "--loss")
    if consistency and not weights.keys() & {"consistency_pose", "consistency_joints"}:
        weights |= {"consistency_pose": 4.0, "consistency_joints": 8.0}
    losses = LossConfig(**weights, matching=MatchingConfig(args.matching))
    augmentation = AugmentationConfig()
    if args.augmentation == ["none=1"]:
        augmentation = NO_AUGMENTATION
    else:
        augmentation = AugmentationConfig(**_numbers(args.augmentation, augmentation, "--augmentation"))
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
            image_size=_input_size(args, network),
            patch_size=network.patch_size,
            k_given=args.k_given,
            track_feature_width=network.track_feature_width if losses.track_feature else 0,
            sam2_features=args.sam2 is not None,
            augmentation=augmentation,
        ),
        optimisation=OptimisationConfig(
            learning_rate=args.learning_rate,
            encoder_factor=args.encoder_rate,
            weight_decay=args.weight_decay,
            warmup_steps=args.warmup_steps,
            decay_fraction=args.decay_fraction,
        ),
        losses=losses,
    )


def _input_size(args: argparse.Namespace, network: NetworkConfig) -> int:
    """px, longest side of training inputs: the network's, or a smaller one."""
    if args.input_size is None:
        return network.image_size
    if not 2 * network.patch_size <= args.input_size <= network.image_size:
        raise UserError(
            f"--input-size must be from {2 * network.patch_size} to the network's {network.image_size} px, "
            f"got {args.input_size}"
        )
    return int(args.input_size)


def _numbers(texts: list[str], defaults: Any, option: str) -> dict[str, Any]:
    """NAME=NUMBER texts as values for a configuration's numeric fields."""
    names = [name for name, value in vars(defaults).items() if isinstance(value, float | int)]
    values: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            values[name] = type(getattr(defaults, name))(float(number)) if name in names else None
        except (ValueError, OverflowError):
            values[name] = None
        if values[name] is None:
            raise UserError(f"{option} takes NAME=NUMBER with a name of {', '.join(names)}; got {text!r}")
    return values


def _pool(args: argparse.Namespace) -> PoolConfig | None:
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.training.rendering import PoolConfig

    if args.cache is None:
        if args.render_workers:
            raise UserError("--render-workers needs --cache, the folder to render into")
        if args.sam2 is not None:
            raise UserError("--sam2 needs --cache: only renders have the masks that SAM2's features are made with")
        return None
    width, height = options.parse_size(args.render_size)
    folders = {name: getattr(args, name) for name in ("motions", "backgrounds", "textures", "garments")}
    for name, folder in {**folders, "sam2": args.sam2}.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} must be a folder, but {folder} is none; check the path")
    scene = SceneOptions(width=width, height=height, people=tuple(args.people), **folders)
    return PoolConfig(args.cache, scene, args.cache_images, args.held_out_images, args.sam2)


def _datasets(args: argparse.Namespace) -> tuple[SampleSource, ...]:
    from multihmr2_ros.training.readers import BedlamReader, CocoReader, EmptyImageReader, Kept, PseudoTruthReader

    if not 0 <= args.hold_out < 1:
        raise UserError(f"--hold-out is a share of 0 to below 1, got {args.hold_out}")
    kinds = ((CocoReader, args.coco), (BedlamReader, args.bedlam), (PseudoTruthReader, args.pseudo_truth))
    readers = [reader(images, labels) for reader, given in kinds for images, labels in given]
    kept = [Kept(reader, args.hold_out) for reader in readers]
    return (*kept, *(EmptyImageReader(folder) for folder in args.empty_images))
