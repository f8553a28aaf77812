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

"""Ground truth of one rendered image, for training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.simulation.rendering.lens import CameraRays
from multihmr2_ros.simulation.rendering.renderer import RenderedImage
from multihmr2_ros.simulation.scene.posing import PosedScene
from multihmr2_ros.simulation.scene.scene import Scene

FINDABLE_HEIGHT_PX = 24
FINDABLE_FRACTION = 0.2


@dataclass(frozen=True, eq=False)
class Labels:
    """Ground truth of the n people of one image, rows as in the posed scene. Meters in the camera's optical frame.

    person_id        (n,) int64
    k                (3, 3) px; image_size (h, w)
    centre, pelvis   (n, 3) the body's center vertex, and the head of the root bone
    location         (n, 2) px of the center
    shape            (n, 6), rotations (n, 163, 3, 3), joints (n, 163, 3), stature (n,) as in PosedScene
    joints_2d        (n, 163, 2) px. All px are positions in the image with lens distortion; NaN behind the camera
    box              (n, 4) px, x0 y0 x1 y1 of the whole person with clothes, clipped to the image; NaN if outside
    visible_box      (n, 4) px of the visible pixels' outer borders; NaN without visible pixels
    visible_fraction (n,) visible fraction of the person's silhouette, alone in an unbounded image (approximation: see
                     Renderer); 0 without visible pixels
    visible_pixels   (n,) int64
    """

    person_id: NDArray[np.int64]
    k: NDArray[np.float64]
    image_size: tuple[int, int]
    centre: NDArray[np.float32]
    location: NDArray[np.float32]
    pelvis: NDArray[np.float32]
    shape: NDArray[np.float32]
    rotations: NDArray[np.float32]
    joints: NDArray[np.float32]
    joints_2d: NDArray[np.float32]
    stature: NDArray[np.float32]
    box: NDArray[np.float32]
    visible_box: NDArray[np.float32]
    visible_fraction: NDArray[np.float32]
    visible_pixels: NDArray[np.int64]

    @property
    def findable(self) -> NDArray[np.bool_]:
        """Return (n,) whether a detector should find the person; others count neither as hits nor as errors."""
        height = np.nan_to_num(self.visible_box[:, 3] - self.visible_box[:, 1])
        return (height >= FINDABLE_HEIGHT_PX) & (self.visible_fraction >= FINDABLE_FRACTION)


def make_labels(scene: Scene, posed: PosedScene, rendered: RenderedImage) -> Labels:
    """Return the ground truth of `rendered`, the image of `posed`."""
    lens = CameraRays(scene.camera)
    count = len(posed.person_id)
    visible_box, visible_pixels = _measure_visible(rendered.instances, count)
    return Labels(
        person_id=posed.person_id,
        k=np.asarray(scene.camera.k, np.float64),
        image_size=(scene.camera.height, scene.camera.width),
        centre=posed.center,
        location=_project_to_image(posed.center, lens),
        pelvis=posed.joints[:, 0],
        shape=posed.shape,
        rotations=posed.rotations,
        joints=posed.joints,
        joints_2d=_project_to_image(posed.joints, lens),
        stature=posed.stature,
        box=rendered.box,
        visible_box=visible_box,
        visible_fraction=np.where(visible_pixels > 0, rendered.visible_fraction, 0.0).astype(np.float32),
        visible_pixels=visible_pixels,
    )


def _project_to_image(points: NDArray[np.float32], lens: CameraRays) -> NDArray[np.float32]:
    ideal = project(points.astype(np.float64), lens.model.k)
    return np.asarray(lens.distort(ideal) if lens.model.distortion_model else ideal, np.float32)


def _measure_visible(instances: NDArray[np.int16], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return px boxes (n, 4) of the people's pixels and the pixel counts (n,)."""
    boxes, pixels = np.full((count, 4), np.nan, np.float32), np.zeros(count, np.int64)
    for row in range(count):
        mask = instances == row
        pixels[row] = mask.sum()
        if pixels[row]:
            x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            boxes[row] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return boxes, pixels


def draw_labels(image: NDArray[np.uint8], truth: Labels) -> NDArray[np.uint8]:
    """Draw boxes, joints and visible fractions on a copy of the image: findable people green, others red."""
    drawn = image.copy()
    for row in range(len(truth.person_id)):
        if np.isnan(truth.visible_box[row]).any():
            continue
        color = (0, 220, 0) if truth.findable[row] else (230, 40, 40)
        x0, y0, x1, y1 = (round(float(value)) for value in truth.visible_box[row])
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), color, 1)
        for point in truth.joints_2d[row][np.isfinite(truth.joints_2d[row]).all(axis=-1)]:
            if (np.abs(point) < 1e4).all():
                cv2.circle(drawn, (int(point[0]), int(point[1])), 1, (255, 220, 0), -1)
        text = f"{truth.person_id[row]} {truth.visible_fraction[row]:.2f} {truth.centre[row, 2]:.1f} m"
        cv2.putText(drawn, text, (x0, max(y0 - 2, 8)), cv2.FONT_HERSHEY_SIMPLEX, 0.3, color, 1)
    return drawn
