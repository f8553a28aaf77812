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

"""Make the bundled weights file from a training run's averaged weights.

    python scripts/bundle_weights.py RUN/network.safetensors CACHE multihmr2_ros/weights/nano.safetensors

Parts for training only are removed, matrices are converted to float16, and the score is shifted (the bias of its
logit): at the node's default threshold, it then has the requested precision on the held-out images of the render cache
CACHE, or corresponds to the score --threshold (`scripts/real_pictures.py --json` lists recall and precision on real
images for each threshold). The precision is measured without the node's NMS: duplicates count as false detections.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import torch

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.keypoint_fitting import KeypointFitter
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.augmentation import compute_input_sizes
from multihmr2_ros.training.data import Batch, BatchConfig, make_held_out_batches
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.validation import SCORE_THRESHOLD, ValidationCounts, compare_batch
from multihmr2_ros.weights import compute_sha256

THRESHOLDS = [0.05 * step for step in range(1, 19)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("cache", type=Path, help="render cache with held-out images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--threshold", type=float, help="score, 0 to 1, that is mapped to the default threshold")
    parser.add_argument(
        "--score-trust", type=float, default=1.0,
        help="factor of the decoder's correction of the encoder's score (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--fov-shift", type=float, default=0.0,
        help="offset of the logit of (horizontal field of view / 180 degrees); corrects that renders have wider "
        "fields of view than common cameras (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--average-with", type=Path, metavar="FILE",
        help="average WEIGHTS with these weights, from which they were trained (the average is often better than "
        "a fine-tuned network: Wortsman et al. 2022, Robust fine-tuning of zero-shot models)",
    )  # fmt: skip
    parser.add_argument(
        "--keypoint-shift", type=float, default=0.0,
        help="offset of the logits of the encoder's keypoint scores; corrects that training of the encoder lowers all "
        "of them, because its loss only compares cells (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", type=float, default=0.9, help="requested precision on the held-out images (default: 0.9)"
    )
    args = parser.parse_args()
    try:
        bundle(args.weights, args.cache, args.out, args)
    except UserError as error:
        print(f"bundle_weights: {error}", file=sys.stderr)
        return 2
    return 0


def bundle(weights: Path, cache: Path, out: Path, args: argparse.Namespace) -> None:
    """Write the bundled file. Raises UserError if no threshold reaches the requested precision."""
    threshold, precision = args.threshold, args.precision
    if threshold is not None and not 0 < threshold < 1:
        raise UserError(f"--threshold must be between 0 and 1, got {threshold}")
    network = checkpoint.load_network(weights)
    if network.config.is_multi_hmr:
        raise UserError(f"{weights} has the architecture multi-hmr, whose scores cannot be shifted; give other weights")
    if args.average_with is not None:
        average(network, checkpoint.load_network(args.average_with))
    network.config = dataclasses.replace(network.config, keypoint_maps=False)
    network.keypoint_maps = None
    last, field_of_view = network.detection.score[2], network.camera.field_of_view[2]
    with torch.no_grad():
        last.weight.mul_(args.score_trust)
        last.bias.mul_(args.score_trust)
        field_of_view.bias.add_(args.fov_shift)
        if args.keypoint_shift:
            shift_keypoint_scores(network, args.keypoint_shift)
    found = figures(network, held_out(network, cache))
    for score, values in found.items():
        print(f"score {score:.2f}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
    precise = (score for score, values in found.items() if values["precision"] >= precision)
    chosen = threshold or min(precise, default=None)
    if chosen is None:
        raise UserError(f"no threshold reaches a precision of {precision}; train longer, or lower --precision")
    assert isinstance(last.bias, torch.Tensor)
    with torch.no_grad():
        last.bias += logit(SCORE_THRESHOLD) - logit(chosen)
    checkpoint.save_network(network, out, dtype=torch.float16)
    print(
        f"score {chosen:.2f} is now {SCORE_THRESHOLD}; {out}: {out.stat().st_size:,} bytes, "
        f"SHA-256 {compute_sha256(out)}"
    )


@torch.no_grad()
def average(network: MultiHMR2, other: MultiHMR2) -> None:
    """Average the network's weights with the other's."""
    values = dict(other.named_parameters())
    if {name: value.shape for name, value in network.named_parameters()} != {n: v.shape for n, v in values.items()}:
        raise UserError(
            "--average-with must be weights of the same network as WEIGHTS, got another network; give the weights "
            "that WEIGHTS was trained from"
        )
    for name, value in network.named_parameters():
        value.lerp_(values[name], 0.5)


@torch.no_grad()
def shift_keypoint_scores(network: MultiHMR2, shift: float) -> None:
    """Add an offset to the logits of the encoder's keypoint scores. Raises UserError for encoders without keypoints."""
    encoder = network.backbone.pretrained
    if encoder is None:
        raise UserError("--keypoint-shift needs an encoder with keypoints, which these weights do not have; omit it")
    bias = encoder.movenet.keypoint.output.conv.bias
    assert bias is not None
    bias.add_(shift)


def held_out(network: MultiHMR2, cache: Path) -> list[Batch]:
    """Return the held-out images of a render cache as batches. Raises UserError if there are none."""
    source = RenderCache(cache, held_out=True)
    if not len(source):
        raise UserError(
            f"expected held-out images in {cache}, found none; render them with multihmr2 train --render-only"
        )
    height, width = source.sample(0).image.shape[:2]
    config = BatchConfig(image_size=network.config.image_size, patch_size=network.config.patch_size)
    size = compute_input_sizes(config.image_size, config.patch_size, [width / height])[0]
    return make_held_out_batches(source, len(source), config, input_size=size)


@torch.inference_mode()
def figures(network: MultiHMR2, batches: list[Batch]) -> dict[float, dict[str, float]]:
    """Return threshold → validation metrics."""
    network, body = network.eval(), Body("low")
    fitter = KeypointFitter(body)
    tallies = dict.fromkeys(THRESHOLDS, ValidationCounts())
    for batch in batches:
        prediction = fitter(network(batch.image, batch.targets.k, batch.k_given, network.config.queries))
        for threshold in THRESHOLDS:
            tallies[threshold] += compare_batch(prediction, batch.targets, body, batch.image.shape[-1], threshold)
    return {threshold: tally.compute_metrics() for threshold, tally in tallies.items()}


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


if __name__ == "__main__":
    sys.exit(main())
