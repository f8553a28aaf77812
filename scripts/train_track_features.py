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

"""Train a network's tracking features to tell people apart. All other weights stay the same.

    python scripts/train_track_features.py WEIGHTS OUT --pseudo-truth IMAGES bodies.npz --hold-out 0.1

Every image is augmented twice (crop, mirroring, colors, cutouts). The features of a person in the two views become
similar, those of different people different: supervised contrastive loss (Khosla et al. 2020, equation 2).

For networks with MoveNet's encoder. The features are computed from the colors of the body only
(`multihmr2_ros/network/body_colors.py`): with the decoded queries as a second input, they told people in videos apart
less well.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.cli.options import check_writable
from multihmr2_ros.errors import UserError
from multihmr2_ros.metrics.boxes import box_iou
from multihmr2_ros.metrics.matching import assign
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.fused_movenet import fuse_encoder
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.progress import make_progress_bar
from multihmr2_ros.training.augmentation import AugmentationConfig, augment, compute_input_sizes
from multihmr2_ros.training.readers import CocoReader, HashSplit, PseudoTruthReader
from multihmr2_ros.training.samples import Sample
from multihmr2_ros.weights import resolve_checkpoint

ASPECTS = (4 / 3, 3 / 4, 1.0)
VIEWS = 2
MIN_IOU, MIN_CENTER_LOGIT = 0.3, -2.5
TEMPERATURE = 0.1
NOISE = 0.3  # added to the colors, relative to their standard deviation
IMAGES_PER_STEP = 48
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
MAX_PEOPLE = 1000  # per image
AUGMENTATION = AugmentationConfig(least_zoom=0.6, off_center=0.5, cutout=0.3)


@dataclass(frozen=True)
class Views:
    """N people, each seen in one view of an image.

    colors  (N, C) of `BodyColors`, inputs of the head
    person  (N,) int64, different for different people
    image   (N,) int64, different for different images
    """

    colors: Tensor
    person: Tensor
    image: Tensor

    def select(self, rows: Tensor) -> Views:
        return Views(self.colors[rows], self.person[rows], self.image[rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="file of the network, or the name of a bundled one")
    parser.add_argument("out", type=Path)
    pair = {"nargs": 2, "type": Path, "action": "append", "default": []}
    parser.add_argument("--coco", metavar=("IMAGES", "JSON"), help="images with boxes in COCO's format", **pair)
    parser.add_argument("--pseudo-truth", metavar=("IMAGES", "NPZ"), help="output of multihmr2 label", **pair)
    parser.add_argument(
        "--hold-out", type=float, default=0.1, help="share of the images, by hash of the name, for the figures only"
    )
    parser.add_argument("--images", type=int, default=2600, help="number of images to use (default: 2600)")
    parser.add_argument("--steps", type=int, default=1200, help="steps of 48 images (default: 1200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        train(args)
    except UserError as error:
        print(f"train_track_features: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace) -> None:
    if not 0 < args.hold_out < 1 or min(args.images, args.steps) < 1:
        raise UserError("--hold-out must be between 0 and 1, --images and --steps at least 1")
    check_writable(args.out)
    torch.manual_seed(args.seed)
    network = use_body_colors(checkpoint.load_network(resolve_checkpoint(args.weights)))
    readers = [reader(*paths) for reader, given in ((CocoReader, args.coco), (PseudoTruthReader, args.pseudo_truth))
               for paths in given]  # fmt: skip
    if not readers:
        raise UserError("no images of people; give --coco or --pseudo-truth")
    kept = [HashSplit(reader, args.hold_out) for reader in readers]
    held_out = [HashSplit(reader, 0.0, args.hold_out) for reader in readers]
    views = collect_views(network, kept, args.images, args.seed)
    others = collect_views(network, held_out, max(1, int(args.hold_out * args.images)), args.seed)
    head = network.person.track_feature
    fit(head, views, args.steps, args.seed)
    share, within = measure_rank_1(head, others)
    print(
        f"trained on {len(views.person.unique()):,} people; of {len(others.person.unique()):,} held-out people, the "
        f"nearest view is the same person's for {100 * share:.1f} %, and for {100 * within:.1f} % within one image"
    )
    checkpoint.save_network(network, args.out, dtype=torch.float16)


def use_body_colors(network: MultiHMR2) -> MultiHMR2:
    """Return the network with a new head, which computes tracking features from colors."""
    if network.proposals is None:
        raise UserError("expected a network with MoveNet's encoder, got another one; give a network like nano")
    changed = MultiHMR2(dataclasses.replace(network.config, body_colors=True)).eval()
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("person.track_feature")}
    changed.load_state_dict(kept, strict=False)
    return changed


@torch.no_grad()
def collect_views(network: MultiHMR2, sources: list[HashSplit], images: int, seed: int) -> Views:
    """Augment images twice and return the annotated people that the network's queries found."""
    network = copy.deepcopy(network)  # the fused encoder cannot be saved
    fuse_encoder(network.backbone.pretrained)
    rows = [(source, row) for source in sources for row in range(len(source))]
    if not rows:
        raise UserError("no images; check --coco, --pseudo-truth and --hold-out")
    order = np.random.default_rng(seed).permutation(len(rows))[:images]
    found = []
    for number, row in enumerate(make_progress_bar(order, name="images", unit="image")):
        source, index = rows[row]
        sample = source.sample(index)
        generator = np.random.default_rng([seed, number])
        aspect = ASPECTS[generator.integers(len(ASPECTS))]
        size = compute_input_sizes(network.config.image_size, network.config.patch_size, [aspect])[0]
        for _ in range(VIEWS):
            view, _ = augment(sample, generator, AUGMENTATION, size, aspect)
            colors, ids = _sample_colors(network, view)
            found.append(Views(colors, number * MAX_PEOPLE + ids, torch.full_like(ids, number)))
    return Views(*(torch.cat([getattr(views, field.name) for views in found]) for field in dataclasses.fields(Views)))


