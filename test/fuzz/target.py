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

"""Interface of a fuzz target."""

from __future__ import annotations

import abc
import random
from pathlib import Path


class Target(abc.ABC):
    """A parser of outside data, with valid inputs to damage. It is created in the process that runs it, with its own
    folder.

    parse may raise UserError with one line, and no other exception.
    """

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None:
        """Create the valid inputs."""

    @abc.abstractmethod
    def damaged(self, rng: random.Random) -> bytes:
        """Return an input; the same state of rng gives the same input."""

    @abc.abstractmethod
    def parse(self, data: bytes) -> None:
        """Read an input as the package would."""
