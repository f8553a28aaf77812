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

"""Figures of the report page, each with an alternative text; None if there are no data for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation.plots import MIN_IN_BIN, make_figure
from multihmr2_ros.evaluation.postures import POSTURES
from multihmr2_ros.evaluation.tables import PersonRows
from multihmr2_ros.evaluation.verdict import MIN_PEOPLE, remove_nan
from multihmr2_ros.metrics.uncertainty import compute_coverage

Z_95 = 1.96
PLAN_SIZE_PX = 220
PLAN_COLORS = {"true": "#222222", "predicted": "#0072b2"}


@dataclass(frozen=True)
class ReportImage:
    """An image of the page.

    uri      a data URI with the image's bytes
    alt      alternative text
    caption  plain text
    """

    uri: str
    alt: str
    caption: str = ""


def figure_to_svg(figure: Any | None, alt: str, caption: str = "") -> list[ReportImage]:
    """Convert a matplotlib figure to SVG, with equal bytes for equal figures; an empty list for None."""
    if figure is None:
        return []
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "multihmr2", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return [ReportImage(_make_data_uri("image/svg+xml", content.getvalue()), alt, caption)]


def jpeg_to_image(data: bytes, alt: str) -> ReportImage:
    return ReportImage(_make_data_uri("image/jpeg", data), alt)


def _make_data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def draw_groups(rows: PersonRows) -> list[ReportImage]:
    """Draw recall and errors over distance, visibility and posture of the true people."""
    distance, visible = rows["true_distance_m"], rows["visible"]
    far = np.floor(np.nanmax(distance, initial=0.0)) + 1
    edges = np.arange(far + 1) if far <= 15 else np.linspace(0.0, far, 16)
    by_distance = [(f"{low:.3g}–{high:.3g}", (distance >= low) & (distance < high)) for low, high in _make_bins(edges)]
    tenths = np.linspace(0.0, 1.0, 11)
    by_visibility = [
        (f"{low:.1f}–{high:.1f}", (visible >= low) & ((visible < high) | ((high == 1) & (visible <= 1))))
        for low, high in _make_bins(tenths)
    ]
    by_posture = [(posture, rows.posture == posture) for posture in POSTURES]
    return [
        *_draw_group_bars(rows, by_distance, "true distance (m)"),
        *_draw_group_bars(rows, by_visibility, "visible fraction"),
        *_draw_group_bars(rows, by_posture, "posture (assuming a level camera)"),
    ]


def _make_bins(edges: NDArray[np.float64]) -> list[tuple[float, float]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _draw_group_bars(
    rows: PersonRows, groups: Sequence[tuple[str, NDArray[np.bool_]]], label: str
) -> list[ReportImage]:
    """Draw bars of recall, and below them mean position and pose errors of found people. Small groups are left out."""
    known = [
        (name, rows.summarize_group(mask, "mrpe_mm"), rows.summarize_group(mask, "mpjpe_mm")[2])
        for name, mask in groups
    ]
    known = [each for each in known if each[1][0] >= MIN_IN_BIN]
    if len(known) < 2:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    positions = np.arange(len(known))
    recall = np.array([100 * found[1] for _, found, _ in known])
    above.bar(positions, recall, color="#009e73")
    for position, (_, (count, _, _), _) in zip(positions, known, strict=True):
        above.annotate(f"{count}", (position, 2), ha="center", fontsize=7, color="white")
    above.set(ylabel="detected (%)", ylim=(0, 100))
    below.bar(positions - 0.2, [found[2] for _, found, _ in known], 0.4, label="position (MRPE)", color="#0072b2")
    below.bar(positions + 0.2, [pose for *_, pose in known], 0.4, label="pose (MPJPE)", color="#e69f00")
    below.set(ylabel="mean error (mm)", xlabel=label)
    below.set_xticks(positions, [name for name, *_ in known])
    below.margins(y=0.35)
    below.legend(fontsize=8, loc="upper right", ncols=2)
    parts = [f"{name}: {100 * found[1]:.0f} % detected, {found[2]:.0f} mm" for name, found, _ in known]
    caption = f"By {label}. Numbers in the bars: people. Groups with fewer than {MIN_IN_BIN} people are omitted."
    return figure_to_svg(figure, f"Recall and mean position error by {label}. {'; '.join(parts)}.", caption)


def draw_score_reliability(rows: PersonRows) -> list[ReportImage]:
    """Draw the share of detections that are people, in bins of their score, with 95 % intervals (Wilson)."""
    counted = rows.matched | rows.false_positive
    score, is_person = rows["score"][counted], rows.matched[counted]
    if len(score) < MIN_PEOPLE:
        return []
    figure, axes = make_figure(3.6)
    axes.plot([0, 1], [0, 100], "--", color="gray", label="perfect calibration")
    parts = []
    for low, high in _make_bins(np.linspace(0.0, 1.0, 11)):
        inside = (score >= low) & ((score < high) | (high == 1))
        if inside.sum() < MIN_IN_BIN:
            continue
        share, half = compute_wilson_interval(int(is_person[inside].sum()), int(inside.sum()))
        middle = float(score[inside].mean())
        axes.errorbar(middle, 100 * share, 100 * half, fmt="o", color="#0072b2", capsize=3)
        axes.annotate(f"{inside.sum()}", (middle, 100 * share), textcoords="offset points", xytext=(6, -10), fontsize=7)
        parts.append(f"score {middle:.2f}: {100 * is_person[inside].mean():.0f} %")
    axes.set(xlabel="score of a detection", ylabel="correct detections (%)", xlim=(0, 1), ylim=(0, 104))
    axes.legend(loc="lower right", fontsize=8)
    caption = "Fraction of detections that are correct, with 95 % intervals. Numbers: detections."
    return figure_to_svg(figure, f"Reliability of scores. {'; '.join(parts)}.", caption) if parts else []


def compute_wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return center and half width of the 95 % score interval of a share (Wilson 1927)."""
    share, grown = hits / count, 1 + Z_95**2 / count
    center = (share + Z_95**2 / (2 * count)) / grown
    half = Z_95 / grown * np.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    return center, float(half)


