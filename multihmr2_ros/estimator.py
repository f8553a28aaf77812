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

"""The complete method in one object: `Estimator.step(frame) → People`."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.body import Body, Mesh
from multihmr2_ros.camera import ResizePad, compute_vertical_fov, project, validate_k
from multihmr2_ros.depth import RelativeDepthMap
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame, GroundPlane
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.inference import Inference, InferenceResult, Runtime, convert_network
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.shared_inference import CameraInference, SharedInference
from multihmr2_ros.people import IntrinsicsSource, People, TrackState
from multihmr2_ros.placement import (
    BodySurface,
    PlacementConfig,
    place_people,
)
from multihmr2_ros.tracking import (
    Detections,
    SmoothingConfig,
    Tracker,
    TrackerConfig,
    TrackingResult,
    VelocityConfig,
    compute_measurement_noise,
)
from multihmr2_ros.weights import resolve_checkpoint

logger = logging.getLogger(__name__)

Smoothing = Literal["auto", "always", "never"]

# Errors of positions with MoveNet's encoder are larger than the defaults assume (docs/evaluation.md, "Covariances of
# nano").
MOVENET_VELOCITY = VelocityConfig(depth_sigma_ratio=0.05, lateral_sigma_ratio=0.005, stature_share=0.5)
MOVENET_PLACEMENT = PlacementConfig(lateral_sigma_ratio=0.016, common_surface_sigma_m=0.05)
SAME_CAMERA = 0.01  # maximum relative difference of two intrinsics of one camera


@dataclass(frozen=True)
class EstimatorConfig:
    """Estimator settings.

    score_threshold  people with a higher score are kept
    tracked_ratio    people who continue a confirmed track are kept down to this share of score_threshold, so that their
                     tracks have no gaps when the score varies; 1 disables this
    nms_distance_m   of two people whose pelvises are nearer than this, only the one with the higher score is kept; 0
                     keeps all
    max_people       maximum number of people per image, at most the network's queries; on a GPU, the computing time
                     does not depend on the number of people in the image
    mesh             resolution of the vertices: "full" or "low"
    vertices         whether people have vertices, which a GPU then copies to the host; if false, they have (n, 0, 3),
                     except in frames whose depth or ground plane refines distances
    input_size       longest side, px, of the network's input, which has the shape of each image; a smaller input is
                     faster, but small people are missed. Or (width, height), multiples of the patch size: every image
                     is resized and padded to it. None: the network's own longest side
    track            whether people get track ids and velocities
    smoothing        whether poses and distances of tracked people are smoothed over time: "always", "never", or "auto",
                     with networks whose errors it was measured to reduce
    tracker          settings of the tracker; None: the defaults, with the noise of this network's positions, and
                     smoothing as chosen above
    place            whether a frame's depth and ground plane refine the distances of people
    placement        settings of this refinement; None: the defaults, with the errors of this network
    """

    score_threshold: float = 0.4
    tracked_ratio: float = 0.5
    nms_distance_m: float = 0.25
    max_people: int = 20
    mesh: Mesh = "full"
    vertices: bool = True
    input_size: int | tuple[int, int] | None = None
    track: bool = True
    smoothing: Smoothing = "auto"
    tracker: TrackerConfig | None = None
    place: bool = True
    placement: PlacementConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"score_threshold must lie between 0 and 1, got {self.score_threshold}")
        if not 0 <= self.tracked_ratio <= 1:
            raise UserError(f"tracked_ratio must lie between 0 and 1, got {self.tracked_ratio}")
        if not 0 <= self.nms_distance_m < np.inf:
            raise UserError(f"nms_distance_m must be 0 (off) or a distance in meters, got {self.nms_distance_m}")
        if self.max_people < 1:
            raise UserError(f"max_people must be at least 1, got {self.max_people}")
        if self.mesh not in ("full", "low"):
            raise UserError(f"mesh must be full or low, got {self.mesh!r}")
        if self.smoothing not in get_args(Smoothing):
            raise UserError(f"smoothing must be auto, always or never, got {self.smoothing!r}")
        if self.smoothing == "always" and not self.track:
            raise UserError("smoothing always needs tracking: expected track true, got false; use smoothing auto")


class Estimator:
    """Detector and tracker of people in the frames of one camera. Not thread-safe.

    The given network keeps its device and precision. If the runtime has the same device and precision, both share
    memory. With `shared`, the estimators of several cameras run this network together; each has its own tracker.
    """

    def __init__(
        self,
        network: MultiHMR2,
        config: EstimatorConfig | None = None,
        runtime: Runtime | None = None,
        *,
        shared: SharedInference | None = None,
    ) -> None:
        self.config = complete_config(config or EstimatorConfig(), network.config)
        _check_input_size(network.config, self.config.input_size)
        self.network_config = network.config
        self.body = Body(self.config.mesh)
        self.surface = _make_surface(self.body)
        self.tracker = Tracker(self.config.tracker)
        self._last_k: NDArray[np.float64] | None = None  # of the last frame; None: predicted
        max_people = _limit_people(self.config.max_people, network.config)
        self.inference: Inference | CameraInference = (
            Inference(network, self.body, runtime or Runtime(), max_people)
            if shared is None
            else shared.add_camera(self.body, max_people)
        )

    @classmethod
    def load(
        cls,
        weights: str | Path,
        device: str = "auto",
        *,
        config: EstimatorConfig | None = None,
        runtime: Runtime | None = None,
    ) -> Estimator:
        """Load an estimator from a weights file, or from a name in `multihmr2 weights list`.

        weights  path or name
        device   auto, cpu, cuda or cuda:N; auto: the device of the runtime, which is also auto by default
        config   settings; None: the defaults
        runtime  device, precision and mode; None: the defaults
        """
        runtime = runtime or Runtime()
        if device != "auto":
            runtime = dataclasses.replace(runtime, device=device)
        runtime = runtime.resolve()  # report a mistake before the weights are loaded
        network = checkpoint.load_network(resolve_checkpoint(str(weights)))
        return cls(convert_network(network, runtime), config, runtime)  # already converted, so no weight is copied

    @property
    def runtime(self) -> Runtime:
        """Device, precision and mode in use."""
        return self.inference.runtime

    @property
    def faces(self) -> NDArray[np.int32]:
        """Triangles (F, 3) of the mesh."""
        return self.body.faces

    def step(
        self,
        frame: Frame | NDArray[np.uint8],
        k: NDArray[np.float64] | None = None,
        stamp: float = 0.0,
        *,
        intrinsics_source: IntrinsicsSource = IntrinsicsSource.K,
        fixed_from_camera: NDArray[np.float64] | None = None,
        fixed_frame: str = "",
        depth: NDArray[np.generic] | RelativeDepthMap | None = None,
        ground: GroundPlane | None = None,
    ) -> People:
        """Detect and track the people in one frame.

        Instead of a frame, an image (H, W, 3) uint8 RGB without lens distortion is accepted; the other arguments are
        then the frame's fields.

        Raises UserError for an image, intrinsics or depth that cannot be used, and TypeError for a frame with other
        arguments.
        """
        if isinstance(frame, Frame):
            others = (k, fixed_from_camera, depth, ground)
            if any(value is not None for value in others) or stamp or fixed_frame:
                raise TypeError("step: a Frame has its own k, stamp and other fields; expected no further arguments")
        else:
            frame = Frame(
                frame, stamp, k, intrinsics_source, depth=depth, ground=ground, fixed_from_camera=fixed_from_camera,
                fixed_frame=fixed_frame,
            )  # fmt: skip
        frame.check()
        view = frame.undistort()
        resize = self.make_resize(*view.image.shape[1::-1])
        k_input = None if view.k is None else resize.k_to_input(validate_k(view.k))
        vertices = self.config.vertices or self._has_cues(view)
        found = self.inference(view.image, resize, k_input, self._min_score, vertices=vertices)
        found = self._select_present(found)
        people = self._to_people(found, resize, view)
        people = self._place(people, view)
        people = self._track(people, found.k, view)
        people = people.select((people.score > self.config.score_threshold) | (people.track_id >= 0))
        return dataclasses.replace(people, joints_2d=frame.points_as_recorded(people.joints_2d))

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Apply another configuration from the next frame on; tracks are kept.

        Loading another mesh takes half a second. After a change of mesh or max_people, the next frame takes longer if
        the network is captured or compiled. Raises UserError for a change of input_size, track, smoothing or tracker,
        which requires a new estimator.
        """
        config = complete_config(config, self.network_config)
        for name in ("input_size", "track", "smoothing", "tracker"):
            if getattr(config, name) != getattr(self.config, name):
                raise UserError(f"{name} of an existing estimator cannot be changed; create a new estimator")
        max_people = _limit_people(config.max_people, self.network_config)
        if config.mesh != self.config.mesh or max_people != self.inference.max_people:
            body = self.body if config.mesh == self.config.mesh else Body(config.mesh)
            self.inference.reconfigure(body, max_people)
            self.body, self.surface = body, _make_surface(body)
        self.config = config

    def reset(self) -> None:
        """Delete all tracks. Track ids are not reused."""
        self.tracker.reset()

    @property
    def _longest_side(self) -> int:
        """Longest side of the network's input, px, that locations are normalized by."""
        size = self.config.input_size
        return self.network_config.image_size if size is None or isinstance(size, tuple) else size

    @property
    def _min_score(self) -> float:
        """Scores at or below this are not used."""
        return self.config.score_threshold * (self.config.tracked_ratio if self.config.track else 1.0)

    def make_resize(self, width: int, height: int) -> ResizePad:
        """Return the mapping of an image of width × height px to the network's input."""
        if isinstance(self.config.input_size, tuple):
            return ResizePad.fit_inside(width, height, *self.config.input_size)
        return ResizePad.fit(width, height, self._longest_side, self.network_config.patch_size)

    def _select_present(self, found: InferenceResult) -> InferenceResult:
        """Drop low scores, people with NaN or infinity, and duplicates (NMS), and copy the others."""
        scored = np.flatnonzero(found.score > self._min_score)
        finite = _find_finite(found, scored)
        if not finite.all():
            logger.warning("%d of %d people were dropped: they have NaN or infinity", (~finite).sum(), len(finite))
            scored = scored[finite]
        return found.select(scored[suppress_nearby(found.joints[scored, 0], self.config.nms_distance_m)])

    def _to_people(self, found: InferenceResult, resize: ResizePad, frame: Frame) -> People:
        """Convert the network's result to px of the source image. Tracking and refinement of distances follow later."""
        n = len(found.score)
        k = resize.k_to_source(found.k)
        predicted_focal = 0.5 * resize.padded_width / np.tan(0.5 * float(found.horizontal_fov)) / resize.scale_y
        return People(
            score=found.score,
            track_id=np.full(n, -1, np.int64),
            track_state=np.full(n, TrackState.UNTRACKED, np.int64),
            track_age_s=np.zeros(n),
            shape=found.shape,
            running_shape=found.shape,
            rotations=found.rotations,
            bone_poses=found.bone_poses,
            joints=found.joints,
            joints_2d=project(found.joints.astype(np.float64), k).astype(np.float32),
            pelvis=found.joints[:, 0],
            pelvis_covariance=np.full((n, 3, 3), np.nan),
            velocity=np.full((n, 3), np.nan),
            velocity_covariance=np.full((n, 3, 3), np.nan),
            vertices=found.vertices,
            stature=found.stature,
            track_feature=found.track_feature,
            k=k,
            vertical_fov=compute_vertical_fov(k, resize.source_height),
            predicted_vertical_fov=2 * float(np.arctan(0.5 * resize.source_height / predicted_focal)),
            intrinsics_source=frame.intrinsics_source,
            velocity_frame="camera",
            stamp=frame.stamp,
            image_size=(resize.source_height, resize.source_width),
        )

    def _place(self, people: People, frame: Frame) -> People:
        """Refine distances by the frame's depth and ground."""
        if not self._has_cues(frame):
            return people
        assert self.config.placement is not None
        placement = place_people(people, self.surface, frame.depth, frame.ground, self.config.placement)
        # The whole error, including the part that is constant over time, which does not affect the velocity.
        noise = VelocityConfig(lateral_sigma_ratio=self.config.placement.lateral_sigma_ratio)
        covariance = compute_measurement_noise(
            placement.people.pelvis.astype(np.float64), noise, placement.distance_sigma_m
        )
        return dataclasses.replace(
            placement.people,
            pelvis_covariance=covariance,
            placement_cue=placement.cue,
            distance_sigma_m=placement.distance_sigma_m,
            predicted_distance_m=np.linalg.norm(people.pelvis.astype(np.float64), axis=1),
        )

    def _has_cues(self, frame: Frame) -> bool:
        return self.config.place and (frame.depth is not None or frame.ground is not None)

    def _track(self, people: People, k_input: NDArray[np.float32], frame: Frame) -> People:
        """Add track ids, velocities and running body shapes, and smooth bodies over time.

        k_input: (3, 3) px of the network's input
        """
        if not self.config.track:
            return people
        detections = self.make_detections(people, k_input)
        if not _is_same_camera(frame.k, self._last_k):  # such as the first camera_info: all distances jump
            self.tracker.restart_velocities()
        self._last_k = frame.k
        tracked = self.tracker.update(detections, frame.stamp, frame.fixed_from_camera, frame.fixed_frame)
        assert tracked.shape is not None
        assert tracked.stature is not None
        people = dataclasses.replace(
            people,
            track_id=tracked.track_id,
            track_state=tracked.state,
            track_age_s=tracked.age_s,
            velocity=tracked.velocity,
            velocity_covariance=tracked.velocity_covariance,
            velocity_frame=tracked.velocity_frame,
            running_shape=tracked.shape.astype(np.float32),
            stature=tracked.stature.astype(np.float32),
        )
        return people if tracked.bone_rotations is None else self.smooth_bodies(people, tracked)

    def smooth_bodies(self, people: People, tracked: TrackingResult) -> People:
        """Replace the bodies of tracked people: smoothed pose, the track's body shape, and filtered distance.

        tracked: of a tracker with smoothing, for the detections of these people
        """
        rows = np.flatnonzero(tracked.track_id >= 0)
        if not len(rows):
            return people
        assert tracked.bone_rotations is not None
        assert tracked.pelvis is not None
        shape, rotations = people.running_shape[rows], people.rotations[rows]
        rotations[:, self.body.posed_rows] = tracked.bone_rotations[rows]
        posed = self.inference.pose_bodies(shape, rotations, vertices=people.vertices.shape[1] > 0)
        # The size that was measured with the distance. Otherwise, it is that of the shape.
        is_measured = people.placement_cue is not None
        scale = (people.stature[rows] / posed.stature if is_measured else np.ones_like(posed.stature))[:, None, None]
        bone_poses = posed.bone_poses.copy()
        bone_poses[..., :3, 3] *= scale
        joints = bone_poses[..., :3, 3]
        shift = (tracked.pelvis[rows] - joints[:, 0]).astype(np.float32)[:, None]
        joints = joints + shift
        return people.replace(
            rows,
            shape=shape,
            rotations=rotations,
            bone_poses=bone_poses,
            joints=joints,
            joints_2d=project(joints.astype(np.float64), people.k).astype(np.float32),
            pelvis=joints[:, 0],
            vertices=scale * posed.vertices + shift,
        )

    def make_detections(self, people: People, k_input: NDArray[np.float32]) -> Detections:
        """Return the tracker's input. k_input: (3, 3) px of the network's input."""
        pelvis = people.pelvis.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # a person behind the camera is not tracked
            nearness = np.log(1 / pelvis[:, 2:])
        return Detections(
            feature=people.track_feature,
            location=np.hstack([project(pelvis, k_input) / self._longest_side, nearness]),
            rotation=people.rotations[:, 0],
            pelvis=pelvis,
            shape=people.shape,
            score=people.score,
            distance_sigma_m=people.distance_sigma_m,
            is_weak=people.score <= self.config.score_threshold,
            bone_rotations=people.rotations[:, self.body.posed_rows] if self.tracker.config.smoothing else None,
            stature=people.stature,  # averaged like the shape, so that the body need not run again
        )


