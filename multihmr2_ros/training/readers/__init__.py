"""Readers of datasets that a user may own. Each gives samples whose masks say what its annotation can supervise.

Anny-One, on which the paper trains as well, is left out: no public description of its files was to be found. Whoever
has it can write it as `pseudo` describes, since its bodies are Anny's.
"""

from multihmr2_ros.training.readers.bedlam import BedlamReader
from multihmr2_ros.training.readers.coco import CocoReader
from multihmr2_ros.training.readers.common import Kept
from multihmr2_ros.training.readers.empty import EmptyImageReader
from multihmr2_ros.training.readers.pseudo import PseudoTruthReader

__all__ = ["BedlamReader", "CocoReader", "EmptyImageReader", "Kept", "PseudoTruthReader"]
