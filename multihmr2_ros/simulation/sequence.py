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

"""Renders a scene over time: its images, and their ground truth as People."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros.body import Body
from multihmr2_ros.camera import compute_vertical_fov
from multihmr2_ros.people import IntrinsicsSource, People, TrackState
from multihmr2_ros.simulation.rendering.renderer import RenderedImage, Renderer
from multihmr2_ros.simulation.scene.options import SceneOptions
from multihmr2_ros.simulation.scene.pelvis_trajectory import compute_pelvis_trajectory
from multihmr2_ros.simulation.scene.posing import PosedScene, pose_scene
from multihmr2_ros.simulation.scene.sampling import sample_scene
from multihmr2_ros.simulation.scene.scene import Scene

from .labels import Labels, make_labels

Vertices = Literal["none", "low", "full"]


@dataclass(frozen=True, eq=False)
class SimulatedFrame:
    """One image of a scene with its ground truth.

    velocity (n, 3) float64 m/s: of the pelvises over the ground, in the world's axes. people: see `make_people`.
    """

    scene: Scene
    posed: PosedScene
    rendered: RenderedImage
    labels: Labels
    velocity: NDArray[np.float64]
    people: People


@contextlib.contextmanager
def limit_to_one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread: bodies are small work, and waiting threads cost several times as much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class SceneRenderer:
    """Renderer of whole scenes; loading takes seconds, so use one renderer for many scenes."""

    def __init__(self) -> None:
        self._body, self._low = Body("full"), Body("low")
        self._renderer = Renderer(self._body)

    def render_frames(self, seed: int, options: SceneOptions, vertices: Vertices = "low") -> Iterator[SimulatedFrame]:
        """Yield the images of the scene of a seed; the same seed and options give the same bytes on one machine."""
        generator = np.random.default_rng(seed)
        scene = sample_scene(generator, options)
        ground = compute_pelvis_trajectory(scene, self._low)
        for index in range(count_frames(options)):
            time = index / options.frame_rate_hz
            with torch.no_grad():
                posed = pose_scene(scene, time, self._body, ground.compute_heights(time))
                rendered = self._renderer.render(scene, posed, generator)
                truth = make_labels(scene, posed, rendered)
                velocity = ground.compute_velocity(time)
                people = make_people(posed, truth, velocity, self._low, vertices, moving=options.moving_camera)
            yield SimulatedFrame(scene, posed, rendered, truth, velocity, people)


def count_frames(options: SceneOptions) -> int:
    """Return the number of images of a sequence, at least one."""
    return max(1, round(options.duration_s * options.frame_rate_hz))


def make_people(
    posed: PosedScene,
    truth: Labels,
    world_velocity: NDArray[np.float64],
    low: Body,
    vertices: Vertices,
    *,
    moving: bool,
) -> People:
    """Return all people of the scene as People, visible or not, in descending visible fraction.

    score is the visible fraction, track_id the person_id; every track is confirmed and as old as the scene. velocity is
    over the ground: in the camera's axes if the camera is still, in the world's ("fixed") if it moves.
    """
    count = len(posed.person_id)
    body = low(torch.from_numpy(posed.shape), torch.from_numpy(posed.rotations))
    joints = body.joints.numpy()
    chosen = {
        "none": np.zeros((count, 0, 3), np.float32),
        "low": body.vertices.numpy() + (posed.joints[:, :1] - joints[:, :1]),
        "full": posed.vertices,
    }[vertices]
    velocity = world_velocity if moving else world_velocity @ posed.world_from_camera[:3, :3]
    fov = compute_vertical_fov(truth.k, truth.image_size[0])
    people = People(
        score=truth.visible_fraction,
        track_id=posed.person_id,
        track_state=np.full(count, TrackState.CONFIRMED, np.int64),
        track_age_s=np.full(count, posed.time_s),
        shape=posed.shape,
        running_shape=posed.shape,
        rotations=posed.rotations,
        bone_poses=body.bone_poses.numpy(),
        joints=posed.joints,
        joints_2d=truth.joints_2d,
        pelvis=truth.pelvis,
        velocity=velocity,
        pelvis_covariance=np.zeros((count, 3, 3)),
        velocity_covariance=np.zeros((count, 3, 3)),
        vertices=chosen,
        stature=posed.stature,
        track_feature=np.zeros((count, 0), np.float32),
        k=truth.k,
        vertical_fov=fov,
        predicted_vertical_fov=math.nan,
        intrinsics_source=IntrinsicsSource.K,
        velocity_frame="fixed" if moving else "camera",
        stamp=posed.time_s,
        image_size=truth.image_size,
    )
    return people.select(np.argsort(-truth.visible_fraction, kind="stable"))
