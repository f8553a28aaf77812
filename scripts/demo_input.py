"""The bag that `make demo` plays: a camera that looks at people, drawn or from a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.body import Body
from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.rasterise import DepthBuffer
from multihmr2_ros.media.sources import open_source
from multihmr2_ros.ros.bag_types import typestore
from multihmr2_ros.ros.bag_writing import BagWriter

IMAGES, CAMERA_INFO = "/camera/image_raw/compressed", "/camera/camera_info"
FRAME_ID = "camera_color_optical_frame"
START_NS = 1_700_000_000_000_000_000  # of the recording; the player moves it to now
WIDTH, HEIGHT, RATE, SECONDS = 640, 480, 10, 8
VIDEO_SECONDS, VIDEO_WIDTH = 20, 1280  # of a video, what is used
JPEG_QUALITY = 90
K = intrinsics_from_fov(np.radians(60), WIDTH, HEIGHT)
CAMERA_HEIGHT_M = 1.2
# Age phenotype, place (x, z) in metres, heading in degrees, speed to the right in m/s.
PEOPLE = ((0.67, (-1.8, 3.5), 70.0, 0.45), (0.33, (0.1, 2.8), 0.0, 0.0), (0.95, (1.6, 4.5), -70.0, -0.3))
PAINT = np.array([(120, 150, 190), (214, 150, 90), (120, 170, 130)], np.float64)


def write_drawn_people(path: Path) -> int:
    """A bag with SECONDS of three people in front of a plain room; the number of images."""
    body = Body("full")
    count = SECONDS * RATE
    with BagWriter(path) as writer:
        for index in range(count):
            time_ns = START_NS + index * 10**9 // RATE
            write_image(writer, picture(body, index / RATE), time_ns)
            write_camera_info(writer, time_ns)
    return count


def write_video(video: Path, path: Path) -> int:
    """A bag with the first VIDEO_SECONDS of a video, at most VIDEO_WIDTH px wide; the number of images.

    There is no camera_info: the network predicts the field of view.
    """
    count = 0
    with open_source(video) as source, BagWriter(path) as writer:
        if source.fps is None:
            raise UserError(f"VIDEO must be a video, but {video} holds images; give an .mp4 or the like")
        for frame in source:
            if frame.stamp > VIDEO_SECONDS:
                break
            height, width = frame.image.shape[:2]
            scale = min(1.0, VIDEO_WIDTH / width)
            size = (round(width * scale), round(height * scale))
            image = frame.image if scale == 1.0 else cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
            write_image(writer, np.asarray(image, np.uint8), START_NS + round(frame.stamp * 1e9))
            count += 1
    return count


def write_image(writer: BagWriter, image: NDArray[np.uint8], time_ns: int) -> None:
    """An image (H, W, 3) uint8 RGB, as JPEG, so that the recording of it all stays small."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    write(writer, IMAGES, "sensor_msgs/msg/CompressedImage", time_ns, format="jpeg", data=data.ravel())


def write_camera_info(writer: BagWriter, time_ns: int) -> None:
    region = typestore().types["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    write(
        writer, CAMERA_INFO, "sensor_msgs/msg/CameraInfo", time_ns,
        height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=np.zeros(5), k=K.ravel(), r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0, roi=region,
    )  # fmt: skip


def write(writer: BagWriter, topic: str, type_name: str, time_ns: int, **fields: Any) -> None:
    """A message with a header, stamped with the time of its recording."""
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME_ID)
    data = typestore().serialize_cdr(types[type_name](header=header, **fields), type_name)
    writer.write(topic, type_name, data, time_ns)


# --- the drawing


def picture(body: Body, time_s: float) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) uint8: the people at a time, in a room with a floor and a wall."""
    shape = torch.full((len(PEOPLE), 6), 0.5)
    shape[:, 1] = torch.tensor([age for age, *_ in PEOPLE])
    upright = Rotation.from_euler("x", -90, degrees=True)  # the root bone's frame has the head at −z
    rotations = torch.eye(3).repeat(len(PEOPLE), 163, 1, 1)
    for row, (_, _, heading, _) in enumerate(PEOPLE):
        turn = Rotation.from_euler("y", heading, degrees=True) * upright
        rotations[row, 0] = torch.from_numpy(turn.as_matrix())
    vertices = body(shape, rotations).vertices.numpy()
    for row, (_, (x, z), _, speed) in enumerate(PEOPLE):
        feet = vertices[row, np.unique(body.faces)][:, 1].max()  # y is down
        vertices[row] += (x + speed * time_s, CAMERA_HEIGHT_M - feet, z)
    return render(room(), vertices, body.faces)


def room() -> NDArray[np.uint8]:
    """A floor below the horizon and a wall above it."""
    rows = np.arange(HEIGHT)[:, None, None]
    wall, floor = np.array([205, 212, 218]), np.array([150, 140, 128])
    shade = 0.85 + 0.15 * rows / HEIGHT
    return np.broadcast_to(np.where(rows < 0.55 * HEIGHT, wall, floor) * shade, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def render(image: NDArray[np.uint8], vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The meshes (n, V, 3) over an image, flat-shaded by a lamp at the camera."""
    drawn = image.copy().reshape(-1, 3)
    buffer = DepthBuffer(HEIGHT, WIDTH)
    points = vertices.reshape(-1, 3) @ K.T
    triangles = (faces[None] + vertices.shape[1] * np.arange(len(vertices))[:, None, None]).reshape(-1, 3)
    corners = vertices.reshape(-1, 3)[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = np.abs(normal[:, 2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    x, y, z = points.T
    buffer.draw(x / z, y / z, 1 / z, triangles.T, np.arange(len(triangles)))
    pixels, nearest = buffer.nearest()
    color = PAINT[nearest // len(faces)] * (0.35 + 0.65 * light[nearest, None])
    drawn[pixels] = color.astype(np.uint8)
    return drawn.reshape(HEIGHT, WIDTH, 3)
