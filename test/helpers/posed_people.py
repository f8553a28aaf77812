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

"""People with real bodies, for tests of measurements on bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from multihmr2_ros.body import Body
from multihmr2_ros.people import PHENOTYPE_LABELS, People
from test.helpers.people_factory import make_people, pinhole

# An upright person facing the camera: the root bone's head at −z, its left at +x, its front at +y.
FACING = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def posed_people(body: Body, pelvis: np.ndarray, *, turns_rad: float = 0.0, seed: int = 0, **changes: Any) -> People:
    """Return people of all ages at pelvises (n, 3) m, facing the camera, with randomly bent arms and legs.

    turns_rad: rotation about the upward axis, applied before they face the camera.
    """
    rng = np.random.default_rng(seed)
    n = len(pelvis)
    shape = rng.uniform(0.2, 0.8, (n, 6)).astype(np.float32)
    shape[:, PHENOTYPE_LABELS.index("age")] = np.linspace(0.0, 1.0, n)
    rotations = Rotation.from_rotvec(rng.normal(0.0, 0.15, (n * 163, 3))).as_matrix().reshape(n, 163, 3, 3)
    rotations[:, 0] = Rotation.from_rotvec([0.0, turns_rad, 0.0]).as_matrix() @ FACING
    posed = body(torch.from_numpy(shape), torch.from_numpy(rotations.astype(np.float32)))
    shift = np.asarray(pelvis)[:, None] - posed.joints.numpy()[:, :1]
    joints, vertices = posed.joints.numpy() + shift, posed.vertices.numpy() + shift
    k = np.asarray(changes.pop("k", pinhole(image_size=changes.get("image_size", (480, 640)))))
    pixels = joints @ k.T
    fields = {
        "joints": joints.astype(np.float32),
        "joints_2d": (pixels[..., :2] / pixels[..., 2:]).astype(np.float32),
        "bone_poses": posed.bone_poses.numpy(),
        "rotations": rotations.astype(np.float32),
        "stature": posed.stature.numpy(),
        "shape": shape,
        "running_shape": shape,
        "pelvis": joints[:, 0].astype(np.float32),
    }
    return make_people(n, vertices=vertices, k=k, seed=seed, **(fields | changes))
