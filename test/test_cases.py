"""The small inputs beside the checkout that once failed; `python -m test.run_cases ../shared/cases` prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.run_cases import CASES, rows

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "cases"


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the cases are not beside this checkout ({FOLDER})")
@pytest.mark.parametrize("name", CASES)
def test_a_case_gives_what_is_right(name: str) -> None:
    if not (FOLDER / name).is_dir():
        pytest.skip(f"there is no {name} in {FOLDER}")
    found = list(rows(FOLDER, [name]))
    assert found
    if all(row.ok is None for row in found):
        pytest.skip(found[0].got)
    wrong = [f"{row.case}: expected {row.expected}; got {row.got}" for row in found if row.ok is False]
    assert not wrong, "\n".join(wrong)
