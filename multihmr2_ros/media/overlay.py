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

"""Draws people on images."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.lens import Distort
from multihmr2_ros.media.colors import get_track_color
from multihmr2_ros.media.rasterize import DepthBuffer
from multihmr2_ros.people import People, select_surface

NEAR_M = 0.05  # triangles nearer to the camera are not drawn
AMBIENT = 0.30
# Direction to the light, camera frame, and its strength: a main light at the upper left, a weak one at the right.
LIGHTS = (((-0.45, -0.60, -1.0), 0.62), ((0.90, 0.10, -0.45), 0.20))


def draw_people(
    image: NDArray[np.uint8],
    people: People,
    faces: NDArray[np.integer],
    *,
    alpha: float = 0.75,
    labels: bool = True,
    distort: Distort | None = None,
) -> NDArray[np.uint8]:
    """Draw each person's mesh in the track's color, with a label above, on a copy of the image.

    image    (H, W, 3) uint8 RGB
    faces    (F, 3) triangles of people.vertices, counter-clockwise seen from outside
    alpha    opacity of the meshes, 0 to 1
    labels   draw labels such as "#3: 4.2 m": track id (if tracked) and distance of the pelvis from the camera
    distort  lens distortion of the image (and of joints_2d); people.k is K of the pinhole camera. None: no distortion

    People without vertices are drawn as the box around their joints_2d. Triangles behind the camera, too near, or with
    a corner outside the valid range of the lens model are not drawn.
    """
    drawn = np.array(image)
    colors = np.array([get_track_color(track_id) for track_id in people.track_id], np.float64).reshape(-1, 3)
    if people.vertices.shape[1]:
        x, y, depth = _project(people.vertices, people.k)
        if distort is not None:
            x, y = _distort_points(x, y, distort)
        _draw_meshes(drawn, people.vertices, faces, (x, y, depth), colors, alpha)
        x, y = select_surface(x), select_surface(y)
    else:
        x, y = np.where(np.isfinite(people.joints_2d), people.joints_2d, np.nan).transpose(2, 0, 1).astype(np.float64)
        _draw_boxes(drawn, x, y, colors)
    if labels:
        _draw_labels(drawn, people, x, y)
    return drawn


def _project(vertices: NDArray[np.float32], k: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Project vertices (n, V, 3) m to x, y (n, V) px and depth (n, V) m; NaN if behind, too near, or not finite."""
    camera_x, camera_y, depth = (vertices[:, :, axis].astype(np.float64) for axis in range(3))
    seen = np.isfinite(camera_x + camera_y + depth) & (depth > NEAR_M)
    camera_x, camera_y, depth = (np.where(seen, values, np.nan) for values in (camera_x, camera_y, depth))
    x = (k[0, 0] * camera_x + k[0, 1] * camera_y) / depth + k[0, 2]
    return x, k[1, 1] * camera_y / depth + k[1, 2], depth


