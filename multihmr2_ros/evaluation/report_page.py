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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation import figures, plots
from multihmr2_ros.evaluation.comparison import Comparison
from multihmr2_ros.evaluation.figures import ReportImage, figure_to_svg
from multihmr2_ros.evaluation.report_frames import FrameSection, find_extreme_frames, find_worst_frames
from multihmr2_ros.evaluation.report_tables import (
    ReportTable,
    make_comparison_table,
    make_metrics_table,
    make_motion_tables,
    make_paper_table,
)
from multihmr2_ros.evaluation.results import list_versions, merge_results, read_results
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.tables import PersonRows
from multihmr2_ros.evaluation.verdict import describe, describe_comparison, list_key_numbers
from multihmr2_ros.files import atomic_path

FILE = "report.html"
TEMPLATE = "report.html.j2"
MAX_BYTES = 5_000_000
MAX_TIMELINES = 8
COMPARED_FRAMES = 6  # the worst frames of each result


@dataclass
class ReportPage:
    """The content of the template, which leaves out empty parts and escapes all texts.

    verdict    the result in sentences
    tiles      (label, value, remark) of the most important numbers
    sections   (heading, images)
    videos     (name, path relative to the page)
    sequences  (name, frames, people found of required, problems)
    problems   one line each
    facts      (name, value) of configuration and versions
    """

    title: str
    subtitle: str
    verdict: list[str]
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    tables: list[ReportTable] = field(default_factory=list)
    sections: list[tuple[str, list[ReportImage]]] = field(default_factory=list)
    frames: list[FrameSection] = field(default_factory=list)
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
        tables=[
            *make_paper_table(configuration.get("dataset"), totals_by_kind[kind], results),
            make_metrics_table(totals_by_kind),
            *make_motion_tables(totals_by_kind),
        ],
    )
    page.sections = [each for each in _make_sections(out, results, people) if each[1]]
    page.frames = find_extreme_frames(
        [(result.name, out / result.folder) for result in results if result.intrinsics == kind]
    )
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
        tables=[make_comparison_table(comparisons)],
        facts=[
            (f"{name}: {key}", value) for name, folder in (("A", a), ("B", b)) for key, value in _read_facts(folder)
        ],
    )
    for name, folder in (("A", a), ("B", b)):
        sequences = _list_sequence_folders(folder)
        rows = PersonRows.read(
            itertools.chain.from_iterable(plots.read_rows(path / "people.csv") for _, path in sequences)
        )
        page.sections.append((f"{name}: error analysis", figures.draw_groups(rows)))
        page.frames.append(find_worst_frames(sequences, f"{name}: worst frames", COMPARED_FRAMES))
    page.sections = [each for each in page.sections if each[1]]
    return _write(out / FILE, page)


def _format_list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{names[0]} … {names[-1]} ({len(names)})"


def _describe_location(result: SequenceResult, name: str = "") -> str:
    """Return a sequence's name and intrinsics, or with `name` its file's path relative to the report."""
    if name:
        return f"{result.folder}/{name}".lstrip("/")
    return f"{result.name}, {result.intrinsics} intrinsics" if result.intrinsics != "recorded" else result.name


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
    while len(data) > MAX_BYTES and any(section.frames for section in page.frames):
        max((section.frames for section in page.frames), key=len).pop()
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
