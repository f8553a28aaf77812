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

"""Small data sets of real formats, with one person in each image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from multihmr2_ros.media.export import save_image
from multihmr2_ros.training.data import SampleSource
from multihmr2_ros.training.readers import BedlamReader, CocoReader, EmptyImageReader, PseudoTruthReader
from test.helpers.training_samples import make_sample

SIZE = (128, 96)


def make_data_set(folder: Path, kind: str, names: list[str], *, write: bool = True) -> SampleSource:
    """Write noisy images of SIZE (width, height) px and their labels, and open them.

    kind   coco, bedlam, pseudo or empty
    write  whether to write the images
    """
    generator = np.random.default_rng(0)
    for name in names if write else ():
        save_image(folder / name, generator.integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8))
    if kind == "empty":
        return EmptyImageReader(folder)
    if kind == "coco":
        images = [{"id": row, "file_name": name} for row, name in enumerate(names)]
        person = {"bbox": [40, 20, 30, 60], "keypoints": [50, 30, 2] * 17}
        people = [{"image_id": row} | person for row in range(len(names))]
        labels = folder / "labels.json"
        labels.write_text(json.dumps({"images": images, "annotations": people}))
        return CocoReader(folder, labels)
    n, labels = len(names), folder / "labels.npz"
    body = make_sample(0, 1, SIZE)
    k = np.tile(body.k, (n, 1, 1))
    if kind == "bedlam":
        keypoints = generator.uniform(5, 90, (n, 60, 3))
        np.savez(labels, imgname=np.array(names), cam_int=k, gtkps=keypoints, hand_det_conf=np.zeros((n, 2)))
        return BedlamReader(folder, labels)
    bodies = {name: np.repeat(getattr(body, name), n, 0) for name in ("shape", "rotations", "box", "centre")}
    np.savez(labels, image=np.array(names), k=k, **bodies)
    return PseudoTruthReader(folder, labels)
