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

"""BEDLAM2 (https://bedlam2.is.tue.mpg.de): synthetic people in SMPL-X, one .npz file of labels per scene.

The fields are described on the dataset's data-processing page: a row per person and frame with `imgname`, `cam_int`
(3, 3) px, and `gtkps`, whose first 25 keypoints are OpenPose's BODY_25. The bodies are of another model: only keypoints
and cameras are supervised, not shape, rotations and position. The images also show people of the test set without
labels, so scores are not supervised.

Files of the first BEDLAM are rejected, because the order of its `gtkps` is not documented; fitted to Anny, they can be
converted to the format of `pseudo`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import UnreadableImageError, read_image
from multihmr2_ros.training.readers.common import (
    center_from_keypoints,
    check_folder,
    check_rows,
    group_rows_by_image,
    load_npz,
    make_image_path,
)
from multihmr2_ros.training.samples import Sample, make_blank_people

# COCO's keypoints in OpenPose's BODY_25.
BODY_25 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)


class BedlamReader:
    """The images of one BEDLAM2 label file, below a folder."""

    def __init__(self, images: Path, labels: Path) -> None:
        check_folder(images)
        content = load_npz(labels, ("imgname", "cam_int", "gtkps"), ("hand_det_conf",), "a BEDLAM2 label file")
        if "hand_det_conf" not in content:
            raise UserError(
                f"{labels} must be a BEDLAM2 label file, got one of the first BEDLAM, whose keypoint order is not "
                "documented; give BEDLAM2's labels, or fitted bodies with --pseudo-truth"
            )
        keypoints, k, names = content["gtkps"], content["cam_int"], content["imgname"]
        is_sound = keypoints.ndim == 3 and keypoints.shape[1] >= 25 and keypoints.shape[2] in (2, 3)
        is_sound = is_sound and k.shape == (len(keypoints), 3, 3) and names.shape == keypoints.shape[:1]
        is_sound = is_sound and keypoints.dtype.kind in "fiu" and k.dtype.kind in "fiu" and names.dtype.kind == "U"
        if not (is_sound and np.isfinite(k).all()):
            raise UserError(
                f"{labels} must have numbers gtkps (N, 25 or more, 2 or 3), finite numbers cam_int (N, 3, 3) and text "
                f"imgname (N,), got {keypoints.dtype} {keypoints.shape}, {k.dtype} {k.shape} and {names.dtype} "
                f"{names.shape}; check the file"
            )
        focal = k[:, [0, 1], [0, 1]]
        check_rows("cam_int", focal, focal > 0, "focal lengths above 0", labels)
        self._folder = images
        self._keypoints, self._k = keypoints.astype(np.float32), k.astype(np.float64)
        self._images = group_rows_by_image(names)
        self._refuse_rotated(labels)

    def __len__(self) -> int:
        return len(self._images)

    def get_name(self, index: int) -> str:
        """Return the name of image number `index`."""
        return self._images[index][0]

    def sample(self, index: int) -> Sample:
        """Return image number `index`, ordered by name."""
        name, rows = self._images[index]
        image = read_image(make_image_path(self._folder, name))
        size = np.array([image.shape[1], image.shape[0]], np.float32)
        keypoints = self._keypoints[rows][..., :2]
        arrays = make_blank_people(len(rows))
        arrays["keypoints"] = keypoints[:, list(BODY_25)]
        arrays["keypoint_visible"] = np.isfinite(arrays["keypoints"]).all(axis=-1)
        arrays["location"], known = center_from_keypoints(arrays["keypoints"], arrays["keypoint_visible"])
        whole = np.concatenate([np.nanmin(keypoints, axis=1), np.nanmax(keypoints, axis=1)], axis=1)
        arrays["box"] = np.clip(whole, 0, np.tile(size, 2))
        sides, seen = (np.maximum(box[:, 2:] - box[:, :2], 0) for box in (whole, arrays["box"]))
        arrays["visible_fraction"] = (seen.prod(axis=1) / np.maximum(sides.prod(axis=1), 1e-6)).astype(np.float32)
        arrays["ignore"] = ~known
        sample = Sample(image, self._k[rows[0]], False, name, **arrays)
        return sample.select(arrays["visible_fraction"] > 0)

    def _refuse_rotated(self, labels: Path) -> None:
        """Raise UserError for portrait scenes: their images are rotated by 90°, their labels are for upright images."""
        for name, rows in self._images:
            try:
                height, width = read_image(make_image_path(self._folder, name)).shape[:2]
            except UnreadableImageError:
                continue
            twice_cx, twice_cy = 2 * self._k[rows[0], :2, 2]
            if abs(twice_cx - width) + abs(twice_cy - height) > abs(twice_cx - height) + abs(twice_cy - width):
                raise UserError(
                    f"{labels} needs upright images, but {self._folder / name} is rotated by 90°; rotate the images of "
                    "the scene first"
                )
            return
