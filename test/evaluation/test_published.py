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

"""The rows of the paper's tables, and their comparison with a result."""

from __future__ import annotations

import re

import pytest

from multihmr2_ros.evaluation.published import ROWS, format_published_table
from test import paths

PAPER = paths.SHARED / "paper" / "multi-hmr-2.txt"


def test_published_rows() -> None:
    text = format_published_table("posetrack21", {"IDF1": 50.0, "MOTA": 40.0, "PVE": 1.0})
    lines = text.splitlines()
    assert lines[2].split() == ["this", "result", "50.0", "40.0"]
    assert any(line.split()[-2:] == ["75.2", "65.5"] for line in lines)
    assert format_published_table("mot17", {}) == ""
    assert all(len(line) <= 120 for name in ROWS for line in format_published_table(name, {}).splitlines())


WITH_PAIRS = ("MPJPE", "Pair-PA-MPJPE", "TA-PVE")
PAPER_TABLES = {  # number of the table → data sets and metrics of the last columns
    1: (("3dpw", ("PA-MPJPE", "MPJPE", "PVE", "TA-PVE")), ("emdb", ("PA-MPJPE", "MPJPE", "PVE", "Abs-PVE"))),
    2: (("hi4d", (*WITH_PAIRS, "F1")), ("harmony4d", (*WITH_PAIRS, "recall"))),
    3: (("cmu-panoptic", ("N-MPJPE", "N-MRPE")),),
    4: (("3dpw", ("FOV error",)), ("emdb", ("FOV error",))),
    5: (("mscoco", ("AP", "AP50", "AP75", "AR", "AR50", "AR75")),),
    6: (("posetrack21", ("IDF1", "MOTA")),),
}


@pytest.mark.skipif(not PAPER.is_file(), reason=f"the paper is not beside this checkout ({PAPER})")
@pytest.mark.parametrize("number", PAPER_TABLES)
def test_every_row_of_the_papers_tables_is_published(number: int) -> None:
    columns = [(name, key) for name, keys in PAPER_TABLES[number] for key in keys]
    table = PAPER.read_text().split(f"\nTable {number}: ")[1].split("\nTable ")[0].split("\n\n")[0]
    cell = r"( (?:-|\d+(?:\.\d)?))"
    rows = re.findall(rf"^.*?{len(columns) * cell}$", table, re.MULTILINE)
    assert len(rows) >= 3
    for cells in rows:
        found = {column: float(cell) for column, cell in zip(columns, cells, strict=True) if cell != " -"}
        for name, _ in PAPER_TABLES[number]:
            wanted = {key: value for (other, key), value in found.items() if other == name}
            assert any(wanted.items() <= row.items() for row in ROWS[name].values()), (name, wanted)
