"""Bodies fitted to real images: pseudo-ground truth in Anny's parameters, in a format of this project.

One .npz file, a row for each of N people:

image      (N,) text: the picture's path below the images' folder; rows of one picture share it
shape      (N, 6) phenotypes in Anny's order, 0 to 1
rotations  (N, 163, 3, 3) root-relative, row 0 in the camera frame (as in `multihmr2 run --save params`)
box        (N, 4) px: x0 y0 x1 y1
k          (N, 3, 3) px: the camera the bodies were fitted with
centre     (N, 3) m, camera frame: the body's centre vertex
complete   () bool, optional: all people in the pictures are annotated, so that scores are supervised
metric     () bool, optional: centres and cameras are measured, not fitted, and are supervised, too

Fitted cameras and distances are no truth: unless `metric`, they only say where in the picture a body is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import read_image
from multihmr2_ros.people import BONE_COUNT
from multihmr2_ros.training.readers.common import load_npz, require_folder, rows_by_image
from multihmr2_ros.training.samples import Sample, blank_people

ROWS = {"image": (), "shape": (6,), "rotations": (BONE_COUNT, 3, 3), "box": (4,), "k": (3, 3), "centre": (3,)}


class PseudoTruthReader:
    """The images of one file of fitted bodies: shape and rotations are supervised, and what the file says besides."""

    def __init__(self, images: Path, labels: Path) -> None:
        require_folder(images)
        content = load_npz(labels, tuple(ROWS), "a file of fitted bodies")
        self._arrays = {name: np.asarray(content[name]) for name in ROWS}
        n = len(self._arrays["image"])
        for name, row in ROWS.items():
            if self._arrays[name].shape != (n, *row):
                raise UserError(
                    f"{labels}: {name} must have the shape {(n, *row)}, but it is {self._arrays[name].shape}; write it "
                    "again"
                )
        self._complete = bool(content["complete"]) if "complete" in content.files else False
        self._metric = bool(content["metric"]) if "metric" in content.files else False
        self._folder = images
        self._images = rows_by_image(self._arrays["image"].astype(str))

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images[index][0]

    def sample(self, index: int) -> Sample:
        """Image number `index`, by name."""
        name, rows = self._images[index]
        fitted = {key: self._arrays[key][rows] for key in ROWS if key != "image"}
        arrays = blank_people(len(rows))
        for key in ("shape", "rotations", "box", "centre"):
            arrays[key] = fitted[key].astype(np.float32)
        k = fitted["k"][0].astype(np.float64)
        arrays["location"] = project(fitted["centre"].astype(np.float64), k).astype(np.float32)
        arrays["has_body"][:] = True
        arrays["has_place"][:] = self._metric
        arrays["visible_fraction"][:] = 1.0
        arrays["ignore"] = ~np.isfinite(arrays["location"]).all(axis=1)
        arrays["location"][arrays["ignore"]] = 0.0
        image = read_image(self._folder / name)
        return Sample(image, k if self._metric else None, self._complete, name, **arrays)
