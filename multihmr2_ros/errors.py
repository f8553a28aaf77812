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

"""The error class for users' mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input of the user that cannot be used.

    The message is one line: what was expected, what was given, and what to do. Commands print it without a traceback
    and exit with status 2; the node logs it once.
    """

    def __init__(self, message: str) -> None:
        """Make the message printable (see `make_printable`)."""
        super().__init__(make_printable(message))


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return the most similar known name, as a question to append to a sentence; "" if none is similar."""
    nearest = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def make_printable(text: str) -> str:
    """Replace unprintable characters, such as line breaks and escape sequences in file names, by question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