def draw_covariance_reliability(rows: PersonRows) -> list[ReportImage]:
    """Draw the share of errors inside the confidence region of the stated covariances, over the region's nominal
    share."""
    squared = {name: remove_nan(rows[f"{name}_mahalanobis2"]) for name in ("pelvis", "velocity")}
    squared = {name: values for name, values in squared.items() if len(values) >= MIN_PEOPLE}
    if not squared:
        return []
    figure, axes = make_figure(3.6)
    confidence = np.linspace(0.01, 0.99, 50)
    axes.plot([0, 100], [0, 100], "--", color="gray", label="perfect calibration")
    parts = []
    for name, values in squared.items():
        axes.plot(100 * confidence, 100 * compute_coverage(values, confidence), label=f"{name} ({len(values)})")
        parts.append(f"{name}: {100 * compute_coverage(values, np.array([0.9]))[0]:.0f} % inside the 90 % region")
    axes.set(xlabel="expected inside (%)", ylabel="measured inside (%)", xlim=(0, 100), ylim=(0, 100))
    axes.legend(loc="upper left", fontsize=8)
    caption = "Below the dashed line, the covariances are too small; above it, too large."
    return figure_to_svg(figure, f"Reliability of covariances. {'; '.join(parts)}.", caption)


def draw_plan(rows: PersonRows, frame: NDArray[np.bool_], alt: str) -> ReportImage:
    """Draw the people of one frame (a mask over rows) from above: true people as rings, predicted ones as discs.

    The camera is at the bottom. Positions are in its optical frame, x to the right and z up the page.
    """
    true = np.stack([rows["true_x_m"], rows["true_z_m"]], axis=1)[frame]
    found = np.stack([rows["predicted_x_m"], rows["predicted_z_m"]], axis=1)[frame]
    shown = np.concatenate([true, found])
    shown = shown[np.isfinite(shown).all(axis=1)]
    reach = float(np.ceil(max(2.0, shown[:, 1].max(initial=0.0), 2 * np.abs(shown[:, 0]).max(initial=0.0)))) + 0.5
    marks = [_draw_circle(distance, reach) for distance in range(2, int(reach) + 1, 2)]
    for one, other in zip(true, found, strict=True):
        if np.isfinite([one, other]).all():
            (x0, y0), (x1, y1) = _project_to_plan(one, reach), _project_to_plan(other, reach)
            marks.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#d55e00"/>')
    for points, style in ((true, 'fill="none" stroke-width="2"'), (found, 'stroke="none"')):
        color = PLAN_COLORS["true" if points is true else "predicted"]
        paint = f'stroke="{color}"' if points is true else f'fill="{color}"'
        for x, y in (_project_to_plan(point, reach) for point in points[np.isfinite(points).all(axis=1)]):
            marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style} {paint}/>')
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PLAN_SIZE_PX} {PLAN_SIZE_PX}" font-size="9" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="#fafafa"/>{"".join(marks)}</svg>'
    )
    return ReportImage(_make_data_uri("image/svg+xml", svg.encode()), alt)


def _project_to_plan(point: NDArray[np.float64], reach_m: float) -> tuple[float, float]:
    scale = PLAN_SIZE_PX / reach_m
    return PLAN_SIZE_PX / 2 + float(point[0]) * scale, PLAN_SIZE_PX - float(point[1]) * scale


def _draw_circle(distance_m: int, reach_m: float) -> str:
    """Return a circle around the camera, labeled with its radius, in SVG."""
    radius, middle = PLAN_SIZE_PX * distance_m / reach_m, PLAN_SIZE_PX / 2
    return (
        f'<circle cx="{middle}" cy="{PLAN_SIZE_PX}" r="{radius:.1f}" fill="none" stroke="#ddd"/>'
        f'<text x="{middle + 2}" y="{PLAN_SIZE_PX - radius - 2:.1f}" fill="#777">{distance_m} m</text>'
    )
