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

"""The Anny body model behind one door: phenotype and bone rotations in; vertices, joints and measurements out.

Anny (pinned to 0.6.2; Apache-2.0) is used on its original 163-bone rig with linear blend skinning. Everything is
float32, whatever the network's precision is. All shapes are fixed and no operation waits for the GPU, so that the
body can stand inside a CUDA graph.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multihmr2_ros import caches
from multihmr2_ros.errors import UserError

logger = logging.getLogger(__name__)

Mesh = Literal["full", "low"]
TOPOLOGY = {"full": "default", "low": "notoes_collapse5pc"}

# The vertex that the network's located point means: the body's centre (spec, "the located point").
CENTRE_VERTEX = {"full": 5054, "low": 9}

# Bones whose predicted rotation is replaced by identity: every label that contains one of these words.
UNPOSED_BONE_WORDS = (
    "jaw", "oris", "levator", "orbicularis", "temporalis", "oculi", "risorius", "special", "toe", "eye", "tongue",
    "neck", "head", "foot", "breast",
)  # fmt: skip

# Anny's regressor knows more; the COCO standard's 17, in the standard's order.
COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
# Bones whose heads are COCO's keypoints, within 3 cm (ears: 5 cm), in COCO's order.
KEYPOINT_BONES = (
    "levator02.L", "eye.L", "eye.R", "temporalis02.L", "temporalis02.R", "upperarm01.L", "upperarm01.R", "lowerarm01.L",
    "lowerarm01.R", "wrist.L", "wrist.R", "upperleg01.L", "upperleg01.R", "lowerleg01.L", "lowerleg01.R", "foot.L",
    "foot.R",
)  # fmt: skip
# Standard deviations of COCO's annotators, as a share of a person's scale (cocodataset.org, "Keypoint Evaluation").
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip


@dataclass(frozen=True)
class PosedBody:
    """n posed bodies. Metres, in the frame of the root's rotation, the root bone's head at Anny's own place.

    vertices   (n, V, 3)
    bone_poses (n, 163, 4, 4) bone frame → body; the translations are the bone heads, "joints" in this project
    stature    (n,) standing height in the rest pose
    """

    vertices: Tensor
    bone_poses: Tensor
    stature: Tensor

    @property
    def joints(self) -> Tensor:
        """(n, 163, 3) bone heads."""
        return self.bone_poses[..., :3, 3]


class Body(nn.Module):
    """Anny with one mesh: "full" (19,158 vertices, 27,420 triangles) or "low" (615 vertices, 1,226 triangles).

    The first construction on a machine builds Anny's cache (about two minutes, 0.9 GB); later ones take seconds.
    """

    bone_labels: tuple[str, ...]
    bone_parents: tuple[int, ...]
    phenotype_labels: tuple[str, ...]

    def __init__(self, mesh: Mesh = "full") -> None:
        super().__init__()
        model = _load_anny(mesh)
        self.mesh: Mesh = mesh
        self.centre_vertex = CENTRE_VERTEX[mesh]
        self.bone_labels = tuple(model.bone_labels)
        self.bone_parents = tuple(int(parent) for parent in model.bone_parents)
        self.phenotype_labels = tuple(model.phenotype_labels)
        self.faces: NDArray[np.int32] = model.get_triangular_faces().numpy().astype(np.int32)
        self.anny: Any = model
        self._keypoint_weights: NDArray[np.float32] | None = None
        surface = torch.from_numpy(np.unique(self.faces))
        unposed = [any(word in label for word in UNPOSED_BONE_WORDS) for label in self.bone_labels]
        self.register_buffer("surface_vertices", surface, persistent=False)
        self.register_buffer("unposed_bones", torch.tensor(unposed)[:, None, None], persistent=False)
        self.keypoint_rows = tuple(self.bone_labels.index(label) for label in KEYPOINT_BONES)
        self.register_buffer("keypoint_bones", torch.tensor(self.keypoint_rows), persistent=False)
        self.register_buffer("identity", torch.eye(3), persistent=False)
        self.register_buffer("phenotype_anchors", _phenotype_anchors(model), persistent=False)

    keypoint_bones: Tensor
    unposed_bones: Tensor
    identity: Tensor
    surface_vertices: Tensor
    phenotype_anchors: Tensor

    @property
    def vertex_count(self) -> int:
        return int(self.anny.template_vertices.shape[0])

    @property
    def template(self) -> NDArray[np.float32]:
        """(V, 3) m, vertices of Anny's template in its rest pose, arms away from the trunk."""
        return np.asarray(self.anny.template_vertices.cpu(), np.float32)

    def forward(self, shape: Tensor, rotations: Tensor) -> PosedBody:
        """Pose n bodies.

        shape (n, 6) in [0, 1], in phenotype_labels order; rotations (n, 163, 3, 3), each bone's rotation relative to
        its parent in its own rest frame, row 0 the root's rotation in the outer frame.
        """
        rest = self.anny.get_rest_model(self._blendshape_weights(shape))
        transforms, bone_poses = self._posed_bones(rotations, rest["rest_bone_poses"])
        vertices = self.anny.get_skinned_vertices(rest["rest_vertices"], transforms)
        return PosedBody(vertices, bone_poses, self._stature(rest["rest_vertices"]))

    def pose_bones(self, shape: Tensor, rotations: Tensor) -> Tensor:
        """(n, 163, 4, 4) as `PosedBody.bone_poses`, arguments as of `forward`: no vertices, so it is quick."""
        return self._posed_bones(rotations, self.rest_bone_poses(shape))[1]

    def _posed_bones(self, rotations: Tensor, rest_bone_poses: Tensor) -> tuple[Tensor, Tensor]:
        rotations = torch.where(self.unposed_bones, self.identity, rotations)
        deltas = torch.nn.functional.pad(rotations, (0, 1, 0, 1))  # Anny reads the top 3 × 4 block only
        transforms, bone_poses = self.anny.get_bone_transforms(deltas, rest_bone_poses)
        return transforms, bone_poses

    def rest_bone_poses(self, shape: Tensor) -> Tensor:
        """(n, 163, 4, 4) bone frame → body of resting bodies of the given shape (n, 6): no vertices, so it is quick.

        In Anny's rest frame: x left, y to the back, z up, feet flat. The root bone is tilted in it, with the age by 8°
        to 21° from head −z: that is its rotation in an upright person, not exactly −90° about x.
        """
        from anny.skinning import skinning
        from anny.utils import kinematics

        weights = self._blendshape_weights(shape)
        heads, tails = (
            skinning.apply_linear_blendshape(template, blendshapes, weights)
            for template, blendshapes in (
                (self.anny.template_bone_heads, self.anny.bone_heads_blendshapes),
                (self.anny.template_bone_tails, self.anny.bone_tails_blendshapes),
            )
        )
        poses: Tensor = kinematics.get_bone_poses(
            heads,
            tails,
            self.anny.bone_rolls_rotmat,
            y_axis=self.anny.y_axis,
            degenerate_rotation=self.anny.degenerate_rotation,
        )
        return poses

    def stature(self, shape: Tensor) -> Tensor:
        """(n,) standing height in metres of bodies of the given shape (n, 6): the rest pose's extent along its z."""
        return self._stature(self.anny.get_rest_vertices(self._blendshape_weights(shape)))

    def _stature(self, rest_vertices: Tensor) -> Tensor:
        height = rest_vertices[:, self.surface_vertices, 2]
        return height.amax(dim=1) - height.amin(dim=1)

    def _blendshape_weights(self, shape: Tensor) -> Tensor:
        """Anny's phenotype weights (n, blend shapes), by gathers and hat functions only.

        Anny interpolates each phenotype between anchors that are equally spaced, so the coefficient of anchor a is
        max(0, 1 − |x − a| / spacing); a blend shape's weight is the product of the coefficients that it depends on.
        """
        anchors, spacing, source, lower, upper = self.phenotype_anchors
        values = torch.cat([shape, shape.new_full((len(shape), 1), 0.5)], dim=1)[:, source.long()]
        values = torch.maximum(torch.minimum(values, upper), lower)
        coefficients = torch.relu(1.0 - (values - anchors).abs() / spacing)
        mask = self.anny.stacked_phenotype_blend_shapes_mask
        weights = torch.where(mask[None] > 0, coefficients[:, None], 1.0).prod(dim=-1)
        projection = self.anny.phenotype_blendshape_projection
        return weights if projection is None else weights @ projection

    def coco_keypoints(self, vertices: NDArray[np.float32]) -> NDArray[np.float32]:
        """(…, 17, 3) COCO keypoints of full-mesh vertices (…, 19158, 3), by Anny's own regressor."""
        if self.mesh != "full" or vertices.shape[-2] != self.vertex_count:
            raise ValueError(
                f"COCO keypoints need the {19158} vertices of mesh 'full', got {vertices.shape[-2]} of '{self.mesh}'"
            )
        if self._keypoint_weights is None:
            from anny.keypoints import KeypointsRegressor

            regressor = KeypointsRegressor.coco(self.anny, labels=list(COCO_KEYPOINTS))
            self._keypoint_weights = regressor.regression_weights.cpu().numpy()
        return np.einsum("kv,...vd->...kd", self._keypoint_weights, vertices)


