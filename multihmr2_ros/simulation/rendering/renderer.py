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

"""Renders posed scenes by ray casting, on CPUs and GPUs.

The kernels are compiled at their first use on a machine (about a minute) and stored in Warp's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import warp as wp
from numpy.typing import NDArray

from multihmr2_ros.body import Body, start_warp
from multihmr2_ros.simulation.appearance.materials import make_material_table
from multihmr2_ros.simulation.rendering import kernels
from multihmr2_ros.simulation.rendering.backdrop import render_backdrop
from multihmr2_ros.simulation.rendering.dressing import Dresser
from multihmr2_ros.simulation.rendering.environment import (
    compute_light_gain,
    make_environment_arrays,
    make_obstacle_arrays,
)
from multihmr2_ros.simulation.rendering.lens import CameraRays
from multihmr2_ros.simulation.rendering.meshes import MeshPool, PosedMesh, to_device
from multihmr2_ros.simulation.rendering.sensor import apply_sensor_effects
from multihmr2_ros.simulation.rendering.shading import render_rays
from multihmr2_ros.simulation.scene.posing import PosedScene
from multihmr2_ros.simulation.scene.scene import Scene

# Positions of the four rays of an outline pixel within the pixel (a rotated grid).
OUTLINE_SAMPLES = np.array([[0.375, 0.125], [0.875, 0.375], [0.125, 0.625], [0.625, 0.875]])
OUTLINE_DEPTH_RATIO = 1.05
# Rays per person and side of the square grid that measures the visible fraction of a person.
SIGHT_GRID = 48
# An isolated person is measured up to this tangent of the angle off the optical axis (80°), beyond any image.
MAX_TANGENT = 5.67
MIN_DEPTH_M = 0.05


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """One image and the ground truth of its pixels, for the n people of the posed scene.

    image            (H, W, 3) uint8 RGB with the sensor's effects
    depth            (H, W) float32 m along the camera's z through the pixel centers, infinite without a hit
    instances        (H, W) int16 row of the person, −1 without a person
    box              (n, 4) float32 px, x0 y0 x1 y1 of the person with clothes, clipped to the image; NaN if outside
    visible_fraction (n,) float32, see Renderer._measure_visibility
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instances: NDArray[np.int16]
    box: NDArray[np.float32]
    visible_fraction: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RaySamples:
    """Results of s rays; see shading.render_rays."""

    ambient: NDArray[np.float32]
    direct: NDArray[np.float32]
    visibility: NDArray[np.float32]
    depth: NDArray[np.float32]
    person: NDArray[np.int32]
    surface: NDArray[np.int32]

    @property
    def radiance(self) -> NDArray[np.float32]:
        """Linear light (s, 3)."""
        return self.ambient + self.visibility[:, None] * self.direct


