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

"""Small inputs beside the checkout that once failed; `python -m test.run_cases ../shared/cases` prints the results."""

from __future__ import annotations

import pytest

from test import paths
from test.run_cases import CASES, rows

FOLDER = paths.SHARED / "cases"


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the cases are not beside this checkout ({FOLDER})")
@pytest.mark.parametrize("name", CASES)
def test_a_case_has_the_expected_result(name: str) -> None:
    if not (FOLDER / name).is_dir():
        pytest.skip(f"there is no {name} in {FOLDER}")
    found = list(rows(FOLDER, [name]))
    assert found
    if all(row.ok is None for row in found):
        pytest.skip(found[0].got)
    wrong = [f"{row.case}: expected {row.expected}; got {row.got}" for row in found if row.ok is False]
    assert not wrong, "\n".join(wrong)
