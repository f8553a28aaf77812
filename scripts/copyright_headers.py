"""Puts the copyright header that ament_copyright expects on every source file that lacks it.

With --check nothing is written, and the exit status is 1 where a file lacks it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("launch", "multihmr2_ros", "scripts", "test")
HEADER = """\
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
"""


def main() -> int:
    paths = files_without_header()
    if "--check" in sys.argv[1:]:
        for path in paths:
            print(f"{path.relative_to(ROOT)} has no copyright header; run python scripts/copyright_headers.py")
        return int(bool(paths))
    for path in paths:
        path.write_text(with_header(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"added the header to {len(paths)} files")
    return 0


def files_without_header() -> list[Path]:
    """Return the Python files that are not empty and have no header."""
    files = [ROOT / "setup.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
    files += [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file() and not path.suffix]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    return [path for path, text in texts.items() if text and HEADER not in text]


def with_header(text: str) -> str:
    """Return the text with the header at its beginning, or after a line that starts with #!."""
    if not text.startswith("#!"):
        return f"{HEADER}\n{text}"
    first, _, rest = text.partition("\n")
    return f"{first}\n{HEADER}\n{rest}"


if __name__ == "__main__":
    raise SystemExit(main())