class Renderer:
    """Renderer of scenes with one body model on one device ("cpu", "cuda:0"); the same seed gives the same bytes."""

    def __init__(self, body: Body, device: str = "cpu") -> None:
        start_warp()
        self.device = device
        self.bone_labels = body.bone_labels
        self.dresser = Dresser(body, device)
        self.pool = MeshPool(device)

    def render(self, scene: Scene, posed: PosedScene, generator: np.random.Generator) -> RenderedImage:
        """Render the scene at the time of `posed`; the generator draws the noise."""
        lens = CameraRays(scene.camera)
        people, materials = self.dresser.dress(scene.people, posed)
        meshes, alive = self.pool.cast(people)
        rays = lens.compute_directions(lens.compute_pixel_centers())
        backdrop = self._render_backdrop(scene, posed, rays)
        obstacles = make_obstacle_arrays(scene, posed, len(materials), self.device)
        materials = materials + [obstacle.material for obstacle in scene.obstacles]
        environment, more = make_environment_arrays(
            scene, posed, self.bone_labels, compute_light_gain(scene, backdrop), len(materials), self.device
        )
        table = to_device(make_material_table(materials + more), float, self.device, dimensions=2)
        behind = to_device(backdrop.reshape(-1, 3), wp.vec3, self.device)
        world = (behind, meshes, obstacles, environment, table)
        size = (scene.camera.height, scene.camera.width)
        seed = int(generator.integers(2**31))
        samples = self._cast(rays, np.arange(len(rays), dtype=np.int32), world, seed)
        radiance = self._smooth_outlines(
            _smooth_shadows(samples, size, environment.light_spread), samples, lens, world, seed
        )
        box, fraction = self._measure_visibility(people, lens, len(scene.people), meshes, obstacles)
        del alive
        return RenderedImage(
            image=apply_sensor_effects(scene.sensor, radiance, generator),
            depth=samples.depth.reshape(size),
            instances=samples.person.reshape(size).astype(np.int16),
            box=box,
            visible_fraction=fraction,
        )

    def _render_backdrop(self, scene: Scene, posed: PosedScene, rays: NDArray[np.float32]) -> NDArray[np.float32]:
        width, height = scene.camera.width, scene.camera.height

        def rays_from_start() -> NDArray[np.float32]:
            ahead = scene.camera.path.world_from_camera(0.0)[:3, 2]
            level = ahead[:2] / max(float(np.hypot(*ahead[:2])), 1e-9)
            start_from_world = np.array([[level[0], level[1], 0.0], [-level[1], level[0], 0.0], [0.0, 0.0, 1.0]])
            start_from_camera = start_from_world @ posed.world_from_camera[:3, :3]
            # OpenCV is many times faster than a product of such a thin matrix.
            return np.asarray(cv2.transform(rays.reshape(height, width, 3), start_from_camera), np.float32)

        return render_backdrop(scene.environment.backdrop, width, height, rays_from_start)

    def _cast(
        self, rays: NDArray[np.float32], pixels: NDArray[np.int32], world: tuple[Any, ...], seed: int
    ) -> RaySamples:
        count = len(rays)
        outputs = [wp.empty(count, dtype=t, device=self.device) for t in (wp.vec3, wp.vec3, float, float, int, int)]
        inputs = [
            to_device(rays, wp.vec3, self.device),
            to_device(pixels, wp.int32, self.device),
            *world,
            seed,
        ]
        wp.launch(render_rays, dim=count, inputs=inputs, outputs=outputs, device=self.device)
        return RaySamples(*(output.numpy() for output in outputs))

    def _smooth_outlines(
        self, radiance: NDArray[np.float32], samples: RaySamples, lens: CameraRays, world: tuple[Any, ...], seed: int
    ) -> NDArray[np.float32]:
        """Cast four more rays through each pixel on a border of two surfaces."""
        pixels = np.flatnonzero(_find_outlines(samples, radiance.shape[:2])).astype(np.int32)
        if not len(pixels):
            return radiance
        width = radiance.shape[1]
        corners = np.stack([pixels % width, pixels // width], axis=-1)
        points = (corners[:, None] + OUTLINE_SAMPLES).reshape(-1, 2)
        count = len(OUTLINE_SAMPLES)
        fine = self._cast(lens.compute_directions(points), np.repeat(pixels, count), world, seed + 1)
        radiance.reshape(-1, 3)[pixels] = fine.radiance.reshape(-1, count, 3).mean(axis=1)
        return radiance

    def _measure_visibility(
        self, people: list[PosedMesh], lens: CameraRays, count: int, meshes: Any, obstacles: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return boxes (n, 4) in px and visible fractions (n,).

        A fraction is measured with 48 × 48 rays over the person's whole projection, also beyond the image's borders (up
        to 80° off the axis). Of the rays that hit the isolated person, it is the fraction that are inside the image and
        hit no nearer surface. Its standard error is about 1 %. Pixels are those of the ideal camera: pixels of a
        distorted image are weighted by their area there.
        """
        boxes, fractions = np.full((count, 4), np.nan, np.float32), np.zeros(count, np.float32)
        size = np.array([lens.model.width, lens.model.height], np.float64)
        for row in range(count):
            points = np.concatenate([mesh.vertices[mesh.surface.used] for mesh in people if mesh.person == row])
            ideal = _project_visible(points, lens)
            if not len(ideal):
                continue
            by_axis = np.ascontiguousarray(ideal.T)  # many times faster to reduce than the rows
            low, high = by_axis.min(axis=1), by_axis.max(axis=1)
            boxes[row] = _clip_box(lens.distort(_compute_hull(ideal)) if lens.model.distortion_model else ideal, size)
            if np.isnan(boxes[row]).any():
                continue
            steps = (np.arange(SIGHT_GRID) + 0.5) / SIGHT_GRID
            x, y = np.meshgrid(low[0] + steps * (high[0] - low[0]), low[1] + steps * (high[1] - low[1]))
            grid = np.stack([x.ravel(), y.ravel()], axis=-1)
            sight = wp.empty(len(grid), dtype=int, device=self.device)
            rays = to_device(lens.compute_ideal_directions(grid), wp.vec3, self.device)
            inputs = [rays, row, meshes, obstacles, sight]
            wp.launch(kernels.trace_person_visibility, dim=len(grid), inputs=inputs, device=self.device)
            seen = sight.numpy()
            in_image = lens.distort(grid[seen == 2])
            inside = ((in_image >= 0) & (in_image < size)).all(axis=-1)
            fractions[row] = inside.sum() / max(np.count_nonzero(seen), 1)
        return boxes, fractions


def _smooth_shadows(samples: RaySamples, size: tuple[int, int], light_spread: float) -> NDArray[np.float32]:
    """Return linear light (H, W, 3) with the noise of the shadows' penumbra smoothed within each kind of surface."""
    kinds = (samples.surface & 7).reshape(size)
    visibility = samples.visibility.reshape(size).copy()
    sigma = (0.7 + 8.0 * light_spread) * size[0] / 240.0
    for kind in (kernels.PERSON, kernels.OBSTACLE, kernels.GROUND, kernels.WALL):
        inside = (kinds == int(kind)).astype(np.float32)
        if inside.any():
            weight = cv2.GaussianBlur(inside, (0, 0), sigma)
            smooth = cv2.GaussianBlur(visibility * inside, (0, 0), sigma) / np.maximum(weight, 1e-6)
            visibility = np.where(inside > 0, smooth, visibility)
    ambient, direct = samples.ambient.reshape(*size, 3), samples.direct.reshape(*size, 3)
    return ambient + visibility[..., None] * direct


def _find_outlines(samples: RaySamples, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (H, W): whether a pixel's surface differs from that of its right or lower neighbor."""
    surface, person, depth = (array.reshape(size) for array in (samples.surface, samples.person, samples.depth))
    near = np.minimum(depth, 1e4)
    edge = np.zeros(size, bool)
    for axis in (0, 1):
        here, there = (np.take(near, np.arange(i, size[axis] - 1 + i), axis) for i in (0, 1))
        differs = np.diff(surface, axis=axis) != 0
        differs |= (np.diff(person, axis=axis) != 0) | (
            (np.maximum(here, there) > OUTLINE_DEPTH_RATIO * np.minimum(here, there))
            & (np.take(person, np.arange(size[axis] - 1), axis) >= 0)
        )
        if axis == 0:
            edge[:-1] |= differs
            edge[1:] |= differs
        else:
            edge[:, :-1] |= differs
            edge[:, 1:] |= differs
    return edge


def _project_visible(points: NDArray[np.float32], lens: CameraRays) -> NDArray[np.float64]:
    """Project the points (n, 3) m in front of the camera and not far aside to px (m, 2), without distortion."""
    if (points[:, 2] <= MIN_DEPTH_M).any():
        points = points[points[:, 2] > MIN_DEPTH_M]
    plane = np.clip(points[:, :2] / points[:, 2:], -MAX_TANGENT, MAX_TANGENT)
    k = lens.model.k
    return np.asarray(plane @ k[:2, :2].T + k[:2, 2], np.float64)


def _compute_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of the convex hull; they bound a silhouette within a pixel under mild lens distortion."""
    return np.asarray(cv2.convexHull(points.astype(np.float32)), np.float64).reshape(-1, 2)


def _clip_box(points: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float32]:
    by_axis = np.ascontiguousarray(points[np.isfinite(points).all(axis=-1)].T)
    low = np.maximum(by_axis.min(axis=1, initial=np.inf), 0.0)
    high = np.minimum(by_axis.max(axis=1, initial=-np.inf), size)
    return np.array([*low, *high], np.float32) if (low < high).all() else np.full(4, np.nan, np.float32)
