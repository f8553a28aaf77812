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

"""Progress of long work, the same in every command: its name, how far it is, and how long it will still take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_is_quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch the progress bars of this process off or on."""
    global _is_quiet
    _is_quiet = quiet


def make_progress_bar(
    items: Iterable[Any] | None = None, *, name: str, unit: str, total: int | None = None, **options: Any
) -> Any:
    """Return a tqdm bar on standard error, which also iterates over the items.

    Nothing is shown if standard error is not a terminal, or after set_quiet(True).

    items    None: the caller calls update()
    name     of the work, at the left
    unit     of an item
    total    number of items; None: len(items), or unknown
    options  further options of tqdm, such as initial and leave; disable=True hides the bar
    """
    from tqdm import tqdm

    disable = True if _is_quiet else options.pop("disable", False) or None
    return tqdm(items, total=total, desc=name, unit=unit, dynamic_ncols=True, **(options | {"disable": disable}))
