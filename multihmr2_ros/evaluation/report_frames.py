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

"""The frames on the report page: their ranking, their images, and their errors in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.evaluation import figures, plots
from multihmr2_ros.evaluation.figures import ReportImage, jpeg_to_image
from multihmr2_ros.evaluation.highlights import BEST, WORST, Ranking, compute_cost, compute_merit, read_images
from multihmr2_ros.evaluation.highlights import FILE as IMAGES
from multihmr2_ros.evaluation.tables import PersonRows


@dataclass(frozen=True)
class HighlightedFrame:
    """One frame on the page: its images and a description."""

    title: str
    remarks: str
    images: tuple[ReportImage, ...]


@dataclass(frozen=True)
class FrameSection:
    """A heading, a remark, and frames below them."""

    heading: str
    remark: str
    frames: list[HighlightedFrame]


def find_extreme_frames(sequences: Sequence[tuple[str, Path]]) -> list[FrameSection]:
    """Return the worst and the best frames of all sequences (name, folder)."""
    worst, best = _rank_frames(sequences)
    several = len(sequences) > 1
    explained = (
        "Frames are ranked by a sum of errors: 1 for each missed person and each false positive, and up to 1 for each "
        "position error (1 at 1 m). Left: predictions; right: ground truth; then the view from above, with true "
        "people as rings and predicted people as discs. Of ten successive frames, only one is shown."
    )
    return [
        FrameSection("Worst frames", explained, list(_make_highlighted_frames(worst[:WORST], several))),
        FrameSection(
            "Best frames", "Frames with the most correct people.", list(_make_highlighted_frames(best[:BEST], several))
        ),
    ]


def find_worst_frames(sequences: Sequence[tuple[str, Path]], heading: str, count: int) -> FrameSection:
    """Return at most count of the worst frames of all sequences (name, folder)."""
    worst, _ = _rank_frames(sequences)
    return FrameSection(heading, "", list(_make_highlighted_frames(worst[:count], len(sequences) > 1)))


@dataclass(frozen=True)
class _RankedFrame:
    value: float
    name: str
    folder: Path
    index: int


def _rank_frames(sequences: Sequence[tuple[str, Path]]) -> tuple[list[_RankedFrame], list[_RankedFrame]]:
    """Rank the worst and the best frames of all sequences (name, folder), the most extreme first."""
    worst: list[_RankedFrame] = []
    best: list[_RankedFrame] = []
    for name, folder in sequences:
        rankings = Ranking(WORST), Ranking(BEST)
        rows = PersonRows.read(plots.read_rows(folder / "people.csv"))
        for index, frame_rows in _group_by_frame(rows):
            counts = (
                int(rows.missed[frame_rows].sum()),
                int(rows.false_positive[frame_rows].sum()),
                rows["mrpe_mm"][frame_rows][rows.matched[frame_rows]],
            )
            for ranking, value in zip(rankings, (compute_cost(*counts), compute_merit(*counts)), strict=True):
                ranking.offer(index, value)
        for frames, ranking in zip((worst, best), rankings, strict=True):
            frames += [_RankedFrame(value, name, folder, index) for value, index in ranking.found.values()]
    return tuple(sorted(each, key=lambda frame: -frame.value) for each in (worst, best))  # type: ignore[return-value]


def _group_by_frame(rows: PersonRows) -> Iterator[tuple[int, slice]]:
    """Yield every frame's index and its rows, which are contiguous."""
    frame = rows["frame"]
    bounds = [*np.flatnonzero(np.diff(frame, prepend=-1.0)), len(frame)]
    for start, end in itertools.pairwise(bounds):
        yield int(frame[start]), slice(int(start), int(end))


def _make_highlighted_frames(frames: Sequence[_RankedFrame], named: bool) -> Iterator[HighlightedFrame]:
    images = {folder: read_images(folder / IMAGES) for folder in dict.fromkeys(frame.folder for frame in frames)}
    rows = {folder: PersonRows.read(plots.read_rows(folder / "people.csv")) for folder in images}
    for frame in frames:
        people = rows[frame.folder]
        mask = people["frame"] == frame.index
        title = f"{frame.name}, frame {frame.index}" if named else f"Frame {frame.index}"
        remarks = _describe_outcomes(people, mask)
        shown = [figures.draw_plan(people, mask, f"{title} from above: {remarks}")]
        if (jpeg := images[frame.folder].get(frame.index)) is not None:
            shown.insert(0, jpeg_to_image(jpeg, f"{title}: predicted people on the left, true people on the right"))
        yield HighlightedFrame(title, remarks, tuple(shown))


def _describe_outcomes(rows: PersonRows, mask: NDArray[np.bool_]) -> str:
    missed, false, matched = (rows.missed & mask), (rows.false_positive & mask), (rows.matched & mask)
    parts = [f"{matched.sum()} detected"]
    if missed.any():
        distances = ", ".join(f"{value:.1f} m" for value in rows["true_distance_m"][missed])
        parts.append(f"{missed.sum()} missed (at {distances})")
    if false.any():
        scores = ", ".join(f"{value:.2f}" for value in rows["score"][false])
        parts.append(f"{false.sum()} false positives (score {scores})")
    errors = rows["mrpe_mm"][matched]
    if np.isfinite(errors).any():
        parts.append(f"largest position error {np.nanmax(errors) / 1000:.2f} m")
    return "; ".join(parts)
