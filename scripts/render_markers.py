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

"""Render the markers and TF frames of a recording in 3D to a PNG file, similar to RViz.

    python scripts/render_markers.py demo/recorded.mcap rviz.png

Coordinates are in the frame of the markers, the camera's optical frame: x right, y down, z forward.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.export import save_image
from multihmr2_ros.media.rasterize import DepthBuffer
from multihmr2_ros.messages.content import MarkerAction, MarkerType

Floats = NDArray[np.float64]
Triangles = tuple[Floats, Floats]  # corners (T, 3, 3) m, colors (T, 3) from 0 to 255

WIDTH, HEIGHT, SHARPNESS = 960, 600, 2  # px; factor of supersampling
BACKGROUND = (48, 48, 48)
GRID_COLOR = (140, 140, 140)
AXES = ((230, 60, 60), (80, 200, 80), (80, 120, 255))  # x, y, z
GRID_M, STICK_M = 1.0, 0.008
NEAR_M = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path, metavar="BAG", help="bag with markers and /tf")
    parser.add_argument("out", type=Path, metavar="PNG", help="output file")
    parser.add_argument(
        "--topic", default="/perception_node/markers", help="topic of the markers (default: %(default)s)"
    )
    parser.add_argument(
        "--at",
        type=float,
        metavar="S",
        help="time after the first markers in s (default: the last markers with people)",
    )
    args = parser.parse_args()
    try:
        markers, transforms = read_eval_frame(args.bag, args.topic, args.at)
        save_image(args.out, draw(markers, transforms))
    except UserError as error:
        print(f"render_markers: {error}", file=sys.stderr)
        return 2
    return 0


def read_eval_frame(path: Path, topic: str, at_s: float | None) -> tuple[list[Any], list[Any]]:
    """Read the markers of one message (each contains all people), and the transforms of the same stamp."""
    with BagReader(path) as bag:
        messages = list(bag.messages([topic, "/tf"]))
        arrays = [message for message in messages if message.topic == topic]
        if at_s is not None:
            arrays = [message for message in arrays if message.time_ns <= arrays[0].time_ns + at_s * 1e9]
        for message in reversed(arrays):
            markers = [each for each in bag.decode(message).markers if each.action == MarkerAction.ADD]
            if markers:
                stamp = markers[0].header.stamp
                decoded = [bag.decode(each) for each in messages if each.topic == "/tf"]
                return markers, [each for tf in decoded for each in tf.transforms if each.header.stamp == stamp]
    raise UserError(f"expected markers on {topic} in {path}, found none; record them, or give their topic with --topic")


def draw(markers: list[Any], transforms: list[Any]) -> NDArray[np.uint8]:
    """Draw the markers and frames; return (HEIGHT, WIDTH, 3) uint8 RGB."""
    meshes = [mesh(marker) for marker in markers if marker.type == MarkerType.TRIANGLE_LIST]
    points = np.concatenate([corners.reshape(-1, 3) for corners, _ in meshes] or [np.array([[0.0, 1.0, 3.0]])])
    ground_m = float(points[:, 1].max())
    points = np.vstack([points, np.zeros(3)])  # so that the camera is visible, too
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    parts = [*meshes, grid(middle, ground_m), axes(np.zeros(3), np.eye(3), 0.4)]
    for each in transforms:
        position, turn = each.transform.translation, each.transform.rotation
        rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
        parts.append(axes(np.array([position.x, position.y, position.z]), rotation, 0.3))
    eye, view = viewpoint(middle, points)
    image = rasterized(parts, eye, view)
    for marker in markers:
        if marker.type == MarkerType.TEXT_VIEW_FACING:
            position = marker.pose.position
            write_label(image, marker.text, (np.array([position.x, position.y, position.z]) - eye) @ view.T)
    return np.asarray(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def viewpoint(middle: Floats, points: Floats) -> tuple[Floats, Floats]:
    """Return the viewer's position (3,) m, behind, above and right of the camera, and rotation (3, 3) to its axes."""
    extent = np.linalg.norm(points.max(axis=0) - points.min(axis=0)) / 2 + 1.0
    backward = np.array([0.45, -0.40, -1.0])
    backward /= np.linalg.norm(backward)
    right = np.cross([0.0, 1.0, 0.0], -backward)
    right /= np.linalg.norm(right)
    return middle + 1.45 * extent * backward, np.stack([right, np.cross(-backward, right), -backward])


