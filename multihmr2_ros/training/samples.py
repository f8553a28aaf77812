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

"""A training image with the annotations of its people, and its packing into arrays for files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.people import BONE_COUNT
from multihmr2_ros.training.targets import KEYPOINT_COUNT

if TYPE_CHECKING:
    from multihmr2_ros.simulation.labels import Labels

JPEG_QUALITY = 92  # rendered images already contain sensor noise and compression

# Arrays with a row per person: name → shape of a row, and its type in files. Half floats are precise to 0.03 degrees
# for rotations and to 0.0005 for shapes; positions need single floats. The names are part of the files' format.
PERSON_FIELDS: dict[str, tuple[tuple[int, ...], type]] = {
    "person_id": ((), np.int64),
    "ignore": ((), np.bool_),
    "location": ((2,), np.float32),
    "centre": ((3,), np.float32),
    "shape": ((6,), np.float16),
    "rotations": ((BONE_COUNT, 3, 3), np.float16),
    "has_place": ((), np.bool_),
    "has_relative_place": ((), np.bool_),
    "has_body": ((), np.bool_),
    "keypoints": ((KEYPOINT_COUNT, 2), np.float32),
    "keypoint_visible": ((KEYPOINT_COUNT,), np.bool_),
    "box": ((4,), np.float32),
    "visible_fraction": ((), np.float32),
}


@dataclass(frozen=True)
class Sample:
    """An image and its n annotated people. Pixels are those of this image, meters are in its camera's frame.

    image                (H, W, 3) uint8 RGB
    k                    (3, 3) float64 px, or None if the camera is unknown
    score_supervised     false if the image may show people without annotation
    origin               name of the render or file, for messages
    person_id            (n,) int64
    ignore               (n,) bool: neither positive nor negative; only the box is valid
    location             (n, 2) float32 px, the projection of the body's center vertex
    centre               (n, 3) float32 m, the body's center vertex; valid where has_place, and valid up to one factor
                         per image where has_relative_place
    shape                (n, 6) float32 phenotypes; valid where has_body
    rotations            (n, 163, 3, 3) float32, relative to the parent bone, row 0 in the camera frame; valid where
                         has_body
    has_place, has_relative_place, has_body  (n,) bool
    keypoints            (n, 17, 2) float32 px, COCO's order; valid where keypoint_visible
    keypoint_visible     (n, 17) bool
    box                  (n, 4) float32 px, x0 y0 x1 y1 of the visible part
    visible_fraction     (n,) float32, 0 to 1
    track_feature        (n, F) float32, SAM2's, the target of the network's; F = 0 without. Computed once per render
                         and not changed by mirroring, cropping and colors, which is an approximation
    """

    image: NDArray[np.uint8]
    k: NDArray[np.float64] | None
    score_supervised: bool
    origin: str
    person_id: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    location: NDArray[np.float32]
    centre: NDArray[np.float32]
    shape: NDArray[np.float32]
    rotations: NDArray[np.float32]
    has_place: NDArray[np.bool_]
    has_relative_place: NDArray[np.bool_]
    has_body: NDArray[np.bool_]
    keypoints: NDArray[np.float32]
    keypoint_visible: NDArray[np.bool_]
    box: NDArray[np.float32]
    visible_fraction: NDArray[np.float32]
    track_feature: NDArray[np.float32]

    def __len__(self) -> int:
        """Return n, the number of annotated people."""
        return len(self.person_id)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image, px."""
        return self.image.shape[1], self.image.shape[0]

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Sample:
        """Return the same image with only the people selected by a mask (n,) or indices (m,)."""
        names = (*PERSON_FIELDS, "track_feature")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})


def make_blank_people(n: int) -> dict[str, Any]:
    """Return arrays of n people without annotations, which readers fill in."""
    arrays: dict[str, Any] = {
        name: np.zeros((n, *row), np.float32 if kind is np.float16 else kind)
        for name, (row, kind) in PERSON_FIELDS.items()
    }
    arrays["person_id"] = np.arange(n)
    arrays["rotations"][:] = np.eye(3)
    arrays["track_feature"] = np.zeros((n, 0), np.float32)
    return arrays


