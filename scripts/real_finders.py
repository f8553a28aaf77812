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

"""Detectors of people for the images of `real_pictures.py`."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from real_detection import Found

from multihmr2_ros.camera import project
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.metrics.boxes import points_to_boxes
from multihmr2_ros.people import People
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints


def load_estimator(checkpoint: str, input_size: int | None, config: EstimatorConfig) -> Estimator:
    """Load the estimator of a checkpoint.

    input_size: px, longest side of the resized images; None: the network's own. Raises UserError if the checkpoint
    cannot be loaded, or if this size is too large for it.
    """
    return Estimator.load(checkpoint, config=dataclasses.replace(config, input_size=input_size))


class MeshFinder:
    """Multi-HMR 2: the box around the projected mesh, and the mesh's COCO keypoints.

    The low mesh is used because it is fast; its keypoints differ by millimeters from those of the full mesh.
    """

    def __init__(self, checkpoint: str, input_size: int | None, least_score: float) -> None:
        config = EstimatorConfig(score_threshold=least_score, mesh="low", track=False)
        self.estimator = load_estimator(checkpoint, input_size, config)
        self._people: People | None = None

    def find(self, image: NDArray[np.uint8]) -> Found:
        people = self._people = self.estimator.step(image)
        keypoints = np.asarray(project(coco_joints(self.estimator, people), people.k), np.float64)
        return Found(people.score.astype(np.float64), projected_boxes(people), keypoints)

    def draw(self, image: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
        """Draw the people of the last image with a score above the threshold."""
        assert self._people is not None
        return draw_people(image, self._people.select(self._people.score > threshold), self.estimator.faces)


def projected_boxes(people: People) -> NDArray[np.float64]:
    """Return the boxes (n, 4) px of the meshes' vertices, clipped to the image."""
    height, width = people.image_size
    return np.clip(points_to_boxes(project(people.surface, people.k)), 0, [width, height, width, height])


def coco_joints(estimator: Estimator, people: People) -> NDArray[np.float64]:
    """Return COCO's keypoints (n, 17, 3) m in the camera frame, of people with the estimator's low meshes."""
    with torch.inference_mode():
        return regress_low_mesh_keypoints(estimator.body, torch.from_numpy(people.vertices)).numpy().astype(np.float64)
