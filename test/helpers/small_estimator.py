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

"""Estimators with a small network with random weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from multihmr2_ros import Estimator
from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.network.inference import Runtime
from test.helpers.small_network import small_network

EVERYBODY = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=6, mesh="low")


def make_estimator(**changes: Any) -> Estimator:
    """Return an estimator that detects six people in every image. changes: fields of its configuration."""
    return Estimator(small_network(), dataclasses.replace(EVERYBODY, **changes), Runtime("cpu", "fp32"))


def make_image(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
