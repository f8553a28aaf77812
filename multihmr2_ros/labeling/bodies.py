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

"""Fits bodies to annotations and writes the file that `multihmr2 train --pseudo-truth` reads."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.body import AREA_OF_BOX, COCO_SIGMAS, Body
from multihmr2_ros.files import atomic_path
from multihmr2_ros.labeling.annotations import Annotations
from multihmr2_ros.labeling.fitting import Fits, Fitter, compute_fit_error
from multihmr2_ros.labeling.observations import Observations
from multihmr2_ros.labeling.pose_prior import PosePrior
from multihmr2_ros.labeling.posed_keypoints import KeypointModel

ROTATION_ROWS = 1024  # people per batch of computed rotations

OKS_SIGMAS = 2.0 * np.array(COCO_SIGMAS)  # divided by the square root of the area

# Bone → the keypoints (COCO's indices) that determine its rotation.
SEEN_BY = {
    "root": (5, 6, 11, 12), "spine05": (5, 6, 11, 12), "spine04": (5, 6, 11, 12), "spine03": (5, 6, 11, 12),
    "spine02": (5, 6, 11, 12), "spine01": (5, 6, 11, 12),
    "clavicle.L": (5, 7), "upperarm01.L": (5, 7), "lowerarm01.L": (7, 9),
    "clavicle.R": (6, 8), "upperarm01.R": (6, 8), "lowerarm01.R": (8, 10),
    "upperleg01.L": (11, 13), "lowerleg01.L": (13, 15), "upperleg01.R": (12, 14), "lowerleg01.R": (14, 16),
}  # fmt: skip
TRUNK_KEYPOINTS = 3  # of the four shoulders and hips: enough to determine the trunk


@dataclass(frozen=True)
class FitSelection:
    """Limits of the fitted people.

    least_keypoints  people with fewer trusted keypoints are not fitted
    most_error       bodies with a larger `compute_fit_error` (fraction of the box's longer side) are left out
    """

    least_keypoints: int = 8
    most_error: float = 0.04


@dataclass(frozen=True)
class LabelingReport:
    """Numbers of people and errors of their fits.

    people       without the unsure ones
    unsure       neither a person nor background
    fitted       with enough keypoints
    left_out     of the fitted ones, because of their error
    errors, oks  (fitted,): `compute_fit_error` and object keypoint similarity, including people left out
    """

    people: int
    unsure: int
    fitted: int
    left_out: int
    errors: NDArray[np.float32]
    oks: NDArray[np.float32]

    def to_text(self) -> str:
        """Return the report as two or three lines for the terminal."""
        few = self.people - self.fitted
        lines = [
            f"{self.people} people and {self.unsure} uncertain people; {few} people have too few keypoints",
            f"{self.fitted} bodies fitted, {self.left_out} rejected because of large keypoint errors",
        ]
        if self.fitted:
            error, median = 100 * self.errors.mean(), 100 * np.median(self.errors)
            lines.append(
                f"keypoint error mean {error:.1f} %, median {median:.1f} % of the bounding box; OKS mean "
                f"{self.oks.mean():.3f}"
            )
        return "\n".join(lines)


def label_bodies(
    annotations: Annotations,
    prior: PosePrior,
    selection: FitSelection,
    complete: bool,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[dict[str, NDArray[Any]], LabelingReport]:
    """Fit bodies to the annotated people; return the arrays of the file, and a report.

    complete               whether all people in the images are annotated, unsure people included
    progress(done, total)  called with the number of fitted people
    """
    people, unsure = annotations.people, annotations.unsure
    enough = ~unsure & (people.trusted.sum(axis=1) >= selection.least_keypoints)
    rows = np.nonzero(enough)[0]
    body = Body("full")
    model = KeypointModel(body)
    chosen = people.select(rows)
    good = np.zeros(0, np.bool_)
    fits, errors, oks = None, np.zeros(0, np.float32), np.zeros(0, np.float32)
    if len(rows):
        done = [0]

        def step(count: int) -> None:
            done[0] += count
            progress(done[0], len(rows))

        fits = Fitter(model, prior).fit(chosen, step)
        errors, oks = compute_fit_error(chosen, fits), compute_similarity(chosen, fits)
        good = errors <= selection.most_error
    arrays = _make_body_rows(annotations, rows, good, fits, errors, model, body)
    others = np.setdiff1d(np.arange(len(annotations)), rows[good])
    names = np.array(annotations.image_names, np.str_)
    arrays |= {
        "complete": np.array(complete),
        "metric": np.array(False),
        "pictures": names,
        "other_image": names[annotations.image_index[others]],
        "other_box": people.box[others],
        "other_ignore": unsure[others],
        "other_keypoints": people.keypoints[others],
        "other_keypoint_visible": people.trusted[others],
    }
    report = LabelingReport(int((~unsure).sum()), int(unsure.sum()), len(rows), int((~good).sum()), errors, oks)
    return arrays, report


def compute_similarity(people: Observations, fits: Fits) -> NDArray[np.float32]:
    """Return (n,): COCO's object keypoint similarity of the fitted bodies' keypoints to the trusted ones."""
    area = AREA_OF_BOX * (people.box[:, 2] - people.box[:, 0]) * (people.box[:, 3] - people.box[:, 1])
    squares = ((fits.keypoints - people.keypoints) ** 2).sum(axis=-1)
    near = np.exp(-squares / (2.0 * np.maximum(area, 1.0)[:, None] * OKS_SIGMAS**2))
    return np.asarray((near * people.trusted).sum(axis=1) / np.maximum(people.trusted.sum(axis=1), 1), np.float32)


def find_visible_bones(trusted: NDArray[np.bool_], labels: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return (n, 163) bool: whether trusted keypoints (n, 17) determine the bone's rotation."""
    seen = np.zeros((len(trusted), len(labels)), np.bool_)
    for label, keypoints in SEEN_BY.items():
        minimum = min(TRUNK_KEYPOINTS, len(keypoints))
        seen[:, labels.index(label)] = trusted[:, list(keypoints)].sum(axis=1) >= minimum
    return seen


def _make_body_rows(
    annotations: Annotations,
    rows: NDArray[np.int64],
    good: NDArray[np.bool_],
    fits: Fits | None,
    errors: NDArray[np.float32],
    model: KeypointModel,
    body: Body,
) -> dict[str, NDArray[Any]]:
    """Return the arrays with a row per fitted body."""
    people = annotations.people.select(rows[good])
    shape, rotations = np.zeros((0, 6), np.float32), np.zeros((0, len(body.bone_labels), 3, 3), np.float16)
    centre = np.zeros((0, 3), np.float32)
    if fits is not None and good.any():
        import torch

        kept = torch.from_numpy(np.nonzero(good)[0])
        shape = model.expand_shape(fits.phenotypes[kept]).numpy()
        centre = fits.center[good]
        parts = []
        for some in kept.split(ROTATION_ROWS):
            pose = type(fits.pose)(*(part[some] for part in fits.pose))
            parts.append(model.compute_rotations(body, fits.phenotypes[some], pose).numpy().astype(np.float16))
        rotations = np.concatenate(parts)
    return {
        "image": np.array(annotations.image_names, np.str_)[annotations.image_index[rows[good]]],
        "shape": shape,
        "rotations": rotations,
        "box": people.box,
        "k": people.k,
        "centre": centre,
        "keypoints": people.keypoints,
        "keypoint_visible": people.trusted,
        "bone_seen": find_visible_bones(people.trusted, body.bone_labels),
        "error": errors[good],
    }


def save_bodies(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write the arrays as one .npz file, atomically. Equal arrays give equal bytes."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # with a fixed time stamp
            info.compress_type = zipfile.ZIP_DEFLATED
            with file.open(info, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)
