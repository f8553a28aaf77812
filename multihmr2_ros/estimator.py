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

"""The core in one object: `Estimator.step(image) → People`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.body import Body, Mesh
from multihmr2_ros.camera import ResizePad, project, validate_k, vertical_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.inference import Inference, Runtime, convert_network
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.people import IntrinsicsSource, People, TrackState
from multihmr2_ros.placement import (
    BodySurface,
    Ground,
    PlacementConfig,
    RelativeDepth,
    check_depth,
    place_people,
)
from multihmr2_ros.tracking import (
    Detections,
    Tracker,
    TrackerConfig,
    VelocityConfig,
    measurement_noise,
)
from multihmr2_ros.weights import resolve_checkpoint

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class EstimatorConfig:
    """What can be chosen about estimation.

    score_threshold: a person's score must exceed it. nms_distance_m: of two people whose pelvises are nearer, only the
    one with the higher score stays; 0 keeps all. max_people: the most people in a frame, at most the network's queries
    (fixed work, whoever is there). mesh: vertices of "full" or "low" resolution. input_size: (width, height) px of the
    network's input, multiples of the patch size, into which every picture is fitted; None follows each picture's shape.
    track: whether people get identities and velocities. place: whether a depth image and a ground plane that come with
    a picture refine people's places.
    """

    score_threshold: float = 0.4
    nms_distance_m: float = 0.25
    max_people: int = 20
    mesh: Mesh = "full"
    input_size: tuple[int, int] | None = None
    track: bool = True
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    place: bool = True
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"score_threshold must lie between 0 and 1, got {self.score_threshold}")
        if not 0 <= self.nms_distance_m < np.inf:
            raise UserError(f"nms_distance_m must be 0 (off) or a distance in metres, got {self.nms_distance_m}")
        if self.max_people < 1:
            raise UserError(f"max_people must be at least 1, got {self.max_people}")
        if self.mesh not in ("full", "low"):
            raise UserError(f"mesh must be full or low, got {self.mesh!r}")


class Estimator:
    """Images in, people out, with the state that tracking needs. One camera per estimator; not for several threads.

    The network that it is made from keeps its device and precision; where the runtime has the same, they share memory.
    """

    def __init__(
        self, network: MultiHMR2, config: EstimatorConfig | None = None, runtime: Runtime | None = None
    ) -> None:
        self.config = config or EstimatorConfig()
        _check_against(network, self.config)
        self.network_config = network.config
        self.body = Body(self.config.mesh)
        self.surface = _surface(self.body)
        self.tracker = Tracker(self.config.tracker)
        max_people = min(self.config.max_people, network.config.queries)
        self._infer = Inference(network, self.body, runtime or Runtime(), max_people)

    @classmethod
    def load(
        cls,
        weights: str | Path,
        device: str = "auto",
        *,
        config: EstimatorConfig | None = None,
        runtime: Runtime | None = None,
    ) -> Estimator:
        """An estimator with the weights of a file (or of a name that `multihmr2 weights list` shows).

        device: auto, cpu, cuda or cuda:N; auto leaves the choice to the runtime, whose device is auto by default, too.
        """
        runtime = runtime or Runtime()
        if device != "auto":
            runtime = dataclasses.replace(runtime, device=device)
        runtime = runtime.resolve()  # a mistake here should not wait for the weights
        network = checkpoint.load(resolve_checkpoint(str(weights)))
        return cls(convert_network(network, runtime), config, runtime)  # converted already, no weight is there twice

    @property
    def runtime(self) -> Runtime:
        """Where and how the network really runs."""
        return self._infer.runtime

    @property
    def faces(self) -> NDArray[np.int32]:
        """(F, 3) triangles of the mesh."""
        return self.body.faces

    def step(
        self,
        image: NDArray[np.uint8],
        k: NDArray[np.float64] | None = None,
        stamp: float = 0.0,
        *,
        intrinsics_source: IntrinsicsSource = IntrinsicsSource.K,
        fixed_from_camera: NDArray[np.float64] | None = None,
        fixed_frame: str = "",
        depth: NDArray[np.generic] | RelativeDepth | None = None,
        ground: Ground | None = None,
    ) -> People:
        """The people in one picture.

        image (H, W, 3) uint8 RGB. k (3, 3) px of this image, without distortion; None: predicted. stamp: seconds, of
        the image. intrinsics_source: where a given k came from. fixed_from_camera (4, 4): the camera's pose in a fixed
        frame at the stamp, so that velocities are those over the ground. fixed_frame: its name, if there are several.
        depth (H, W): float m or uint16 mm, registered to the image; 0, NaN and infinite are holes; or a relative map.
        ground: in the camera's frame. Either refines people's places.

        Raises UserError for an image, k or depth that cannot be used.
        """
        height, width = _checked_size(image)
        check_depth(depth, (height, width))
        resize = self._resize(width, height)
        k_input = None if k is None else resize.k_to_input(validate_k(k))
        found = self._infer(image, resize, k_input)
        found = self._present(found)
        people = self._to_people(found, resize, stamp, None if k is None else intrinsics_source)
        people = self._place(people, depth, ground)
        return self._track(people, found["k"], fixed_from_camera, fixed_frame)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Work by another configuration from the next picture on; tracks live on.

        Thresholds cost nothing. Another mesh is loaded in half a second; after that, or another max_people, the next
        picture takes longer where work was captured or compiled for the old one. Raises UserError for a change of
        what is settled with the construction: input_size, track, tracker.
        """
        for name in ("input_size", "track", "tracker"):
            if getattr(config, name) != getattr(self.config, name):
                raise UserError(f"{name} cannot change while the estimator lives; make another one")
        max_people = min(config.max_people, self.network_config.queries)
        if config.mesh != self.config.mesh or max_people != self._infer.max_people:
            body = self.body if config.mesh == self.config.mesh else Body(config.mesh)
            self._infer.change(body, max_people)
            self.body, self.surface = body, _surface(body)
        self.config = config

    def reset(self) -> None:
        """Forget all tracks; ids go on counting."""
        self.tracker.reset()

    def _resize(self, width: int, height: int) -> ResizePad:
        if self.config.input_size is not None:
            return ResizePad.fit_inside(width, height, *self.config.input_size)
        return ResizePad.fit(width, height, self.network_config.image_size, self.network_config.patch_size)

    def _present(self, found: Arrays) -> Arrays:
        """Copies of the rows of people who are there: score above the threshold, not suppressed by a better one."""
        scored = np.flatnonzero(found["score"] > self.config.score_threshold)
        rows = scored[nearest_suppressed(found["joints"][scored, 0], self.config.nms_distance_m)]
        frame_wide = ("horizontal_fov", "k")
        return {name: value.copy() if name in frame_wide else value[rows] for name, value in found.items()}

    def _to_people(self, found: Arrays, resize: ResizePad, stamp: float, source: IntrinsicsSource | None) -> People:
        n = len(found["score"])
        k = resize.k_to_source(found["k"])
        focal = 0.5 * resize.padded_width / np.tan(0.5 * float(found["horizontal_fov"])) / resize.scale_y
        return People(
            score=found["score"],
            track_id=np.full(n, -1, np.int64),
            track_state=np.full(n, TrackState.UNTRACKED, np.int64),
            track_age_s=np.zeros(n),
            shape=found["shape"],
            running_shape=found["shape"],
            rotations=found["rotations"],
            bone_poses=found["bone_poses"],
            joints=found["joints"],
            joints_2d=project(found["joints"].astype(np.float64), k).astype(np.float32),
            pelvis=found["joints"][:, 0],
            pelvis_covariance=np.full((n, 3, 3), np.nan),
            velocity=np.full((n, 3), np.nan),
            velocity_covariance=np.full((n, 3, 3), np.nan),
            vertices=found["vertices"],
            stature=found["stature"],
            track_feature=found["track_feature"],
            k=k,
            vertical_fov=vertical_fov(k, resize.source_height),
            predicted_vertical_fov=2 * float(np.arctan(0.5 * resize.source_height / focal)),
            intrinsics_source=source or IntrinsicsSource.PREDICTED,
            velocity_frame="camera",
            stamp=stamp,
            image_size=(resize.source_height, resize.source_width),
        )

    def _place(
        self, people: People, depth: NDArray[np.generic] | RelativeDepth | None, ground: Ground | None
    ) -> People:
        if not self.config.place or (depth is None and ground is None):
            return people
        placement = place_people(people, self.surface, depth, ground, self.config.placement)
        # All of the error: what stays the same from image to image is no motion, but is in the place.
        noise = VelocityConfig(lateral_sigma_ratio=self.config.placement.lateral_sigma_ratio)
        covariance = measurement_noise(placement.people.pelvis.astype(np.float64), noise, placement.distance_sigma_m)
        return dataclasses.replace(
            placement.people,
            pelvis_covariance=covariance,
            placement_cue=placement.cue,
            distance_sigma_m=placement.distance_sigma_m,
        )

    def _track(
        self,
        people: People,
        k_input: NDArray[np.float32],
        fixed_from_camera: NDArray[np.float64] | None,
        fixed_frame: str,
    ) -> People:
        if not self.config.track:
            return people
        tracked = self.tracker.update(self._detections(people, k_input), people.stamp, fixed_from_camera, fixed_frame)
        assert tracked.shape is not None
        return dataclasses.replace(
            people,
            track_id=tracked.track_id,
            track_state=tracked.state,
            track_age_s=tracked.age_s,
            velocity=tracked.velocity,
            velocity_covariance=tracked.velocity_covariance,
            velocity_frame=tracked.velocity_frame,
            running_shape=tracked.shape[:, :-1].astype(np.float32),
            stature=tracked.shape[:, -1].astype(np.float32),
        )

    def _detections(self, people: People, k_input: NDArray[np.float32]) -> Detections:
        pelvis = people.pelvis.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # a person behind the camera is not tracked
            nearness = np.log(1 / pelvis[:, 2:])
        return Detections(
            feature=people.track_feature,
            location=np.hstack([project(pelvis, k_input) / self.network_config.image_size, nearness]),
            rotation=people.rotations[:, 0],
            pelvis=pelvis,
            # Stature follows from the shape, and is averaged with it: no second run of the body.
            shape=np.hstack([people.shape, people.stature[:, None]]),
            score=people.score,
            distance_sigma_m=people.distance_sigma_m,
        )


