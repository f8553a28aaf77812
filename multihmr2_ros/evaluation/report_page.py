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

"""The report page, report.html: a result in one file without external resources."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation import figures, plots
from multihmr2_ros.evaluation.comparison import Comparison, judge_difference
from multihmr2_ros.evaluation.figures import ReportImage, figure_to_svg, jpeg_to_image
from multihmr2_ros.evaluation.highlights import BEST, WORST, Ranking, compute_cost, compute_merit, read_images
from multihmr2_ros.evaluation.highlights import FILE as IMAGES
from multihmr2_ros.evaluation.metric_definitions import DEFINITIONS, METRICS
from multihmr2_ros.evaluation.published import ROWS
from multihmr2_ros.evaluation.report import (
    CALIBRATION_COLUMNS,
    DISTANCE_COLUMNS,
    format_calibration,
    format_distances,
    format_number,
)
from multihmr2_ros.evaluation.results import list_versions, merge_results, read_results
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.tables import PersonRows
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.evaluation.verdict import describe, describe_comparison, list_key_numbers
from multihmr2_ros.files import atomic_path

FILE = "report.html"
TEMPLATE = "report.html.j2"
MAX_BYTES = 5_000_000
MAX_TIMELINES = 8
COMPARED_FRAMES = 6  # the worst frames of each result


@dataclass(frozen=True)
class HighlightedFrame:
    """One frame on the page: its images and a description."""

    title: str
    remarks: str
    images: tuple[ReportImage, ...]


@dataclass
class ReportPage:
    """The content of the template, which leaves out empty parts and escapes all texts.

    rows           of the table of metrics, as (key, definition, cells)
    columns        headings of the cells
    paper          rows of the paper's tables, as (name, cells)
    paper_columns  headings of these cells
    tables         (heading, remark, columns, rows), each row (name, cells)
    sections       (heading, images)
    frames         (heading, remark, frames)
    sequences      (name, frames, people found of required, problems)
    facts          (name, value) of configuration and versions
    """

    title: str
    subtitle: str
    verdict: list[str]
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, list[str]]] = field(default_factory=list)
    paper_columns: list[str] = field(default_factory=list)
    paper: list[tuple[str, list[str]]] = field(default_factory=list)
    tables: list[tuple[str, str, tuple[str, ...], list[tuple[str, list[str]]]]] = field(default_factory=list)
    sections: list[tuple[str, list[ReportImage]]] = field(default_factory=list)
    frames: list[tuple[str, str, list[HighlightedFrame]]] = field(default_factory=list)
    videos: list[tuple[str, str]] = field(default_factory=list)
    sequences: list[tuple[str, int, str, tuple[str, ...]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


def check_report_packages() -> None:
    """Raise UserError, before the evaluation starts, if packages for the report are missing."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "the report needs jinja2 and matplotlib: pip install 'multihmr2_ros[eval]', or add --no-report"
        ) from None


def write_report(
    out: Path, results: Sequence[SequenceResult], configuration: Mapping[str, Any], timing: Mapping[str, Any],
    problems: Sequence[str],
) -> Path:  # fmt: skip
    """Write the report of an evaluation.

    out            folder with the tables
    results        of the sequences
    configuration  of the evaluation
    timing         of the evaluation
    problems       one line each

    Returns the path of the report.
    """
    totals_by_kind = merge_results(results)
    rows = {kind: PersonRows.read(each) for kind, each in plots.group_rows_by_kind(out, results, "people.csv").items()}
    kind = next(iter(totals_by_kind))
    people = rows.get(kind, PersonRows.read([]))
    several = (
        f"These results are with {kind} intrinsics; the table contains the others." if len(totals_by_kind) > 1 else ""
    )
    page = ReportPage(
        title="Evaluation report",
        subtitle=f"{_format_list([result.name for result in results])} · {timing.get('date', '')}",
        verdict=[*describe(totals_by_kind[kind], people), *([several] if several else [])],
        tiles=list_key_numbers(totals_by_kind[kind]),
        problems=list(dict.fromkeys(problems)),
        facts=_list_facts(configuration, timing),
    )
    _add_metrics(page, totals_by_kind)
    _add_motion(page, totals_by_kind)
    _add_paper(page, configuration.get("dataset"), totals_by_kind[kind], results)
    page.sections = [each for each in _make_sections(out, results, people) if each[1]]
    page.frames = _find_extreme_frames(out, [result for result in results if result.intrinsics == kind])
    page.videos = [(_describe_location(result), _describe_location(result, "overlay.mp4")) for result in results
                   if (out / result.folder / "overlay.mp4").is_file()]  # fmt: skip
    page.sequences = [_make_sequence_row(result) for result in results] if len(results) > 1 else []
    return _write(out / FILE, page)


