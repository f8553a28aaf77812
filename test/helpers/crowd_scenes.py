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

"""Simulated crowds with relative depth maps of known errors, and the accuracy of placement with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from multihmr2_ros.metrics.placement import depth_order
from multihmr2_ros.people import People
from multihmr2_ros.placement import MapKind, RelativeDepthMap, place_people
from multihmr2_ros.simulation.labels import make_labels
from multihmr2_ros.simulation.scene import SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.posing import pose_scene
from test.helpers.rgbd_scenes import GroundPlane, NetworkErrors, RgbdFrame, make_predicted, make_surface
from test.helpers.simulation_scenes import body as full_body
from test.helpers.simulation_scenes import make_renderer

CROWD = SceneOptions(width=320, height=240, people=(4, 12), distance_m=(1.5, 9.0))
MIN_CROWD = 4
SKY_M = 1000.0

MapMaker = Callable[[np.ndarray, np.random.Generator], RelativeDepthMap]


def make_crowds(count: int, first_seed: int = 1000) -> Iterator[RgbdFrame]:
    """Return frames with 4 to 12 detectable people each, adults and children; depth (H, W) m is the true depth."""
    seed = first_seed
    while count:
        generator = np.random.default_rng(seed)
        scene = sample_scene(generator, CROWD)
        posed = pose_scene(scene, 0.0, full_body())
        rendered = make_renderer().render(scene, posed, generator)
        truth, seed = make_labels(scene, posed, rendered), seed + 1
        if truth.findable.sum() >= MIN_CROWD:
            ground = GroundPlane.from_fixed_frame(posed.world_from_camera)
            yield RgbdFrame(posed, truth.k, rendered.depth, ground, truth.findable, truth.visible_fraction < 0.7)
            count -= 1


def make_smooth_field(shape: tuple[int, ...], generator: np.random.Generator, cells: int) -> np.ndarray:
    """Return a smooth random field (H, W) of mean 0 and standard deviation 1, with about `cells` bumps vertically."""
    height, width = shape
    coarse = generator.normal(size=(cells + 3, cells * width // height + 3)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / field.std()


def make_relative_map(depth: np.ndarray, generator: np.random.Generator, kind: MapKind = "inverse") -> RelativeDepthMap:
    """Return a map of depth (H, W) m up to scale and shift, with the errors of a depth network.

    The errors: 5 % noise, half of it per pixel and half in patches; a smooth distortion of 3 % over the image and one
    by a power of 0.9 to 1.1; outlines displaced by up to 3 px; holes; a wrong rectangle; a random scale and shift.
    """
    height, width = depth.shape
    z = np.minimum(depth, SKY_M).astype(np.float32)
    shift = [
        np.float32(axis) + 1.5 * make_smooth_field(z.shape, generator, 12).astype(np.float32)
        for axis in np.indices(z.shape)
    ]
    z = cv2.remap(z, shift[1], shift[0], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    noise = 0.05 * np.sqrt(0.5) * (generator.normal(size=z.shape) + make_smooth_field(z.shape, generator, 30))
    z = z * np.exp(noise + 0.03 * make_smooth_field(z.shape, generator, 2))
    z = 4.0 * (z / 4.0) ** generator.uniform(0.9, 1.1)
    values = 1.0 / z if kind == "inverse" else np.minimum(z, 50.0)
    values = values * generator.uniform(0.2, 50.0)
    values = values + generator.uniform(-1.0, 1.0) * np.ptp(values)
    values[make_smooth_field(z.shape, generator, 6) > 1.5] = np.nan
    top, left = generator.integers(0, height - height // 5), generator.integers(0, width - width // 5)
    values[top : top + height // 5, left : left + width // 5] = generator.uniform(np.nanmin(values), np.nanmax(values))
    return RelativeDepthMap(values.astype(np.float32), kind)


def make_noise_map(depth: np.ndarray, generator: np.random.Generator) -> RelativeDepthMap:
    return RelativeDepthMap(generator.normal(size=depth.shape).astype(np.float32))


def make_smooth_map(depth: np.ndarray, generator: np.random.Generator) -> RelativeDepthMap:
    return RelativeDepthMap(make_smooth_field(depth.shape, generator, int(generator.integers(1, 8))).astype(np.float32))


def make_inverted_map(depth: np.ndarray, generator: np.random.Generator) -> RelativeDepthMap:
    return RelativeDepthMap(-make_relative_map(depth, generator).values)


def make_mirrored_map(depth: np.ndarray, generator: np.random.Generator) -> RelativeDepthMap:
    """Return a wrong map: the image's own map, flipped vertically and horizontally, in place of another scene's."""
    return RelativeDepthMap(np.ascontiguousarray(make_relative_map(depth, generator).values[::-1, ::-1]))


USELESS: dict[str, MapMaker] = {
    "noise": make_noise_map, "smooth": make_smooth_map, "inverted": make_inverted_map, "mirrored": make_mirrored_map
}  # fmt: skip


def compute_pair_distances(pelvis: np.ndarray) -> np.ndarray:
    """Return the distances (n·(n−1)/2,) m between all pairs of pelvises (n, 3)."""
    first, second = np.triu_indices(len(pelvis), k=1)
    return np.linalg.norm(pelvis[first] - pelvis[second], axis=1)


def compute_errors(people: People, true: np.ndarray) -> dict[str, np.ndarray]:
    """Return the errors of a frame's people for true pelvises true (n, 3).

    - distance (n,) m: error of the distance to the camera;
    - pair (p,) m: error of the distance between two people;
    - relation (p,) bool: whether the relation in depth is correct within 0.2 m;
    - order (p,) bool: whether the order in depth is correct.
    """
    pelvis = people.pelvis.astype(float)
    return {
        "distance": np.abs(np.linalg.norm(pelvis, axis=1) - np.linalg.norm(true, axis=1)),
        "pair": np.abs(compute_pair_distances(pelvis) - compute_pair_distances(true)),
        "relation": depth_order(pelvis, true),
        "order": depth_order(pelvis, true, 0.0),
    }


def measure(frames: list[RgbdFrame], errors: NetworkErrors, maker: MapMaker, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the errors of the detectable people of all frames.

    The keys name the placement: the network's own, "alone" without a map, "joint" with a map. Also returned: "joint z",
    the errors of the distances divided by their standard deviations, and "used" (frames,), the confidence in the map.
    """
    generator, rows = np.random.default_rng(seed), []
    for frame in frames:
        people = make_predicted(frame, errors, generator).select(frame.findable)
        true = frame.posed.joints[frame.findable, 0].astype(float)
        alone = place_people(people, make_surface())
        joint = place_people(people, make_surface(), maker(frame.depth, generator))
        row = {}
        for name, placed in (("network", people), ("alone", alone.people), ("joint", joint.people)):
            row |= {f"{name} {key}": value for key, value in compute_errors(placed, true).items()}
        row["joint z"] = row["joint distance"] / joint.distance_sigma_m
        row["used"] = np.array([joint.map_probability])
        rows.append(row)
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def format_summary(found: dict[str, np.ndarray]) -> str:
    """Return a table: correct relations and orders in %, medians of the errors in m."""
    lines = ["            relations  order   pairs median m   distance median, mean m"]
    for name in ("network", "alone", "joint"):
        relation, order = (100 * found[f"{name} {key}"].mean() for key in ("relation", "order"))
        distance, pair = found[f"{name} distance"], np.median(found[f"{name} pair"])
        lines.append(
            f"{name:11} {relation:8.1f} % {order:6.1f} %   {pair:8.3f}        {np.median(distance):.3f}, "
            f"{distance.mean():.3f}"
        )
    z, used = found["joint z"], np.mean(found["used"] > 0.5)
    lines.append(
        f"map used in {100 * used:.0f} % of images; |z| < 1: {np.mean(z < 1):.2f}, |z| < 2: {np.mean(z < 2):.2f}"
    )
    return "\n".join(lines)