def mesh(marker: Any) -> Triangles:
    """Return the shaded triangles of a TRIANGLE_LIST marker."""
    points = np.array([(point.x, point.y, point.z) for point in marker.points], np.float64).reshape(-1, 3, 3)
    color = 255 * np.array([marker.color.r, marker.color.g, marker.color.b], np.float64)
    normal = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = np.array([0.35, -0.75, -0.55])
    return points, np.clip(color * (0.45 + 0.6 * np.maximum(normal @ light, 0.0))[:, None], 0, 255)


def grid(middle: Floats, ground_m: float) -> Triangles:
    """Return ground lines 1 m apart, in short pieces, because pieces behind the viewer are not drawn."""
    far = int(np.ceil(max(5.0, middle[2] + 3.0)))
    sticks = []
    for x in range(-5, 6):
        sticks += [((x, ground_m, z), (x, ground_m, z + GRID_M)) for z in range(-1, far)]
    for z in range(-1, far + 1):
        sticks += [((x, ground_m, z), (x + GRID_M, ground_m, z)) for x in range(-5, 5)]
    return joined([stick(np.array(start), np.array(end), STICK_M, GRID_COLOR) for start, end in sticks])


def axes(position: Floats, rotation: Floats, length_m: float) -> Triangles:
    """Return the axes of a frame: red x, green y, blue z."""
    return joined(
        [
            stick(position, position + length_m * rotation[:, axis], 3 * STICK_M, color)
            for axis, color in enumerate(AXES)
        ]
    )


def stick(start: Floats, end: Floats, thickness_m: float, color: tuple[int, int, int]) -> Triangles:
    """Return a bar with a square cross-section."""
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    up = np.cross(along, side)
    ring = [thickness_m / 2 * (a * side + b * up) for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    corners = []
    for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
        corners += [(start + one, end + one, end + other), (start + one, end + other, start + other)]
    return np.array(corners), np.tile(np.array(color, np.float64), (len(corners), 1))


def joined(parts: list[Triangles]) -> Triangles:
    """Concatenate triangles."""
    return np.concatenate([corners for corners, _ in parts]), np.concatenate([colors for _, colors in parts])


def projected(points: Floats) -> Floats:
    """Project points (..., 3) m in the viewer's axes to (..., 2) px of the supersampled image."""
    k = intrinsics_from_fov(np.radians(45), SHARPNESS * WIDTH, SHARPNESS * HEIGHT)
    pixels = points @ k.T
    return pixels[..., :2] / pixels[..., 2:]


def rasterized(parts: list[Triangles], eye: Floats, view: Floats) -> NDArray[np.uint8]:
    """Rasterize the triangles from the viewpoint; triangles nearer than NEAR_M are not drawn."""
    height, width = SHARPNESS * HEIGHT, SHARPNESS * WIDTH
    corners, colors = joined(parts)
    seen = (corners - eye) @ view.T
    kept = (seen[..., 2] > NEAR_M).all(axis=1)
    seen, color = seen[kept], colors[kept].astype(np.intp)
    x, y = projected(seen).reshape(-1, 2).T
    triangles = np.arange(seen.shape[0] * 3, dtype=np.intp).reshape(-1, 3).T
    buffer = DepthBuffer(height, width)
    packed = color[:, 0] | color[:, 1] << 8 | color[:, 2] << 16
    buffer.draw(x, y, 1.0 / seen.reshape(-1, 3)[:, 2], triangles, packed)
    image = np.full((height * width, 3), BACKGROUND, np.uint8)
    pixel, value = buffer.read_nearest()
    image[pixel] = np.stack([value & 255, value >> 8 & 255, value >> 16], axis=1)
    return image.reshape(height, width, 3)


def write_label(image: NDArray[np.uint8], text: str, position: Floats) -> None:
    """Draw white text centered at a position (3,) m in the viewer's axes."""
    if position[2] < NEAR_M:
        return
    x, y = projected(position)
    scale, thickness = 0.65 * SHARPNESS, SHARPNESS
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    origin = (round(x - width / 2), round(y + height / 2))
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)


if __name__ == "__main__":
    raise SystemExit(main())
