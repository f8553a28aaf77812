"""Pure functions between People and the content of messages. Nothing here holds state or publishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from multihmr2_ros.camera import CameraFacts
from multihmr2_ros.media.colors import track_color
from multihmr2_ros.msg import BodyModel
from multihmr2_ros.people import IntrinsicsSource, People, TrackState

from .content import (
    HeaderContent,
    HumanArrayContent,
    MarkerContent,
    PointCloudContent,
    label_marker,
    mesh_marker,
)
from .messages import header_to_ros

INTRINSICS = {  # HumanArray.INTRINSICS_*
    IntrinsicsSource.PREDICTED: 0,
    IntrinsicsSource.K: 1,
    IntrinsicsSource.P: 2,
    IntrinsicsSource.PARAMETER: 3,
}
LABEL_HEIGHT_M = 0.15
LABEL_GAP_M = 0.25  # from the highest joint, which lies inside the head, to the middle of the label
MARKER_LIFETIME_NS = 5_000_000_000  # only for viewers that no DELETE reaches: the node was killed


@dataclass(frozen=True)
class Timing:
    """What HumanArray says about time, in s (NaN: unknown), and the images dropped since the node was activated."""

    age_at_receipt: float = float("nan")
    inference_time: float = float("nan")
    total_latency: float = float("nan")
    dropped_frames: int = 0


def people_to_content(
    people: People, header: HeaderContent, timing: Timing, *, with_vertices: bool = False
) -> HumanArrayContent:
    """multihmr2_ros/HumanArray of the people of one image, in the camera's optical frame, which header names."""
    return HumanArrayContent(
        header=header,
        k=people.k,
        intrinsics_source=INTRINSICS[people.intrinsics_source],
        vertical_fov=people.vertical_fov,
        age_at_receipt=timing.age_at_receipt,
        inference_time=timing.inference_time,
        total_latency=timing.total_latency,
        dropped_frames=timing.dropped_frames,
        track_id=people.track_id,
        frame_id=body_frames(people),
        state=people.track_state,
        age=people.track_age_s,
        score=people.score,
        pelvis=people.pelvis,
        pelvis_orientation=body_quaternions(people),
        pelvis_covariance=np.full((len(people), 6, 6), np.nan),
        velocity=people.velocity,
        velocity_covariance=people.velocity_covariance,
        velocity_frame=header.frame_id,
        stature=people.stature,
        phenotype=people.running_shape,
        box=boxes(people.joints_2d, people.image_size),
        joints=people.joints,
        joints_2d=people.joints_2d,
        joint_rotations=_quaternions(people.rotations),
        vertices=people.vertices if with_vertices else people.vertices[:, :0],
    )


def no_people_content(header: HeaderContent, dropped_frames: int) -> HumanArrayContent:
    """The HumanArray of no image: what a node that stops says, so that nobody believes its last people."""
    nobody = np.zeros(0)
    return HumanArrayContent(
        header=header,
        k=np.zeros((3, 3)),
        intrinsics_source=INTRINSICS[IntrinsicsSource.PREDICTED],
        vertical_fov=float("nan"),
        age_at_receipt=float("nan"),
        inference_time=float("nan"),
        total_latency=float("nan"),
        dropped_frames=dropped_frames,
        track_id=nobody,
        frame_id=(),
        state=nobody,
        age=nobody,
        score=nobody,
        pelvis=nobody,
        pelvis_orientation=nobody,
        pelvis_covariance=nobody,
        velocity=nobody,
        velocity_covariance=nobody,
        velocity_frame=header.frame_id,
        stature=nobody,
        phenotype=nobody,
        box=nobody,
        joints=nobody,
        joints_2d=nobody,
        joint_rotations=nobody,
        vertices=nobody,
    )


def people_to_transforms(people: People, header: HeaderContent) -> TFMessage:
    """tf2_msgs/TFMessage: the frame `body_<id>` of each confirmed person, its parent the header's frame."""
    transforms = []
    for name, place, quaternion in zip(body_frames(people), people.pelvis, body_quaternions(people), strict=True):
        if name and np.isfinite(place).all():
            x, y, z = place.tolist()
            qx, qy, qz, qw = quaternion.tolist()
            transform = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))
            transforms.append(TransformStamped(header=header_to_ros(header), child_frame_id=name, transform=transform))
    return TFMessage(transforms=transforms)


def people_to_markers(people: People, header: HeaderContent, faces: NDArray[Any]) -> list[MarkerContent]:
    """A mesh and a label for each person, in the track's colour.

    faces (F, 3): triangles of people.vertices. Identified by namespace and the track's id (people without a track: by
    their row, in namespaces of their own). Meshes with a number that is not finite are left out: RViz refuses them.
    """
    markers: list[MarkerContent] = []
    for row, track_id in enumerate(people.track_id.tolist()):
        suffix, marker_id = ("", track_id) if track_id >= 0 else ("_untracked", row)
        color = _color(track_id)
        vertices, joints = people.vertices[row], people.joints[row]
        if len(vertices) and np.isfinite(vertices).all():
            markers.append(mesh_marker(header, f"mesh{suffix}", marker_id, vertices, faces, color, MARKER_LIFETIME_NS))
        if np.isfinite(joints).all():
            x, _, z = joints[0].tolist()
            place = (x, float(joints[:, 1].min()) - LABEL_GAP_M, z)
            distance = f"{np.linalg.norm(joints[0]):.1f} m"
            text = distance if track_id < 0 else f"#{track_id}: {distance}"
            markers.append(
                label_marker(
                    header, f"label{suffix}", marker_id, text, place, LABEL_HEIGHT_M, color, MARKER_LIFETIME_NS
                )
            )
    return markers


