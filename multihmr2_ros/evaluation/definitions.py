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

"""Definitions of the metrics for readers of a report, one or two sentences each."""

DEFINITIONS = {
    "recall": "Share of the true people who are found. Only people counted as required enter: high enough in the image "
    "and visible enough (see the configuration).",
    "precision": "Share of the detections that are people.",
    "F1": "TP / (TP + (FP + FN) / 2): one number for recall and precision.",
    "PVE": "Mean distance of the vertices of both meshes, moved so that the pelvises coincide: pose and shape, without "
    "place.",
    "MPJPE": "Mean distance of the joints (bone heads) of both bodies, moved so that the pelvises coincide: pose, "
    "without place.",
    "PA-MPJPE": "MPJPE after the best similarity transform (turn, shift, scale) for each person: pose alone.",
    "Abs-PVE": "Mean distance of the vertices in the camera frame, nothing aligned: pose, shape and place.",
    "TA-PVE": "Mean distance of the vertices after one common translation for all people of a frame: how they are "
    "placed with respect to each other.",
    "Pair-PA-MPJPE": "Mean joint distance after one similarity transform for two people who are close to each other.",
    "MRPE": "Mean distance between the predicted and the true pelvis in the camera frame: the place.",
    "MRPE x": "Mean absolute error of the pelvis to the right (x of the camera's optical frame).",
    "MRPE y": "Mean absolute error of the pelvis downwards (y of the camera's optical frame).",
    "MRPE z": "Mean absolute error of the pelvis in depth (z of the camera's optical frame), usually the largest part.",
    "distance error": "Mean error of the pelvis's distance from the camera, as a share of the true distance.",
    "PCDR@0.2m": "Share of all pairs of people of a frame whose order in depth is right; less than 0.2 m apart counts "
    "as the same depth.",
    "PCDR children": "PCDR@0.2m over the pairs with a child among them.",
    "ordinal pairs": "Share of the pairs at different depths whose nearer person is the right one.",
    "N-MPJPE": "MPJPE divided by F1, so that leaving out hard people does not help.",
    "N-MRPE": "MRPE divided by F1, so that leaving out hard people does not help.",
    "FOV error": "Mean error of the vertical field of view that the network predicts, whichever intrinsics placed the "
    "people.",
    "IDF1": "Share of boxes with the right identity, under the best fixed pairing of tracks and people.",
    "MOTA": "1 - (misses + false positives + id switches) / true boxes; it may be below zero.",
    "HOTA": "Geometric mean of detection and association accuracy, averaged over overlaps from 0.05 to 0.95.",
    "id switches": "How often a person's track id changed to another one.",
}
