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

"""The data of `ablations.py`: each step is made once, kept in the folder of the table, and skipped if it is there.

pool/         renders
bodies.npz    bodies fitted to the real people; placed.npz: the same, placed jointly with depth maps
features/     batches of training images as features of nano's frozen encoder, a folder per kind
test/         batches of test images as features

Kinds of training images: renders (S); `fitted`, images with fitted bodies, whose scores are not supervised (R);
`placed`, the same with joint placement; `keypoints`, other images with 2D keypoints and scores only (2D).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ablation_rows import FITTED, KEYPOINTS, PLACED, RENDERS, Row

from multihmr2_ros.cli.main import main as run_verb
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path
from multihmr2_ros.network.config import NANO
from multihmr2_ros.simulation.scene import SceneOptions
from multihmr2_ros.training.augmentation import NO_AUGMENTATION, AugmentationConfig, augment, compute_input_sizes
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import BatchConfig, SampleSource, collate
from multihmr2_ros.training.feature_cache import list_missing_batches, write_batch
from multihmr2_ros.training.feature_writing import write_features
from multihmr2_ros.training.initial_network import make_network
from multihmr2_ros.training.readers import CocoReader, HashSplit, PseudoTruthReader
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.rendering import RenderCacheConfig
from multihmr2_ros.training.samples import Sample
from multihmr2_ros.training.session import Session
from multihmr2_ros.weights import resolve_checkpoint

TEST_SHARE = 0.1  # of the real images; `--hold-out 0.1` in training
FITTED_SHARE = 0.55  # up to this hash share, a real image belongs to `fitted`, and beyond to `keypoints`
MAX_DISAGREEMENT = 0.05  # between the two teachers of a person's keypoints, relative to the box; as real_pictures.py
TESTS = ("renders", "real")


@dataclass(frozen=True)
class Plan:
    """Settings of all runs of one table.

    data         folder with people/, motions/, backgrounds/ and makehuman_assets/
    out          folder of the table
    depth_maps   folder of depth maps of the real images; None: joint placement is not run
    steps        of each run
    batch_size   images per step
    batches      batches of features per kind of images
    renders      training images that are rendered
    test_images  of each kind: renders and real images
    image_size   px, longest side of the inputs
    """

    data: Path
    out: Path
    depth_maps: Path | None = None
    steps: int = 300
    batch_size: int = 16
    batches: int = 60
    renders: int = 1500
    test_images: int = 96
    image_size: int = 320

    def get_features(self, kind: str, square: bool) -> Path:
        """Return the folder of a kind of training images."""
        return self.out / "features" / (f"{kind}-square" if square else kind)

    def get_test(self, kind: str, square: bool) -> Path:
        """Return the folder of a kind of test images."""
        return self.out / "test" / (f"{kind}-square" if square else kind)


@dataclass(frozen=True)
class WithoutScores:
    """The images of a source, with scores that are not supervised."""

    source: SampleSource

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int) -> Sample:
        return dataclasses.replace(self.source.sample(index), score_supervised=False)


def prepare(plan: Plan, row: Row) -> None:
    """Make what a row needs and the folder does not hold yet. Raises UserError if a step fails or is stopped."""
    _render(plan)
    if {FITTED, PLACED} & set(row.sources):
        _label(plan)
    for kind in row.sources:
        _write_training_features(plan, kind, row.square_padding)
    for square in {row.square_padding, row.square_padding != row.both_paddings}:
        renders, people = RenderCache(plan.out / "pool", held_out=True), _read_test_people(plan)
        _write_test_features(plan.get_test("renders", square), plan, square, renders)
        _write_test_features(plan.get_test("real", square), plan, square, people)


def _render(plan: Plan) -> None:
    pool = plan.out / "pool"
    if len(RenderCache(pool)) >= plan.renders and len(RenderCache(pool, held_out=True)) >= plan.test_images:
        return
    counts = ["--images", str(plan.renders), "--held-out-images", str(plan.test_images)]
    _run_verb("train", "--render-only", "--cache", str(pool), *counts, *_list_assets(plan))


def _list_assets(plan: Plan) -> list[str]:
    folders = {
        "motions": "motions", "backgrounds": "backgrounds", "textures": "backgrounds/textures",
        "garments": "makehuman_assets",
    }  # fmt: skip
    return [text for name, folder in folders.items() for text in (f"--{name}", str(plan.data / folder))]


def _label(plan: Plan) -> None:
    options = ["--motions", str(plan.data / "motions")]
    wanted: list[tuple[str, list[str]]] = [("bodies.npz", [])]
    if plan.depth_maps is not None:
        wanted.append(("placed.npz", ["--depth-maps", str(plan.depth_maps)]))
    for name, more in wanted:
        if not (plan.out / name).exists():
            labels = str(plan.data / "people" / "person_keypoints.json")
            _run_verb("label", labels, "--out", str(plan.out / name), *options, *more)


def _run_verb(*arguments: str) -> None:
    if run_verb(list(arguments)):
        raise UserError(f"multihmr2 {arguments[0]} did not finish; its message is above")


def _write_training_features(plan: Plan, kind: str, square: bool) -> None:
    """Write the features of augmented images. Crops stay centered, so that each run can choose when K is given."""
    folder = plan.get_features(kind, square)
    if not list_missing_batches(folder, plan.batches):
        return
    pool = RenderCacheConfig(plan.out / "pool", SceneOptions(), held_out_images=plan.test_images)
    batch = BatchConfig(
        plan.batch_size, plan.image_size, NANO.patch_size, square_padding=square,
        augmentation=AugmentationConfig(off_center=0.0),
    )  # fmt: skip
    session = Session(
        folder, NANO, TrainingConfig(batch=batch),
        render_cache=pool if kind == RENDERS else None,
        datasets=() if kind == RENDERS else (_open_real(plan, kind),),
        encoder_weights=resolve_checkpoint("nano"), features=(folder,),
    )  # fmt: skip
    result = write_features(session, plan.batches)
    if list_missing_batches(folder, plan.batches):
        raise UserError(f"{result.message}; run the command again to continue")


def _open_real(plan: Plan, kind: str) -> SampleSource:
    images = plan.data / "people" / "images"
    if kind == KEYPOINTS:
        return HashSplit(CocoReader(images, images.parent / "person_keypoints.json"), FITTED_SHARE)
    reader = PseudoTruthReader(images, plan.out / ("placed.npz" if kind == PLACED else "bodies.npz"))
    return WithoutScores(HashSplit(reader, TEST_SHARE, FITTED_SHARE))


def _read_test_people(plan: Plan) -> SampleSource:
    """Return the held-out real images, with the keypoints that two teachers agree on."""
    folder, labels = plan.data / "people", plan.out / "test_people.json"
    if not labels.exists():
        try:
            content = json.loads((folder / "person_keypoints.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--data must hold people/person_keypoints.json, a COCO keypoint file ({error})") from None
        for person in content["annotations"]:
            if not (person.get("agreement") or 0.0) < MAX_DISAGREEMENT:
                person["keypoints"] = [0] * 51
        with atomic_path(labels) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    return HashSplit(CocoReader(folder / "images", labels), 0.0, TEST_SHARE)


def _write_test_features(folder: Path, plan: Plan, square: bool, source: SampleSource) -> None:
    """Write the first images in batches of one input size each; `done` marks a complete folder."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    network = make_network(Session(folder, NANO, TrainingConfig(), encoder_weights=resolve_checkpoint("nano"))).eval()
    generator = np.random.default_rng(0)  # required, but has no effect without augmentation
    for number, (size, samples) in enumerate(_group_by_size(plan, square, source)):
        inputs = [augment(sample, generator, NO_AUGMENTATION, size, None)[0] for sample in samples]
        write_batch(folder, number, collate(inputs, [sample.k is not None for sample in inputs]), network)
    (folder / "done").touch()


def _group_by_size(plan: Plan, square: bool, source: SampleSource) -> Iterable[tuple[tuple[int, int], list[Sample]]]:
    """Yield input sizes (width, height) px, and the samples of each, at most plan.batch_size."""
    groups: dict[tuple[int, int], list[Sample]] = {}
    for row in range(min(plan.test_images, len(source))):
        sample = source.sample(row)
        aspect = 1.0 if square else sample.size[0] / sample.size[1]
        groups.setdefault(compute_input_sizes(plan.image_size, NANO.patch_size, [aspect])[0], []).append(sample)
    for size, samples in groups.items():
        for first in range(0, len(samples), plan.batch_size):
            yield size, samples[first : first + plan.batch_size]