def _sample_colors(network: MultiHMR2, view: Sample) -> tuple[Tensor, Tensor]:
    """Return the colors (n, C) of the people found in an augmented image, and their ids (n,)."""
    image = torch.from_numpy(view.image).permute(2, 0, 1)[None]
    seen = network.extract_features(image)
    assert network.body_colors is not None
    colors = network.body_colors(image, seen.keypoints)[0]
    people = np.flatnonzero(~view.ignore)
    boxes = torch.cat([seen.keypoints[0].amin(1), seen.keypoints[0].amax(1)], dim=1).numpy()
    overlap = box_iou(view.box[people], boxes) * (seen.center_logit[0].numpy() > MIN_CENTER_LOGIT)
    pairs = assign(1 - overlap, overlap >= MIN_IOU)
    return colors[pairs[:, 1]], torch.from_numpy(view.person_id[people][pairs[:, 0]])


def fit(head: nn.Module, views: Views, steps: int, seed: int) -> None:
    """Train the head on people that both views of an image show."""
    generator = torch.Generator().manual_seed(seed)
    _, inverse, count = views.person.unique(return_inverse=True, return_counts=True)
    views = views.select(count[inverse] == VIEWS)
    if not len(views.person):
        raise UserError("no annotated person was found in both views of an image; give more images")
    spread, images = views.colors.std(0), views.image.unique()
    rows = {int(image): (views.image == image).nonzero()[:, 0] for image in images}
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    for _ in make_progress_bar(range(steps), name="training", unit="step"):
        drawn = images[torch.randperm(len(images), generator=generator)[:IMAGES_PER_STEP]]
        batch = views.select(torch.cat([rows[int(image)] for image in drawn]))
        noise = NOISE * spread * torch.randn(batch.colors.shape, generator=generator)
        loss = contrastive_loss(head(batch.colors + noise), batch.person)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def contrastive_loss(features: Tensor, person: Tensor) -> Tensor:
    """Return the supervised contrastive loss of features (N, F) of people (N,), each at least twice; a scalar."""
    features = functional.normalize(features, dim=1)
    itself = torch.eye(len(features), dtype=torch.bool)
    same_person = (person[:, None] == person) & ~itself
    logit = features @ features.T / TEMPERATURE
    log_share = logit.masked_fill(itself, -torch.inf).log_softmax(dim=1)
    return -(log_share.masked_fill(~same_person, 0.0).sum(1) / same_person.sum(1)).mean()


@torch.inference_mode()
def measure_rank_1(head: nn.Module, views: Views) -> tuple[float, float]:
    """Return how often the nearest other view is one of the same person: among all views, and among those of one image.

    People seen in one view only are rivals of the others, but do not count.
    """
    features = functional.normalize(head(views.colors), dim=1)
    similarity = (features @ features.T).fill_diagonal_(-torch.inf)
    same_person = (views.person[:, None] == views.person).fill_diagonal_(False)
    within = similarity.masked_fill(views.image[:, None] != views.image, -torch.inf)
    counted = same_person.any(1)
    several = counted & ((views.image[:, None] == views.image).sum(1) > VIEWS)
    hits = [same_person.gather(1, values.argmax(1, keepdim=True))[:, 0] for values in (similarity, within)]
    return float(hits[0][counted].float().mean()), float(hits[1][several].float().mean())


if __name__ == "__main__":
    sys.exit(main())
