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

"""Logs frames and people for the Rerun viewer (https://rerun.io): image, camera, bodies, trails, velocities.

Entities, below `world`, whose axes are those of the fixed frame (z up) if the camera's pose is known, else those of
the camera's optical frame:

| entity | content |
|---|---|
| camera | the camera's pose; people are below it, in its optical frame |
| camera/image | pinhole camera with K, the image as JPEG; its overlays are skeletons and true_skeletons |
| camera/depth | depth image, shown as points |
| camera/people | names, velocities (distance in 1 s), one-sigma ellipsoids of both covariances, meshes/ID or bones |
| camera/truth | the same of the true people, in TRUTH_COLOR |
| trails, true_trails | positions of the pelvises of tracked people over the last TRAIL_S seconds |
| ground | lines 1 m apart in the ground plane |

Timelines: `frame`, the number of the frame, and `stamp`, of the image.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project
from multihmr2_ros.depth import depth_to_meters
from multihmr2_ros.errors import UserError
from multihmr2_ros.frame import Frame, GroundPlane
from multihmr2_ros.media.rerun_people import PREDICTED, TRUTH, BodyTopology, PeopleRows
from multihmr2_ros.media.rerun_rows import ColumnBatch, RowBuffer
from multihmr2_ros.people import People

Timeline = Literal["frame", "stamp"]
APPLICATION = "multihmr2"
MISSING = "rerun is not installed: pip install 'multihmr2_ros[view]'"
JPEG_QUALITY = 75
GROUND_REACH_M = 10
GROUND_STEP_M = 0.005  # the lines of the ground are logged again after a change of this size
MM_PER_M = 1000
IMAGE_PLANE_M = np.array([0.7])  # distance from the camera
EYE_M, TARGET_M = (3.5, -2.5, -2.5), (0.0, 0.3, 3.5)  # at first, in the camera's optical frame: from its side


@dataclass(frozen=True)
class FrameContext:
    """Data of a frame in addition to the image.

    depth_m            (H, W) float32 m, registered to the undistorted image; 0 or NaN where unknown
    fixed_from_camera  (4, 4) pose of the camera in a frame with z up
    ground             the ground plane in the camera's frame; None: z = 0 of the fixed frame, if there is one
    truth              the true people
    """

    depth_m: NDArray[np.float32] | None = None
    fixed_from_camera: NDArray[np.float64] | None = None
    ground: GroundPlane | None = None
    truth: People | None = None

    @classmethod
    def from_frame(cls, frame: Frame, truth: People | None = None) -> FrameContext:
        """Return the depth in meters, the ground and the camera's pose of a frame."""
        depth = frame.undistort().depth
        depth_m = depth_to_meters(depth) if isinstance(depth, np.ndarray) else None
        return cls(depth_m, frame.fixed_from_camera, frame.ground, truth)


NO_CONTEXT = FrameContext()


def import_rerun() -> Any:
    """Import the module rerun, without its messages on standard error. Raises UserError if it is not installed."""
    os.environ.setdefault("RUST_LOG", "off")  # they interrupt progress bars; `RerunRecording` reports the problems
    try:
        import rerun
    except ImportError:
        raise UserError(MISSING) from None
    return rerun


class RerunScene:
    """Writer of frames, in order of time. Memory does not grow with the number of frames.

    batches   the recording streams to which all rows are sent
    timeline  shown by the viewer: "stamp", or "frame" for images without stamps
    """

    def __init__(self, batches: Sequence[ColumnBatch], topology: BodyTopology, timeline: Timeline = "stamp") -> None:
        self._rr = import_rerun()
        self._timeline: Timeline = timeline
        self._batches = batches
        self._rows = RowBuffer(self._rr, batches)
        self._people = PeopleRows(self._rr, self._rows, topology, PREDICTED)
        self._truth = PeopleRows(self._rr, self._rows, topology, TRUTH)
        self._frame = 0
        self._is_fixed: bool | None = None
        self._has_depth = False
        self._ground: NDArray[np.float64] | None = None

    def add(self, frame: Frame, people: People, around: FrameContext = NO_CONTEXT) -> None:
        truth = around.truth
        if frame.lens is not None:  # the viewer's camera is a pinhole camera
            frame, people = frame.undistort(), _project_joints(people)
            truth = None if truth is None else _project_joints(truth)
        people = _turn_velocities(people, around.fixed_from_camera)
        truth = None if truth is None else _turn_velocities(truth, around.fixed_from_camera)
        pose = np.eye(4) if around.fixed_from_camera is None else around.fixed_from_camera
        self._rows.begin_frame(self._frame, frame.stamp)
        self._log_world(pose, is_fixed=around.fixed_from_camera is not None)
        self._log_ground(around, pose)
        self._add_camera(frame, people.k, pose, has_depth=around.depth_m is not None)
        self._log_depth(around.depth_m)
        self._people.add(people, frame.stamp, pose)
        self._truth.add(people.select(np.arange(0)) if truth is None else truth, frame.stamp, pose)
        self._rows.end_frame()
        self._frame += 1

    def flush(self) -> None:
        """Send the rows that are waiting for others."""
        self._rows.send()

    def _log_world(self, pose: NDArray[np.float64], *, is_fixed: bool) -> None:
        """Log axes and layout; again when the fixed frame appears or disappears."""
        if is_fixed != self._is_fixed:
            axes = self._rr.ViewCoordinates.FLU if is_fixed else self._rr.ViewCoordinates.RDF
            self._rows.log_constant("world", axes)
            layout = make_layout(pose, is_fixed=is_fixed, timeline=self._timeline)
            for batch in self._batches:
                batch.stream.send_blueprint(layout, make_active=True, make_default=True)
        self._is_fixed = is_fixed

    def _log_ground(self, around: FrameContext, pose: NDArray[np.float64]) -> None:
        """Log the lines of the ground when it has changed, or clear them."""
        lines = make_ground_lines(around, pose)
        if (lines is None) != (self._ground is None) or (
            lines is not None and self._ground is not None and np.abs(lines - self._ground).max() > GROUND_STEP_M
        ):
            if lines is None:
                self._rows.clear("world/ground")
            else:
                strips = self._rr.LineStrips3D(lines.astype(np.float32), colors=[[170, 170, 170]], radii=0.005)
                self._rows.log_constant("world/ground", strips)
            self._ground = lines

    def _add_camera(self, frame: Frame, k: NDArray[np.float64], pose: NDArray[np.float64], *, has_depth: bool) -> None:
        """Add image, intrinsics and pose. Intrinsics are rows of each image, because predicted ones always change."""
        rr, (height, width) = self._rr, frame.image.shape[:2]
        self._rows.add("world/camera", rr.Transform3D, translation=pose[None, :3, 3], mat3x3=pose[None, :3, :3])
        for entity in ("image", "depth") if has_depth else ("image",):
            self._rows.add(
                f"world/camera/{entity}", rr.Pinhole, image_from_camera=k[None],
                resolution=np.array([[width, height]], np.float32), image_plane_distance=IMAGE_PLANE_M,
            )  # fmt: skip
        jpeg, kind = [_encode_jpeg(frame.image)], ["image/jpeg"]
        self._rows.add("world/camera/image", rr.EncodedImage, blob=jpeg, media_type=kind)

    def _log_depth(self, depth_m: NDArray[np.float32] | None) -> None:
        """Log a depth image in mm, half the size of float32; clear it when there is none any more."""
        if depth_m is not None:
            depth_mm = np.nan_to_num(depth_m * MM_PER_M, posinf=0, neginf=0).round().clip(0, 65535).astype(np.uint16)
            self._rows.log("world/camera/depth", self._rr.DepthImage(depth_mm, meter=MM_PER_M))
        elif self._has_depth:
            self._rows.clear("world/camera/depth")
        self._has_depth = depth_m is not None


