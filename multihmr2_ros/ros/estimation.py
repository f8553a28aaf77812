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

"""Between the node and the estimator: what the parameters and the camera mean for one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from multihmr2_ros.messages.calibration import Intrinsics, Lens

from .cues import Cues
from .inputs import CameraImage
from .parameters import NodeParameters

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator, EstimatorConfig
    from multihmr2_ros.people import People

    from .restarts import RestartingEstimator

EstimatorFactory = Callable[[NodeParameters], "Estimator"]


def load_estimator(parameters: NodeParameters) -> Estimator:
    """The estimator that the parameters describe. Raises UserError where there is none."""
    from multihmr2_ros.estimator import Estimator, EstimatorConfig, Runtime

    return Estimator.load(
        parameters.checkpoint,
        parameters.device,
        config=configuration(parameters, EstimatorConfig()),
        runtime=Runtime(precision=parameters.precision, threads=parameters.threads),
    )


def configuration(parameters: NodeParameters, base: EstimatorConfig) -> EstimatorConfig:
    """base, with what the node's parameters say."""
    return dataclasses.replace(
        base,
        score_threshold=parameters.score_threshold,
        nms_distance_m=parameters.nms_distance_m,
        max_people=parameters.max_people,
        mesh=parameters.mesh,
    )


def estimate(
    estimator: Estimator | RestartingEstimator,
    camera: CameraImage,
    given: Intrinsics,
    parameters: NodeParameters,
    lens: Lens,
    cues: Cues,
) -> People:
    """The people in one image, by the parameters as they are now.

    The network sees what a camera without distortion but with the same K would have seen, and so does the depth image
    that goes with it; joints_2d are those of the image as it came.
    """
    estimator.reconfigure(configuration(parameters, estimator.config))
    image, depth = camera.image, cues.depth
    if given.distorted is not None:
        image = lens.undistorted(image, given.distorted)
        depth = None if depth is None else lens.undistorted_depth(depth, given.distorted)
    people = estimator.step(
        image,
        given.k,
        camera.time_s,
        intrinsics_source=given.source,
        fixed_from_camera=cues.fixed_from_camera,
        fixed_frame=cues.fixed_frame,
        depth=depth,
        ground=cues.ground,
    )
    if given.distort is None:
        return people
    return dataclasses.replace(people, joints_2d=given.distort(people.joints_2d).astype(np.float32))
