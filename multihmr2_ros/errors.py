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

"""The one error that users' mistakes raise."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what was expected, what came, and what to do. Commands print it without a
    traceback and exit with status 2; the node logs it once.
    """

    def __init__(self, message: str) -> None:
        """Names from files may hold anything; what would break the line or steer a terminal becomes a question mark."""
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in message))
