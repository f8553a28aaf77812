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

"""Interface of the Anny body model: phenotype and bone rotations → vertices, joints, keypoints and stature.

Anny (pinned to 0.6.2; Apache-2.0) is used with its original 163-bone rig and linear blend skinning. Everything is
float32, whatever the network's precision is. All shapes are fixed and no operation waits for the GPU, so that the
body can be part of a CUDA graph.
"""

from .anny_model import Mesh, import_anny, read_blend_shape, start_warp
from .body import (
    AREA_OF_BOX,
    CENTER_VERTEX,
    COCO_KEYPOINTS,
    COCO_SIGMAS,
    UNPOSED_BONE_WORDS,
    Body,
    PosedBody,
    rotations_from_vectors,
    split_quads,
)

__all__ = [
    "AREA_OF_BOX",
    "CENTER_VERTEX",
    "COCO_KEYPOINTS",
    "COCO_SIGMAS",
    "UNPOSED_BONE_WORDS",
    "Body",
    "Mesh",
    "PosedBody",
    "import_anny",
    "read_blend_shape",
    "rotations_from_vectors",
    "split_quads",
    "start_warp",
]
