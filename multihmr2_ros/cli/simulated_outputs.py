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

"""Outputs of `multihmr2 simulate`: a bag, or a folder of images with labels."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.camera import (
    BASE_FRAME,
    CAMERA_FRAME,
    DEPTH_INFO,
    ODOM_FRAME,
    CameraBag,
    Link,
    make_camera_header,
)
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import describe_write_error, make_temporary_path
from multihmr2_ros.messages.content import HumanArrayContent
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.simulation.sequence import SimulatedFrame

START_NS = 1_700_000_000_000_000_000  # stamp of the first image, the same in every sequence

Depth = NDArray[np.uint16] | None


class BagOutput:
    """Writer of a bag with the messages of one camera and the ground truth.

    The bag appears when the block ends without error.
    """

    def __init__(self, path: Path, *, as_jpeg: bool, moving_camera: bool) -> None:
        self._writer = BagWriter(path)
        self._bag = CameraBag(self._writer)
        self._as_jpeg, self._moving = as_jpeg, moving_camera
        self._is_first = True

    def write(self, frame: SimulatedFrame, depth_mm: Depth) -> None:
        """Write the messages of one image. depth_mm: (H, W), 0 without a measurement, or None."""
        time_ns = START_NS + round(frame.posed.time_s * 1e9)
        camera = frame.scene.camera
        path = camera.path
        base = Link(ODOM_FRAME, BASE_FRAME, path.world_from_base(frame.posed.time_s))
        if self._is_first:
            mounted = Link(BASE_FRAME, CAMERA_FRAME, path.base_from_camera())
            self._bag.write_links([mounted] if self._moving else [base, mounted], time_ns, static=True)
            self._is_first = False
        if self._moving:
            self._bag.write_links([base], time_ns, static=False)
        size = (camera.height, camera.width)
        self._bag.write_camera_info(camera.k, camera.distortion, size, time_ns)
        self._bag.write_image(frame.rendered.image, time_ns, as_jpeg=self._as_jpeg)
        if depth_mm is not None:
            self._bag.write_camera_info(camera.k, camera.distortion, size, time_ns, DEPTH_INFO)
            self._bag.write_depth(depth_mm, time_ns)
        self._bag.write_humans(make_truth_content(frame, time_ns), time_ns)

    def __enter__(self) -> BagOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, traceback)


def make_truth_content(frame: SimulatedFrame, time_ns: int) -> HumanArrayContent:
    """Return the ground-truth HumanArray: boxes bound the visible pixels, and covariances are 0."""
    people = frame.people
    rows = {person_id: row for row, person_id in enumerate(frame.labels.person_id.tolist())}
    corners = frame.labels.visible_box[[rows[track_id] for track_id in people.track_id.tolist()]]
    x0, y0, x1, y1 = np.nan_to_num(corners).astype(np.int64).T
    content = people_to_content(people, make_camera_header(time_ns), Timing(), with_vertices=True)
    return dataclasses.replace(
        content,
        box=np.stack([x0, y0, y1 - y0, x1 - x0], axis=1),
        pelvis_covariance=np.zeros((len(people), 6, 6)),
        velocity_frame=CAMERA_FRAME if people.velocity_frame == "camera" else ODOM_FRAME,
    )


class FolderOutput:
    """Writer of NNNNNN.png, NNNNNN.npz and NNNNNN_depth.png; the folder appears when the block ends without error.

    The .npz files contain the arrays of Labels, `instances` (H, W) of RenderedImage, `velocity` (n, 3) m/s in the axes
    of the world, `world_from_camera` (4, 4), `time_s`, and `vertices` (n, V, 3) m in the camera frame. Row i of each
    belongs to person_id[i].
    """

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, make_temporary_path(path)
        refuse_existing(path)
        self._count = 0
        try:
            self._temporary.mkdir()
        except OSError as error:
            raise describe_write_error(path, error) from error

    def write(self, frame: SimulatedFrame, depth_mm: Depth) -> None:
        """Write the files of one image. depth_mm: (H, W), 0 without a measurement, or None."""
        stem = f"{self._count:06d}"
        people, truth = frame.people, frame.labels
        order = [people.track_id.tolist().index(person_id) for person_id in truth.person_id.tolist()]
        arrays = {field.name: getattr(truth, field.name) for field in dataclasses.fields(truth)}
        try:
            np.savez_compressed(
                self._temporary / f"{stem}.npz",
                **arrays,
                instances=frame.rendered.instances,
                velocity=frame.velocity,
                world_from_camera=frame.posed.world_from_camera,
                time_s=frame.posed.time_s,
                vertices=people.vertices[order],
            )
            self._write_png(f"{stem}.png", frame.rendered.image[..., ::-1])
            if depth_mm is not None:
                self._write_png(f"{stem}_depth.png", depth_mm)
        except OSError as error:
            raise describe_write_error(self._path, error) from error
        self._count += 1

    def _write_png(self, name: str, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        (self._temporary / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())

    def __enter__(self) -> FolderOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                refuse_existing(self._path)
                os.replace(self._temporary, self._path)
        except OSError as problem:
            raise describe_write_error(self._path, problem) from problem
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} already exists; choose another --out, or remove it")
