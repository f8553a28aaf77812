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
from multihmr2_ros.cli.train_checks import check_options
from multihmr2_ros.cli.train_options import add_arguments
from multihmr2_ros.errors import UserError, suggest_name

if TYPE_CHECKING:
    from multihmr2_ros.network.config import NetworkConfig
    from multihmr2_ros.training.config import TrainingConfig
    from multihmr2_ros.training.data import SampleSource
    from multihmr2_ros.training.rendering import RenderCacheConfig
    from multihmr2_ros.training.session import Session
    from multihmr2_ros.training.stopping import Outcome

__all__ = ["HELP", "add_arguments", "run"]

DATA = (
    "cache", "coco", "bedlam", "pseudo_truth", "empty_images", "hold_out", "render_share", "features", "keypoint_steps",
    "keypoint_every", "keypoint_people", "keypoint_poses", "consistency_with",
)  # fmt: skip
HELP = "train a network on rendered people and on datasets"


def run(args: argparse.Namespace) -> int:
    from multihmr2_ros.training.feature_writing import write_features
    from multihmr2_ros.training.render_processes import fill_render_cache
    from multihmr2_ros.training.training_run import train

    check_options(args, args.arguments)
    render_cache = None if args.cache is None else _make_render_cache_config(args)
    if args.render_only:
        assert render_cache is not None
        return _report(fill_render_cache(render_cache, args.images, args.render_workers))
    session = _make_session(args, render_cache)
    if args.features_only:
        return _report(write_features(session, args.batches))
    return _report(train(session))


def _report(outcome: Outcome) -> int:
    """Print the outcome; return the exit status."""
    print(outcome.message)
    return outcome.exit_status


def _make_session(args: argparse.Namespace, render_cache: RenderCacheConfig | None) -> Session:
    from multihmr2_ros.training.lifting import LiftingConfig
    from multihmr2_ros.training.session import Session
    from multihmr2_ros.weights import resolve_checkpoint

    start_from = None if args.start_from is None else resolve_checkpoint(args.start_from)
    reference = None if args.consistency_with is None else resolve_checkpoint(args.consistency_with)
    network = _make_network_config(args, start_from)
    if args.features and network.encoder != "movenet":
        raise UserError("--features needs a network with a pretrained encoder; use --network nano")
    lifting = None
    if args.keypoint_steps or args.keypoint_every:
        lifting = LiftingConfig(args.keypoint_steps, args.keypoint_every, args.keypoint_people, args.keypoint_poses)
    datasets = _open_datasets(args)
    return Session(
        out=args.out,
        network=network,
        training=_make_training_config(args, network, consistency=reference is not None),
        render_cache=render_cache,
        render_workers=args.render_workers,
        datasets=datasets,
        data={**_describe_data(args), "dataset_images": [len(dataset) for dataset in datasets]},
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
    from multihmr2_ros.network.config import NetworkConfig, find_unknown_names
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
    if unknown := find_unknown_names(sizes):
        raise UserError(
            f"--network {args.network} has the unknown name {unknown[0]!r:.80}, which is not a field of NetworkConfig; "
            f"correct or remove it{suggest_name(unknown[0], vars(NetworkConfig()))}"
        )
    return NetworkConfig(**sizes)


def _make_training_config(args: argparse.Namespace, network: NetworkConfig, *, consistency: bool) -> TrainingConfig:
    from multihmr2_ros.training.augmentation import NO_AUGMENTATION, AugmentationConfig
    from multihmr2_ros.training.config import TrainingConfig
    from multihmr2_ros.training.data import BatchConfig
    from multihmr2_ros.training.loss_config import LossConfig
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
    if args.sam2 is not None and network.body_colors:
        raise UserError(
            "--sam2 needs tracking features that are computed from queries; give --network a JSON file with "
            "track_feature_width 4096 and without body_colors, or omit --sam2"
        )
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
            track_feature_width=0 if network.body_colors or not losses.track_feature else network.track_feature_width,
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
    """Parse NAME=NUMBER texts as values of a configuration's numeric fields.

    Raises UserError that names the option, also for a fraction where a whole number, or 0 or 1, is expected.
    """
    names = [name for name, value in vars(defaults).items() if isinstance(value, float | int)]
    values: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            values[name] = _convert_number(float(number), type(getattr(defaults, name))) if name in names else None
        except (ValueError, OverflowError):
            values[name] = None
        if values[name] is None:
            raise UserError(f"{option} must be NAME=NUMBER with a name of {', '.join(names)}; got {text!r}")
    return values


def _convert_number(number: float, kind: type[float]) -> float:
    """Convert a number to int or bool if the field has this type. Raises ValueError if its value would change."""
    converted = kind(number)
    if kind is not float and converted != number:
        raise ValueError(f"{number} is not a valid {kind.__name__}")
    return converted


def _make_render_cache_config(args: argparse.Namespace) -> RenderCacheConfig:
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.training.rendering import RenderCacheConfig

    if args.cache.exists() and not args.cache.is_dir():
        raise UserError(f"--cache must be a folder, got the file {args.cache}; choose another")
    width, height = options.parse_size(args.render_size)
    folders = {name: getattr(args, name) for name in ("motions", "backgrounds", "textures", "garments")}
    for name, folder in {**folders, "sam2": args.sam2}.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} must be a folder, got {folder}; check the path")
    scene = SceneOptions(width=width, height=height, people=tuple(args.people), **folders)
    return RenderCacheConfig(args.cache, scene, args.cache_images, args.held_out_images, args.sam2)


def _describe_data(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that choose the training data, by name, as values of JSON, with absolute paths."""
    given = {name: getattr(args, name) for name in DATA}
    described: dict[str, Any] = json.loads(json.dumps(given, default=lambda path: str(path.absolute())))
    return described


def _open_datasets(args: argparse.Namespace) -> tuple[SampleSource, ...]:
    from multihmr2_ros.training.readers import (
        BedlamReader,
        CocoReader,
        EmptyImageReader,
        HashSplit,
        PseudoTruthReader,
    )

    kinds = ((CocoReader, args.coco), (BedlamReader, args.bedlam), (PseudoTruthReader, args.pseudo_truth))
    datasets: list[SampleSource] = []
    for reader, given in kinds:
        for images, labels in given:
            datasets.append(HashSplit(reader(images, labels), args.hold_out))
            if not len(datasets[-1]):
                raise UserError(f"expected images for training in {labels}, found none; check the file and --hold-out")
    return (*datasets, *(EmptyImageReader(folder) for folder in args.empty_images))
