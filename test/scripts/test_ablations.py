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

"""`scripts/ablations.py`: a tiny table, interrupted and resumed; the table of results; users' mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multihmr2_ros.training.readers.common import compute_hash_share
from multihmr2_ros.training.stopping import StopRequest
from test import paths
from test.helpers.training_samples import make_render_cache, make_sample, make_small_sample

PAGE = "# Ablations\n\nbefore\n\n<!-- table: written by scripts/ablations.py -->\nold\n<!-- end of table -->\n\nafter\n"
TINY = ["--steps", "4", "--batch-size", "2", "--batches", "1", "--renders", "2", "--test-images", "2"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(paths.ROOT / "scripts"))
    import ablations

    return ablations


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "ablations.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def list_names(low: float, high: float, count: int) -> list[str]:
    names = (f"image{number}.png" for number in range(1000))
    return [name for name in names if low <= compute_hash_share(name) < high][:count]


def make_data(folder: Path, out: Path) -> None:
    """Write real images with keypoints and fitted bodies, and renders."""
    names = list_names(0.0, 0.1, 2) + list_names(0.1, 0.55, 2)
    (folder / "people" / "images").mkdir(parents=True)
    samples = [make_sample(seed) for seed in range(len(names))]
    images, people = [], []
    for number, (name, sample) in enumerate(zip(names, samples, strict=True)):
        Image.fromarray(sample.image).save(folder / "people" / "images" / name)
        images.append({"id": number, "file_name": name, "width": sample.size[0], "height": sample.size[1]})
        for box, nose in zip(sample.box.tolist(), sample.location.tolist(), strict=True):
            bbox = [*box[:2], box[2] - box[0], box[3] - box[1]]
            people.append({"image_id": number, "iscrowd": 0, "bbox": bbox, "keypoints": [*nose, 2] + 48 * [0]})
    people[1]["agreement"] = 0.2
    people[0]["agreement"] = 0.01
    content = {"images": images, "annotations": people}
    (folder / "people" / "person_keypoints.json").write_text(json.dumps(content), encoding="utf-8")
    fields = ("shape", "rotations", "box", "centre")
    rows = {name: np.concatenate([getattr(sample, name) for sample in samples]) for name in fields}
    counts = [len(sample) for sample in samples]
    k = np.repeat([sample.k for sample in samples], counts, axis=0)
    make_render_cache(out / "pool", images=4, held_out=2)
    np.savez(out / "bodies.npz", image=np.repeat(names, counts), k=k, complete=True, **rows)


class StopAfter(StopRequest):
    """A request to stop after some steps."""

    steps = 2

    def __call__(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


@pytest.mark.usefixtures("without_curves")
def test_interrupted_table_is_continued(
    command: ModuleType, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ablation_runs import train_and_measure

    data, out = tmp_path / "data", tmp_path / "out"
    make_data(data, out)
    plan = command.Plan(data, out, None, 4, 2, 1, 2, 2)
    base, other = command.select_rows(["base", "match-3d"])
    command.prepare(plan, base)
    assert train_and_measure(plan, base, 0, StopAfter()) is None
    assert not (out / "results").exists()
    (out / "results").mkdir()
    finished = command.find_result(plan, other, 0)
    finished.write_text(json.dumps(make_result("match-3d", 0, 0.6) | {"steps": 4, "views": 8}))

    arguments = ["--data", str(data), "--out", str(out), *TINY, "--page", str(page)]
    arguments += ["--only", "base", "--only", "match-3d"]
    assert command.main(arguments) == 0, capsys.readouterr().err
    results = {row.name: json.loads((out / "results" / f"{row.name}-0.json").read_text()) for row in (base, other)}
    log = [json.loads(line) for line in (out / "runs" / "base-0" / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in log if line["kind"] == "train"] == [4, 8]  # two steps, then two more
    assert results["base"]["views"] == 8
    assert results["match-3d"]["machine"] == "CPU"  # was not run again
    assert results["base"]["training"]["memory_mib"] > 0
    assert {"renders", "real", "renders, K predicted", "real, other padding"} <= results["base"]["figures"].keys()
    assert page.read_text().count("not run") > 3
    assert "2 runs of 4 steps (8 views) each" in page.read_text()

    times = [path.stat().st_mtime_ns for path in sorted((out / "results").iterdir())]
    assert command.main(arguments) == 0
    assert [path.stat().st_mtime_ns for path in sorted((out / "results").iterdir())] == times
    assert command.main([*arguments, "--steps", "5"]) == 2
    assert "has runs with steps 4, not 5; choose another --out" in capsys.readouterr().err


def make_result(row: str, seed: int, recall: float, oks: float | None = 0.5) -> dict[str, Any]:
    figures = {
        "recall": recall, "precision": 0.9, "mpjpe_mm": 200.0, "pa_mpjpe_mm": 80.0, "distance_error": 0.1,
        "depth_relations": 0.7, "oks": oks,
    }  # fmt: skip
    tests = ("renders", "real", "renders, K predicted", "renders, other padding", "real, other padding")
    return {
        "row": row, "seed": seed, "steps": 10, "views": 80, "machine": "CPU", "threads": 1, "date": "2026-01-01",
        "seconds": 60.0, "training": {"cpu_s_per_step": 0.5, "memory_mib": 300.0},
        "figures": dict.fromkeys(tests, figures),
    }  # fmt: skip


def test_table_has_the_mean_over_seeds_and_says_what_was_not_run(
    command: ModuleType, page: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    results = [make_result("base", 0, 0.6), make_result("base", 1, 0.8), make_result("renders", 0, 0.5, oks=None)]
    for result in results:
        (folder / f"{result['row']}-{result['seed']}.json").write_text(json.dumps(result))
    command.write_table(page, command.read_results(tmp_path))
    text = page.read_text()
    assert text.startswith("# Ablations\n\nbefore\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    lines = {row.name: line for row in command.ROWS for line in text.splitlines() if line.startswith(f"| {row.text} |")}
    assert "| 70 ± 14 | 90 ± 0 | 200 ± 0 | 80 ± 0 | 10.0 ± 0.0 |" in lines["base"]
    assert lines["base"].endswith("| 0.500 ± 0.000 | 0.50 ± 0.00 | 300 ± 0 | 2 |")
    assert "| 50 | 90 | 200 | 80 | 10.0 | 10.0 | 70 | – | 0.50 | 300 | 1 |" in lines["renders"]
    assert "not run" in lines["multi-hmr"]
    assert "3 runs of 10 steps (80 views) each, 3 minutes together; CPU, 1 thread(s); 2026-01-01." in text


def test_rows_are_listed(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in command.ROWS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nope"], "--only must be one of base, renders,"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--data", "/nowhere"], "--data must be a folder"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    command: ModuleType, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_damaged_result_and_page_without_markers_are_one_line(
    command: ModuleType, text: str, page: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    page.write_text(text)
    with pytest.raises(command.UserError, match="lacks the lines"):
        command.write_table(page, [])
    (results / "base-0.json").write_text(text)
    with pytest.raises(command.UserError, match=r"base-0\.json is not a result"):
        command.read_results(tmp_path)


def test_row_without_its_needs_is_not_run(command: ModuleType, tmp_path: Path) -> None:
    plan = command.Plan(tmp_path, tmp_path)
    (placed,) = command.select_rows(["relative-placed"])
    assert "--depth-maps" in command.find_obstacle(plan, placed)
    assert command.find_obstacle(command.Plan(tmp_path, tmp_path, tmp_path), placed) is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return folders of data and of a table; rows share what they prepare there."""
    folder = tmp_path_factory.mktemp("rows")
    make_data(folder / "data", folder / "out")
    return folder / "data", folder / "out"