def make_layout(world_from_camera: NDArray[np.float64], *, is_fixed: bool, timeline: Timeline = "stamp") -> Any:
    """Return the viewer's blueprint: the image with its overlay on the left, the 3D scene on the right.

    world_from_camera  (4, 4) pose of the camera; the scene is seen from the camera's side
    is_fixed           whether the z axis of the world points up, else y points down
    timeline           shown first
    """
    from rerun import blueprint

    eye, target = (world_from_camera[:3, :3] @ point + world_from_camera[:3, 3] for point in (EYE_M, TARGET_M))
    up = [0, 0, 1] if is_fixed else [0, -1, 0]
    return blueprint.Blueprint(
        blueprint.Horizontal(
            blueprint.Spatial2DView(origin="world/camera/image", name="image"),
            blueprint.Spatial3DView(
                origin="/",  # with "world", Rerun 0.41 draws the camera and all below it in a wrong orientation
                name="people in 3D",
                background=[255, 255, 255],
                eye_controls=blueprint.EyeControls3D(position=eye, look_target=target, eye_up=up),
            ),
            column_shares=[2, 3],
        ),
        blueprint.TimePanel(state="collapsed", timeline=timeline),
        blueprint.SelectionPanel(state="collapsed"),
        blueprint.BlueprintPanel(state="collapsed"),
    )


def make_ground_lines(around: FrameContext, pose: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return lines (n, 2, 3) in the world, 1 m apart, in the ground plane; None if it is unknown.

    In a fixed frame, they are around its origin; else around the point below the camera.

    pose: (4, 4) world from camera
    """
    is_fixed = around.fixed_from_camera is not None
    if around.ground is None and not is_fixed:
        return None
    normal, offset_m = np.array([0.0, 0.0, 1.0]), 0.0
    if around.ground is not None:
        normal = pose[:3, :3] @ around.ground.normal
        offset_m = around.ground.offset_m + float(normal @ pose[:3, 3])
    ahead = np.array([1.0, 0.0, 0.0]) if is_fixed else np.array([0.0, 0.0, 1.0])
    side = np.cross(normal, ahead)
    side /= np.linalg.norm(side)
    ahead = np.cross(side, normal)
    reach, at = GROUND_REACH_M, np.arange(-GROUND_REACH_M, GROUND_REACH_M + 1.0)
    ends = np.array([[[position, -reach], [position, reach]] for position in at])
    ends = np.concatenate([ends, ends[:, :, ::-1]])
    return ends @ np.stack([ahead, side]) + normal * offset_m


def _project_joints(people: People) -> People:
    """Return people with joints_2d in the undistorted image."""
    joints_2d = project(people.joints.astype(np.float64), people.k).astype(np.float32)
    return dataclasses.replace(people, joints_2d=joints_2d)


def _turn_velocities(people: People, fixed_from_camera: NDArray[np.float64] | None) -> People:
    """Return people with velocities along the camera's axes; NaN if they are in a fixed frame of unknown pose."""
    if people.velocity_frame != "fixed":
        return people
    turn = np.full((3, 3), np.nan) if fixed_from_camera is None else fixed_from_camera[:3, :3]
    covariance = turn.T @ people.velocity_covariance @ turn
    return dataclasses.replace(people, velocity=people.velocity @ turn, velocity_covariance=covariance)


def _encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
