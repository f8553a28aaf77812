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

"""Contents of messages as plain data, which `cdr` serializes and `human_array` and `ros/` convert to message objects.

Units and frames are as in the message definitions; float arrays may contain NaN if the definition allows "unknown". n
is the number of people, J of joints, V of vertices, F of triangles. Arrays may have any float or integer type and are
cast to the field's type.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LATE_S = 0.5  # a message stamped at most this much before the newest one arrived out of order; more: time jumped back


@dataclass(frozen=True)
class HeaderContent:
    """std_msgs/Header: the stamp of the image, and the name of a TF frame."""

    sec: int = 0
    nanosec: int = 0
    frame_id: str = ""

    @property
    def stamp_ns(self) -> int:
        return self.sec * 1_000_000_000 + self.nanosec

    @property
    def stamp_s(self) -> float:
        return self.sec + self.nanosec * 1e-9

    def compute_age_s(self, now_s: float) -> float:
        """Return the time since the stamp (s). NaN without a stamp, and at 0, before a simulated clock has begun."""
        return now_s - self.stamp_s if self.stamp_ns and now_s else float("nan")

    @property
    def allows_transforms(self) -> bool:
        """Whether TF can contain transforms with this header. It has a parent frame and a stamp: tf2 never removes
        transforms whose stamps do not advance, so its listeners would grow and slow down."""
        return bool(self.frame_id and self.stamp_ns)


class LateImageFilter:
    """Finds images that arrived out of order, after a newer one.

    Two such images in a row mean that time jumped back, as with a bag that loops in less than LATE_S: only the first is
    late.
    """

    def __init__(self) -> None:
        self._was_late = False

    def is_late(self, time_s: float, newest_s: float) -> bool:
        """Return whether an image arrived out of order; call it for each image, in the order of arrival.

        time_s: of the image. newest_s: of the last image that was not late; -inf before the first one.
        """
        self._was_late = 0 < newest_s - time_s <= LATE_S and not self._was_late
        return self._was_late


def _make_empty_rows() -> Array:
    return np.zeros(0)


@dataclass(frozen=True)
class HumanArrayContent:
    """multihmr2_ros/HumanArray. Defaults: no image and no people.

    image_size           (height, width) px of the source image
    k                    (3, 3) px of the source image
    intrinsics_source    one of HumanArray.INTRINSICS_*
    track_id             (n,) Human.NO_TRACK, or -1, without a track
    frame_id             n names of TF frames, "" if none is broadcast
    state                (n,) a TrackState
    age                  (n,) s
    score                (n,)
    pelvis               (n, 3) m
    pelvis_orientation   (n, 4) quaternion x, y, z, w
    pelvis_covariance    (n, 6, 6)
    velocity             (n, 3) m/s, in velocity_frame
    velocity_covariance  (n, 3, 3) in velocity_frame
    velocity_frame       one for all people
    stature              (n,) m
    phenotype            (n, 6)
    box                  (n, 4) px: x_offset, y_offset, height, width
    joints               (n, J, 3) m
    joints_2d            (n, J, 2) px
    joint_rotations      (n, J, 4) quaternions x, y, z, w
    vertices             (n, V, 3) m; V is 0 unless vertices were requested
    """

    header: HeaderContent
    dropped_frames: int
    image_size: tuple[int, int] = (0, 0)
    k: Array = field(default_factory=lambda: np.zeros((3, 3)))
    intrinsics_source: int = 0  # HumanArray.INTRINSICS_PREDICTED
    vertical_fov: float = math.nan
    age_at_receipt: float = math.nan
    inference_time: float = math.nan
    total_latency: float = math.nan
    track_id: Array = field(default_factory=_make_empty_rows)
    frame_id: tuple[str, ...] = ()
    state: Array = field(default_factory=_make_empty_rows)
    age: Array = field(default_factory=_make_empty_rows)
    score: Array = field(default_factory=_make_empty_rows)
    pelvis: Array = field(default_factory=_make_empty_rows)
    pelvis_orientation: Array = field(default_factory=_make_empty_rows)
    pelvis_covariance: Array = field(default_factory=_make_empty_rows)
    velocity: Array = field(default_factory=_make_empty_rows)
    velocity_covariance: Array = field(default_factory=_make_empty_rows)
    velocity_frame: str = ""
    stature: Array = field(default_factory=_make_empty_rows)
    phenotype: Array = field(default_factory=_make_empty_rows)
    box: Array = field(default_factory=_make_empty_rows)
    joints: Array = field(default_factory=_make_empty_rows)
    joints_2d: Array = field(default_factory=_make_empty_rows)
    joint_rotations: Array = field(default_factory=_make_empty_rows)
    vertices: Array = field(default_factory=_make_empty_rows)


class MarkerType(enum.IntEnum):
    """The types of visualization_msgs/Marker in use."""

    TEXT_VIEW_FACING = 9
    TRIANGLE_LIST = 11


class MarkerAction(enum.IntEnum):
    """The actions of visualization_msgs/Marker in use. ADD also replaces a marker with the same namespace and id."""

    ADD = 0
    DELETE = 2


@dataclass(frozen=True)
class MarkerContent:
    """visualization_msgs/Marker, as made by make_mesh_marker, make_label_marker and make_delete_marker.

    position     (3,) m, in header.frame_id. The orientation is identity: vertices are in header.frame_id, text faces
                 the viewer
    scale        (3,) 1 for meshes; for text, z is the height of a capital A, m
    color        (4,) red, green, blue, alpha in [0, 1]
    lifetime_ns  time after which a viewer removes the marker; 0: never
    vertices     (V, 3) m
    faces        (F, 3) intp, in C order, indices of vertices: a TRIANGLE_LIST has the 3 F corners
    """

    header: HeaderContent
    namespace: str
    id: int
    type: MarkerType
    action: MarkerAction = MarkerAction.ADD
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (0.0, 0.0, 0.0)
    color: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    lifetime_ns: int = 0
    vertices: Array = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    faces: Array = field(default_factory=lambda: np.zeros((0, 3), np.intp))
    text: str = ""


def validate_faces(faces: Array, vertex_count: int) -> Array:
    """Return triangles (F, 3) in the layout of MarkerContent.

    Raises ValueError for faces with indices of vertices that do not exist.
    """
    faces = np.ascontiguousarray(faces, np.intp)
    if faces.size:
        first, last = faces.min(), faces.max()
        if first < 0 or last >= vertex_count:
            raise ValueError(f"faces must index {vertex_count} vertices, got indices from {first} to {last}")
    return faces


def make_mesh_marker(
    header: HeaderContent,
    namespace: str,
    marker_id: int,
    vertices: Array,
    faces: Array,
    color: tuple[float, float, float, float],
    lifetime_ns: int = 0,
) -> MarkerContent:
    """Make a mesh marker. RViz rejects a TRIANGLE_LIST without triangles, or with NaN.

    header       stamp and frame of the vertices
    namespace    with marker_id, identifies the marker
    marker_id    unique in the namespace
    vertices     (V, 3) m
    faces        (F, 3) from `validate_faces`
    color        red, green, blue, alpha in [0, 1]
    lifetime_ns  time after which a viewer removes the marker; 0: never
    """
    return MarkerContent(
        header=header,
        namespace=namespace,
        id=marker_id,
        type=MarkerType.TRIANGLE_LIST,
        scale=(1.0, 1.0, 1.0),
        color=color,
        lifetime_ns=lifetime_ns,
        vertices=vertices,
        faces=faces,
    )


def make_label_marker(
    header: HeaderContent,
    namespace: str,
    marker_id: int,
    text: str,
    position: tuple[float, float, float],
    height_m: float,
    color: tuple[float, float, float, float],
    lifetime_ns: int = 0,
) -> MarkerContent:
    """Make a text marker that faces the viewer.

    header       stamp and frame of the position
    namespace    with marker_id, identifies the marker
    marker_id    unique in the namespace
    text         of the label
    position     of the text's center, m
    height_m     of a capital A
    color        red, green, blue, alpha in [0, 1]
    lifetime_ns  time after which a viewer removes the marker; 0: never
    """
    return MarkerContent(
        header=header,
        namespace=namespace,
        id=marker_id,
        type=MarkerType.TEXT_VIEW_FACING,
        position=position,
        scale=(0.0, 0.0, height_m),
        color=color,
        lifetime_ns=lifetime_ns,
        text=text,
    )


def make_delete_marker(header: HeaderContent, namespace: str, marker_id: int) -> MarkerContent:
    """Make a marker that removes a mesh or a label from viewers."""
    return MarkerContent(header, namespace, marker_id, MarkerType.TRIANGLE_LIST, MarkerAction.DELETE)


@dataclass(frozen=True)
class PointCloudContent:
    """sensor_msgs/PointCloud2 with one row and the fields x, y, z as float32. points: (N, 3) m."""

    header: HeaderContent
    points: Array

    @property
    def is_dense(self) -> bool:
        """Whether every point is finite."""
        return bool(np.isfinite(self.points).all())
