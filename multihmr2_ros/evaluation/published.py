"""Rows of the paper's tables 1-6 (arXiv 2606.14841), printed beside one's own for the same data set.

Units as there: mm, degrees, and percent. Table 3's last columns are the mean N-MPJPE and N-MRPE.
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
    },
    "cmu-panoptic": {
        "Multi-HMR 2.a": {"N-MPJPE": 81.5, "N-MRPE": 26.9},
        "Multi-HMR": {"N-MPJPE": 84.4, "N-MRPE": 58.1},
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


def published_table(dataset: str, own: Mapping[str, float]) -> str:
    """One's own row above the published ones; "" for data sets that the paper has no row of."""
    rows = ROWS.get(dataset)
    if rows is None:
        return ""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"{dataset}: beside the paper's tables", f"{'':<34}" + "".join(f"{key:>10}" for key in columns)]
    for name, row in {"this result": own, **rows}.items():
        lines.append(f"{name:<34}" + "".join(f"{row[key]:>10.1f}" if key in row else f"{'':>10}" for key in columns))
    return "\n".join(line.rstrip() for line in lines)
