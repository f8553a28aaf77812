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

"""Places the fitted bodies of one image jointly with its depth map, so that their distances and sizes are consistent.

A fit determines a body's position and size in the image; its distance follows from the prior of statures alone.
Placement moves bodies along their rays and scales them by the same factor. The scale is expressed by the height
phenotype, because the file of bodies has no scale except the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.camera import compute_vertical_fov, project
from multihmr2_ros.people import BONE_COUNT, PHENOTYPE_LABELS, IntrinsicsSource, People, PlacementCue, TrackState
from multihmr2_ros.placement import BodySurface, PlacementConfig, RelativeDepthMap, place_people

HEIGHT = PHENOTYPE_LABELS.index("height")
BISECTIONS = 20
# The fit matches the image and has already used the prior of statures for its distance: without the prior, only the
# ratio of distance and size is known.
FITTED = PlacementConfig(shared_sigma=1.0, own_depth_sigma=0.03, own_stature_sigma=0.03)

Arrays = dict[str, NDArray[Any]]
FindMap = Callable[[str], NDArray[np.generic] | RelativeDepthMap | None]


@dataclass(frozen=True)
class PlacementReport:
    """Result of the placement.

    bodies: number of all bodies. moved (n,): relative change of distance of the n bodies placed with a depth map.
    """

    bodies: int
    moved: NDArray[np.float64]

    def to_text(self) -> str:
        """Return the report as one line for the terminal."""
        median = 100 * np.median(np.abs(self.moved)) if len(self.moved) else 0.0
        placed = f"{len(self.moved)} of {self.bodies} bodies placed by depth maps"
        return f"{placed}; median change of distance {median:.1f} %"


def place_bodies(arrays: Arrays, sizes: dict[str, tuple[int, int]], find: FindMap) -> tuple[Arrays, PlacementReport]:
    """Place the bodies of each image by its depth map; return the file's arrays with new centre and shape, and with

    placed            (N,) bool: the positions of this image's placed bodies are consistent with each other
    distance_sigma_m  (N,) float32, standard deviation of the distance to the assumed camera; NaN where not placed

    sizes       image name → (width, height) px
    find(name)  returns the depth map of an image, or None
    """
    body = Body("low")
    surface = BodySurface.from_mesh(body.faces, body.anny.template_vertices.cpu().numpy())
    n = len(arrays["image"])
    centre, shape = arrays["centre"].astype(np.float32), arrays["shape"].astype(np.float32)
    placed, sigma_m, moved = np.zeros(n, np.bool_), np.full(n, np.nan, np.float32), np.zeros(n)
    names, image, counts = np.unique(arrays["image"], return_inverse=True, return_counts=True)
    parts = np.split(image.argsort(kind="stable"), counts.cumsum()[:-1])  # without bodies: one empty part
    for name, rows in zip(names, parts, strict=False):
        depth = find(str(name)) if len(rows) > 1 else None
        if depth is None:
            continue
        width, height = sizes[str(name)]
        people = make_people(
            {key: values[rows] for key, values in arrays.items() if key in ROWS}, body, (height, width)
        )
        found = place_people(people, surface, depth, None, FITTED)
        by_map = found.cue == PlacementCue.DEPTH
        chosen = rows[by_map]
        if not len(chosen):
            continue
        shape[chosen], centre[chosen] = _to_rows(found.people.select(by_map), body)
        placed[chosen], sigma_m[chosen] = True, found.distance_sigma_m[by_map]
        moved[chosen] = (found.people.pelvis[by_map, 2] / people.pelvis[by_map, 2]) - 1
    result = {**arrays, "centre": centre, "shape": shape, "placed": placed, "distance_sigma_m": sigma_m}
    return result, PlacementReport(n, moved[placed])


ROWS = ("shape", "rotations", "centre", "k")


@torch.no_grad()
def make_people(rows: Arrays, body: Body, image_size: tuple[int, int]) -> People:
    """Return n fitted bodies of one image (height, width) px as People; rows: the file's arrays named in ROWS."""
    shape, rotations = rows["shape"].astype(np.float32), rows["rotations"].astype(np.float32)
    posed = body(torch.from_numpy(shape), torch.from_numpy(rotations))
    vertices, joints = posed.vertices.numpy(), posed.joints.numpy()
    move = (rows["centre"] - vertices[:, body.center_vertex])[:, None].astype(np.float32)
    joints = joints + move
    n, k = len(shape), rows["k"][0].astype(np.float64)
    fov = compute_vertical_fov(k, image_size[0])
    return People(
        score=np.ones(n, np.float32),
        track_id=np.full(n, -1, np.int64),
        track_state=np.full(n, TrackState.UNTRACKED, np.int64),
        track_age_s=np.zeros(n),
        shape=shape,
        running_shape=shape,
        rotations=rotations,
        bone_poses=posed.bone_poses.numpy().reshape(n, BONE_COUNT, 4, 4),
        joints=joints,
        joints_2d=project(joints.astype(np.float64), k).astype(np.float32),
        pelvis=joints[:, 0],
        pelvis_covariance=np.full((n, 3, 3), np.nan),
        velocity=np.full((n, 3), np.nan),
        velocity_covariance=np.full((n, 3, 3), np.nan),
        vertices=vertices + move,
        stature=posed.stature.numpy(),
        track_feature=np.zeros((n, 0), np.float32),
        k=k,
        vertical_fov=fov,
        predicted_vertical_fov=fov,
        intrinsics_source=IntrinsicsSource.PARAMETER,
        velocity_frame="camera",
        stamp=0.0,
        image_size=image_size,
    )


@torch.no_grad()
def _to_rows(people: People, body: Body) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return shapes (n, 6) with the people's statures, and their center vertices (n, 3) m, camera frame."""
    shape = set_stature(body, torch.from_numpy(people.shape), torch.from_numpy(people.stature))
    posed = body(shape, torch.from_numpy(people.rotations))
    offset = posed.vertices[:, body.center_vertex] - posed.joints[:, 0]
    return shape.numpy(), people.pelvis + offset.numpy()


def set_stature(body: Body, shape: Tensor, stature: Tensor) -> Tensor:
    """Return shapes (n, 6) whose height phenotype gives the statures (n,) m, or is at its nearest limit."""
    low, high, shape = torch.zeros(len(shape)), torch.ones(len(shape)), shape.clone()
    for _ in range(BISECTIONS):
        shape[:, HEIGHT] = 0.5 * (low + high)
        small = body.compute_stature(shape) < stature
        low, high = torch.where(small, shape[:, HEIGHT], low), torch.where(small, high, shape[:, HEIGHT])
    return shape