def write_comparison(out: Path, a: Path, b: Path, comparisons: Sequence[Comparison]) -> Path:
    """Write the report of `evaluate --compare`: differences of B from A.

    out          folder of the report
    a, b         folders of the results
    comparisons  one for each kind of intrinsics

    Returns the path of the report.
    """
    page = ReportPage(
        title="Comparison of two results",
        subtitle=f"A: {a} · B: {b}",
        verdict=describe_comparison(comparisons),
        columns=["A", "B", "B − A", "95 % interval", ""],
        facts=[
            (f"{name}: {key}", value) for name, folder in (("A", a), ("B", b)) for key, value in _read_facts(folder)
        ],
    )
    units = {metric.key: metric.unit for metric in METRICS}
    for each in comparisons:
        for found in each.differences:
            unit = units[found.key]
            known = math.isfinite(found.low) and math.isfinite(found.high)
            cells = [format_number(found.a, unit), format_number(found.b, unit), f"{found.b - found.a:+.2f}",
                     f"{found.low:+.2f} … {found.high:+.2f}" if known else "–", judge_difference(found)]  # fmt: skip
            name = f"{found.key} ({unit})" if unit else found.key
            page.rows.append((f"{name}, {each.kind}" if len(comparisons) > 1 else name, DEFINITIONS[found.key], cells))
    for name, folder in (("A", a), ("B", b)):
        sequences = _list_sequence_folders(folder)
        rows = PersonRows.read(
            itertools.chain.from_iterable(plots.read_rows(path / "people.csv") for _, path in sequences)
        )
        page.sections.append((f"{name}: error analysis", figures.draw_groups(rows)))
        worst, _ = _rank_frames(sequences)
        shown = list(_make_highlighted_frames(worst[:COMPARED_FRAMES], len(sequences) > 1))
        page.frames.append((f"{name}: worst frames", "", shown))
    page.sections = [each for each in page.sections if each[1]]
    return _write(out / FILE, page)


def _format_list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{names[0]} … {names[-1]} ({len(names)})"


def _describe_location(result: SequenceResult, name: str = "") -> str:
    """Return a sequence's name and intrinsics, or with `name` its file's path relative to the report."""
    if name:
        return f"{result.folder}/{name}".lstrip("/")
    return f"{result.name}, {result.intrinsics} intrinsics" if result.intrinsics != "recorded" else result.name


def _add_metrics(page: ReportPage, totals_by_kind: Mapping[str, Totals]) -> None:
    for kind in totals_by_kind:
        start = f"{kind}: " if len(totals_by_kind) > 1 else ""
        page.columns += [f"{start}value", "count", "recall"]
    measured = {kind: totals.compute_metrics() for kind, totals in totals_by_kind.items()}
    for metric in METRICS:
        if not any(metric.key in values for values in measured.values()):
            continue
        cells = []
        for kind, totals in totals_by_kind.items():
            value, count = measured[kind].get(metric.key, (math.nan, 0))
            recall = f"{100 * totals.detection.recall:.1f} %" if metric.recalled and count else ""
            cells += [format_number(value, metric.unit), f"{count} {metric.counted}", recall]
        name = f"{metric.key} ({metric.unit})" if metric.unit else metric.key
        page.rows.append((name, DEFINITIONS[metric.key], cells))


def _add_motion(page: ReportPage, totals_by_kind: Mapping[str, Totals]) -> None:
    """Add the calibration of covariances, and distance errors by placement cue."""
    calibration, distances = [], []
    for kind, totals in totals_by_kind.items():
        end = f", {kind}" if len(totals_by_kind) > 1 else ""
        calibration += [(f"{name}{end}", cells) for name, cells in format_calibration(totals)]
        distances += [(f"{name}{end}", cells) for name, cells in format_distances(totals)]
    remark = (
        "NEES is the mean normalized error squared: 1 if the stated covariances are correct, above 1 if they are too "
        "small. The bounds are for independent errors; errors of successive frames are correlated."
    )
    page.tables.append(("Calibration of velocities and positions", remark, CALIBRATION_COLUMNS, calibration))
    remark = (
        "Absolute errors of the distance between pelvis and camera, by the cue that determines the distance. z: "
        "signed error divided by its stated standard deviation; its RMS is 1 if the standard deviation is correct."
    )
    page.tables.append(("Distance error by placement cue", remark, DISTANCE_COLUMNS, distances))
    page.tables = [table for table in page.tables if table[-1]]


def _add_paper(page: ReportPage, dataset: str | None, totals: Totals, results: Sequence[SequenceResult]) -> None:
    """Add the paper's rows below this result's row, for data sets in the paper."""
    published = ROWS.get(dataset or "")
    if published is None:
        return
    page.paper_columns = list(dict.fromkeys(key for row in published.values() for key in row))
    own = {key: value for key, (value, _) in totals.compute_metrics().items()}
    own |= {key: value for result in results for key, value in result.scores.items()}
    for name, row in {"this result": own, **published}.items():
        page.paper.append((name, [f"{row[key]:.1f}" if key in row else "–" for key in page.paper_columns]))


