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

"""Simulated scenes of a robot with a depth camera, and simulated network predictions of their people."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from multihmr2_ros.body import Body
from multihmr2_ros.camera import project
from multihmr2_ros.people import People, PlacementCue
from multihmr2_ros.placement import BodySurface, GroundPlane, place_people
from multihmr2_ros.simulation.labels import make_labels
from multihmr2_ros.simulation.scene import Scene, SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.posing import PosedScene, pose_scene
from test.helpers.people_factory import make_people
from test.helpers.simulation_scenes import body as full_body
from test.helpers.simulation_scenes import make_renderer

POSED_BONES = ("root", "spine05", "spine03", "upperarm01", "lowerarm01", "upperleg01", "lowerleg01")

OPTIONS = SceneOptions(width=320, height=240, people=(1, 8), distance_m=(0.7, 8.0), duration_s=2.0, moving_camera=True)


@dataclass(frozen=True)
class NetworkErrors:
    """Standard deviations of a network's errors.

    - shared: common to body size and distance, log factor;
    - own_*: of each separately, log factor;
    - pose_deg: of each of a dozen joints;
    - root_deg: of the root orientation;
    - pixel: of the pelvis in the image;
    - age.
    """

    shared: float
    own_depth: float
    own_stature: float
    pose_deg: float = 4.0
    root_deg: float = 3.0
    pixel: float = 1.5
    age: float = 0.05


# A network trained by reprojection aligns bodies with the image: a body placed too far away is too large.
OVERLAID = NetworkErrors(shared=0.11, own_depth=0.05, own_stature=0.03)
# A network whose depths are independent of the body sizes.
INDEPENDENT = NetworkErrors(shared=0.0, own_depth=0.125, own_stature=0.05)


@dataclass(frozen=True, eq=False)
class RgbdFrame:
    """One frame: the truth of its n people, and the other inputs of a robot.

    k (3, 3) px; depth (H, W) float32 m of a noisy camera, NaN in holes; ground in the camera frame. findable (n,):
    whether a detector should find the person; occluded (n,): whether less than 70 % of the person is visible.
    """

    posed: PosedScene
    k: np.ndarray
    depth: np.ndarray
    ground: GroundPlane
    findable: np.ndarray
    occluded: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """True distances (n,) m from the camera to the pelvises."""
        return np.linalg.norm(self.posed.joints[:, 0].astype(float), axis=1)

    @property
    def child(self) -> np.ndarray:
        return self.posed.shape[:, 1] < 0.5


@functools.cache
def load_low_body() -> Body:
    return Body("low")


@functools.cache
def make_surface(mesh: str = "low") -> BodySurface:
    body = load_low_body() if mesh == "low" else full_body()
    return BodySurface.from_mesh(body.faces, body.anny.template_vertices.numpy())


def make_rgbd_frames(seed: int, options: SceneOptions, times_s: tuple[float, ...]) -> Iterator[RgbdFrame]:
    """Return the frames of one scene at the given times."""
    generator = np.random.default_rng(seed)
    scene = sample_scene(generator, options)
    for time_s in times_s:
        yield make_frame(scene, time_s, generator)


def make_frame(scene: Scene, time_s: float, generator: np.random.Generator) -> RgbdFrame:
    posed = pose_scene(scene, time_s, full_body())
    rendered = make_renderer().render(scene, posed, generator)
    truth = make_labels(scene, posed, rendered)
    return RgbdFrame(
        posed,
        truth.k,
        render_depth(rendered.depth, generator),
        GroundPlane.from_fixed_frame(posed.world_from_camera),
        truth.findable,
        truth.visible_fraction < 0.7,
    )


def render_depth(depth: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return depth (H, W) float32 m as measured by a stereo camera, NaN for missing values.

    The noise grows with the squared depth; the range is 0.3 m to 10 m; values are missing in patches and along
    outlines, at which intermediate depths also occur; values are rounded to millimeters.
    """
    height, width = depth.shape
    finite = np.minimum(depth, 100.0)
    near, far = cv2.erode(finite, np.ones((3, 3))), cv2.dilate(finite, np.ones((3, 3)))
    edge = far > 1.05 * near
    mix = generator.random(depth.shape)
    measured = np.where(edge & (mix < 0.25), near + (far - near) * generator.random(depth.shape), finite)
    measured = measured + generator.normal(0.0, 1.0, depth.shape) * (0.001 + 0.0012 * finite**2)
    patches = cv2.resize(generator.normal(size=(max(height // 20, 2), max(width // 20, 2))), (width, height))
    hole = (patches > 1.0) | (edge & (mix > 0.6)) | (measured < 0.3) | (measured > 10.0)
    return np.where(hole, np.nan, np.round(measured, 3)).astype(np.float32)


def make_predicted(
    eval_frame: RgbdFrame, errors: NetworkErrors, generator: np.random.Generator, mesh: str = "low"
) -> People:
    """Return the people of a frame as predicted by a network with these errors, in the order of the truth."""
    body = load_low_body() if mesh == "low" else full_body()
    truth, n = eval_frame.posed, len(eval_frame.posed.shape)
    shared = generator.normal(0.0, errors.shared, n)
    along = np.exp(shared + generator.normal(0.0, errors.own_depth, n))
    scale = np.exp(shared + generator.normal(0.0, errors.own_stature, n))
    rotations = truth.rotations.astype(np.float64)
    for row, label in enumerate(body.bone_labels):
        if label.split(".")[0] in POSED_BONES:
            sigma = errors.root_deg if label == "root" else errors.pose_deg
            turn = Rotation.from_rotvec(np.deg2rad(generator.normal(0.0, sigma, (n, 3)))).as_matrix()
            rotations[:, row] = turn @ rotations[:, row] if label == "root" else rotations[:, row] @ turn
    with torch.no_grad():
        posed = body(torch.from_numpy(truth.shape), torch.from_numpy(rotations.astype(np.float32)))
    joints, vertices = posed.joints.numpy(), posed.vertices.numpy()
    pelvis = truth.joints[:, 0].astype(np.float64)
    pelvis[:, :2] += generator.normal(0.0, errors.pixel, (n, 2)) * pelvis[:, 2:] / eval_frame.k[0, 0]
    place = (pelvis * along[:, None])[:, None]
    size = scale[:, None, None]
    shape = truth.shape.copy()
    shape[:, 1] = np.clip(shape[:, 1] + generator.normal(0.0, errors.age, n), 0.0, 1.0)
    bone_poses = posed.bone_poses.numpy().copy()
    bone_poses[..., :3, 3] *= size
    placed = place + size * (joints - joints[:, :1])
    return make_people(
        n,
        pelvis=place[:, 0],
        k=eval_frame.k,
        image_size=eval_frame.depth.shape,
        vertices=(place + size * (vertices - joints[:, :1])).astype(np.float32),
        joints=placed.astype(np.float32),
        joints_2d=project(placed, eval_frame.k).astype(np.float32),
        bone_poses=bone_poses.astype(np.float32),
        rotations=rotations.astype(np.float32),
        shape=shape,
        running_shape=shape.copy(),
        stature=(posed.stature.numpy() * scale).astype(np.float32),
    )


CUES = ("depth", "ground", "both")


def compute_distance(people: People) -> np.ndarray:
    """Return the distances (n,) m from the camera to the pelvises."""
    return np.linalg.norm(people.pelvis.astype(float), axis=1)


def measure(frames: list[RgbdFrame], errors: NetworkErrors, seed: int = 0) -> dict[str, np.ndarray]:
    """Return arrays (m,) over the m detectable people of all frames.

    The keys: child; occluded; "network" and CUES, the errors of the distance (m) with that placement; "<cue> sigma" and
    "<cue> cue"; "… stature", the errors of the logarithm of the stature.
    """
    generator = np.random.default_rng(seed)
    rows: list[dict[str, np.ndarray]] = []
    for frame in frames:
        people = make_predicted(frame, errors, generator)
        row = {"child": frame.child, "occluded": frame.occluded, "network": compute_distance(people) - frame.truth}
        row["network stature"] = np.log(people.stature / frame.posed.stature)
        for name in CUES:
            depth = frame.depth if name != "ground" else None
            placed = place_people(people, make_surface(), depth, frame.ground if name != "depth" else None)
            row[name] = compute_distance(placed.people) - frame.truth
            row[f"{name} sigma"], row[f"{name} cue"] = placed.distance_sigma_m, placed.cue
            row[f"{name} stature"] = np.log(placed.people.stature / frame.posed.stature)
        rows.append({key: values[frame.findable] for key, values in row.items()})
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def summary(found: dict[str, np.ndarray]) -> str:
    """Return a table of the distance errors by group of people and by cue."""
    everybody = np.ones(len(found["network"]), bool)
    lines = ["group     cue      people  median m: network → placed   mean m: network → placed   |z| < 2  by cue"]
    for group, rows in (("all", everybody), ("children", found["child"]), ("occluded", found["occluded"])):
        before = np.abs(found["network"][rows])
        for name in CUES:
            after = np.abs(found[name][rows])
            honest = np.mean(after < 2 * found[f"{name} sigma"][rows])
            informed = np.mean(found[f"{name} cue"][rows] != PlacementCue.PRIOR)
            median, mean = (
                f"{f(before):.3f} → {f(after):.3f} ({f(after) / f(before):.2f})" for f in (np.median, np.mean)
            )
            lines.append(f"{group:9} {name:8} {rows.sum():5}   {median}   {mean}   {honest:.2f}   {informed:.2f}")
    return "\n".join(lines)