def rotations_from_vectors(vectors: Tensor) -> Tensor:
    """(…, 3, 3) rotation matrices of rotation vectors (…, 3), by Rodrigues' formula; smooth at 0, too."""
    angle = (vectors.square().sum(-1) + 1e-12).sqrt()[..., None, None]
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    first = torch.sinc(angle / torch.pi)
    second = 0.5 * torch.sinc(angle / (2 * torch.pi)).square()
    return torch.eye(3, dtype=vectors.dtype, device=vectors.device) + first * skew + second * (skew @ skew)


def footprint(
    vertices: NDArray[np.floating], plane_normal: NDArray[np.floating], plane_offset_m: float
) -> NDArray[np.float64]:
    """Convex hull (m, 3) of vertices (V, 3) dropped onto the ground plane normal·x = offset, in the vertices' frame.

    The corners run counter-clockwise seen from the side that the normal points to. plane_normal (3,) need not have
    unit length (the plane stays the same set of points). Fewer than three corners come back for degenerate bodies.
    """
    from scipy.spatial import ConvexHull, QhullError

    normal = np.asarray(plane_normal, np.float64)
    length = np.linalg.norm(normal)
    if normal.shape != (3,) or not np.isfinite(length) or length == 0:
        raise ValueError(f"a ground plane needs a finite, non-zero normal of 3 numbers, got {plane_normal!r}")
    normal, offset = normal / length, plane_offset_m / length
    points = np.asarray(vertices, np.float64)
    dropped = points - (points @ normal - offset)[:, None] * normal
    first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    first /= np.linalg.norm(first)
    in_plane = dropped @ np.stack([first, np.cross(normal, first)], axis=1)
    try:
        return dropped[ConvexHull(in_plane).vertices]
    except (QhullError, ValueError):
        return np.unique(dropped, axis=0)[:2]