def people_to_points(people: People, header: HeaderContent) -> PointCloudContent:
    """The finite vertices of all people as one cloud."""
    points = people.vertices.reshape(-1, 3)
    return PointCloudContent(header, points[np.isfinite(points).all(axis=1)])


def image_to_ros(image: NDArray[np.uint8], header: HeaderContent) -> Image:
    """(H, W, 3) uint8 RGB → sensor_msgs/Image."""
    height, width = image.shape[:2]
    message = Image(header=header_to_ros(header), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(image.tobytes())
    return message


def body_model_to_ros(body: Any) -> BodyModel:
    """multihmr2_ros/BodyModel of a `multihmr2_ros.body.Body`."""
    return BodyModel(
        bone_labels=list(body.bone_labels),
        bone_parents=list(body.bone_parents),
        faces=np.asarray(body.faces, np.uint32).ravel(),
        phenotype_labels=list(body.phenotype_labels),
    )


def camera_facts(camera_info: Any, image: NDArray[np.uint8], *, rectified: bool) -> CameraFacts:
    """What a sensor_msgs/CameraInfo says of an image (H, W, 3) that came with it."""
    roi = camera_info.roi
    return CameraFacts(
        image_width=image.shape[1],
        image_height=image.shape[0],
        rectified=rectified,
        width=camera_info.width,
        height=camera_info.height,
        k=camera_info.k,
        p=camera_info.p,
        distortion_model=camera_info.distortion_model,
        d=camera_info.d,
        r=camera_info.r,
        binning_x=camera_info.binning_x,
        binning_y=camera_info.binning_y,
        roi_x_offset=roi.x_offset,
        roi_y_offset=roi.y_offset,
        roi_width=roi.width,
        roi_height=roi.height,
        roi_do_rectify=roi.do_rectify,
    )


def header_from_ros(header: Any) -> HeaderContent:
    return HeaderContent(header.stamp.sec, header.stamp.nanosec, header.frame_id)


def body_frames(people: People) -> tuple[str, ...]:
    """The name of each person's TF frame (REP-155); "" where none is broadcast: the track is not confirmed."""
    return tuple(
        f"body_{track_id}" if state == TrackState.CONFIRMED and track_id >= 0 else ""
        for track_id, state in zip(people.track_id.tolist(), people.track_state.tolist(), strict=True)
    )


def body_quaternions(people: People) -> NDArray[np.float64]:
    """(n, 4) x, y, z, w: the axes of REP-155 (x out of the body, y to its left, z to the head) in the camera frame.

    The root bone's own frame has the head at -z, the left at +x and the front at +y.
    """
    root = people.bone_poses[:, 0, :3, :3]
    return _quaternions(np.stack([root[..., 1], root[..., 0], -root[..., 2]], axis=-1))


def boxes(joints_2d: NDArray[np.float32], image_size: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 4) x_offset, y_offset, height, width in px of the box around joints (n, J, 2), cut to the image (H, W).

    All zero where no joint is inside the image.
    """
    size = np.array(image_size[::-1])
    inside = np.all((joints_2d >= 0) & (joints_2d < size), axis=2)  # false for NaN
    known = np.isfinite(joints_2d)
    first = np.where(known, joints_2d, np.inf).min(axis=1, initial=np.inf)
    last = np.where(known, joints_2d, -np.inf).max(axis=1, initial=-np.inf)
    first, last = np.clip(np.floor(first), 0, size), np.clip(np.ceil(last), 0, size)
    box = np.hstack([first, (last - first)[:, ::-1]])
    return np.where(np.any(inside, axis=1, keepdims=True), box, 0).astype(np.int64)


def _quaternions(matrices: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 3, 3) → (..., 4) x, y, z, w."""
    if not matrices.size:
        return np.zeros((*matrices.shape[:-2], 4))
    nearly = matrices.reshape(-1, 3, 3).astype(np.float64)
    # One Newton step to the nearest rotation: SciPy makes an SVD of each matrix that is only orthogonal as float32.
    nearly = 1.5 * nearly - 0.5 * nearly @ nearly.transpose(0, 2, 1) @ nearly
    return Rotation.from_matrix(nearly).as_quat().reshape(*matrices.shape[:-2], 4)


def _color(track_id: int) -> tuple[float, float, float, float]:
    red, green, blue = track_color(track_id)
    return red / 255, green / 255, blue / 255, 1.0
