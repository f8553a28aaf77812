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

"""The `multihmr2` command: one module per verb."""

from __future__ import annotations

import sys


def run_command() -> int:
    """Run `multihmr2 VERB …` and return its exit status. Ctrl-C during the imports prints no traceback."""
    try:
        from .main import main

        return main()
    except KeyboardInterrupt:  # before `main` handles it
        print("\nmultihmr2: interrupted", file=sys.stderr)
        return 130