def _make_sections(
    out: Path, results: Sequence[SequenceResult], rows: PersonRows
) -> Iterator[tuple[str, list[ReportImage]]]:
    yield (
        "Error analysis",
        [
            *figure_to_svg(
                plots.draw_error_over_distance(plots.group_rows_by_kind(out, results, "people.csv")),
                "Mean errors of position, depth and pose over the true distance, in bins of 1 m.",
            ),
            *figures.draw_groups(rows),
        ],
    )
    yield (
        "Calibration of scores and covariances",
        [
            *figures.draw_score_reliability(rows),
            *figures.draw_covariance_reliability(rows),
        ],
    )
    timelines = []
    for result in results[:MAX_TIMELINES]:
        figure = plots.draw_identities(plots.read_rows(out / result.folder / "people.csv"), result.name)
        alt = f"One line per true person of {result.name}, in the color of the matched track."
        timelines += figure_to_svg(
            figure,
            alt,
            "A change of color is a change of the track id; in a gap, the person is missed or ignored.",
        )
    yield "Identities over time", timelines
    yield (
        "Camera and latency",
        [
            *figure_to_svg(
                plots.draw_fields_of_view(plots.group_rows_by_kind(out, results, "frames.csv")),
                "Predicted and true vertical field of view in each frame.",
            ),
            *figure_to_svg(plots.draw_latency(plots.collect_times_ms(results)), "Histogram of latencies by stage."),
        ],
    )


def _find_extreme_frames(out: Path, results: Sequence[SequenceResult]) -> list[tuple[str, str, list[HighlightedFrame]]]:
    worst, best = _rank_frames([(result.name, out / result.folder) for result in results])
    several = len(results) > 1
    explained = (
        "Frames are ranked by a sum of errors: 1 for each missed person and each false positive, and up to 1 for each "
        "position error (1 at 1 m). Left: predictions; right: ground truth; then the view from above, with true "
        "people as rings and predicted people as discs. Of ten successive frames, only one is shown."
    )
    found = [
        ("Worst frames", explained, list(_make_highlighted_frames(worst[:WORST], several))),
        ("Best frames", "Frames with the most correct people.", list(_make_highlighted_frames(best[:BEST], several))),
    ]
    return [each for each in found if each[2]]


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
        for index, of in _group_by_frame(rows):
            counts = (
                int(rows.missed[of].sum()),
                int(rows.false_positive[of].sum()),
                rows["mrpe_mm"][of][rows.matched[of]],
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
        of = people["frame"] == frame.index
        title = f"{frame.name}, frame {frame.index}" if named else f"Frame {frame.index}"
        remarks = _describe_outcomes(people, of)
        shown = [figures.draw_plan(people, of, f"{title} from above: {remarks}")]
        if (jpeg := images[frame.folder].get(frame.index)) is not None:
            shown.insert(0, jpeg_to_image(jpeg, f"{title}: predicted people on the left, true people on the right"))
        yield HighlightedFrame(title, remarks, tuple(shown))


def _describe_outcomes(rows: PersonRows, of: NDArray[np.bool_]) -> str:
    missed, false, matched = (rows.missed & of), (rows.false_positive & of), (rows.matched & of)
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


def _make_sequence_row(result: SequenceResult) -> tuple[str, int, str, tuple[str, ...]]:
    counts = result.totals.detection
    evaluated = counts.true_positives + counts.false_negatives
    return _describe_location(result), result.totals.frames, f"{counts.true_positives} of {evaluated}", result.problems


def _list_sequence_folders(folder: Path) -> list[tuple[str, Path]]:
    return [(each["name"], folder / each["folder"]) for each in read_results(folder)["sequences"]]


def _list_facts(configuration: Mapping[str, Any], timing: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [*_flatten(configuration), *(("version of " + name, value) for name, value in list_versions().items())]
    return [*facts, *((name, str(value)) for name, value in timing.items())]


def _read_facts(folder: Path) -> list[tuple[str, str]]:
    document = read_results(folder)
    return [*_flatten(document["configuration"]), *_flatten(document["versions"])]


def _flatten(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    facts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            facts += _flatten(value, f"{before}{key}.")
        elif value is not None:
            facts.append((f"{before}{key}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return facts


def _write(path: Path, page: ReportPage) -> Path:
    """Write the page; leave out frames, the least important first, until it is small enough."""
    data = _render(page)
    while len(data) > MAX_BYTES and any(frames for *_, frames in page.frames):
        max(page.frames, key=lambda each: len(each[2]))[2].pop()
        data = _render(page)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _render(page: ReportPage) -> bytes:
    """Return the page in UTF-8. Names of files may contain bytes that are not UTF-8; they become "?"."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    return environment.get_template(TEMPLATE).render(page=page).encode("utf-8", "replace")
