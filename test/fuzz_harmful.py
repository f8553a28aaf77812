"""A fuzz target with every fault that is looked for."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from multihmr2_ros.errors import UserError
from test.fuzz_target import Target


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