@pytest.mark.parametrize(
    ("row", "given", "relative"), [("k-given", 1, 0), ("k-predicted", 0, 0), ("relative-fitted", 0.5, 1)]
)
def test_row_chooses_given_k_and_relative_places(
    command: ModuleType, row: str, given: float, relative: int, folders: tuple[Path, Path]
) -> None:
    from ablation_runs import RowBatches

    plan = command.Plan(*folders, None, 4, 8, 1, 4, 2)
    (chosen,) = command.select_rows([row])
    command.prepare(plan, chosen)
    batches = [RowBatches(plan, chosen, 0)[step] for step in range(12)]
    known = torch.cat([batch.targets.has_k for batch in batches])
    share = torch.cat([batch.k_given for batch in batches])[known].float().mean().item()
    assert share == pytest.approx(given, abs=0.2 if 0 < given < 1 else 0)
    fitted = torch.cat([(batch.targets.has_body & ~batch.targets.has_place).flatten() for batch in batches])
    related = torch.cat([batch.targets.has_relative_place.flatten() for batch in batches])
    assert fitted.any()
    assert related[fitted].float().mean().item() == relative
    assert not torch.cat([batch.k_given for batch in batches])[~known].any()


def test_parts_of_real_images_are_disjoint(command: ModuleType) -> None:
    from ablation_data import FITTED_SHARE, TEST_SHARE, WithoutScores

    from multihmr2_ros.training.readers import HashSplit

    class Names:
        def __len__(self) -> int:
            return 200

        def get_name(self, index: int) -> str:
            return f"image{index}.png"

        def sample(self, index: int) -> Any:
            return make_small_sample(index)

    parts = [
        HashSplit(Names(), low, high) for low, high in ((0, TEST_SHARE), (TEST_SHARE, FITTED_SHARE), (FITTED_SHARE, 1))
    ]
    origins = [part.sample(row).origin for part in parts for row in range(len(part))]
    assert sorted(origins) == sorted(f"seed {index}" for index in range(200))
    assert all(len(part) > 5 for part in parts)
    assert WithoutScores(parts[0]).sample(0).score_supervised is False


def test_page_of_this_repository_has_the_markers(command: ModuleType) -> None:
    from ablation_table import BEGIN, END

    text = (paths.ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
