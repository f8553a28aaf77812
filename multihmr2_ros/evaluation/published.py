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

"""Rows of the paper's tables 1-6 (arXiv 2606.14841), for comparison with results on the same data set.

Units as in the paper: mm, degrees, and percent. The last columns of table 3 are the mean N-MPJPE and N-MRPE.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS: dict[str, dict[str, dict[str, float]]] = {
    "3dpw": {
        "Multi-HMR 2.a, predicted camera": {
            "PA-MPJPE": 40.5, "MPJPE": 68.2, "PVE": 80.1, "TA-PVE": 170.1, "FOV error": 6.4,
        },
        "Multi-HMR 2.b, predicted camera": {"PA-MPJPE": 41.8, "MPJPE": 65.2, "PVE": 78.1, "TA-PVE": 161.9},
        "Multi-HMR 2.a, true camera": {"PA-MPJPE": 40.2, "MPJPE": 67.7, "PVE": 79.9, "TA-PVE": 149.8},
        "Multi-HMR 2.b, true camera": {"PA-MPJPE": 41.6, "MPJPE": 64.5, "PVE": 77.7, "TA-PVE": 145.6},
        "Multi-HMR, true camera": {"PA-MPJPE": 46.9, "MPJPE": 69.5, "PVE": 88.8, "TA-PVE": 187.2},
        "AiOS, fixed camera": {"PA-MPJPE": 45.0, "MPJPE": 68.8, "PVE": 90.9, "TA-PVE": 774.3},
        "SAT-HMR, fixed camera": {"PA-MPJPE": 52.7, "MPJPE": 81.0, "PVE": 94.5, "TA-PVE": 174.5},
        "Perspective fields": {"FOV error": 14.0},
        "Ctrl-C": {"FOV error": 5.6},
        "WildCamera": {"FOV error": 8.2},
        "SPEC-camcalib": {"FOV error": 8.8},
        "HumanFoV": {"FOV error": 5.0},
    },
    "cmu-panoptic": {
        "Multi-HMR 2.a": {"N-MPJPE": 81.5, "N-MRPE": 26.9},
        "Multi-HMR": {"N-MPJPE": 84.4, "N-MRPE": 58.1},
        "SAT-HMR": {"N-MPJPE": 123.8, "N-MRPE": 83.7},
        "Scene": {"N-MPJPE": 108.9, "N-MRPE": 217.1},
        "PSVT": {"N-MPJPE": 109.0},
        "DPMesh": {"N-MPJPE": 110.4},
        "BEV": {"N-MPJPE": 112.9},
        "3DCrowdNet": {"N-MPJPE": 134.0},
    },
    "emdb": {
        "Multi-HMR 2.a, predicted camera": {
            "PA-MPJPE": 48.3, "MPJPE": 68.5, "PVE": 78.7, "Abs-PVE": 273.6, "FOV error": 4.0,
        },
        "Multi-HMR 2.b, predicted camera": {"PA-MPJPE": 52.5, "MPJPE": 71.0, "PVE": 83.6, "Abs-PVE": 374.8},
        "Multi-HMR 2.a, true camera": {"PA-MPJPE": 48.3, "MPJPE": 68.5, "PVE": 78.7, "Abs-PVE": 129.4},
        "Multi-HMR 2.b, true camera": {"PA-MPJPE": 52.5, "MPJPE": 71.0, "PVE": 83.6, "Abs-PVE": 131.7},
        "Multi-HMR, true camera": {"PA-MPJPE": 48.5, "MPJPE": 73.7, "PVE": 87.1, "Abs-PVE": 168.1},
        "AiOS, fixed camera": {"PA-MPJPE": 63.3, "MPJPE": 90.6, "PVE": 108.1, "Abs-PVE": 11962.1},
        "SAT-HMR, fixed camera": {"PA-MPJPE": 71.0, "MPJPE": 112.9, "PVE": 126.7, "Abs-PVE": 1093.0},
        "Perspective fields": {"FOV error": 12.8},
        "Ctrl-C": {"FOV error": 5.4},
        "WildCamera": {"FOV error": 2.3},
        "SPEC-camcalib": {"FOV error": 5.9},
        "HumanFoV": {"FOV error": 5.7},
    },
    "hi4d": {
        "Multi-HMR 2.a, predicted camera": {"MPJPE": 61.7, "Pair-PA-MPJPE": 79.5, "TA-PVE": 114.9, "F1": 100.0},
        "Multi-HMR 2.b, predicted camera": {"MPJPE": 65.9, "Pair-PA-MPJPE": 82.9, "TA-PVE": 123.5, "F1": 99.0},
        "Multi-HMR 2.a, true camera": {"MPJPE": 61.7, "Pair-PA-MPJPE": 78.3, "TA-PVE": 113.1, "F1": 100.0},
        "Multi-HMR 2.b, true camera": {"MPJPE": 65.9, "Pair-PA-MPJPE": 80.5, "TA-PVE": 119.5, "F1": 99.0},
        "Multi-HMR, true camera": {"MPJPE": 69.2, "Pair-PA-MPJPE": 82.2, "TA-PVE": 116.2, "F1": 98.0},
        "AiOS, fixed camera": {"MPJPE": 72.9, "Pair-PA-MPJPE": 239.0, "TA-PVE": 694.4, "F1": 98.0},
        "SAT-HMR, fixed camera": {"MPJPE": 88.2, "Pair-PA-MPJPE": 85.5, "TA-PVE": 132.4, "F1": 100.0},
    },
    "harmony4d": {
        "Multi-HMR 2.a, predicted camera": {"MPJPE": 131.8, "Pair-PA-MPJPE": 99.8, "TA-PVE": 231.2, "recall": 97.0},
        "Multi-HMR 2.b, predicted camera": {"MPJPE": 132.4, "Pair-PA-MPJPE": 105.4, "TA-PVE": 382.1, "recall": 96.0},
        "Multi-HMR 2.a, true camera": {"MPJPE": 128.4, "Pair-PA-MPJPE": 96.2, "TA-PVE": 233.6, "recall": 97.0},
        "Multi-HMR 2.b, true camera": {"MPJPE": 128.7, "Pair-PA-MPJPE": 96.7, "TA-PVE": 274.6, "recall": 97.0},
        "Multi-HMR, true camera": {"MPJPE": 146.0, "Pair-PA-MPJPE": 140.8, "TA-PVE": 388.1, "recall": 93.0},
        "AiOS, fixed camera": {"MPJPE": 130.5, "Pair-PA-MPJPE": 304.8, "TA-PVE": 3454.8, "recall": 91.0},
        "SAT-HMR, fixed camera": {"MPJPE": 140.3, "Pair-PA-MPJPE": 144.0, "TA-PVE": 676.3, "recall": 97.0},
    },
    "mscoco": {
        "Multi-HMR 2.b": {"AP": 50.7, "AP50": 81.0, "AP75": 54.3, "AR": 56.2, "AR50": 83.2, "AR75": 60.9},
        "AiOS": {"AP": 44.9, "AP50": 76.0, "AP75": 46.4, "AR": 54.0, "AR50": 83.3, "AR75": 57.7},
        "SAT-HMR": {"AP": 42.1, "AP50": 73.8, "AP75": 43.8, "AR": 49.5, "AR50": 78.4, "AR75": 53.0},
        "Multi-HMR": {"AP": 31.2, "AP50": 60.0, "AP75": 29.1, "AR": 39.0, "AR50": 66.0, "AR75": 39.8},
    },
    "posetrack21": {
        "Multi-HMR 2.b": {"IDF1": 75.2, "MOTA": 65.5},
        "Humans4D": {"IDF1": 72.5, "MOTA": 60.2},
        "CoMotion (trained on videos)": {"IDF1": 79.5, "MOTA": 70.1},
    },
}  # fmt: skip


def format_published_table(dataset: str, own: Mapping[str, float]) -> str:
    """Return a table of this result above the published ones; "" for data sets that are not in the paper."""
    rows = ROWS.get(dataset)
    if rows is None:
        return ""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    widths = {key: max(10, len(key) + 2) for key in columns}
    lines = [
        f"{dataset}: comparison with the paper",
        f"{'':<34}" + "".join(f"{key:>{width}}" for key, width in widths.items()),
    ]
    for name, row in {"this result": own, **rows}.items():
        cells = (f"{row[key]:>{width}.1f}" if key in row else " " * width for key, width in widths.items())
        lines.append(f"{name:<34}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)
