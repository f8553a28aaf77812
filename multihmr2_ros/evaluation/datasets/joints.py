"""Data sets with 3D joints, as sequences of moments: 3DPW and CMU Panoptic.

Their joints are not Anny's bones: what the estimator sees is brought to the data set's joints, by weights of Anny's
19,158 vertices, and everything else goes as it does for bags.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.camera import project, vertical_fov
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import found, parsed, read_json
from multihmr2_ros.evaluation.moments import Moment
from multihmr2_ros.evaluation.run import PeopleEstimator
from multihmr2_ros.media.images import read_image
from multihmr2_ros.people import Frame, IntrinsicsSource, People

Floats = NDArray[np.float64]
Joints = Callable[[NDArray[np.float32]], Floats]  # (n, 19158, 3) vertices → (n, J, 3)
NS = 1_000_000_000
M_PER_CM = 0.01


@dataclasses.dataclass
class JointSequence:
    """frames: stamp (s), path of the image, K, coefficients of its distortion (OpenCV's five, or none), identities
    (t,), joints (t, J, 3) m in the camera frame, and which people are known well (t,)."""

    name: str
    fps: float | None
    root: tuple[int, ...]
    frames: list[tuple[float, Path, Floats, Floats, NDArray[np.int64], Floats, NDArray[np.bool_]]]
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def moment_count(self) -> int | None:
        return len(self.frames)

    def __iter__(self) -> Iterator[Moment]:
        self.problems.clear()
        for stamp_s, path, k, distortion, identity, joints, known in self.frames:
            image = read_image(path)
            if distortion.any():
                image = np.asarray(cv2.undistort(image, k, distortion), np.uint8)
            frame = Frame(image=image, stamp=stamp_s, k=k, intrinsics_source=IntrinsicsSource.K, name=path.stem)
            truth = true_people(joints, identity, known, k, image.shape[:2], self.root)
            yield Moment(round(stamp_s * NS), frame=frame, truth=truth)


class JointEstimator:
    """The estimator, its people with a data set's joints, and with the mean of the root joints as the pelvis."""

    def __init__(self, estimator: PeopleEstimator, joints: Joints, root: tuple[int, ...]) -> None:
        self._estimator, self._joints, self._root = estimator, joints, root

    @property
    def faces(self) -> NDArray[np.int32]:
        return self._estimator.faces

    def reset(self) -> None:
        self._estimator.reset()

    def step(
        self, image: NDArray[np.uint8], k: Floats | None, stamp: float, *, intrinsics_source: IntrinsicsSource
    ) -> People:
        people = self._estimator.step(image, k, stamp, intrinsics_source=intrinsics_source)
        joints = self._joints(people.vertices)
        return dataclasses.replace(
            people,
            joints=joints.astype(np.float32),
            joints_2d=project(joints, people.k).astype(np.float32),
            pelvis=joints[:, list(self._root)].mean(axis=1).astype(np.float32),
            vertices=people.vertices[:, :0],
        )


def true_people(
    joints: Floats, identity: NDArray[np.int64], known: NDArray[np.bool_], k: Floats, size: Any, root: tuple[int, ...]
) -> People:
    """People of whom joints (t, J, 3) m are known; those who are not known well are to be ignored (score 0)."""
    count = len(joints)

    def unknown(*shape: int) -> Any:
        return np.full((count, *shape), np.nan)

    return People(
        score=np.where(known, 1.0, 0.0).astype(np.float32),
        track_id=identity,
        track_state=np.full(count, 2),
        track_age_s=np.zeros(count),
        shape=unknown(6),
        running_shape=unknown(6),
        rotations=np.zeros((count, 0, 3, 3), np.float32),
        bone_poses=np.zeros((count, 0, 4, 4), np.float32),
        joints=joints.astype(np.float32),
        joints_2d=project(joints, k).astype(np.float32),
        pelvis=joints[:, list(root)].mean(axis=1).astype(np.float32),
        velocity=unknown(3),
        pelvis_covariance=unknown(3, 3),
        velocity_covariance=unknown(3, 3),
        vertices=np.zeros((count, 0, 3), np.float32),
        stature=unknown(),
        track_feature=np.zeros((count, 0), np.float32),
        k=k,
        vertical_fov=vertical_fov(k, size[0]),
        predicted_vertical_fov=float("nan"),
        intrinsics_source=IntrinsicsSource.K,
        velocity_frame="camera",
        stamp=0.0,
        image_size=(size[0], size[1]),
    )


# --- 3DPW

SMPL_JOINTS, SMPL_ROOT = 24, (0,)
THREEDPW_FPS = 30.0


class _NumbersOnly(pickle.Unpickler):
    """Pickles may run code: only what arrays are made of is let in."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise UserError(f"a pickle of arrays must not hold {module}.{name}; download the file again from its owners")


def threedpw_sequences(folder: Path, split: str = "test") -> Iterator[JointSequence]:
    """3DPW (its readme): sequenceFiles/SPLIT/NAME.pkl and imageFiles/NAME/image_00000.jpg. jointPositions are SMPL's
    24 joints in the world, which cam_poses (world → camera) brings into the camera. Actors whose camera pose is not
    aligned in a frame (campose_valid) are ignored there."""
    for path in found(folder, f"sequenceFiles/{split}/*.pkl", "sequence"):
        yield parsed(path, lambda path=path: _threedpw_sequence(folder, path))  # type: ignore[misc]


def _threedpw_sequence(folder: Path, path: Path) -> JointSequence:
    with open(path, "rb") as file:
        try:
            data = _NumbersOnly(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise ValueError(str(error)) from error
    k, poses = np.asarray(data["cam_intrinsics"], np.float64), np.asarray(data["cam_poses"], np.float64)
    world = np.stack([np.asarray(each).reshape(-1, SMPL_JOINTS, 3)[: len(poses)] for each in data["jointPositions"]])
    camera = np.einsum("fij,pfkj->pfki", poses[:, :3, :3], world) + poses[:, None, :3, 3]
    valid = np.stack([np.asarray(each, bool)[: len(poses)] for each in data["campose_valid"]])
    images = folder / "imageFiles" / str(data["sequence"])
    frames = [
        (
            index / THREEDPW_FPS, images / f"image_{index:05d}.jpg", k, np.zeros(5), np.arange(len(world)),
            camera[:, index], valid[:, index],
        )
        for index in range(len(poses))
    ]  # fmt: skip
    return JointSequence(str(data["sequence"]), THREEDPW_FPS, SMPL_ROOT, frames)


# --- CMU Panoptic

PANOPTIC_ROOT = (2,)  # the body's centre, between the hips
PANOPTIC_FPS = 29.97
LEAST_CONFIDENCE = 0.1
# Neck and centre are the middle of shoulders and hips; the others are COCO's keypoints, in the data set's order.
PANOPTIC_FROM_COCO = (
    (5, 6), (0,), (11, 12), (5,), (7,), (9,), (11,), (13,), (15,), (6,), (8,), (10,), (12,), (14,), (16,), (1,), (3,),
    (2,), (4,),
)  # fmt: skip


def panoptic_sequences(folder: Path, camera: str = "00_16") -> Iterator[JointSequence]:
    """CMU Panoptic (its toolbox): NAME/calibration_NAME.json, NAME/hdPose3d_stage1_coco19/body3DScene_00000000.json
    and NAME/hdImgs/CAMERA/CAMERA_00000000.jpg. 19 joints, in cm in the world; joints of low confidence are unknown."""
    for path in found(folder, "*/calibration_*.json", "sequence"):
        yield parsed(path, lambda path=path: _panoptic_sequence(path, camera))  # type: ignore[misc]


def _panoptic_sequence(path: Path, camera: str) -> JointSequence:
    sequence = path.parent
    cameras = [each for each in read_json(path)["cameras"] if each["name"] == camera]
    if not cameras:
        raise UserError(f"{path} has no camera {camera}; choose one with --camera")
    k, rotation = (np.array(cameras[0][name], np.float64).reshape(3, 3) for name in ("K", "R"))
    shift_cm = np.array(cameras[0]["t"], np.float64).reshape(3)
    distortion = np.array(cameras[0]["distCoef"], np.float64).ravel()
    frames = []
    for file in found(sequence / "hdPose3d_stage1_coco19", "body3DScene_*.json", "people"):
        number = file.stem.removeprefix("body3DScene_")
        image = sequence / "hdImgs" / camera / f"{camera}_{number}.jpg"
        if not image.is_file():
            continue  # users extract every n-th image
        bodies = read_json(file)["bodies"]
        joints = np.array([body["joints19"] for body in bodies], np.float64).reshape(-1, 19, 4)
        places = M_PER_CM * (joints[..., :3] @ rotation.T + shift_cm)
        places[joints[..., 3] < LEAST_CONFIDENCE] = np.nan
        identity = np.array([body["id"] for body in bodies], np.int64)
        known = np.isfinite(places).all(axis=(1, 2))
        frames.append((int(number) / PANOPTIC_FPS, image, k, distortion, identity, places, known))
    if not frames:
        raise UserError(f"no image of camera {camera} in {sequence / 'hdImgs'}; extract its video, or choose --camera")
    return JointSequence(sequence.name, PANOPTIC_FPS, PANOPTIC_ROOT, frames)


def panoptic_joints(coco_keypoints: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Joints:
    """The 19 joints from the body's COCO keypoints."""

    def joints(vertices: NDArray[np.float32]) -> Floats:
        keypoints = coco_keypoints(vertices).astype(np.float64)
        return np.stack([keypoints[:, list(rows)].mean(axis=1) for rows in PANOPTIC_FROM_COCO], axis=1)

    return joints


def regressed_joints(path: Path | None, count: int, vertices: int = 19158) -> Joints:
    """By a user's file of weights (count, vertices), .npy, or .npz with one array. Raises UserError for others."""
    if path is None:
        raise UserError(
            f"this data set's {count} joints need weights of Anny's {vertices} vertices: pass --regressor FILE "
            f"(.npy, {count} × {vertices}), made with the body model's licence of yours"
        )

    def load() -> Floats:
        content = np.load(path, allow_pickle=False)
        array = content if isinstance(content, np.ndarray) else content[content.files[0]]
        return np.asarray(array, np.float64)

    weights = parsed(path, load)
    if weights.shape != (count, vertices):
        raise UserError(f"{path} must hold weights ({count}, {vertices}), but their shape is {weights.shape}")
    return lambda points: np.einsum("jv,nvd->njd", weights, points.astype(np.float64))
