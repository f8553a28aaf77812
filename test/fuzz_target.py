"""What a fuzz target is."""

from __future__ import annotations

import random
from pathlib import Path


class Target:
    """A parser of outside data with sound inputs to damage. Made in the process that runs it, with a folder of its own.

    parse may raise UserError with one line, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        raise NotImplementedError

    def damaged(self, rng: random.Random) -> bytes:
        """An input, the same for the same state of rng."""
        raise NotImplementedError

    def parse(self, data: bytes) -> None:
        raise NotImplementedError
