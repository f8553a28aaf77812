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

"""Predicts depth maps with a monocular network of the package transformers.

An example is Depth Anything V2 small (Apache-2.0).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros.labeling.detection import import_transformers, load_model
from multihmr2_ros.placement import MapKind, RelativeDepthMap

METRIC_TYPES = ("ZoeDepthForDepthEstimation", "DepthProForDepthEstimation")


class DepthModel:
    """Predictor of relative depth maps; `kind` is "depth" or "inverse" (inverse depth).

    Maps of metric networks are also used only up to scale and shift, the least certain part of a monocular depth.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Load the model.

        source: a folder with a model in the format of transformers, or a name on the hub, which is then downloaded.
        Raises UserError if it cannot be loaded.
        """
        transformers = import_transformers("--depth-model", "--depth-maps")
        self._device = device
        self._network, self._processor = load_model(
            transformers.AutoModelForDepthEstimation, source, "--depth-model", device
        )
        metric = getattr(self._network.config, "depth_estimation_type", "") == "metric"
        self.kind: MapKind = "depth" if metric or type(self._network).__name__ in METRIC_TYPES else "inverse"

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> RelativeDepthMap:
        """Predict the depth map of an image (H, W, 3) uint8 RGB, with the image's size."""
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        predicted = self._network(**inputs).predicted_depth.float()
        full = torch.nn.functional.interpolate(
            predicted.reshape(1, 1, *predicted.shape[-2:]), image.shape[:2], mode="bilinear", align_corners=False
        )
        return RelativeDepthMap(full[0, 0].cpu().numpy(), self.kind)
