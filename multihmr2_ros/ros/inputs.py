"""The node's subscriptions, and what their messages say: an image with its intrinsics; depth images and transforms are
kept for `cues`.

Messages arrive serialised and are taken apart when it is their turn, so that an image that is dropped costs nothing
and damaged bytes cannot stop the executor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.people import IntrinsicsSource

from .calibration import Intrinsics, intrinsics_from_info
from .content import HeaderContent
from .conversions import header_from_ros
from .depth import DepthImages
from .graph import silence
from .images import compressed_image_from_ros, image_from_ros
from .parameters import NodeParameters
from .transforms import Transforms

# Matches every publisher, whatever it offers.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# The parameters whose change asks for other subscriptions.
SUBSCRIBING = ("image_transport", "use_depth", "fixed_frame", "ground_frame")


@dataclass(frozen=True)
class Received:
    """An image as it came: serialised, with the newest CameraInfo (serialised; None: none yet).

    arrival_s         on the node's clock, which may be simulated
    steady_arrival_s  on the monotonic clock
    """

    image: bytes
    camera_info: bytes | None
    is_compressed: bool
    arrival_s: float
    steady_arrival_s: float


@dataclass(frozen=True)
class CameraImage:
    """An image (H, W, 3) uint8 RGB and its header. arrival_s: on the node's clock, which may be simulated."""

    image: NDArray[np.uint8]
    header: HeaderContent
    arrival_s: float

    @property
    def stamp_s(self) -> float:
        return self.header.sec + self.header.nanosec * 1e-9

    @property
    def time_s(self) -> float:
        """The stamp; the arrival where there is none."""
        return self.stamp_s or self.arrival_s

    @property
    def age_at_receipt_s(self) -> float:
        """NaN where the image has no stamp."""
        return self.arrival_s - self.stamp_s if self.stamp_s else float("nan")


class Inputs:
    """The subscriptions of one active node.

    parameters: those that `SUBSCRIBING` names decide what is subscribed to. report takes a cause and a text.
    camera_info: the newest one, serialised, which some publish only once: handed on from the inputs before; None: none
    yet. image_topic, depth_topic: full names, for any thread, also when the subscriptions have gone; depth_topic: empty
    where it is not subscribed to. depth_images, transforms: None where they are not asked for.
    """

    def __init__(
        self,
        node: Any,
        parameters: NodeParameters,
        now_s: Callable[[], float],
        on_image: Callable[[Received], None],
        report: Callable[[str, str], None],
        camera_info: bytes | None = None,
    ) -> None:
        self._node = node
        self._now_s = now_s
        self._on_image = on_image
        self.camera_info = camera_info
        self._is_compressed = parameters.image_transport == "compressed"
        kind, topic = (CompressedImage, "image/compressed") if self._is_compressed else (Image, "image")
        self._images = node.create_subscription(kind, topic, self._receive_image, NEWEST, raw=True)
        self._infos = node.create_subscription(CameraInfo, "camera_info", self._receive_camera_info, NEWEST, raw=True)
        self.image_topic = str(self._images.topic_name)
        self.depth_images = DepthImages() if parameters.use_depth else None
        self._depths: Any = None
        if self.depth_images is not None:
            self._depths = node.create_subscription(Image, "depth", self.depth_images.add, NEWEST, raw=True)
        self.depth_topic = str(self._depths.topic_name) if self._depths else ""
        needs_transforms = bool(parameters.fixed_frame or parameters.ground_frame)
        self.transforms = Transforms(node, parameters.body_prefix, report) if needs_transforms else None

    def why_silent(self, silent_s: float | None) -> str:
        """Why no image comes, as far as the graph tells. silent_s: since the last one; None: there never was one."""
        kind = "CompressedImage" if self._is_compressed else "Image"
        return silence(self._node, self._images, f"sensor_msgs/msg/{kind}", silent_s)

    def destroy(self) -> None:
        for subscription in (self._images, self._infos, self._depths):
            if subscription:
                self._node.destroy_subscription(subscription)
        if self.transforms is not None:
            self.transforms.destroy()

    def _receive_image(self, message: bytes) -> None:
        self._on_image(Received(message, self.camera_info, self._is_compressed, self._now_s(), time.monotonic()))

    def _receive_camera_info(self, message: bytes) -> None:
        self.camera_info = message


def camera_image(received: Received) -> CameraImage:
    """Raises UserError for an image that cannot be used."""
    message = deserialized(received.image, CompressedImage if received.is_compressed else Image)
    image = compressed_image_from_ros(message) if received.is_compressed else image_from_ros(message)
    return CameraImage(image, header_from_ros(message.header), received.arrival_s)


def intrinsics(received: Received, image: NDArray[np.uint8], parameters: NodeParameters) -> Intrinsics:
    """The intrinsics of an image: those of the parameter, else of the CameraInfo, else to be predicted."""
    height, width = image.shape[:2]
    if parameters.vertical_fov_rad > 0:
        k = intrinsics_from_fov(parameters.vertical_fov_rad, width, height)
        return Intrinsics(k, IntrinsicsSource.PARAMETER)
    predicted = IntrinsicsSource.PREDICTED
    if received.camera_info is None:
        return Intrinsics(None, predicted, notice="no camera_info received: intrinsics are predicted")
    try:
        info = deserialized(received.camera_info, CameraInfo)
    except UserError as error:
        return Intrinsics(None, predicted, f"{error}; until then intrinsics are predicted")
    return intrinsics_from_info(info, image, rectified=parameters.image_rectified)


def deserialized(data: bytes, kind: type) -> Any:
    """A message from its bytes. Raises UserError where they are none."""
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # each middleware has its own for bytes that it does not understand
        raise UserError(f"a damaged {kind.__name__} came ({len(data)} bytes); check its publisher") from error