def is_cached() -> bool:
    """Whether Anny's cache is on this machine, so that a body is there in seconds."""
    return caches.is_body_cached(caches.body_cache())


@functools.cache
def _cached_anny(mesh: Mesh) -> Any:
    anny = import_anny()
    if not is_cached():
        logger.info("building the body model's cache, once (about two minutes)")
    start_warp()
    try:
        model = _new_anny(anny, mesh)
    except OSError as error:
        raise UserError(
            f"the body model's cache in {caches.body_cache()} cannot be used ({error.strerror or error}); set "
            "ANNY_CACHE_DIR to a folder that can be written, with 1 GB of room"
        ) from error
    return model.to(torch.float32).eval()


def import_anny() -> Any:
    """The library, with its cache where `caches` says; its import asks for a home folder."""
    with caches.some_home():
        import anny
        import anny.paths
    anny.paths.set_anny_cache_path(caches.body_cache())
    return anny


def _new_anny(anny: Any, mesh: Mesh) -> Any:
    with warnings.catch_warnings():
        # Anny marks this factory deprecated; it is the one that keeps the rig that the released weights were made for.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Local changes are all zero in this project: leaving them out changes no vertex and saves three quarters of
        # the memory. Dense blend skinning is one matrix product, without a second runtime on the GPU's stream.
        return anny.create_fullbody_model(
            topology=TOPOLOGY[mesh],
            local_changes=False,
            pose_parameterization="root_relative",
            remove_unattached_vertices=False,
            all_phenotypes=False,
            skinning_method="lbs",
        )


def start_warp() -> None:
    """Warp with its kernels where `caches` says; nothing where Warp is not installed.

    Anny and Warp tell the terminal which files they open and what hardware they miss; from here on only Anny's
    warnings and Warp's errors.

    Without a driver for CUDA, Warp says so on the standard error of the process, whatever its settings; so it starts
    here, deaf. Where there is one, it starts when it is needed, and may complain of it.
    """
    logging.getLogger("anny").setLevel(logging.WARNING)
    try:
        import warp
    except ModuleNotFoundError:  # only the renderer needs it
        return

    warp.config.kernel_cache_dir = str(caches.kernel_cache())
    if hasattr(warp.config, "log_level"):
        warp.config.log_level = warp.LOG_ERROR
    else:  # older releases
        warp.config.quiet = True  # type: ignore[attr-defined]
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with _no_standard_error():
            warp.init()


@contextlib.contextmanager
def _no_standard_error() -> Iterator[None]:
    """Also of native code."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed, as of some daemons
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _load_anny(mesh: Mesh) -> Any:
    """A copy of one's own, because `Module.to(device)` works in place."""
    return copy.deepcopy(_cached_anny(mesh))


def _phenotype_anchors(model: Any) -> Tensor:
    """(5, 26): per variation of Anny's, its anchor, the anchors' spacing, its column in (shape, 0.5), lower, upper.

    Phenotypes that the model does not expose (cup size, firmness, race) stay at 0.5, column 6. Race weights are the
    share of each race, 1/3: a hat of the value 0.5 around an anchor that gives 1/3.
    """
    from anny.models.model_data import PHENOTYPE_VARIATIONS

    rows: list[tuple[float, float, float, float, float]] = []
    labels = list(model.phenotype_labels)
    for phenotype, variations in PHENOTYPE_VARIATIONS.items():
        column = float(labels.index(phenotype)) if phenotype in labels else float(len(labels))
        if phenotype == "race":
            rows += [(0.5 - 2 / 3, 1.0, column, 0.0, 1.0)] * len(variations)
            continue
        anchors = model.anchors[phenotype].tolist()
        spacing = (anchors[-1] - anchors[0]) / (len(anchors) - 1)
        rows += [(anchor, spacing, column, anchors[0], anchors[-1]) for anchor in anchors]
    return torch.tensor(rows, dtype=torch.float32).T.contiguous()
