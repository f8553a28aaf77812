"""The node's subscriptions, and what their messages say: an image with its intrinsics.

Messages arrive serialised and are taken apart when it is their turn, so that an image that is dropped costs nothing
and damaged bytes cannot stop the executor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.camera import CameraModel, camera_from_info, intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.people import IntrinsicsSource

from .content import HeaderContent
from .conversions import camera_facts, header_from_ros
from .images import compressed_image_from_ros, image_from_ros
from .parameters import NodeParameters

# Matches every publisher, whatever it offers.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass(frozen=True)
class Received:
    """An image as it came: serialised, with the newest CameraInfo (serialised; None: none yet) and the arrival time."""

    image: bytes
    camera_info: bytes | None
    arrival_s: float


@dataclass(frozen=True)
class CameraImage:
    """An image (H, W, 3) uint8 RGB and its header. arrival_s: on the node's clock."""

    image: NDArray[np.uint8]
    header: HeaderContent
    arrival_s: float

    @property
    def stamp_s(self) -> float:
        return self.header.sec + self.header.nanosec * 1e-9

    @property
    def age_at_receipt_s(self) -> float:
        """NaN where the image has no stamp."""
        return self.arrival_s - self.stamp_s if self.stamp_s else float("nan")


@dataclass(frozen=True)
class Intrinsics:
    """What is known about the camera of an image.

    k          (3, 3) px of the image; None: to be predicted
    source     where k came from
    problem    what is wrong with the camera_info; "" if nothing
    distorted  the camera with its distortion, where the image has any
    """

    k: NDArray[np.float64] | None
    source: IntrinsicsSource
    problem: str = ""
    distorted: CameraModel | None = None


class Inputs:
    """The subscriptions of one active node."""

    def __init__(
        self, node: Any, transport: str, now_s: Callable[[], float], on_image: Callable[[Received], None]
    ) -> None:
        self._node = node
        self._now_s = now_s
        self._on_image = on_image
        self._camera_info: bytes | None = None
        kind, topic = (CompressedImage, "image/compressed") if transport == "compressed" else (Image, "image")
        self._subscriptions = [
            node.create_subscription(kind, topic, self._receive_image, NEWEST, raw=True),
            node.create_subscription(CameraInfo, "camera_info", self._receive_camera_info, NEWEST, raw=True),
        ]

    @property
    def image_topic(self) -> str:
        return str(self._subscriptions[0].topic_name)

    @property
    def camera_info_topic(self) -> str:
        return str(self._subscriptions[1].topic_name)

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _receive_image(self, message: bytes) -> None:
        self._on_image(Received(message, self._camera_info, self._now_s()))

    def _receive_camera_info(self, message: bytes) -> None:
        self._camera_info = message


def camera_image(received: Received, transport: str) -> CameraImage:
    """Raises UserError for an image that cannot be used."""
    is_compressed = transport == "compressed"
    message = _deserialized(received.image, CompressedImage if is_compressed else Image)
    image = compressed_image_from_ros(message) if is_compressed else image_from_ros(message)
    return CameraImage(image, header_from_ros(message.header), received.arrival_s)


def intrinsics(received: Received, image: NDArray[np.uint8], parameters: NodeParameters) -> Intrinsics:
    """The intrinsics of an image: those of the parameter, else of the CameraInfo, else to be predicted."""
    height, width = image.shape[:2]
    if parameters.vertical_fov_rad > 0:
        k = intrinsics_from_fov(parameters.vertical_fov_rad, width, height)
        return Intrinsics(k, IntrinsicsSource.PARAMETER)
    predicted = IntrinsicsSource.PREDICTED
    if received.camera_info is None:
        return Intrinsics(None, predicted, "no camera_info received: intrinsics are predicted")
    try:
        info = _deserialized(received.camera_info, CameraInfo)
        camera = camera_from_info(camera_facts(info, image, rectified=parameters.image_rectified))
    except UserError as error:
        return Intrinsics(None, predicted, f"{error}; until then intrinsics are predicted")
    if camera is None:
        return Intrinsics(None, predicted, "camera_info is uncalibrated (all 0): intrinsics are predicted")
    return Intrinsics(camera.k, IntrinsicsSource(camera.source), distorted=camera if camera.distortion_model else None)


def _deserialized(data: bytes, kind: type) -> Any:
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # each middleware has its own for bytes that it does not understand
        raise UserError(f"a damaged {kind.__name__} came ({len(data)} bytes); check its publisher") from error