def _is_same_camera(k: NDArray[np.float64] | None, other: NDArray[np.float64] | None) -> bool:
    """Return whether two intrinsics (3, 3) differ by less than 1 %, or are both None."""
    if k is None or other is None:
        return k is other
    return bool(np.allclose(k, other, rtol=SAME_CAMERA, atol=0.0))


def load_shared(weights: str | Path, runtime: Runtime) -> SharedInference:
    """Load the network for the estimators of several cameras. weights: as in `Estimator.load`."""
    runtime = runtime.resolve()  # report a mistake before the weights are loaded
    return SharedInference(checkpoint.load_network(resolve_checkpoint(str(weights))), runtime)


def _find_finite(found: InferenceResult, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask (n,) of the rows (n,) whose values are finite. Vertices follow from the others."""
    person = (found.shape, found.rotations, found.track_feature, found.bone_poses, found.joints, found.stature)
    finite = [np.isfinite(values[rows].reshape(len(rows), int(np.prod(values.shape[1:])))) for values in person]
    return np.asarray(np.hstack(finite).all(axis=1))


def suppress_nearby(pelvis: NDArray[np.float32], distance_m: float) -> NDArray[np.int64]:
    """Return the rows to keep of pelvises (n, 3) m in descending score.

    A row is dropped if a kept row of higher score is nearer than distance_m; 0 keeps all.
    """
    kept: list[int] = []
    for row, position in enumerate(pelvis):
        if not kept or np.linalg.norm(pelvis[kept] - position, axis=1).min() >= distance_m:
            kept.append(row)
    return np.array(kept, np.int64)


def complete_config(config: EstimatorConfig, network: NetworkConfig) -> EstimatorConfig:
    """Replace None by the settings of tracker and placement that fit the network's errors."""
    is_movenet = network.encoder == "movenet"
    is_smoothed = config.smoothing == "always" or (config.smoothing == "auto" and is_movenet)
    tracker = TrackerConfig(
        velocity=MOVENET_VELOCITY if is_movenet else VelocityConfig(),
        smoothing=SmoothingConfig() if is_smoothed else None,
    )
    return dataclasses.replace(
        config,
        tracker=config.tracker or tracker,
        placement=config.placement or (MOVENET_PLACEMENT if is_movenet else PlacementConfig()),
    )


def _make_surface(body: Body) -> BodySurface:
    return BodySurface.from_mesh(body.faces, body.anny.template_vertices.cpu().numpy())


def _limit_people(max_people: int, network: NetworkConfig) -> int:
    """Return max_people, at most the number of the network's queries; log a warning if that limits a chosen value."""
    if max_people > network.queries and max_people != EstimatorConfig.max_people:
        logger.warning("max_people %d is limited to the %d queries of this network", max_people, network.queries)
    return min(max_people, network.queries)


def _check_input_size(sizes: NetworkConfig, input_size: int | tuple[int, int] | None) -> None:
    patch = sizes.patch_size
    if isinstance(input_size, int) and not 2 * patch <= input_size <= sizes.image_size:
        raise UserError(f"input_size must be from {2 * patch} to {sizes.image_size} px, got {input_size}")
    if isinstance(input_size, tuple):
        max_side = sizes.max_grid * patch
        for name, side in zip(("width", "height"), input_size, strict=True):
            if side % patch or not patch <= side <= max_side:
                raise UserError(
                    f"the {name} of input_size must be a multiple of {patch} px, at most {max_side} px, got {side}"
                )
