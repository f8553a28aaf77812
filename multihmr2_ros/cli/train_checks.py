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

"""Checks the options of `multihmr2 train`: numbers that no configuration checks, and options beside each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from multihmr2_ros.cli.train_options import add_arguments
from multihmr2_ros.errors import UserError

SCENES = ("render_size", "people", "motions", "backgrounds", "textures", "garments")
PACING = ("start_images", "most_views", "cache_images")  # of training, by the number of renders
KEYPOINTS = ("keypoint_people", "keypoint_poses")
DATASETS = ("coco", "bedlam", "pseudo_truth")
BATCHES = (
    *DATASETS, "empty_images", "hold_out", "render_share", "augmentation", "input_size", "square_padding", "k_given",
    "batch_size",
)  # fmt: skip
OPTIMIZATION = (
    "precision", "learning_rate", "warmup_steps", "decay_fraction", "weight_decay", "ema_decay", "matching",
    "consistency_with",
)  # fmt: skip
RUN = (
    "out", "resume", "steps", "time_limit", "validate_steps", "checkpoint_steps", "log_steps", "keypoint_steps",
    "keypoint_every",
)  # fmt: skip
NETWORK = ("network", "start_from", "encoder_weights", "encoder_rate", "loss", "seed")


def check_options(args: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Raise UserError for options that cannot be used, or would have no effect, beside the others.

    arguments: the command line that was parsed to args. Options in it with their default value are noticed, too.
    --threads and --loader-workers are always accepted, because they do not change results.
    """
    _check_numbers(args)
    given = _list_given_options(arguments)
    for reason, names in _list_unused(args):
        for name in names:
            if name in given:
                raise UserError(f"{given[name]} has no effect {reason}; omit {given[name]}")
    _check_needed(args)


def _check_numbers(args: argparse.Namespace) -> None:
    """Raise UserError for a number out of its range."""
    if args.images < 1:
        raise UserError(f"--images must be 1 or more, got {args.images}")
    if args.render_workers < 0:
        raise UserError(f"--render-workers must be 0 or more, got {args.render_workers}")
    if args.time_limit is not None and not args.time_limit > 0:  # false for NaN, too
        raise UserError(f"--time-limit must be above 0 minutes, got {args.time_limit:g}")
    if not 0 <= args.render_share <= 1:
        raise UserError(f"--render-share must be from 0 to 1, got {args.render_share:g}")
    if not 0 <= args.hold_out < 1:
        raise UserError(f"--hold-out must be at least 0 and below 1, got {args.hold_out:g}")
    if args.batches < 1:
        raise UserError(f"--batches must be 1 or more, got {args.batches}")


def _check_needed(args: argparse.Namespace) -> None:
    """Raise UserError for an option that needs another one."""
    if args.cache is None:
        if args.render_only:
            raise UserError("--render-only needs --cache, the folder of the rendered images")
        if args.render_workers:
            raise UserError("--render-workers needs --cache, the folder of the rendered images")
        if args.sam2 is not None:
            raise UserError("--sam2 needs --cache, because only rendered images have masks for SAM2's features")
    if args.out is None and not (args.render_only or args.features_only):
        raise UserError("expected --out DIR, the folder for the run's state, weights, log and curves")
    if args.features_only and len(args.features) != 1:
        raise UserError("--features-only needs one --features DIR, the output folder")
    if args.features and args.encoder_rate:
        raise UserError("--features needs a frozen encoder; add --encoder-rate 0")


def _list_unused(args: argparse.Namespace) -> list[tuple[str, tuple[str, ...]]]:
    """Return the options without effect beside the given ones, by name, with the reason."""
    has_labels = any(getattr(args, name) for name in DATASETS)
    has_keypoint_steps = args.keypoint_steps or args.keypoint_every
    training = (*RUN, *OPTIMIZATION, *KEYPOINTS)
    rules = (
        (args.render_only, "with --render-only", (*training, *NETWORK, *BATCHES, "features", "features_only")),
        (args.features_only, "with --features-only", (*training, *PACING, "render_workers", "held_out_images")),
        (
            args.features and not args.features_only,
            "on the stored batches of --features, only when they are written (--features-only)",
            (*BATCHES, *PACING, "render_workers"),
        ),
        (not args.render_only, "without --render-only", ("images",)),
        (not args.features_only, "without --features-only", ("batches",)),
        (args.cache is None, "without --cache", (*SCENES, *PACING, "held_out_images", "render_share")),
        (not args.render_workers, "without --render-workers", ("most_views",)),
        (not has_labels, "without --coco, --bedlam or --pseudo-truth", ("hold_out",)),
        (not has_labels and not args.empty_images, "without a dataset", ("render_share",)),
        (not has_keypoint_steps, "without --keypoint-steps or --keypoint-every", KEYPOINTS),
    )
    return [(reason, names) for is_unused, reason, names in rules if is_unused]


def _list_given_options(arguments: Sequence[str]) -> dict[str, str]:
    """Return name → option of the options in the arguments. Without defaults, argparse sets only these."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given, _ = parser.parse_known_args(arguments)
    return {action.dest: action.option_strings[0] for action in parser._actions if action.dest in given}