def sample_from_labels(image: NDArray[np.uint8], labels: Labels, origin: str) -> Sample:
    """Return the sample of a rendered image, which has all annotations.

    People without a visible pixel are left out. People whose center vertex is behind the camera are ignored: neither
    positive nor negative.
    """
    seen = labels.visible_pixels > 0
    arrays = make_blank_people(int(seen.sum()))
    for name, source in (
        ("person_id", labels.person_id),
        ("location", labels.location),
        ("centre", labels.centre),
        ("shape", labels.shape),
        ("rotations", labels.rotations),
        ("box", labels.visible_box),
        ("visible_fraction", labels.visible_fraction),
    ):
        arrays[name] = source[seen].astype(arrays[name].dtype)
    arrays["has_place"][:] = True
    arrays["has_relative_place"][:] = True
    arrays["has_body"][:] = True
    arrays["ignore"] = ~np.isfinite(arrays["location"]).all(axis=1) | (arrays["centre"][:, 2] <= 0)
    arrays["location"][arrays["ignore"]] = 0.0
    return Sample(image, np.asarray(labels.k, np.float64), True, origin, **arrays)


def pack_samples(samples: Sequence[Sample]) -> dict[str, NDArray[Any]]:
    """Pack S samples into the arrays of one file: PERSON_FIELDS, concatenated over samples, and

    images            JPEG bytes, concatenated
    image_start       (S + 1,) start of each sample's image in `images`
    person_start      (S + 1,) start of each sample's people
    k                 (S, 3, 3) px, NaN where unknown
    score_supervised  (S,) bool
    track_feature     float16, only if the samples have one, all of one width
    """
    encoded = [_encode_jpeg(sample.image) for sample in samples]
    arrays: dict[str, NDArray[Any]] = {
        "images": np.concatenate(encoded) if encoded else np.zeros(0, np.uint8),
        "image_start": _compute_starts([len(content) for content in encoded]),
        "person_start": _compute_starts([len(sample) for sample in samples]),
        "k": np.array([np.full((3, 3), np.nan) if s.k is None else s.k for s in samples]).reshape(-1, 3, 3),
        "score_supervised": np.array([sample.score_supervised for sample in samples], np.bool_),
    }
    for name, (row, kind) in PERSON_FIELDS.items():
        rows = [getattr(sample, name) for sample in samples]
        arrays[name] = np.concatenate([np.zeros((0, *row)), *rows]).astype(kind)
    if any(sample.track_feature.shape[1] for sample in samples):
        arrays["track_feature"] = np.concatenate([sample.track_feature for sample in samples]).astype(np.float16)
    return arrays


def unpack_sample(arrays: Any, index: int, origin: str) -> Sample:
    """Return sample `index` of packed arrays, a mapping whose items may be read from a file when they are sliced.

    Raises OSError if the image is damaged.
    """
    first, last = (int(value) for value in arrays["image_start"][index : index + 2])
    begin, end = (int(value) for value in arrays["person_start"][index : index + 2])
    encoded = np.asarray(arrays["images"][first:last], np.uint8)
    bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    if bgr is None:
        raise OSError(f"the image of {origin} is damaged")
    image = np.asarray(bgr, np.uint8)[:, :, ::-1]
    people: dict[str, Any] = {
        name: np.asarray(arrays[name][begin:end]).astype(np.float32 if kind is np.float16 else kind)
        for name, (_, kind) in PERSON_FIELDS.items()
        if name in arrays or name != "has_relative_place"
    }
    people.setdefault("has_relative_place", people["has_place"].copy())  # files of earlier versions
    people["track_feature"] = np.zeros((end - begin, 0), np.float32)
    if "track_feature" in arrays:
        people["track_feature"] = np.asarray(arrays["track_feature"][begin:end]).astype(np.float32)
    k = np.asarray(arrays["k"][index : index + 1])[0]
    supervised = bool(np.asarray(arrays["score_supervised"][index : index + 1])[0])
    return Sample(image, None if np.isnan(k).any() else k, supervised, origin, **people)


def _encode_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].reshape(-1)


def _compute_starts(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