def nearest_suppressed(pelvis: NDArray[np.float32], distance_m: float) -> NDArray[np.int64]:
    """Rows that stay of pelvises (n, 3) m in descending score: greedily, none nearer than distance_m to a better one
    that stays (spec section 7). 0 keeps all."""
    kept: list[int] = []
    for row, place in enumerate(pelvis):
        if not kept or np.linalg.norm(pelvis[kept] - place, axis=1).min() >= distance_m:
            kept.append(row)
    return np.array(kept, np.int64)


def _surface(body: Body) -> BodySurface:
    return BodySurface.of_mesh(body.faces, body.anny.template_vertices.cpu().numpy())


def _checked_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image must be a (height, width, 3) uint8 RGB array, got {came}; convert it first")
    if 0 in image.shape:
        raise UserError(f"an image must have pixels, got {image.shape[1]} × {image.shape[0]}")
    return image.shape[0], image.shape[1]


def _check_against(network: MultiHMR2, config: EstimatorConfig) -> None:
    sizes = network.config
    for name, side in zip(("width", "height"), config.input_size or (), strict=False):
        most = sizes.max_grid * sizes.patch_size
        if side % sizes.patch_size or not sizes.patch_size <= side <= most:
            raise UserError(
                f"the input's {name} must be a multiple of {sizes.patch_size} px, at most {most} px; got {side}"
            )
