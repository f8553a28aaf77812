"""Between the node and the estimator: what the parameters and the camera mean for one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import CameraModel, distort_points

from .inputs import CameraImage, Intrinsics
from .parameters import NodeParameters

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator
    from multihmr2_ros.people import People

EstimatorFactory = Callable[[NodeParameters], "Estimator"]


def load_estimator(parameters: NodeParameters) -> Estimator:
    """The estimator that the parameters describe. Raises UserError where there is none."""
    from multihmr2_ros.estimator import Estimator, EstimatorConfig, Runtime

    config = EstimatorConfig(mesh=parameters.mesh, max_people=parameters.max_people)
    return Estimator.load(
        parameters.checkpoint, parameters.device, config=config, runtime=Runtime(precision=parameters.precision)
    )


def estimate(
    estimator: Estimator, camera: CameraImage, given: Intrinsics, parameters: NodeParameters, lens: Lens
) -> People:
    """The people in one image.

    The network sees what a camera without distortion but with the same K would have seen; joints_2d are those of the
    image as it came.
    """
    estimator.config = dataclasses.replace(
        estimator.config, score_threshold=parameters.score_threshold, nms_distance_m=parameters.nms_distance_m
    )
    stamp_s = camera.stamp_s or camera.arrival_s
    if given.distorted is None:
        return estimator.step(camera.image, given.k, stamp_s, intrinsics_source=given.source)
    image = lens.undistorted(camera.image, given.distorted)
    people = estimator.step(image, given.k, stamp_s, intrinsics_source=given.source)
    joints_2d = distort_points(people.joints_2d, given.distorted).astype(np.float32)
    return dataclasses.replace(people, joints_2d=joints_2d)


class Lens:
    """Takes the distortion out of images; what is computed for a camera is kept until another one comes."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._maps: tuple[NDArray[Any], NDArray[Any]] | None = None

    def undistorted(self, image: NDArray[np.uint8], camera: CameraModel) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 as the ideal pinhole camera with the same K sees it; black where the image has no pixel."""
        key = (camera.distortion_model, camera.k.tobytes(), camera.distortion.tobytes(), camera.width, camera.height)
        if self._maps is None or key != self._key:
            self._key, self._maps = key, _undistortion_maps(camera)
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR), np.uint8)


def _undistortion_maps(camera: CameraModel) -> tuple[NDArray[Any], NDArray[Any]]:
    """OpenCV's tables for `remap`: where each pixel of the ideal image lies in the distorted one, as whole pixels
    (H, W, 2) int16 and the rest (H, W) uint16."""
    is_fisheye = camera.distortion_model == "equidistant"
    make_maps = cv2.fisheye.initUndistortRectifyMap if is_fisheye else cv2.initUndistortRectifyMap
    size = (camera.width, camera.height)
    whole, rest = make_maps(camera.k, camera.distortion, np.eye(3), camera.k, size, cv2.CV_16SC2)
    return np.asarray(whole), np.asarray(rest)