def _distort_points(
    x: NDArray[np.float64], y: NDArray[np.float64], distort: Distort
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apply lens distortion to points x, y (n, V) px of a pinhole camera; NaN if `distort` returns NaN."""
    distorted = np.full((2, *x.shape), np.nan)
    for row, person in enumerate(np.stack([x, y], axis=2)):  # person by person: OpenCV needs much memory for each point
        seen = np.isfinite(person).all(axis=1)
        distorted[:, row, seen] = distort(person[seen]).T
    return distorted[0], distorted[1]


def _draw_meshes(
    drawn: NDArray[np.uint8],
    vertices: NDArray[np.float32],
    faces: NDArray[np.integer],
    projected: tuple[NDArray[np.float64], ...],
    colors: NDArray[np.float64],
    alpha: float,
) -> None:
    """Blend the meshes of all people into the image `drawn`, with depth buffering."""
    corners = np.ascontiguousarray(faces.T, np.intp)
    buffer = DepthBuffer(*drawn.shape[:2])
    for person_vertices, x, y, depth, color in zip(vertices, *projected, colors, strict=True):
        triangles = corners[:, _is_front_facing(x, y, corners)]
        shaded = np.minimum(color[:, None] * _compute_brightness(person_vertices, triangles), 255.0).astype(np.intp)
        buffer.draw(x, y, 1.0 / depth, triangles, shaded[0] | shaded[1] << 8 | shaded[2] << 16)
    covered, packed = buffer.read_nearest()
    if not len(covered):
        return
    paint = np.stack([packed & 255, packed >> 8 & 255, packed >> 16], axis=1).astype(np.uint8)
    pixels = drawn.reshape(-1, 3).view("V3")  # one item per pixel: NumPy gathers these several times faster
    behind = pixels[covered].view(np.uint8)
    pixels[covered] = cv2.addWeighted(behind, 1.0 - alpha, paint, alpha, 0.0).view("V3")


def _is_front_facing(x: NDArray[np.float64], y: NDArray[np.float64], corners: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return a mask (T,) of triangles whose outside faces the camera; corners (3, T) are indices of x, y (V,) px.

    False for triangles with a NaN corner, because comparisons with NaN are false.
    """
    (x0, x1, x2), (y0, y1, y2) = x[corners], y[corners]
    return (x1 - x0) * (y2 - y0) < (y1 - y0) * (x2 - x0)


def _compute_brightness(vertices: NDArray[np.float32], triangles: NDArray[np.intp]) -> NDArray[np.float64]:
    """Compute the brightness (T,) of triangles, corners (3, T), from their normals and the LIGHTS."""
    first, second, third = np.take(vertices, triangles, axis=0).transpose(0, 2, 1).astype(np.float64)
    (ax, ay, az), (bx, by, bz) = second - first, third - first
    normal = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    length = np.maximum(np.sqrt((normal * normal).sum(axis=0)), 1e-12)
    brightness = np.full(len(length), AMBIENT)
    for direction, strength in LIGHTS:
        towards = np.array(direction) / np.linalg.norm(direction)
        brightness += strength * np.maximum(towards @ normal / length, 0.0)
    return brightness


def _draw_boxes(
    drawn: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64], colors: NDArray[np.float64]
) -> None:
    """Draw the box around each person's points x, y (n, P) px; sides outside the image are not visible."""
    height, width = drawn.shape[:2]
    thickness = max(1, round(height / 240))
    for box, color in zip(_compute_bounds(x, y), colors, strict=True):
        if _is_in_image(box, drawn):
            left, top, right, bottom = box
            margin = 2 * thickness
            low = (int(max(left, -margin)), int(max(top, -margin)))
            high = (int(min(right, width + margin)), int(min(bottom, height + margin)))
            cv2.rectangle(drawn, low, high, color.tolist(), thickness, cv2.LINE_AA)


def _draw_labels(drawn: NDArray[np.uint8], people: People, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Draw each person's label above the highest of their points x, y (n, P) px, the nearest person last."""
    height, width = drawn.shape[:2]
    scale = min(max(height / 960, 0.45), 2.0)
    thickness = max(1, round(2 * scale))
    distance_m = np.linalg.norm(people.pelvis.astype(np.float64), axis=1)
    bounds = _compute_bounds(x, y)
    for row in np.argsort(-distance_m):
        if not (_is_in_image(bounds[row], drawn) and np.isfinite(distance_m[row])):
            continue
        track_id = people.track_id[row]
        text = f"{distance_m[row]:.1f} m" if track_id < 0 else f"#{track_id}: {distance_m[row]:.1f} m"
        (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        head = np.nanargmin(y[row])
        left = int(np.clip(x[row, head] - text_width / 2, 2, max(2, width - text_width - 2)))
        base = int(np.clip(y[row, head] - text_height / 2, text_height + 2, max(text_height + 2, height - 4)))
        # Thicker strokes make wider text in OpenCV 5, so the dark edge is the same text at shifted positions.
        edge = max(1, thickness)
        moves = [(dx, dy) for dx in (-edge, 0, edge) for dy in (-edge, 0, edge) if dx or dy]
        for (dx, dy), color in [*((move, (0, 0, 0)) for move in moves), ((0, 0), (255, 255, 255))]:
            origin = (left + dx, base + dy)
            cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)


def _compute_bounds(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return left, top, right, bottom (n, 4) of the points x, y (n, P) that are not NaN; NaN if all are, or P = 0."""
    if not x.shape[1]:  # messages without people or without joints
        return np.full((len(x), 4), np.nan)
    extremes = [
        np.fmin.reduce(x, axis=1),
        np.fmin.reduce(y, axis=1),
        np.fmax.reduce(x, axis=1),
        np.fmax.reduce(y, axis=1),
    ]
    return np.stack(extremes, axis=1)


def _is_in_image(box: NDArray[np.float64], image: NDArray[np.uint8]) -> bool:
    """Return whether a box (left, top, right, bottom) overlaps the image; false for a box of NaN."""
    left, top, right, bottom = box
    height, width = image.shape[:2]
    return bool(left < width and top < height and right > 0 and bottom > 0)
