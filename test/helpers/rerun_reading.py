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

"""Recordings read by Rerun's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


class Read:
    """Content of a recording, from Rerun's own reader."""

    def __init__(self, path: Path) -> None:
        chunk = pytest.importorskip("rerun.chunk", reason="rerun is not installed: pip install 'multihmr2_ros[view]'")
        self.reader = chunk.RrdReader(path)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for each in self.reader.stream():
            self.rows.setdefault(str(each.entity_path), []).extend(each.to_record_batch().to_pylist())

    def values(self, entity: str, component: str) -> list[Any]:
        """Return the values of each row with this component in frame order, or of the first row if static."""
        rows = sorted(self.rows_with(entity, component), key=lambda row: row.get("frame") or 0)
        return [next(value for key, value in row.items() if key.endswith(f":{component}")) for row in rows]

    def frames(self, entity: str, component: str) -> list[int]:
        return sorted(row["frame"] for row in self.rows_with(entity, component))

    def rows_with(self, entity: str, component: str) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows.get(entity, [])
            if any(key.endswith(f":{component}") and value for key, value in row.items())
        ]
