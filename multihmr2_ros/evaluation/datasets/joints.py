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

"""Evaluation of data sets with 3D joints: sequences of frames, and estimated people with the data set's joints.

The data set's joints differ from Anny's bones. They are regressed from the 19,158 estimated vertices of Anny by a
matrix of weights; everything else is as for bags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from multihmr2_ros.camera import (
    DISTORTION_COEFFICIENTS,
    MAX_COEFFICIENT,
    CameraModel,
    compute_vertical_fov,
    project,
    validate_k,
)
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.files import parse_file
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.evaluation.run import PeopleEstimator
from multihmr2_ros.frame import Frame
from multihmr2_ros.lens import LensDistortion, get_lens
from multihmr2_ros.media.images import read_image
from multihmr2_ros.people import IntrinsicsSource, People

Floats = NDArray[np.float64]
Points = Callable[[NDArray[np.float32]], Floats]  # (n, 19158, 3) vertices → (n, P, 3)
NS_PER_S = 1_000_000_000
ANNY_VERTICES = 19158


@dataclasses.dataclass(frozen=True)
class CalibratedLens:
    """Intrinsics and lens distortion of a camera. Raises ValueError for numbers that cannot be used.

    k           (3, 3) px of the image
    distortion  (n,) OpenCV's coefficients, or (4,) of its fisheye model if is_fisheye; empty or zero without distortion
    is_fisheye  whether the fisheye model is used
    """

    k: Floats
    distortion: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    is_fisheye: bool = False

    def __post_init__(self) -> None:
        try:
            validate_k(self.k)
        except UserError as error:
            raise ValueError(str(error)) from None  # the caller adds the name of the file
        models = [model for model in DISTORTION_COEFFICIENTS if (model == "equidistant") == self.is_fisheye]
        counts = [count for model in models for count in DISTORTION_COEFFICIENTS[model]]
        is_usable = (np.abs(self.distortion) <= MAX_COEFFICIENT).all()  # false for NaN too
        if self.distortion.shape not in [(count,) for count in (0, *counts)] or not is_usable:
            raise ValueError(f"expected {counts} finite distortion coefficients, got {self.distortion}")

    def distortion_of(self, image: NDArray[np.uint8]) -> LensDistortion | None:
        """Return the distortion of an image (H, W, 3); None without distortion."""
        if not self.distortion.any():
            return None
        models = {4: "plumb_bob", 5: "plumb_bob"}
        model = "equidistant" if self.is_fisheye else models.get(len(self.distortion), "rational_polynomial")
        return get_lens(CameraModel(self.k, self.distortion, model, image.shape[1], image.shape[0]))


@dataclasses.dataclass(frozen=True)
class AnnotatedPeople:
    """The annotated people of a frame, in the camera's frame. Raises ValueError if the arrays differ in length.

    identity  (t,)
    joints    (t, J, 3) m
    known     (t,) whether a person's joints are reliable
    vertices  (t, V, 3) m of the data set's body model; V = 0 without one
    """

    identity: NDArray[np.int64]
    joints: Floats
    known: NDArray[np.bool_]
    vertices: Floats = dataclasses.field(default_factory=lambda: np.zeros((0, 0, 3)))

    def __post_init__(self) -> None:
        counts = [len(self.joints), len(self.identity), len(self.known), len(self.vertices) or len(self.joints)]
        if len(set(counts)) > 1:
            raise ValueError(f"expected joints, identities and vertices of the same people, got {counts} of them")


@dataclasses.dataclass(frozen=True)
class JointFrame:
    """A frame of a sequence.

    annotated_people: function that reads the people when the frame is evaluated; None if only the camera is known.
    """

    stamp_s: float
    image: Path
    lens: CalibratedLens
    annotated_people: Callable[[], AnnotatedPeople] | None


@dataclasses.dataclass
class JointSequence:
    """A sequence of frames with true joints.

    root        the joints whose mean is the pelvis
    limitation  description of the metrics that cannot be computed, one line; "" if there are none
    """

    name: str
    fps: float | None
    root: tuple[int, ...]
    frames: list[JointFrame]
    limitation: str = ""
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def eval_frame_count(self) -> int | None:
        return len(self.frames)

    def __iter__(self) -> Iterator[EvaluationFrame]:
        self.problems[:] = [self.limitation] if self.limitation else []
        unread: list[str] = []
        for each in self.frames:
            try:
                image = read_image(each.image)
            except UserError as error:  # a damaged image does not stop the sequence
                unread.append(str(error))
                continue
            k = each.lens.k
            frame = Frame(image, each.stamp_s, k, name=each.image.stem, lens=each.lens.distortion_of(image))
            truth = (
                None
                if each.annotated_people is None
                else make_true_people(each.annotated_people(), k, image.shape[:2], self.root)
            )
            yield EvaluationFrame(round(each.stamp_s * NS_PER_S), frame=frame, truth=truth, is_camera_true=True)
        if unread:
            self.problems.append(f"{self.name}: {len(unread)} of {len(self.frames)} images are skipped: {unread[0]}")


class JointEstimator:
    """Wrapper of an estimator: its people have a data set's joints, and the mean of the root joints as the pelvis.

    points: computes the data set's joints, joint_count of them, followed by the vertices of its body model, if any.
    """

    def __init__(self, estimator: PeopleEstimator, points: Points, joint_count: int, root: tuple[int, ...]) -> None:
        self._estimator, self._points, self._joint_count, self._root = estimator, points, joint_count, root

    @property
    def body(self) -> Any:
        return self._estimator.body

    @property
    def faces(self) -> NDArray[np.int32]:
        return self._estimator.faces

    def reset(self) -> None:
        self._estimator.reset()

    def step(self, frame: Frame, /) -> People:
        people = self._estimator.step(frame)
        joints, vertices = np.split(self._points(people.vertices), [self._joint_count], axis=1)
        return dataclasses.replace(
            people,
            joints=joints.astype(np.float32),
            joints_2d=frame.points_as_recorded(project(joints, people.k)),
            pelvis=joints[:, list(self._root)].mean(axis=1).astype(np.float32),
            vertices=vertices.astype(np.float32),
        )


def make_true_people(annotated_people: AnnotatedPeople, k: Floats, size: Any, root: tuple[int, ...]) -> People:
    """Return the true people. Those with unreliable joints or partly behind the camera are ignored (score 0)."""
    count, joints = len(annotated_people.joints), annotated_people.joints
    known = annotated_people.known & (joints[..., 2] > 0).all(axis=1)

    def unknown(*shape: int) -> Any:
        return np.full((count, *shape), np.nan)

    return People(
        score=np.where(known, 1.0, 0.0).astype(np.float32),
        track_id=annotated_people.identity,
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
        vertices=annotated_people.vertices.astype(np.float32)
        if len(annotated_people.vertices)
        else np.zeros((count, 0, 3), np.float32),
        stature=unknown(),
        track_feature=np.zeros((count, 0), np.float32),
        k=k,
        vertical_fov=compute_vertical_fov(k, size[0]),
        predicted_vertical_fov=float("nan"),
        intrinsics_source=IntrinsicsSource.K,
        velocity_frame="camera",
        stamp=0.0,
        image_size=(size[0], size[1]),
    )


def make_point_regressor(path: Path | None, joints: int, vertices: int = 0) -> Points:
    """Return a function that regresses points from Anny's vertices by a user's file of weights.

    The weights are (joints, 19158), or (joints + vertices, 19158) with the vertices of the other body model after its
    joints. Files: .npy, .npz with one array, or .npz of scipy.sparse.save_npz. Raises UserError for others.
    """
    if path is None:
        raise UserError(
            f"the {joints} joints of this dataset need a matrix for Anny's {ANNY_VERTICES} vertices; pass --regressor "
            f"FILE (.npy, {joints} x {ANNY_VERTICES}), see docs/evaluation.md"
        )
    matrix = parse_file(path, lambda: _read_weights(path, (joints, joints + vertices)))

    def points(mesh: NDArray[np.float32]) -> Floats:
        columns = mesh.astype(np.float64).transpose(1, 0, 2).reshape(ANNY_VERTICES, -1)
        return np.asarray(matrix @ columns).reshape(matrix.shape[0], len(mesh), 3).transpose(1, 0, 2)

    return points


def _read_weights(path: Path, rows: tuple[int, int]) -> Any:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        weights: Any = content
    elif "format" in content.files:
        weights = sparse.load_npz(path)
        if hasattr(weights, "indptr"):  # SciPy does not check all of indptr, and reads out of bounds
            weights.check_format(full_check=True)
            if (np.diff(weights.indptr.astype(np.int64)) < 0).any():
                raise ValueError("indptr must not decrease")
    else:
        weights = content[content.files[0]]
    if weights.ndim != 2 or weights.shape[0] not in rows or weights.shape[1] != ANNY_VERTICES:
        wanted = " or ".join(f"({count}, {ANNY_VERTICES})" for count in dict.fromkeys(rows))
        raise UserError(f"{path} must contain a matrix {wanted}, got shape {weights.shape}")
    return sparse.csr_array(weights, dtype=np.float64)
