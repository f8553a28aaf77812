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

"""Fuzz target that shows every fault which the fuzzer must detect."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from multihmr2_ros.errors import UserError
from test.fuzz.target import Target


class Harmful(Target):
    def __init__(self, folder: Path) -> None:
        self.inputs = 0

    def damaged(self, rng: random.Random) -> bytes:
        return bytes([rng.randrange(32)])

    def parse(self, data: bytes) -> None:
        if data[0] == 1:
            raise KeyError("x")
        if data[0] == 2:
            raise UserError("")
        if data[0] == 3:
            os.abort()
        if data[0] == 4:
            time.sleep(3600)
        if data[0] == 5:
            raise UserError("as it should be")
        if data[0] == 6:
            sys.exit(0)
