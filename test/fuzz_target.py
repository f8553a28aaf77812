"""What a fuzz target is."""

from __future__ import annotations

import abc
import random
from pathlib import Path


class Target(abc.ABC):
    """A parser of outside data with sound inputs to damage. Made in the process that runs it, with a folder of its own.

    parse may raise UserError with one line, and nothing else.
    """

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None:
        """Makes the sound inputs."""

    @abc.abstractmethod
    def damaged(self, rng: random.Random) -> bytes:
        """An input, the same for the same state of rng."""

    @abc.abstractmethod
    def parse(self, data: bytes) -> None:
        """Reads an input as the product would."""
