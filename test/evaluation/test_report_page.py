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

"""report.html: its content for results with known errors, and that it is one self-contained, valid file."""

from __future__ import annotations

import base64
import csv
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2

from multihmr2_ros.body import Body
from multihmr2_ros.cli.main import main
from multihmr2_ros.evaluation import figures, highlights, plots, postures, report_page
from multihmr2_ros.evaluation import results as result_files
from multihmr2_ros.evaluation.bags import BagJob, BagOutputs, run_job
from multihmr2_ros.evaluation.metric_definitions import DEFINITIONS, METRICS
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.tables import MATCH, PersonRows
from multihmr2_ros.metrics.uncertainty import compute_coverage, squared_mahalanobis
from multihmr2_ros.people import People
from test.helpers.evaluation_bags import TruthfulEstimator, scene, write_scene

FRAMES, WRONG_FRAME = 40, 23
CONFIGURATION: dict[str, Any] = {"inputs": ["walk.mcap"], "dataset": None}
TIMING = {"date": "2026-11-27"}


class Elements(HTMLParser):
    """Parser that collects every element's name and attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def add_mistakes(index: int, people: People) -> People:
    """Return the people 5 % too far; in one frame two of three are missed."""
    far = 1.05 * people.pelvis.astype(np.float64)
    shift = (far - people.pelvis).astype(np.float32)[:, None]
    people = dataclasses.replace(
        people, pelvis=far.astype(np.float32), joints=people.joints + shift, vertices=people.vertices + shift
    )
    return people.select(np.arange(3) == 1) if index == WRONG_FRAME else people


def evaluate(
    out: Path, change: Callable[[int, People], People], *, frames: int = FRAMES, video: bool = False, **options: Any
) -> SequenceResult:
    """Evaluate a new bag, written beside out, and write the results, but not the page. options: of the bag."""
    bag = write_scene(out.with_suffix(".mcap"), frames, **options)
    result = run_job(BagJob(path=bag, out=out, outputs=BagOutputs(bag=False, video=video)), TruthfulEstimator(change))
    result_files.write_results(out, [result], CONFIGURATION, TIMING, list(result.problems))
    return result


def write_page(out: Path, result: SequenceResult) -> Path:
    configuration = CONFIGURATION | {"inputs": [f"{result.name}.mcap"]}
    return report_page.write_report(out, [result], configuration, TIMING, result.problems)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SequenceResult]:
    """Return the folder and the result of an evaluation of `mistaken`."""
    out = tmp_path_factory.mktemp("report") / "walk"
    return out, evaluate(out, add_mistakes, video=True)


@pytest.fixture(scope="module")
def report(evaluated: tuple[Path, SequenceResult]) -> Path:
    pytest.importorskip("matplotlib")
    return write_page(*evaluated)


def test_the_verdict_follows_the_numbers(report: Path) -> None:
    text = Elements(report.read_text()).text
    assert (
        f"Recall: 98 of 100 people are detected ({3 * FRAMES - 2} of {3 * FRAMES} instances); "
        "0 of 100 detections are false positives." in text
    )
    assert "The mean distance error is 5.0 %" in text
    assert "5.0 % too far on average" in text
    assert "Track ids never change; 99 % of the bounding boxes have the correct identity (IDF1)." in text
    assert text.index("Recall: 98") < text.index("All metrics"), "the verdict comes first"


def test_every_metric_has_its_definition(report: Path) -> None:
    assert DEFINITIONS.keys() == {metric.key for metric in METRICS}
    text = Elements(report.read_text()).text
    assert DEFINITIONS["MRPE"] in text
    shown = result_files.read_results(report.parent)["results"]["given"]["metrics"]
    assert len(Elements(report.read_text()).attributes("details")) == len(shown) + 1, "one more for the configuration"


def test_the_file_needs_nothing_else(report: Path) -> None:
    elements = Elements(report.read_text())
    assert report.stat().st_size < 5_000_000
    sources = [value for _, attributes in elements.found for key, value in attributes.items() if key in ("src", "href")]
    assert {source for source in sources if source and not source.startswith("data:")} == {"overlay.mp4"}
    assert not re.search(r"https?://(?!www\.w3\.org)", report.read_text())
    assert not elements.attributes("script")
    images = elements.attributes("img")
    assert len(images) >= 8
    for image in images:
        assert len(image["alt"] or "") > 20
        kind, _, data = (image["src"] or "").partition(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/svg+xml":
            ElementTree.fromstring(content)  # raises if it is not well-formed
        else:
            assert Image.open(BytesIO(content)).size == (640, 240)


def test_the_worst_frame_is_shown_first_with_its_reason(report: Path) -> None:
    text = Elements(report.read_text()).text
    worst = text.partition("Worst frames")[2]
    first = re.search(r"Frame (\d+)", worst)
    assert first is not None
    assert int(first[1]) == WRONG_FRAME
    assert re.search(r"1 detected; 2 missed \(at 4\.\d m, 6\.\d m\)", worst)
    shown = highlights.read_images(report.parent / highlights.FILE)
    assert WRONG_FRAME in shown
    assert len(shown) <= highlights.WORST + highlights.BEST


def test_texts_are_escaped(evaluated: tuple[Path, SequenceResult], tmp_path: Path) -> None:
    out, result = evaluated
    shutil.copytree(out, tmp_path / "out")
    page = write_page(tmp_path / "out", dataclasses.replace(result, name="<b onclick='x'>walk"))
    elements = Elements(page.read_text())
    assert not elements.attributes("b") or all("onclick" not in each for each in elements.attributes("b"))
    assert "<b onclick='x'>walk" in elements.text


def test_no_truth_and_no_people(tmp_path: Path) -> None:
    plain = evaluate(tmp_path / "plain", lambda index, people: people, frames=3, truth=lambda index: None)
    text = Elements(write_page(tmp_path / "plain", plain).read_text()).text
    assert "Without ground truth, detection cannot be evaluated. The 3 images contain 9 detected people." in text
    assert plain.problems[0] in text
    nobody = evaluate(tmp_path / "nobody", lambda index, people: people.select(np.zeros(3, bool)))
    page = write_page(tmp_path / "nobody", nobody)
    assert f"Recall: 0 of 100 people are detected (0 of {3 * FRAMES} instances)." in Elements(page.read_text()).text


def test_frames_are_left_out_where_the_page_would_be_too_large(
    report: Path, evaluated: tuple[Path, SequenceResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = report.stat().st_size - 20_000
    monkeypatch.setattr(report_page, "MAX_BYTES", limit)
    shutil.copytree(report.parent, tmp_path / "out")
    smaller = write_page(tmp_path / "out", evaluated[1])
    assert limit - 100_000 < smaller.stat().st_size <= limit
    assert f"Frame {WRONG_FRAME}" in smaller.read_text(), "the worst stays"


def test_plots_of_long_bags_stay_small() -> None:
    """Two people are missed or change their track in most frames, which is the most that a plot can contain."""
    frames = 2000
    fields = ({"predicted_fov_deg": f"{50 + index % 7}", "true_fov_deg": "50"} for index in range(frames))
    people = (
        {"stamp_s": f"{index / 30}", "outcome": outcome, "frame": f"{index}", "true_id": f"{person}",
         "predicted_id": f"{index % 5}"}
        for index in range(frames) for person, outcome in enumerate(("match", "match", "false positive"))
    )  # fmt: skip
    for figure in (plots.draw_fields_of_view({"given": fields}), plots.draw_identities(people, "long")):
        (drawn,) = figures.figure_to_svg(figure, "a plot")
        assert len(drawn.uri) < 150_000


def test_comparison(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(tmp_path / "walk", lambda index, people: people)
    arguments = ["evaluate", "--compare", str(report.parent), str(tmp_path / "walk")]
    assert main(arguments) == 0
    assert not list(tmp_path.rglob("cmp")), "without --out nothing is written"
    assert main([*arguments, "--out", str(tmp_path / "cmp")]) == 0
    assert [path.name for path in (tmp_path / "cmp").iterdir()] == ["report.html"]
    text = Elements((tmp_path / "cmp" / "report.html").read_text()).text
    verdict = re.search(r"With given intrinsics, B is better in ([^;(]*)", text)
    assert verdict is not None
    assert {"MRPE", "distance error"} <= set(verdict[1].strip().split(", "))
    assert f"Frame {WRONG_FRAME}" in text.partition("A: worst frames")[2]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "cmp")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "cmp"), "--overwrite"]) == 0


def test_tables_of_an_earlier_version(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        shutil.copytree(report.parent, tmp_path / name)
    table = tmp_path / "a" / "people.csv"
    table.write_text(table.read_text().replace("posture", "other"))
    arguments = ["evaluate", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "cmp")]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "people.csv was not written by this version ('posture'); evaluate again" in line
    assert not list((tmp_path / "cmp").glob("*"))


@pytest.mark.parametrize("farthest", [3.0, 3.5, 30.0])
def test_the_farthest_people_are_in_a_group(farthest: float) -> None:
    distance = np.repeat([2.0, farthest], plots.MIN_IN_BIN)
    unknown = np.full(len(distance), np.nan)
    numbers = {"true_distance_m": distance, "visible": unknown, "mrpe_mm": unknown, "mpjpe_mm": unknown}
    outcome = np.full(len(distance), MATCH)
    (by_distance,) = figures.draw_groups(PersonRows(outcome, np.full(len(distance), ""), numbers))
    assert by_distance.alt.count("100 % detected") == 2


def test_ranking_keeps_the_worst_of_each_block() -> None:
    values = np.random.default_rng(0).permutation(2000) / 100
    ranking = highlights.Ranking(20)
    for index, value in enumerate(values):
        ranking.offer(index, float(value))
    blocks = values.reshape(-1, highlights.BLOCK)
    chosen = np.argsort(-blocks.max(axis=1))[:20]
    assert ranking.frames == [int(block * highlights.BLOCK + blocks[block].argmax()) for block in chosen]


def test_covariances_that_fit_are_on_the_line() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4000, 3, 3))
    covariance = root @ root.transpose(0, 2, 1) + 0.01 * np.eye(3)
    error = (np.linalg.cholesky(covariance) @ rng.normal(size=(4000, 3, 1)))[..., 0]
    squared = squared_mahalanobis(error, np.zeros((4000, 3)), covariance)
    shares = np.array([0.1, 0.5, 0.9])
    assert compute_coverage(squared, shares) == pytest.approx(shares, abs=0.025)  # three standard deviations at 0.5
    assert compute_coverage(4 * squared, shares) == pytest.approx(chi2.cdf(chi2.ppf(shares, 3) / 4, 3), abs=0.025)
    unknown = squared_mahalanobis(error[:2], np.zeros((2, 3)), np.stack([np.full((3, 3), np.nan), -np.eye(3)]))
    assert np.isnan(unknown).all()


def test_postures(body: Body) -> None:
    names = ("root", "neck01", "upperleg01.L", "upperleg01.R", "lowerleg01.L", "lowerleg01.R")
    rows = [body.bone_labels.index(name) for name in names]
    assert (postures.PELVIS, postures.NECK, *postures.HIPS, *postures.KNEES) == tuple(rows)
    standing = scene(0).joints[:1].astype(np.float64)
    lying = standing[..., [1, 0, 2]]
    assert postures.classify_postures(np.concatenate([standing, lying])) == ["standing", "lying"]
    seated = standing.copy()
    seated[:, postures.KNEES] = standing[:, postures.HIPS] + [0, 0.05, -0.4]
    bent = standing.copy()
    bent[:, postures.NECK] = standing[:, postures.PELVIS] + [0, -0.35, -0.4]
    assert postures.classify_postures(np.concatenate([seated, bent])) == ["sitting or crouching", "bent down"]
    assert postures.classify_postures(np.zeros((2, 24, 3))) == ["", ""]


def test_the_table_has_postures_of_misses(report: Path) -> None:
    with open(report.parent / "people.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["posture"] for row in rows} == {"standing"}
    assert sum(row["outcome"] == "miss" for row in rows) == 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (apt-get install chromium)")
def test_a_browser_opens_the_page_without_errors(report: Path, tmp_path: Path) -> None:
    """The console stays empty, and at the width of a phone nothing is wider than the window."""
    screenshot = tmp_path / "page.png"
    command = ["chromium", "--headless=new", "--no-sandbox",
        "--hide-scrollbars", "--disable-gpu", "--enable-logging=stderr",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,3000", f"--screenshot={screenshot}",
               report.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr
    pixels = np.asarray(Image.open(screenshot).convert("L"))
    assert pixels.shape == (3000, 500)
    assert pixels.std() > 10, "something is drawn"
    assert (pixels[:, -10:] == 255).all(), "the right margin is empty"
